"""Figures made of frames: the data, the training pairs, and the answers of the network."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from e3sn_lib.data.pairs import Pair
from e3sn_lib.data.sources import TrainSets
from e3sn_lib.data.types import Video
from e3sn_lib.geometry import TEMPLATE_SIZE, Image, box_from_mask
from e3sn_lib.metrics.measures import Mask
from e3sn_lib.model.network import MARGIN
from e3sn_lib.tracking.video import object_colour, overlay
from e3sn_study.evaluation.baselines import boxes_of
from e3sn_study.evaluation.benchmark import read_masks
from e3sn_study.evaluation.inspection import Answers
from e3sn_study.figures.style import QUIET, RED, TARGET, YELLOW, axes_grid, halo, styled

COLUMNS = 5
GAP = 8
"""White pixels between a template and its search crop."""


def show_image(axes: Axes, image: Image) -> None:
    """Show an image in continuous coordinates: pixel i covers [i, i + 1)."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0))


def draw_box(
    axes: Axes, box_xyxy: Iterable[float], colour: Any = TARGET, line: str = "-", width: float = 1.8
) -> None:
    """Draw a box, in the coordinates of the image that the axes show."""
    x1, y1, x2, y2 = box_xyxy
    look: dict[str, Any] = {"edgecolor": colour, "linewidth": width, "linestyle": line}
    look["path_effects"] = halo(width + 1.6)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **look))


def draw_outline(axes: Axes, mask: Mask, colour: Any = TARGET, width: float = 1.3) -> None:
    """Draw the edge of a mask (H, W)."""
    if mask.any() and not mask.all():
        y, x = np.arange(mask.shape[0]) + 0.5, np.arange(mask.shape[1]) + 0.5
        look: dict[str, Any] = {"levels": [0.5], "colors": [colour], "linewidths": width}
        axes.contour(x, y, mask.astype(float), **look).set_path_effects(halo(2 * width))


def show_masks(axes: Axes, frame: Image, ids: Image) -> None:
    """Show a frame (H, W, 3). Tint and outline the objects of `ids` (H, W)."""
    show_image(axes, overlay(frame, ids))
    for number in np.unique(ids[ids > 0]).tolist():
        draw_outline(axes, ids == number, np.divide(object_colour(number), 255), 0.9)


def caption(axes: Axes, text: str) -> None:
    """Write a name inside the picture, at its upper left."""
    look: dict[str, Any] = {"color": "white", "fontsize": 8, "path_effects": halo(2.4)}
    axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", **look)


def wrapped(name: str) -> str:
    """Return the last part of an object's name in short lines."""
    return textwrap.fill(name.split("/")[-1].replace("_", " "), 16)


def draw_first_boxes(axes: Axes, video: Video, width: float) -> None:
    """Draw the boxes in the first frame of a video that the tracker starts from."""
    for box in boxes_of(video.mask(0), video.object_ids()).values():
        draw_box(axes, box, YELLOW, width=width)


