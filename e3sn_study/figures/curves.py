"""Figures of training: losses, learned fusion weights, time, and the cost of sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from e3sn_lib.tracking.video import object_colour
from e3sn_study.figures.style import (
    BLUE,
    FAINT,
    INK,
    LEVEL_COLOURS,
    ORANGE,
    QUIET,
    VARIANT_COLOURS,
    axes_grid,
    count_pairs,
    label_lines,
    name_rows,
    styled,
)
from e3sn_study.records import VARIANTS

_LOSSES = {
    "cls": "classification loss",
    "loc": "box loss",
    "mask": "mask loss",
    "mask_iou": "mask IoU",
}
FEW = 12
"""A curve of fewer points is not smoothed, and each point is marked."""


@styled
def training_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """The three losses of eq. 3 and the mask IoU against the pairs seen.

    Args:
        logs: `Run.log` by variant. A dotted line stands between two stages of a run.
    """
    figure, grid = axes_grid(1, 4, (12.5, 3.1))
    for axes, (column, title) in zip(grid[0], _LOSSES.items(), strict=True):
        ends = {}
        for variant, log in logs.items():
            colour = VARIANT_COLOURS[variant]
            for _, stage in log.groupby("stage", sort=False):
                _draw_smoothed(axes, stage["pairs"], stage[column], colour)
            ends_of_stages = log.loc[log["stage"] != log["stage"].shift(-1), "pairs"]
            for boundary in ends_of_stages.iloc[:-1]:
                axes.axvline(boundary, color=colour, linestyle=":", linewidth=1.2)
            if len(last := log.dropna(subset=[column]).tail(1)):
                x, y = last[["pairs", column]].astype(float).iloc[0]
                ends[VARIANTS[variant]] = (x, y, colour)
        axes.set_title(title)
        count_pairs(axes)
        if column == "mask_iou":
            axes.set_ylim(0, 1)
            label_lines(axes, ends, 0.09)
        else:
            axes.set_ylim(bottom=0)
    return figure


def _draw_smoothed(axes: Axes, x: pd.Series, y: pd.Series, colour: str) -> None:
    """Draw the values pale and their running mean strong; a few values only as points."""
    if len(y) < FEW:
        axes.plot(x, y, "o-", color=colour, ms=4)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=1)
    smooth = y.rolling(max(len(y) // 15, 3), center=True, min_periods=1).mean()
    axes.plot(x, smooth, color=colour)


@styled
def level_weights(log: pd.DataFrame) -> Figure:
    """The weights of eq. 5 while they are learned."""
    figure, grid = axes_grid(1, 1, (7.0, 3.2))
    axes = grid[0, 0]
    levels = [level for level in LEVEL_COLOURS if f"w{level}" in log]
    equal, room, ends = 1 / len(levels), 0.01, {}
    for level in levels:
        values, colour = log[f"w{level}"], LEVEL_COLOURS[level]
        axes.plot(log["pairs"], values, _line(log), color=colour, ms=4)
        room = max(room, 1.25 * float((values - equal).abs().max()))
        ends[f"conv{level}, {values.iloc[-1]:.3f}"] = (0.0, float(values.iloc[-1]), colour)
    axes.axhline(equal, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_title("weight of each level in the fused feature")
    count_pairs(axes)
    axes.set_ylim(equal - room, equal + room)
    label_lines(axes, ends, 0.075)
    return figure


@styled
def throughput(log: pd.DataFrame) -> Figure:
    """Pairs per second, the share of time spent waiting for data, and peak memory."""
    figure, grid = axes_grid(1, 3, (12.0, 2.7))
    columns = {
        "pairs per second": log["pairs_per_second"],
        "share of time waiting for data": log["data_share"],
        "peak memory, GB": log["peak_memory_mb"] / 1024,
    }
    for axes, (title, values) in zip(grid[0], columns.items(), strict=True):
        axes.plot(log["pairs"], values, _line(log), color=BLUE, ms=4)
        axes.set_title(title)
        count_pairs(axes)
        axes.set_ylim(0, max(float(values.max()) * 1.15, 0.05))
    grid[0, 1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    return figure


@styled
def stage_times(stages: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Training time, stage after stage: one bar per variant, the mean of its runs.

    Args:
        stages: by variant, `Run.stages` of each of its runs. The line at the end of a bar goes
            from the shortest to the longest of several runs.
    """
    figure, grid = axes_grid(1, 1, (9.0, 0.8 + 0.6 * len(stages)))
    axes, totals = grid[0, 0], {}
    for variant, tables in stages.items():
        totals[variant] = np.array([table["seconds"].sum() / 60 for table in tables])
    longest = max(each.mean() for each in totals.values())
    for row, (variant, tables) in enumerate(stages.items()):
        means = pd.concat(tables).groupby("stage", sort=False)["seconds"].mean() / 60
        begun, colour = 0.0, VARIANT_COLOURS[variant]
        for place, (stage, minutes) in enumerate(means.items()):
            look = {"color": colour, "alpha": 1 - 0.25 * place, "edgecolor": "white"}
            axes.barh(row, minutes, left=begun, height=0.62, **look)
            look = {"color": "white", "rotation": 90 if minutes < 0.08 * longest else 0}
            middle, name = begun + minutes / 2, str(stage).replace("_", " ")
            axes.text(middle, row, name, ha="center", va="center", fontsize=8, **look)
            begun += minutes
        low, high = totals[variant].min(), totals[variant].max()
        axes.plot([low, high], [row + 0.22] * 2, color=INK, linewidth=1.4)
        spread = f" ({low:.1f} to {high:.1f})" if len(tables) > 1 else ""
        text = f"  {begun:.1f} min{spread}"
        axes.text(max(begun, high), row, text, va="center", color=INK, fontweight="bold")
    name_rows(axes, [VARIANTS[variant] for variant in stages])
    axes.invert_yaxis()
    axes.set_title("training time by stage")
    axes.set_xlabel("minutes")
    axes.margins(x=0.28)
    return figure


