"""What a notebook puts on the page: figures as files of record, tables with title and notes, clips that play without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from IPython.display import DisplayHandle, Markdown, Video, display
from IPython.display import Image as ShownImage
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path
from e3sn_lib.tracking.video import Image, write_clip
from e3sn_study.figures.style import SCREEN_DPI, save_figure
from e3sn_study.tables.cells import to_markdown

LARGEST_CLIP = 1_000_000
"""Bytes; a larger clip is made narrower."""


def show_figure(figure: Figure, path: Path, note: str = "") -> ShownImage:
    """Write a figure as PNG and show just that file."""
    save_figure(path, figure, note)
    with PillowImage.open(path) as image:
        width = round(image.width * 96 / SCREEN_DPI)
    return ShownImage(data=path.read_bytes(), format="png", width=width, alt=str(figure.get_label()))  # type: ignore[no-untyped-call]


def live(draw: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], None]:
    """A figure of a growing table that is drawn anew each time it is called, in one and the same place of the notebook."""
    shown: list[DisplayHandle] = []

    def update(table: pd.DataFrame) -> None:
        buffer = BytesIO()
        draw(table).savefig(buffer, dpi=SCREEN_DPI / 2)
        picture = ShownImage(data=buffer.getvalue(), format="png")  # type: ignore[no-untyped-call]
        if shown:
            shown[0].update(picture)  # type: ignore[no-untyped-call]
        else:
            shown.append(display(picture, display_id=True))  # type: ignore[no-untyped-call]

    return update


def show_table(table: pd.DataFrame, notes: bool = True) -> Markdown:
    """A table with its title above and, if wanted, its notes below."""
    title = f"**{table.attrs['title']}**\n\n" if table.attrs.get("title") else ""
    below = "".join(f"\n{note}\n" for note in table.attrs.get("notes", [])) if notes else ""
    return Markdown(f"{title}{to_markdown(table)}{below}")  # type: ignore[no-untyped-call]


def show_clip(frames: Iterable[Image], path: Path, fps: float = 12.0, width: int = 640) -> Any:
    """Write frames as a short WebM and show it, inside the notebook itself.

    Where OpenCV has no VP9 encoder, an animated WebP of the same name takes its place.

    Raises:
        InputError: there are no frames.
    """
    shown = [_narrowed(frame, width) for frame in frames]
    if not shown:
        raise InputError(f"cannot write {path}: there are no frames")
    while True:
        try:
            write_clip(path.with_suffix(".webm"), shown, fps)
        except InputError:
            return _show_webp(shown, path.with_suffix(".webp"), fps)
        if path.with_suffix(".webm").stat().st_size <= LARGEST_CLIP or shown[0].shape[1] < 160:
            break
        shown = [_narrowed(frame, round(frame.shape[1] * 0.75)) for frame in shown]
    return Video(  # type: ignore[no-untyped-call]
        data=path.with_suffix(".webm").read_bytes(),
        embed=True,
        mimetype="video/webm",
        width=shown[0].shape[1],
        html_attributes="controls loop muted",
    )


def _show_webp(frames: list[Image], path: Path, fps: float) -> ShownImage:
    first, *others = [PillowImage.fromarray(frame) for frame in frames]
    with atomic_path(path) as temporary:
        first.save(temporary, format="WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=60)
    return ShownImage(data=path.read_bytes(), format="webp", width=first.width)  # type: ignore[no-untyped-call]


def _narrowed(frame: Image, width: int) -> Image:
    """At most `width` pixels wide, with even sides as video encoders want them."""
    scale = min(width / frame.shape[1], 1.0)
    size = tuple(max(int(side * scale) // 2 * 2, 2) for side in frame.shape[1::-1])
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