@styled
def training_examples(sets: TrainSets, seed: int = 0) -> Figure:
    """Random frames of each training set with the outline of the object and its box.

    A solid box is that of the mask. A dashed box is annotated; such a frame has no mask.
    """
    size = (10.5, 1.8 * len(sets.opened))
    figure, grid = axes_grid(len(sets.opened), COLUMNS, size, photographs=True)
    rng = np.random.default_rng(seed)
    for row, (tracks, _) in zip(grid, sets.opened, strict=True):
        row[0].set_title(f"{tracks.name}: {len(tracks.tracks):,} objects")
        chosen = rng.choice(len(tracks.tracks), min(COLUMNS, len(tracks.tracks)), replace=False)
        for axes, number in zip(row, chosen, strict=False):
            track = tracks.tracks[number]
            frame = track.frames[len(track.frames) // 2]
            (image, mask), box, style = frame.read(), frame.box_frame_xyxy, "--"
            show_image(axes, image)
            if mask is not None:
                draw_outline(axes, mask)
                box, style = box or box_from_mask(mask), "-"
            if box:
                draw_box(axes, box, YELLOW, style, 1.3)
            caption(axes, wrapped(track.name))
    return figure


@styled
def benchmark_overview(videos: Sequence[Video]) -> Figure:
    """The first frame of every sequence with its true masks, and the boxes the tracker is given."""
    columns = min(COLUMNS, len(videos))
    rows = -(-len(videos) // columns)
    figure, grid = axes_grid(rows, columns, (10.5, 10.5 / columns * 0.6 * rows), photographs=True)
    for axes, video in zip(grid.flat, videos, strict=False):
        show_masks(axes, video.frame(0), video.mask(0))
        draw_first_boxes(axes, video, 1.3)
        caption(axes, f"{video.name}, {len(video)} frames")
    return figure


@styled
def pair_grid(pairs: Sequence[Pair], columns: int = 3) -> Figure:
    """Template (left) and search crop of each pair after augmentation, with target mask and box."""
    rows = -(-len(pairs) // columns)
    figure, grid = axes_grid(rows, columns, (10.5, 2.45 * rows), photographs=True)
    for axes, pair in zip(grid.flat, pairs, strict=False):
        side, size = len(pair.template), len(pair.search)
        tile = np.full((size, side + GAP + size, 3), 255, np.uint8)
        tile[:side, :side], tile[:, side + GAP :] = pair.template, pair.search
        show_image(axes, tile)
        axes.text(0, side + 12, wrapped(pair.source), va="top", fontsize=8, color=QUIET)
        if pair.negative:
            look = {"fontsize": 8, "color": RED, "fontweight": "bold"}
            axes.text(0, size, "negative pair:\nanother object", va="bottom", **look)
        else:
            draw_outline(axes, np.pad(pair.mask > 0, ((0, 0), (side + GAP, 0))))
            shift = np.array([side + GAP, 0, side + GAP, 0])
            draw_box(axes, pair.box_crop_xyxy + shift, YELLOW, width=1.2)
    return figure


@styled
def boxed_frame(frame: Image, boxes_frame_xywh: Sequence[Sequence[float]]) -> Figure:
    """A frame (H, W, 3) with numbered boxes, and axes in pixels to read coordinates from."""
    figure, axes = axes_grid(1, 1, (9.0, 9.0 * frame.shape[0] / frame.shape[1]))
    show_image(axes, frame)
    axes.grid(visible=False)
    for number, (x, y, width, height) in enumerate(boxes_frame_xywh, 1):
        draw_box(axes, (x, y, x + width, y + height), np.divide(object_colour(number), 255))
        axes.text(x, y, f" {number}", color="white", va="bottom", path_effects=halo())
    return figure


class Row(NamedTuple):
    """One video with the masks that a method made."""

    video: Video
    masks: Path
    """The folder with the masks of all sequences."""
    title: str = ""


@styled
def video_rows(
    rows: Sequence[Row], columns: int = 6, truth: bool = False, close: bool = False
) -> Figure:
    """The first frame of each video with its boxes, then frames with the masks found (Figure 4).

    There are `columns` frames in a row, evenly spaced. `truth`: also outline the true masks, in
    white. `close`: show only the part of each frame around the true masks and those found.
    """
    size = (12.0, 12.0 / columns * 0.72 * len(rows))
    figure, grid = axes_grid(len(rows), columns, size, photographs=True)
    for line, row in zip(grid, rows, strict=True):
        video = row.video
        show_image(line[0], video.frame(0))
        draw_first_boxes(line[0], video, 1.2)
        line[0].set_title(row.title or video.name, fontsize=9)
        chosen = np.linspace(0, len(video) - 1, columns).round().astype(int).tolist()[1:]
        folders = [row.masks, *(other.masks for other in rows if other.video is video)]
        found = zip(*(read_masks(folder, video, chosen) for folder in folders), strict=True)
        for axes, index, (own, *all_masks) in zip(line[1:], chosen, found, strict=True):
            true = video.mask(index) > 0
            show_masks(axes, video.frame(index), own)
            if truth:
                draw_outline(axes, true, "white", 0.8)
            if close:  # rows of one video show the same part of it
                _look_closer(axes, np.any([true, *all_masks], axis=0))
            caption(axes, f"frame {index}")
    return figure


def _look_closer(axes: Axes, mask: Mask) -> None:
    """Limit the axes to the surroundings of a mask, with the proportions of the frame."""
    if (box := box_from_mask(mask)) is None:
        return
    x1, y1, x2, y2 = box
    height, width = mask.shape
    scale = min(max(1.8 * (x2 - x1) / width, 1.8 * (y2 - y1) / height, 0.3), 1.0)
    left = min(max((x1 + x2 - scale * width) / 2, 0), (1 - scale) * width)
    top = min(max((y1 + y2 - scale * height) / 2, 0), (1 - scale) * height)
    axes.set(xlim=(left, left + scale * width), ylim=(top + scale * height, top))


@styled
def level_maps(answers: Answers) -> Figure:
    """A search crop, and how unusual the correlation of each level is at each position."""
    search, box, maps = answers
    figure, grid = axes_grid(1, 1 + len(maps), (2.5 * (1 + len(maps)), 2.9), photographs=True)
    grid[0, 0].set_title("search crop")
    first = TEMPLATE_SIZE / 2 - MARGIN[len(search)]
    last = len(search) - first
    for axes in grid[0]:
        show_image(axes, search)
        # Nothing but the positions of windows: no map reaches the border of the crop.
        axes.set(xlim=(first, last), ylim=(last, first))
        draw_box(axes, box, YELLOW, width=1.2)
    every = np.concatenate([values.ravel() for values in maps.values()])
    scale = {"cmap": "magma", "vmin": every.min(), "vmax": every.max()}
    for axes, (title, values) in zip(grid[0, 1:], maps.items(), strict=True):
        margin = (last - first) / (len(values) - 1) / 2
        extent = (first - margin, last + margin, last + margin, first - margin)
        shown = axes.imshow(values, extent=extent, **scale)
        axes.set_title(title)
        look = {"ha": "center", "va": "top", "color": QUIET, "fontsize": 8}
        note = f"{len(values)} × {len(values)} positions"
        axes.text(0.5, -0.02, note, transform=axes.transAxes, **look)
    beside = grid[0, -1].inset_axes((1.05, 0, 0.05, 1))
    figure.colorbar(shown, cax=beside, label="from the mean, in deviations")
    return figure
