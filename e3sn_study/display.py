"""What a notebook puts on the page: figures, tables, clips, a picture to draw boxes on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import cv2
import numpy as np
import pandas as pd
import traitlets
from IPython.display import DisplayHandle, Markdown, Video, display
from IPython.display import Image as ShownImage
from ipywidgets import Image as ImageWidget
from ipywidgets import VBox
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from e3sn_lib.geometry import Image
from e3sn_lib.tracking.clip import write_clip
from e3sn_lib.tracking.video import OBJECT_COLOURS
from e3sn_study.figures.style import SCREEN_DPI, entry, save_figure
from e3sn_study.records import REFERENCE
from e3sn_study.tables.cells import plain_markdown, to_markdown

ALL_ROWS: Mapping[str, Sequence[str]] = {}
LARGEST_CLIP = 1_000_000
"""Bytes; a larger clip is made narrower."""


def show_figure(figure: Figure, path: Path) -> None:
    """Write a figure as ``PATH.png``; show just that file and, below it, its caption. A figure of
    synthetic data says so."""
    path = path.with_suffix(".png")
    save_figure(path, figure)
    with PillowImage.open(path) as image:
        width = round(image.width * 96 / SCREEN_DPI)
    content, alt = path.read_bytes(), str(figure.get_label())
    display(ShownImage(content, format="png", width=width, alt=alt))  # type: ignore[no-untyped-call]
    if caption := entry(path)["caption"]:
        display(Markdown(f"*{caption}*"))  # type: ignore[no-untyped-call]


def live(draw: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], None]:
    """Return a function that draws a growing table anew, always in the same place of the page."""
    places: list[DisplayHandle] = []

    def update(table: pd.DataFrame) -> None:
        picture = as_picture(draw(table), SCREEN_DPI / 2)
        if places:
            places[0].update(picture)  # type: ignore[no-untyped-call]
        else:
            places.append(display(picture, display_id=True))  # type: ignore[no-untyped-call]

    return update


def as_picture(drawn: Figure | Image, dpi: float = SCREEN_DPI) -> ShownImage:
    """Return a figure or an image, (H, W, 3) RGB, as a notebook shows it; it is written nowhere."""
    buffer = BytesIO()
    if isinstance(drawn, Figure):
        drawn.savefig(buffer, dpi=dpi)
    else:
        PillowImage.fromarray(drawn).save(buffer, "PNG")
    return ShownImage(data=buffer.getvalue(), format="png")  # type: ignore[no-untyped-call]


def with_slider(slider: Any, draw: Callable[[Any], Figure | Image]) -> VBox:
    """Return a slider and below it the picture that `draw` makes of its value.

    Use it instead of ``ipywidgets.interact``, with which papermill often waits forever.
    """
    shown = ImageWidget(value=as_picture(draw(slider.value)).data, layout={"max_width": "100%"})

    def update(change: Any) -> None:
        shown.value = as_picture(draw(change["new"])).data

    slider.observe(update, "value")
    return VBox([slider, shown])


def show_table(
    table: pd.DataFrame, notes: bool = True, only: Mapping[str, Sequence[str]] = ALL_ROWS
) -> Markdown:
    """Return a table with its title above and, if wanted, its notes below. `only` has the values of
    the rows that are shown, by column; a table of what was not run lacks the columns."""
    for column in only.keys() & {*table}:
        table = table[table[column].isin(only[column])]
    title, told = table.attrs.get("title", ""), table.attrs.get("notes", [])
    title = f"**{plain_markdown(title)}**\n\n" if title else ""
    below = "".join(f"\n{plain_markdown(note)}\n" for note in told) if notes else ""
    return Markdown(f"{title}{to_markdown(table)}{below}")  # type: ignore[no-untyped-call]


def show_clip(frames: Iterable[Image], path: Path, fps: float = 12.0, width: int = 640) -> Video:
    """Write frames as a short MP4 and show it, inside the notebook itself; raises InputError if
    there are none."""
    path, shown = path.with_suffix(".mp4"), [_narrowed(frame, width) for frame in frames]
    write_clip(path, shown, fps)
    while path.stat().st_size > LARGEST_CLIP and shown[0].shape[1] >= 160:
        shown = [_narrowed(frame, round(frame.shape[1] * 0.75)) for frame in shown]
        write_clip(path, shown, fps)
    return Video(  # type: ignore[no-untyped-call]
        data=path.read_bytes(),
        embed=True,
        mimetype="video/mp4",
        width=shown[0].shape[1],
        html_attributes="controls loop muted",
    )


def _narrowed(frame: Image, width: int) -> Image:
    """Return a frame that is at most `width` pixels wide, with even sides."""
    scale = min(width / frame.shape[1], 1.0)
    size = tuple(max(int(side * scale) // 2 * 2, 2) for side in frame.shape[1::-1])
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


class BoxWidget(anywidget.AnyWidget):
    """A frame (H, W, 3) on which boxes are dragged with the mouse.

    A widget with an equal key starts with the boxes that were drawn last, so that running all cells
    again keeps them.
    """

    _esm = REFERENCE / "boxes.js"
    _drawn: dict[object, list[list[float]]] = {}  # noqa: RUF012
    picture = traitlets.Bytes().tag(sync=True)
    boxes: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    """x, y, width and height of each box as it is now."""
    colours = traitlets.List([*OBJECT_COLOURS]).tag(sync=True)

    def __init__(
        self, frame: Image, boxes_frame_xywh: Sequence[Sequence[float]], key: object
    ) -> None:
        boxes = self._drawn.setdefault(key, [list(box) for box in boxes_frame_xywh])
        picture = BytesIO()
        PillowImage.fromarray(frame).save(picture, "JPEG", quality=90)
        super().__init__(picture=picture.getvalue(), boxes=boxes)
        self.observe(lambda change: self._drawn.update({key: change["new"]}), "boxes")
