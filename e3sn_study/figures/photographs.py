"""Figures made of frames: what the data look like, what a training pair is, what the network answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from e3sn_lib.data.pairs import Pair
from e3sn_lib.data.sources import TrainSets
from e3sn_lib.data.types import TrackFrame, Video
from e3sn_lib.files import read_image
from e3sn_lib.geometry import TEMPLATE_SIZE, Box, box_from_mask
from e3sn_lib.model.network import MARGIN
from e3sn_lib.tracking.video import object_colour, overlay
from e3sn_study.evaluation.benchmark import read_masks
from e3sn_study.evaluation.inspection import Answers
from e3sn_study.figures.style import QUIET, RED, TARGET, YELLOW, axes_grid, halo, styled, wrapped

Image = NDArray[np.uint8]
GAP = 8
"""White pixels between a template and its search crop."""


def show_image(axes: Axes, image: NDArray[Any], **settings: Any) -> None:
    """An image in continuous coordinates: pixel i covers [i, i + 1)."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), **settings)
    axes.set_axis_off()


def draw_box(axes: Axes, box_xyxy: Box | NDArray[Any], colour: str = TARGET, style: str = "-", width: float = 1.8) -> None:
    x1, y1, x2, y2 = box_xyxy
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    patch.set_path_effects(halo(width + 1.6))
    axes.add_patch(patch)


def draw_outline(axes: Axes, mask: NDArray[np.bool_], colour: Any = TARGET, width: float = 1.3) -> None:
    """The edge of a mask (H, W) bool."""
    if mask.any() and not mask.all():
        y, x = np.arange(mask.shape[0]) + 0.5, np.arange(mask.shape[1]) + 0.5
        lines = axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[colour], linewidths=width)
        lines.set_path_effects(halo(width + 1.4))


def show_masks(axes: Axes, frame: Image, ids: Image) -> None:
    """A frame with its objects tinted and outlined."""
    show_image(axes, overlay(frame, ids))
    for number in np.unique(ids[ids > 0]):
        draw_outline(axes, ids == number, np.array(object_colour(int(number))) / 255, 0.9)


def caption(axes: Axes, text: str) -> None:
    """A name inside the picture, at its upper left."""
    axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", color="white", fontsize=8, path_effects=halo(2.4))