@styled
def sampling_cost(cost: pd.DataFrame) -> Figure:
    """Memory and time of a training step against samples per image; hollow points are estimated.

    Args:
        cost: from `e3sn_study.bench.sampling_cost.measure_sampling_cost`. It estimates the memory
            of steps that are too large for the machine.
    """
    figure, grid = axes_grid(1, 2, (11.0, 3.5))
    for axes, measured, estimated, unit in (
        (grid[0, 0], cost["peak_memory_mb"] / 1024, cost["estimated_memory_mb"] / 1024, "GB"),
        (grid[0, 1], cost["seconds_per_step"], None, "s"),
    ):
        x = cost["samples_per_image"]
        y = measured if estimated is None else measured.fillna(estimated)
        axes.plot(x, y, color=FAINT, zorder=1)
        axes.plot(x, y, "o", color="white", mec=BLUE, mew=1.8, ms=8)
        axes.plot(x, measured, "o", color=BLUE, ms=8)
        for place, value, here in zip(x, y, measured.notna(), strict=True):
            if np.isfinite(value):
                text = f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
                look = {"textcoords": "offset points", "ha": "center"}
                axes.annotate(text, (place, value), (0, 9), color=INK if here else QUIET, **look)
        axes.axvline(4, color=ORANGE, linewidth=1.2, linestyle=":")
        limits = (x.min() / 1.6, x.max() * 1.8)
        axes.set(xscale="log", xlabel="samples per image", xlim=limits)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, float(y.max()) * 1.2)
    grid[0, 0].set_title("peak memory of a training step, GB")
    grid[0, 1].set_title("seconds per training step")
    place = grid[0, 0].get_xaxis_transform()
    grid[0, 0].text(4, 0.97, " the paper's 4", transform=place, color=ORANGE, va="top")
    return figure


@styled
def precision_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and mask IoU in two precisions, for the same seed and pairs, and how the losses differ.

    Args:
        logs: `log.csv` of two runs by precision, the reference first.
    """
    figure, grid = axes_grid(1, 3, (12.0, 3.1))
    (name, reference), (other_name, other) = logs.items()
    for axes, (column, title) in zip(
        grid[0], {"loss": "loss", "mask_iou": "mask IoU"}.items(), strict=False
    ):
        for log, colour in ((reference, BLUE), (other, ORANGE)):
            _draw_smoothed(axes, log["step"], log[column], colour)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    for label, colour in ((name, BLUE), (other_name, ORANGE)):
        grid[0, 0].plot([], [], color=colour, label=label)
    grid[0, 0].legend(loc="upper right")
    both = reference[["step", "loss"]].merge(
        other[["step", "loss"]], on="step", suffixes=("", "_other")
    )
    axes = grid[0, 2]
    axes.axhline(0, color=QUIET, linewidth=1, zorder=1)
    _draw_smoothed(axes, both["step"], both["loss_other"] / both["loss"] - 1, INK)
    axes.set_title(f"loss of {other_name} against {name}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0%}"))
    for axes in grid[0]:
        axes.set_xlabel("steps")
    return figure


def _line(log: pd.DataFrame) -> str:
    return "o-" if len(log) < FEW else "-"


@styled
def certainty(tracks: pd.DataFrame, lost_below: float) -> Figure:
    """Score and predicted J of each object over the frames, and the frames in which it is lost.

    Args:
        tracks: ``tracks.csv`` of a tracked video.
        lost_below: predicted J, 0 to 1, below which an object counts as lost.
    """
    figure, grid = axes_grid(1, 1, (9.0, 2.8))
    axes = grid[0, 0]
    for number, rows in tracks.groupby("object"):
        colour = "#{:02x}{:02x}{:02x}".format(*object_colour(int(str(number))))
        axes.plot(rows["frame"], rows["score"], ":", color=colour, label=f"score, object {number}")
        axes.plot(
            rows["frame"], rows["predicted_j"], color=colour, label=f"predicted J, object {number}"
        )
    axes.axhline(lost_below, color=QUIET, linestyle="--", linewidth=1)
    lost = int((tracks["predicted_j"] < lost_below).sum())
    axes.set_title(f"below {lost_below:.2f}: {lost} of {len(tracks)} masks count as lost")
    axes.set(xlabel="frame", ylim=(0, 1.04))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
