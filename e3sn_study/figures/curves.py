"""Figures of training runs: losses, learned fusion weights, where the time goes, what sampling costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from e3sn_study.figures.style import BLUE, FAINT, INK, LEVEL_COLOURS, ORANGE, QUIET, VARIANT_COLOURS, axes_grid, label_lines, styled
from e3sn_study.records import VARIANTS

_LOSSES = {"cls": "classification loss", "loc": "box loss", "mask": "mask loss", "mask_iou": "mask IoU"}
FEW = 12
"""Points of a curve below which each is marked and none smoothed."""


@styled
def training_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """The three losses of eq. 3 and the mask IoU against pairs seen.

    Args:
        logs: by variant, `Run.log`; where a run has several stages, a dotted line stands between them.
    """
    figure, grid = axes_grid(1, 4, (12.5, 3.1))
    for axes, (column, title) in zip(grid[0], _LOSSES.items(), strict=True):
        ends = {}
        for variant, log in logs.items():
            colour = VARIANT_COLOURS[variant]
            for _, stage in log.groupby("stage", sort=False):
                _draw_smoothed(axes, stage["pairs"], stage[column], colour)
            for boundary in log.loc[log["stage"] != log["stage"].shift(-1), "pairs"].iloc[:-1]:
                axes.axvline(boundary, color=colour, linestyle=":", linewidth=1.2)
            if len(last := log.dropna(subset=[column]).tail(1)):
                ends[VARIANTS[variant]] = (float(last["pairs"].iloc[0]), float(last[column].iloc[0]), colour)
        axes.set_title(title)
        axes.set_xlabel("pairs")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        if column == "mask_iou":
            axes.set_ylim(0, 1)
            label_lines(axes, ends, 0.09)
        else:
            axes.set_ylim(bottom=0)
    return figure


def _draw_smoothed(axes: Axes, x: pd.Series, y: pd.Series, colour: str) -> None:
    """Single values pale, their running mean strong, once there are enough of them."""
    if len(y) < FEW:
        axes.plot(x, y, "o-", color=colour, ms=4)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=1)
    axes.plot(x, y.rolling(max(len(y) // 15, 3), center=True, min_periods=1).mean(), color=colour)


@styled
def level_weights(log: pd.DataFrame) -> Figure:
    """The weights of eq. 5 while they are learned."""
    figure, grid = axes_grid(1, 1, (7.0, 3.2))
    axes = grid[0, 0]
    levels = [level for level in LEVEL_COLOURS if f"w{level}" in log]
    for level in levels:
        axes.plot(log["pairs"], log[f"w{level}"], _line(log), color=LEVEL_COLOURS[level], ms=4)
    axes.axhline(1 / len(levels), color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_title("weight of each level in the fused feature")
    axes.set_xlabel("pairs")
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    values = log[[f"w{level}" for level in levels]].to_numpy()
    room = max(np.abs(values - 1 / len(levels)).max() * 1.25, 0.01)
    axes.set_ylim(1 / len(levels) - room, 1 / len(levels) + room)
    ends = {f"conv{n}, {log[f'w{n}'].iloc[-1]:.3f}": (0.0, float(log[f"w{n}"].iloc[-1]), LEVEL_COLOURS[n]) for n in levels}
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
        axes.set_xlabel("pairs")
        axes.set_ylim(0, max(float(values.max()) * 1.15, 0.05))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    grid[0, 1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    return figure


@styled
def stage_times(stages: Mapping[str, pd.DataFrame]) -> Figure:
    """Training time, stage after stage; one bar a variant.

    Args:
        stages: by variant, `Run.stages`.
    """
    figure, grid = axes_grid(1, 1, (9.0, 0.8 + 0.6 * len(stages)))
    axes, longest = grid[0, 0], max(table["seconds"].sum() / 60 for table in stages.values())
    for row, (variant, table) in enumerate(stages.items()):
        begun, colour = 0.0, VARIANT_COLOURS[variant]
        for place, part in enumerate(table.to_dict("records")):
            minutes, name = part["seconds"] / 60, part["stage"].replace("_", " ")
            axes.barh(row, minutes, left=begun, height=0.62, color=colour, alpha=1 - 0.25 * place, edgecolor="white")
            turned = 90 if minutes < 0.08 * longest else 0
            axes.text(begun + minutes / 2, row, name, ha="center", va="center", color="white", fontsize=8, rotation=turned)
            begun += minutes
        axes.text(begun, row, f"  {begun:.1f} min", va="center", color=INK, fontweight="bold")
    axes.set_yticks(range(len(stages)), [VARIANTS[variant] for variant in stages])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.set_title("training time by stage")
    axes.set_xlabel("minutes")
    axes.margins(x=0.14)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    return figure


@styled
def sampling_cost(cost: pd.DataFrame) -> Figure:
    """Memory and time of a training step against samples per image; hollow: too large to run here, estimated.

    Args:
        cost: from `e3sn_study.bench.sampling_cost.measure_sampling_cost`.
    """
    figure, grid = axes_grid(1, 2, (11.0, 3.5))
    for axes, measured, estimated, unit in (
        (grid[0, 0], cost["peak_memory_mb"] / 1024, cost["estimated_memory_mb"] / 1024, "GB"),
        (grid[0, 1], cost["seconds_per_step"], None, "s"),
    ):
        x, y = cost["samples_per_image"], measured if estimated is None else measured.fillna(estimated)
        axes.plot(x, y, color=FAINT, zorder=1)
        axes.plot(x, y, "o", color="white", mec=BLUE, mew=1.8, ms=8)
        axes.plot(x, measured, "o", color=BLUE, ms=8)
        for place, value, here in zip(x, y, measured.notna(), strict=True):
            if np.isfinite(value):
                text = f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
                axes.annotate(text, (place, value), (0, 9), textcoords="offset points", ha="center", color=INK if here else QUIET)
        axes.axvline(4, color=ORANGE, linewidth=1.2, linestyle=":")
        axes.set(xscale="log", xlabel="samples per image", xlim=(x.min() / 1.6, x.max() * 1.8))
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, float(y.max()) * 1.2)
    grid[0, 0].set_title("peak memory of a training step, GB")
    grid[0, 1].set_title("seconds per training step")
    grid[0, 0].text(4, 0.97, " the paper's 4", transform=grid[0, 0].get_xaxis_transform(), color=ORANGE, va="top")
    return figure


@styled
def precision_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and mask IoU of the same seed and pairs in two precisions, and by how much the losses differ.

    Args:
        logs: by precision, the reference first; `log.csv` of each run.
    """
    figure, grid = axes_grid(1, 3, (12.0, 3.1))
    (name, reference), (other_name, other) = logs.items()
    for axes, column in zip(grid[0], ("loss", "mask_iou"), strict=False):
        ends = {}
        for label, log, colour in ((name, reference, BLUE), (other_name, other, ORANGE)):
            _draw_smoothed(axes, log["step"], log[column], colour)
            if len(last := log.dropna(subset=[column]).tail(1)):
                ends[label] = (float(last["step"].iloc[0]), float(last[column].iloc[0]), colour)
        axes.set_title({"loss": "loss", "mask_iou": "mask IoU"}[column])
        axes.set_ylim(bottom=0)
        label_lines(axes, ends, 0.09)
    both = reference[["step", "loss"]].merge(other[["step", "loss"]], on="step", suffixes=("", "_other"))
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


def _thousands(value: float, _: int | None = None) -> str:
    return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"