@styled
def training_examples(sets: TrainSets, columns: int = 5, seed: int = 0) -> Figure:
    """Random frames of each training set with the object's outline, the box of its mask (solid) or the annotated box (dashed)."""
    figure, grid = axes_grid(len(sets.opened), columns, (2.1 * columns, 1.8 * len(sets.opened)), photographs=True)
    rng = np.random.default_rng(seed)
    for row, (tracks, _) in zip(grid, sets.opened, strict=True):
        row[0].set_title(f"{tracks.name}: {len(tracks.tracks):,} objects")
        chosen = rng.choice(len(tracks.tracks), min(columns, len(tracks.tracks)), replace=False)
        for axes in row:
            axes.set_axis_off()
        for axes, number in zip(row, chosen, strict=False):
            track = tracks.tracks[number]
            _draw_track_frame(axes, track.frames[len(track.frames) // 2])
            caption(axes, track.name.split("/")[-1])
    return figure


def _draw_track_frame(axes: Axes, frame: TrackFrame) -> None:
    show_image(axes, read_image(frame.image))
    mask = frame.mask.read() if frame.mask else None
    box = frame.box_frame_xyxy or (box_from_mask(mask) if mask is not None else None)
    if mask is not None:
        draw_outline(axes, mask)
    if box is not None:
        draw_box(axes, box, YELLOW, "--" if mask is None else "-", 1.3)


@styled
def benchmark_overview(videos: Sequence[Video], columns: int = 5) -> Figure:
    """Every sequence's first frame with its true masks, each with its box: all that the tracker is told."""
    columns = min(columns, len(videos))
    rows = -(-len(videos) // columns)
    figure, grid = axes_grid(rows, columns, (10.5, 10.5 / columns * 0.6 * rows), photographs=True)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, video in zip(grid.flat, videos, strict=False):
        ids = video.mask(0)
        show_masks(axes, video.frame(0), ids)
        for number in video.object_ids():
            if (box := box_from_mask(ids == number)) is not None:
                draw_box(axes, box, YELLOW, width=1.3)
        caption(axes, f"{video.name}, {len(video)} frames")
    return figure


@styled
def pair_grid(pairs: Sequence[Pair], columns: int = 3) -> Figure:
    """Template (left) and search crop of each pair after augmentation; the target's mask outlined and its box drawn."""
    figure, grid = axes_grid(-(-len(pairs) // columns), columns, (10.5, 2.45 * -(-len(pairs) // columns)), photographs=True)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, pair in zip(grid.flat, pairs, strict=False):
        side, size = len(pair.template), len(pair.search)
        tile = np.full((size, side + GAP + size, 3), 255, np.uint8)
        tile[:side, :side], tile[:, side + GAP :] = pair.template, pair.search
        show_image(axes, tile)
        name = wrapped(pair.source.split("/")[-1].replace("_", " "), 16)
        axes.text(0, side + 12, name, va="top", fontsize=8, color=QUIET)
        if pair.negative:
            axes.text(0, size, "negative pair:\nanother object", va="bottom", fontsize=8, color=RED, fontweight="bold")
        else:
            mask = np.zeros(tile.shape[:2], bool)
            mask[:, side + GAP :] = pair.mask > 0
            draw_outline(axes, mask)
            draw_box(axes, pair.box_crop_xyxy + np.array([side + GAP, 0, side + GAP, 0]), YELLOW, width=1.2)
    return figure


@styled
def boxed_frame(frame: Image, boxes_frame_xywh: Sequence[Sequence[float]]) -> Figure:
    """A frame (H, W, 3) with numbered boxes and an axis of pixels on each side, to read coordinates from."""
    figure, grid = axes_grid(1, 1, (9.0, 9.0 * frame.shape[0] / frame.shape[1]))
    show_image(grid[0, 0], frame)
    grid[0, 0].set_axis_on()
    for number, (x, y, width, height) in enumerate(boxes_frame_xywh, 1):
        draw_box(grid[0, 0], (x, y, x + width, y + height), "#{:02x}{:02x}{:02x}".format(*object_colour(number)))
        grid[0, 0].text(x, y, f" {number}", color="white", va="bottom", path_effects=halo())
    return figure


@dataclass(frozen=True)
class Row:
    """One video with the masks that a method gave it."""

    video: Video
    masks: Path
    """Folder of all its sequences."""
    title: str = ""
    frames: tuple[int, ...] = ()
    """Which are shown; empty: evenly spaced ones."""


@styled
def video_rows(rows: Sequence[Row], columns: int = 6, truth: bool = False) -> Figure:
    """Each video's first frame with the boxes the tracker starts from, then frames with the masks it gives (Figure 4).

    Args:
        rows: one a video.
        columns: the first frame included.
        truth: also outline the true masks, in white.
    """
    figure, grid = axes_grid(len(rows), columns, (12.0, 12.0 / columns * 0.72 * len(rows)), photographs=True)
    for line, row in zip(grid, rows, strict=True):
        video, ids = row.video, row.video.mask(0)
        for axes in line:
            axes.set_axis_off()
        show_image(line[0], video.frame(0))
        for number in video.object_ids():
            if (box := box_from_mask(ids == number)) is not None:
                draw_box(line[0], box, YELLOW, width=2.0)
        line[0].set_title(row.title or video.name, fontsize=9)
        chosen = row.frames or tuple(np.linspace(0, len(video) - 1, columns).round().astype(int)[1:])
        for axes, index, predicted in zip(line[1:], chosen, read_masks(row.masks, video, chosen), strict=False):
            show_masks(axes, video.frame(index), predicted)
            if truth:
                draw_outline(axes, video.mask(index) > 0, "white", 1.0)
            caption(axes, f"frame {index}")
    return figure


@styled
def level_maps(answers: Answers) -> Figure:
    """A search crop and, beside it, how strongly each level's correlation answers at each position."""
    search, box, maps = answers
    figure, grid = axes_grid(1, 1 + len(maps), (2.5 * (1 + len(maps)), 2.9), photographs=True)
    show_image(grid[0, 0], search)
    grid[0, 0].set_title("search crop")
    for axes, (title, values) in zip(grid[0, 1:], maps.items(), strict=True):
        show_image(axes, search, alpha=0.25)
        first, last = _ends(len(search))
        margin = (last - first) / (len(values) - 1) / 2
        axes.imshow(values, extent=(first - margin, last + margin, last + margin, first - margin), cmap="magma")
        axes.set(xlim=(0, len(search)), ylim=(len(search), 0))
        axes.set_title(title)
        note = f"{len(values)} × {len(values)} positions"
        axes.text(0.5, -0.02, note, transform=axes.transAxes, ha="center", va="top", color=QUIET, fontsize=8)
    for axes in grid[0]:
        draw_box(axes, box, YELLOW, width=1.2)
    return figure


def _ends(search_size: int) -> tuple[float, float]:
    """Centres of the first and last candidate window, in pixels of the search crop."""
    first = TEMPLATE_SIZE / 2 - MARGIN[search_size]
    return first, search_size - first
