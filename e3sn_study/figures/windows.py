"""Figures of the sampler (section 3.3): which candidate windows of a search crop are taught."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from e3sn_lib.config import SamplerConfig
from e3sn_lib.data.pairs import Pair
from e3sn_lib.geometry import STRIDE, TEMPLATE_SIZE, anchors_xyxy
from e3sn_lib.metrics.measures import Mask
from e3sn_lib.model.network import MARGIN
from e3sn_lib.sampling import anchor_iou
from e3sn_study.figures.photographs import draw_box, draw_outline, show_image
from e3sn_study.figures.style import BLUE, FAINT, INK, QUIET, TARGET, YELLOW, axes_grid, styled

NEGATIVE = "#FF7A59"
"""What must not be taken for the target."""


def _centre(cells: Any) -> Any:
    """Return the centres of cells, in pixels of a search crop of 255 px."""
    return cells * STRIDE - MARGIN[255] + TEMPLATE_SIZE / 2


@styled
def sample_matrix(pair: Pair, config: SamplerConfig) -> Figure:
    """The overlap of anchors, the sample distribution matrix, and the cells drawn from it."""
    iou = anchor_iou(tuple(pair.box_crop_xyxy.tolist()))
    figure, grid = axes_grid(1, 3, (12.0, 4.5), photographs=True)
    _draw_best_anchors(grid[0, 0], pair, iou)
    _draw_overlap(grid[0, 1], iou.max(axis=0), config)
    _draw_matrix(grid[0, 2], pair)
    for axes in grid[0]:
        axes.set(xlim=(0, len(pair.search)), ylim=(len(pair.search), 0))
        draw_box(axes, pair.box_crop_xyxy, YELLOW)
    return figure


def _draw_best_anchors(axes: Axes, pair: Pair, iou: np.ndarray) -> None:
    axes.set_title("the best cell's five anchors")
    show_image(axes, pair.search)
    best, row, column = np.unravel_index(iou.argmax(), iou.shape)
    for number, anchor in enumerate(anchors_xyxy()[:, row, column]):
        colour, width = (TARGET, 2.0) if number == best else ("white", 0.8)
        draw_box(axes, anchor, colour, width=width)
    _below(axes, f"target box yellow; the best anchor reaches IoU {iou.max():.2f}")


def _draw_overlap(axes: Axes, best: np.ndarray, config: SamplerConfig) -> None:
    axes.set_title("largest IoU of each cell's anchors")
    centres = _centre(np.arange(len(best)))
    low, high = centres[0] - STRIDE / 2, centres[-1] + STRIDE / 2
    axes.imshow(best, extent=(low, high, high, low), cmap="Greys", vmin=0, vmax=1)
    for level, colour in ((config.low, NEGATIVE), (config.high, TARGET)):
        if best.min() < level < best.max():
            look: dict[str, Any] = {"levels": [level], "colors": [colour], "linewidths": 2}
            lines = axes.contour(centres, centres, best, **look)
            axes.clabel(lines, fmt=lambda value: f"{value:g}", fontsize=9, colors=INK)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=FAINT)
    limits = f"above {config.high:g} a cell is positive, below {config.low:g} negative"
    _below(axes, f"{limits}, between them it is ignored")


def _draw_matrix(axes: Axes, pair: Pair) -> None:
    axes.set_title("sample distribution matrix")
    show_image(axes, pair.search)
    for value, colour, size in ((-1, NEGATIVE, 5), (0, "white", 5), (1, TARGET, 22)):
        rows, columns = np.nonzero(pair.matrix == value)
        axes.scatter(_centre(columns), _centre(rows), s=size, color=colour, linewidths=0)
    for (row, column), label in zip(pair.cells, pair.sample_labels, strict=True):
        if label:
            colour = TARGET if label > 0 else NEGATIVE
            axes.plot(_centre(column), _centre(row), "o", ms=10, mec="black", mew=1.6, color=colour)
    negative, ignored, positive = ((pair.matrix == value).sum() for value in (-1, 0, 1))
    drawn = f"large dots: the {np.count_nonzero(pair.sample_labels)} drawn"
    _below(axes, f"{positive} positive, {negative} negative, {ignored} ignored; {drawn}")


def _below(axes: Axes, text: str) -> None:
    axes.text(0, -0.02, textwrap.fill(text, 52), transform=axes.transAxes, va="top", fontsize=9)


@styled
def sampled_windows(pair: Pair, predicted: Mask | None = None) -> Figure:
    """The drawn candidate windows of 127 px with the true mask and, in yellow, the predicted one.

    The search crop must be 255 px wide. `predicted` (K, 127, 127) comes from `predict_windows`.
    """
    taught = np.flatnonzero(pair.sample_labels)
    margin = MARGIN[len(pair.search)] + STRIDE
    reach = ((margin, margin), (margin, margin))
    image = np.pad(pair.search, (*reach, (0, 0)), constant_values=255)
    mask = np.pad(pair.mask > 0, reach)
    columns = max(len(taught), 1)
    figure, grid = axes_grid(1, columns, (2.4 * columns, 2.9), photographs=True)
    for axes, number in zip(grid[0], taught, strict=False):
        row, column = pair.cells[number]
        top, left = ((place + 1) * STRIDE for place in (row, column))  # in the padded crop
        window = slice(top, top + TEMPLATE_SIZE), slice(left, left + TEMPLATE_SIZE)
        positive = pair.sample_labels[number] > 0
        show_image(axes, image[window])
        if positive:
            draw_outline(axes, mask[window])
        if predicted is not None:
            draw_outline(axes, predicted[number], YELLOW)
        axes.set_title(f"row {row}, column {column}", fontsize=10)
        _below(axes, "positive: its mask is learned" if positive else "negative: weight 0 in eq. 4")
    return figure


@styled
def positives_per_image(pairs: Sequence[Pair], config: SamplerConfig) -> Figure:
    """How many positive cells the images have, and how many of them the sampler draws."""
    shown = [pair for pair in pairs if not pair.negative]
    available = np.array([(pair.matrix == 1).sum() for pair in shown])
    drawn = np.array([(pair.sample_labels == 1).sum() for pair in shown])
    most = config.positives_per_image
    figure, (left, right) = axes_grid(1, 2, (10.5, 3.2), width_ratios=[2, 1])
    bins = np.arange(available.max() + 2) - 0.5
    _, _, bars = left.hist(available, bins=bins, color=BLUE, rwidth=0.86)
    for bar in list(bars)[:most]:
        bar.set_facecolor(NEGATIVE)
    few = f"{(available < most).mean():.1%} of the images have fewer than {most}"
    left.set_title(f"median {np.median(available):.0f}; {few}")
    left.set(xlabel="cells with +1 in an image's matrix", ylabel="images")
    left.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(visible=False, axis="x")
    counts = np.bincount(drawn, minlength=most + 1)
    places = right.barh(range(len(counts)), counts, color=BLUE, height=0.7)
    shares = [f"{count / len(shown):.1%}" for count in counts]
    right.bar_label(places, shares, padding=4, color=QUIET)
    right.set_title(f"positives drawn, of {most}")
    right.set(yticks=range(len(counts)), xlabel="images", xlim=(0, 1.25 * counts.max()))
    right.grid(visible=False, axis="y")
    right.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure
