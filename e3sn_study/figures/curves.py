"""Figures of training: losses, learned fusion weights, time, and the cost of sampling."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from e3sn_lib.tracking.video import object_colour
from e3sn_study.figures import style
from e3sn_study.figures.style import BLUE, INK, LEVEL_COLOURS, ORANGE, QUIET, axes_grid, styled
from e3sn_study.records import STAGES, VARIANTS, Records
from e3sn_study.records.schema import TRAINING

FEW = 12
"""A curve of fewer points is not smoothed, and each point is marked."""


@styled
def training_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """The three losses of eq. 3 and the mask IoU against the pairs seen.

    `logs` has `Run.log` by variant. A dotted line stands between two stages of a run.
    """
    titles = {"cls": "classification loss", "loc": "box loss", "mask": "mask loss"}
    titles["mask_iou"] = "mask IoU"
    figure, grid = axes_grid(1, 4, (12.5, 3.1))
    for axes, (column, title) in zip(grid, titles.items(), strict=True):
        ends = {}
        for variant, log in logs.items():
            colour = style.VARIANT_COLOURS[variant]
            for _, stage in log.groupby("stage", sort=False):
                _draw_smoothed(axes, stage["pairs"], stage[column], colour)
            for boundary in log.groupby("stage", sort=False)["pairs"].last().iloc[:-1]:
                axes.axvline(boundary, color=colour, linestyle=":", linewidth=1.2)
            for value in log[column].dropna().tail(1):
                ends[VARIANTS[variant]] = (value, colour)
        axes.set(title=title, ylim=(0, 1 if column == "mask_iou" else None))
        style.count_pairs(axes)
    style.label_lines(axes, ends, 0.09)
    return figure


def _draw_log(axes: Axes, log: pd.DataFrame, values: pd.Series, colour: str) -> None:
    axes.plot(log["pairs"], values, "o-" if len(log) < FEW else "-", color=colour, ms=4)


def _draw_smoothed(axes: Axes, x: pd.Series, y: pd.Series, colour: str, name: str = "") -> None:
    """Draw the values pale and their running mean strong; draw a few values only as points."""
    if len(y) < FEW:
        axes.plot(x, y, "o-", color=colour, ms=4, label=name)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=1)
    smooth = y.rolling(max(len(y) // 15, 3), center=True, min_periods=1).mean()
    axes.plot(x, smooth, color=colour, label=name)


@styled
def level_weights(log: pd.DataFrame) -> Figure:
    """The weights of eq. 5 while they are learned."""
    figure, axes = axes_grid(1, 1, (7.0, 3.2))
    levels = [each for each in LEVEL_COLOURS if f"w{each}" in log and log[f"w{each}"].notna().any()]
    equal, room, ends = 1 / max(len(levels), 1), 0.01, {}
    for level in levels:
        values, colour = log[f"w{level}"], LEVEL_COLOURS[level]
        _draw_log(axes, log, values, colour)
        room = max(room, 1.25 * (values - equal).abs().max())
        ends[f"conv{level}, {values.iloc[-1]:.3f}"] = (values.iloc[-1], colour)
    axes.axhline(equal, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    style.count_pairs(axes)
    axes.set_title("weight of each level in the fused feature")
    axes.set_ylim(equal - room, equal + room)
    style.label_lines(axes, ends, 0.075)
    return figure


@styled
def throughput(log: pd.DataFrame) -> Figure:
    """Pairs per second, the share of time spent waiting for data, and peak memory."""
    figure, grid = axes_grid(1, 3, (12.0, 2.7))
    columns = {
        "pairs per second": log["pairs_per_second"],
        "share of time waiting for data": log["data_share"],
        "peak memory, GiB": log["peak_memory_mb"] / 1024,
    }
    for axes, (title, values) in zip(grid, columns.items(), strict=True):
        if values.name == "peak_memory_mb":  # it has steps, which a mean would hide
            _draw_log(axes, log, values, BLUE)
        else:
            _draw_smoothed(axes, log["pairs"], values, BLUE)
        style.count_pairs(axes)
        axes.set(title=title, ylim=(0, max(values.max() * 1.15, 0.05)))
    grid[1].yaxis.set_major_formatter("{x:.0%}")
    return figure


@styled
def stage_times(records: Records) -> Figure:
    """Training time of a pair, stage after stage: one bar per network, from the side-by-side costs.

    The time of a stage is weighted by its share of the pairs.
    """
    costs = records.required("variant_costs")
    training = costs[costs["part"] == TRAINING]
    times = 1000 * training["share"] * training["seconds"]
    stages = times.groupby([training["variant"], training["stage"]], sort=False).sum()
    shown = [variant for variant in VARIANTS if variant in stages.index]
    figure, axes = axes_grid(1, 1, (9.0, 0.8 + 0.6 * len(shown)))
    longest = stages.groupby("variant").sum().max()
    for row, variant in enumerate(shown):
        begun, colour = 0.0, style.VARIANT_COLOURS[variant]
        for number, (stage, time) in enumerate(stages[variant].items()):
            look = {"color": colour, "alpha": 1 - 0.25 * number, "edgecolor": "white"}
            axes.barh(row, time, left=begun, height=0.62, **look)
            name, fits = STAGES.get(str(stage), str(stage)), time > 0.15 * longest
            place = {"y": row, "va": "center"} if fits else {"y": row - 0.32, "va": "bottom"}
            look = {"color": "white" if fits else INK, "ha": "center", "fontsize": 8}
            axes.text(begun + time / 2, s=name, **place, **look)
            begun += time
        axes.text(begun, row, f"  {begun:.0f} ms", va="center", color=INK, fontweight="bold")
    style.name_rows(axes, [VARIANTS[variant] for variant in shown])
    axes.invert_yaxis()
    axes.set(title="training time of a pair, by stage", xlabel="milliseconds")
    axes.margins(x=0.14)
    return figure


@styled
def sampling_cost(records: Records) -> Figure:
    """Memory and time of a training step against samples per image; hollow points are estimated."""
    cost = records.required("sampling_cost")
    figure, (left, right) = axes_grid(1, 2, (11.0, 3.5))
    memory, seconds = cost["peak_memory_mb"], cost["seconds_per_step"]
    estimated = memory.fillna(cost["estimated_memory_mb"])
    x = cost["samples_per_image"]
    for axes, measured, y in ((left, memory, estimated), (right, seconds, seconds)):
        axes.plot(x, y, color=style.FAINT, zorder=1)
        axes.plot(x, y, "o", color="white", mec=BLUE, mew=1.8, ms=8)
        axes.plot(x, measured, "o", color=BLUE, ms=8)
        for place, value, here in zip(x, y, measured.notna(), strict=True):
            if np.isfinite(value):
                text = f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
                look = {"textcoords": "offset points", "ha": "center"}
                axes.annotate(text, (place, value), (0, 9), color=INK if here else QUIET, **look)
        axes.axvline(4, color=ORANGE, linewidth=1.2, linestyle=":")
        top = y.fillna(0).max() * 1.2 or 1.0  # where no step could be measured
        axes.set(xscale="log", xlabel="samples per image", ylim=(0, top))
        axes.set_xlim(x.min() / 1.6, x.max() * 1.8)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
    left.set_title("peak memory of a training step, MiB")
    right.set_title("seconds per training step")
    place = left.get_xaxis_transform()
    left.text(4, 0.97, " the paper's 4", transform=place, color=ORANGE, va="top")
    return figure


@styled
def precision_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and mask IoU in two precisions, for the same seed and pairs, and how the losses differ.

    `logs` has ``log.csv`` of two runs by precision, the reference first.
    """
    figure, (loss, iou, difference) = axes_grid(1, 3, (12.0, 3.1))
    for axes, column in ((loss, "loss"), (iou, "mask_iou")):
        for (name, log), colour in zip(logs.items(), (BLUE, ORANGE), strict=True):
            _draw_smoothed(axes, log["step"], log[column], colour, name)
        axes.set_ylim(bottom=0)
    loss.legend(loc="upper right")
    losses = pd.DataFrame({name: log.set_index("step")["loss"] for name, log in logs.items()})
    reference, other = losses.columns
    change = (losses[other] / losses[reference] - 1).dropna()
    difference.axhline(0, color=QUIET, linewidth=1, zorder=1)
    _draw_smoothed(difference, change.index, change, INK)
    difference.yaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
    titles = ("loss", "mask IoU", f"loss of {other} against {reference}")
    for axes, title in zip((loss, iou, difference), titles, strict=True):
        axes.set(title=title, xlabel="steps")
    return figure


@styled
def certainty(tracks: pd.DataFrame, lost_below: float) -> Figure:
    """Score and predicted J of each object over the frames, and the frames in which it is lost.

    `tracks` is ``tracks.csv`` of a tracked video. `lost_below` is the predicted J, 0 to 1, below
    which an object counts as lost; in its first frame, where its box is given, it never does.
    """
    figure, axes = axes_grid(1, 1, (9.0, 2.8))
    for number, rows in tracks.groupby("object"):
        colour = "#{:02x}{:02x}{:02x}".format(*object_colour(int(str(number))))
        for column, line, name in (("score", ":", "score"), ("predicted_j", "-", "predicted J")):
            label = f"{name}, object {number}"
            axes.plot(rows["frame"], rows[column], line, color=colour, label=label)
    axes.axhline(lost_below, color=QUIET, linestyle="--", linewidth=1)
    later = tracks.duplicated("object")
    lost = int((tracks.loc[later, "predicted_j"] < lost_below).sum())
    axes.set_title(f"below {lost_below:.2f}: {lost} of {len(tracks)} masks count as lost")
    axes.set(xlabel="frame", ylabel="0 to 1", ylim=(0, 1.04))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
