"""One look for all figures: colours that stay apart for every kind of sight, names beside what they name."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from matplotlib import patheffects, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e3sn_lib.files import atomic_path

P = ParamSpec("P")

INK, QUIET, FAINT = "#222222", "#6f7680", "#d9dde2"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = "#0072B2", "#E08700", "#009E73", "#D1495B", "#8E5EA2", "#56B4E9", "#FFD23F"
VARIANT_COLOURS = {"e3sn": BLUE, "e3sn-s": ORANGE, "siammask": GREEN}
LEVEL_COLOURS = {2: "#8BC6A4", 3: "#2C8C99", 4: "#1F3B70"}
"""Shallow is light, deep is dark."""
TARGET, NEGATIVE = "#00E5C8", "#FF7A59"
"""On photographs: what is to be found, and what is not to be taken for it."""

SCREEN_DPI = 130

STYLE: dict[str, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": QUIET,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "image.interpolation": "antialiased",
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the study's look, whatever the reader's own settings are; what the figure shows becomes its label."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
        figure.set_label((draw.__doc__ or "").partition("\n")[0])
        return figure

    return inside


def axes_grid(
    rows: int, columns: int, size: tuple[float, float], photographs: bool = False, **settings: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches that no window system knows of, with (rows, columns) axes, close together for photographs."""
    figure = Figure(figsize=size, layout="compressed" if photographs else "constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def label_lines(axes: Axes, labels: Mapping[str, tuple[float, float, str]], least: float = 0.055) -> None:
    """Names at the ends of lines, moved apart where they would overlap.

    Args:
        axes: whose limits are final.
        labels: text to the line's last x and y and its colour.
        least: distance between two labels, as a share of the axes' height.
    """
    to_share, scale = axes.transLimits, axes.transScale
    wanted = {text: float(to_share.transform(scale.transform((x, y)))[1]) for text, (x, y, _) in labels.items()}
    previous = -1.0
    for text, place in sorted(wanted.items(), key=lambda item: item[1]):
        previous = max(place, previous + least)
        axes.annotate(
            text,
            (1.0, previous),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            color=labels[text][2],
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )


def halo(width: float = 3.0, colour: str = "#000000aa") -> list[patheffects.AbstractPathEffect]:
    """An edge around lines and letters on photographs."""
    return [patheffects.withStroke(linewidth=width, foreground=colour)]


def save_figure(path: Path, figure: Figure, note: str = "", dpi: int = SCREEN_DPI) -> None:
    """Write a PNG without empty margins, the same bytes for the same figure; `note` stands small below it."""
    if note:
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        x, y = box.x1 / figure.get_figwidth(), box.y0 / figure.get_figheight()
        figure.text(x, y, note, ha="right", va="top", color=QUIET, fontsize=8, fontstyle="italic")
    with atomic_path(path) as temporary:
        figure.savefig(
            temporary,
            format="png",
            dpi=dpi,
            bbox_inches="tight",
            pad_inches=0.06,
            metadata={"Software": None, "Description": str(figure.get_label())},
            pil_kwargs={"optimize": True},
        )


def wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
