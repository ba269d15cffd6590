"""One look for all figures. The colours can be told apart with every kind of colour vision."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import patheffects, rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from e3sn_lib.files import atomic_path
from e3sn_study.records import REFERENCE, reference

P = ParamSpec("P")

INK, QUIET, FAINT = "#222222", "#6f7680", "#d9dde2"
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E08700", "#009E73", "#D1495B"
PURPLE, YELLOW = "#8E5EA2", "#FFD23F"
VARIANT_COLOURS = {"e3sn": BLUE, "e3sn-s": ORANGE, "siammask": GREEN}
LEVEL_COLOURS = {2: "#8BC6A4", 3: "#2C8C99", 4: "#1F3B70"}
"""Shallow levels are light, deep ones dark."""
TARGET = "#00E5C8"
"""On photographs: what is to be found."""
SCREEN_DPI = 130


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the study's look, whatever the user's own settings are.

    The first line of the docstring becomes the label of the figure.
    """

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style.context(["default", REFERENCE / "figures.mplstyle"]):
            figure = draw(*args, **kwargs)
        figure.set_label((draw.__doc__ or "").partition("\n")[0])
        return figure

    return inside


def axes_grid(
    rows: int, columns: int, size: tuple[float, float], photographs: bool = False, **settings: Any
) -> tuple[Figure, Any]:
    """Return a figure of `size` inches and its axes, as `Figure.subplots` gives them.

    For photographs the axes are an array (rows, columns). They stand close together, and their
    lines and ticks are hidden.
    """
    figure = Figure(figsize=size, layout="compressed" if photographs else "constrained")
    grid = figure.subplots(rows, columns, **{"squeeze": not photographs, **settings})
    for axes in grid.flat if photographs else ():
        axes.set_axis_off()
    return figure, grid


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names beside the rows 0, 1, ... of a chart with horizontal bars or dots."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def count_pairs(axes: Axes) -> None:
    """Let the x axis count training pairs: 500, 20k, 1.5M."""
    axes.set_xlabel("pairs")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def label_lines(axes: Axes, labels: Mapping[str, tuple[float, str]], least: float) -> None:
    """Write names at the ends of lines. The limits of the axes must be final.

    `labels` has, by text, the last y of the line and its colour. Labels that would overlap are
    moved apart, to a distance of `least`, a share of the height of the axes.
    """
    low, high = axes.get_ylim()
    place = -1.0
    for text, (y, colour) in sorted(labels.items(), key=lambda item: item[1][0]):
        place = max((y - low) / (high - low), place + least)
        look: dict[str, Any] = {"color": colour, "fontweight": "bold", "va": "center"}
        look |= {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(text, (1.0, place), (5, 0), annotation_clip=False, **look)


def halo(width: float = 3.0) -> list[patheffects.AbstractPathEffect]:
    """Return a dark edge for lines and letters on photographs."""
    return [patheffects.withStroke(linewidth=width, foreground="#000000aa")]


def entry(path: Path) -> dict[str, Any]:
    """Return what ``figures.yaml`` says of a figure or clip: its ``rank``, where it stands on the
    report page (``beside``), and its ``caption``, which is empty if the file is not known."""
    known, name = reference("figures"), path.stem.removesuffix("_synthetic")
    found = known.get(name, {"beside": "pictures", "caption": ""})
    caption = found["caption"]
    if caption and path.stem != name:
        caption = "Synthetic. " + re.sub(r"DAVIS-20\d\d", "the procedural clips", caption)
    return found | {"rank": [*known, name].index(name), "caption": caption}


def save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG of 256 colours without empty margins, and a drawing (SVG) beside it.

    Photographs have no drawing. The same figure gives the same bytes. If the name of the file ends
    with ``_synthetic``, the figure says so too.
    """
    if path.stem.endswith("_synthetic"):
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        x, y = box.x1 / figure.get_figwidth(), box.y0 / figure.get_figheight()
        look: dict[str, Any] = {"color": QUIET, "fontsize": 8, "fontstyle": "italic"}
        figure.text(x, y, "synthetic data", ha="right", va="top", **look)
    drawn, about = BytesIO(), PngInfo()
    margins: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.06}
    figure.savefig(drawn, format="png", dpi=SCREEN_DPI, **margins)
    about.add_text("Description", str(figure.get_label()))
    with atomic_path(path) as temporary, Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256)  # a third of the bytes
        few.save(temporary, format="PNG", optimize=True, pnginfo=about)
    if any(axes.images for axes in figure.axes):
        return
    settings: Any = {"svg.hashsalt": path.stem, "svg.fonttype": "none"}  # text stays text
    with rc_context(settings), atomic_path(path.with_suffix(".svg")) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None}, **margins)
