"""Figures of scores: by sequence, against baselines, by mask threshold, and over time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.figure import Figure

from e3sn_lib.errors import InputError
from e3sn_study.evaluation.confidence import LEVELS, agreement
from e3sn_study.figures import style
from e3sn_study.figures.style import BLUE, INK, ORANGE, QUIET, RED, axes_grid, name_rows, styled
from e3sn_study.records import MEANS, PAPER_THRESHOLD, VARIANTS, Records
from e3sn_study.records.averages import Measured
from e3sn_study.records.schema import BOUND, BOX, MODEL, STILL, STILL_BOX, TRUE_BOX
from e3sn_study.tables.cells import PAPER, interval_text, ours, paper_rows

LABEL_PLACES = {
    "SiamMask": ((0, -8), "center", "top"),
    "--keep-lost": ((0, -8), "center", "top"),
    "int8 graphs": ((9, 0), "left", "center"),
    "E3SN, ours": ((-9, 0), "right", "center"),
}
"""Where labels of `trade_off` stand, above their points if not here: shift and alignment."""
OPENCV = ("MIL box + GrabCut", "CSRT box + GrabCut", "NanoTrack box + GrabCut")


@styled
def per_sequence(records: Records) -> Figure:
    """J of each sequence of DAVIS-2016, from E3SN's worst at the top to its best.

    It shows every variant, the first mask held still, and E3SN's masks in true boxes.
    """
    main = _scores(records, records.main_runs("e3sn")).by_sequence("J-Mean")
    order = main.sort_values(ascending=False).index
    rows = range(len(order))
    figure, axes = axes_grid(1, 1, (9.0, 1.3 + 0.3 * len(order)))
    if bound := records.measure("davis2016", records.main_runs("e3sn"), BOUND):
        ends = bound.by_sequence("J-Mean")[order]
        axes.hlines(rows, main[order], ends, color=BLUE, alpha=0.3, linewidth=2.5)
        hollow = {"mfc": "white", "mec": BLUE, "mew": 1.5, "ms": 6}
        axes.plot(ends, rows, "o", label="E3SN in true boxes", **hollow)
    if still := records.measure("davis2016", method=STILL):
        values = still.by_sequence("J-Mean")[order]
        axes.plot(values, rows, "|", color=QUIET, ms=11, mew=2, label=STILL)
    for variant, label in VARIANTS.items():
        if found := records.measure("davis2016", records.main_runs(variant)):
            values = found.by_sequence("J-Mean")
            look = {"color": style.VARIANT_COLOURS[variant], "ms": 8, "zorder": 4, "clip_on": False}
            axes.plot(values, order.get_indexer(values.index), "o", label=label, **look)
    name_rows(axes, list(order))
    axes.set(xlim=(0, 100), ylim=(-0.6, len(order) - 0.4), xlabel="J mean, %")
    spacing = {"handletextpad": 0.2, "columnspacing": 1.2}
    figure.legend(loc="outside upper left", ncols=5, fontsize=9, **spacing)
    return figure


@styled
def ladder(records: Records) -> Figure:
    """J and F on DAVIS-2016 of baselines, of the model, and of its masks in true boxes."""
    chosen = records.main_runs("e3sn")
    _scores(records, chosen)
    methods = {
        **{name: ([""], name) for name in (STILL_BOX, STILL, *OPENCV)},
        "E3SN's box, filled": (chosen, BOX),
        "true box, filled": ([""], TRUE_BOX),
        "true box + GrabCut": ([""], "true box + GrabCut"),
        "E3SN": (chosen, MODEL),
        "E3SN in true boxes": (chosen, BOUND),
    }
    scores = {name: records.measure("davis2016", *method) for name, method in methods.items()}
    found = {name: each for name, each in scores.items() if each}
    figure, grid = axes_grid(1, 2, (10.5, 0.9 + 0.42 * len(found)), sharey=True)
    rim = [patheffects.withStroke(linewidth=3.4, foreground="#ffffffb0")]
    for axes, statistic in zip(grid, MEANS, strict=True):
        name_rows(axes, list(found))
        for row, (name, each) in enumerate(found.items()):
            interval, main = each.interval(statistic), name == "E3SN"
            axes.barh(row, interval.mean, color=BLUE if main else "#b8c4d0", height=0.66)
            axes.plot(interval[1:], [row, row], color=INK, linewidth=1.4, path_effects=rim)
            # At the start of the bar no other line crosses the number. A short bar has no room.
            colour = "white" if main and interval.mean > 8 else INK
            axes.text(1.5, row, f"{interval.mean:.1f}", va="center", color=colour)
        if records.whole_set("davis2016"):
            paper = paper_rows("table1")["E3SN"][statistic]
            axes.axvline(paper, color=ORANGE, linewidth=1.6)
            look = {"color": ORANGE, "ha": "center", "fontweight": "bold"}
            axes.text(paper, -0.65, f"paper {paper}", va="bottom", **look)
        axes.set(xlim=(0, 100), xlabel=f"{statistic[0]} mean, %")
    grid[0].set_ylim(len(found) - 0.4, -0.6)
    return figure


@styled
def trade_off(records: Records) -> Figure:
    """Speed against accuracy on DAVIS-2016: mean of J and F by frames per second.

    It has the paper's methods, if the whole set is scored, and our E3SN.
    """
    chosen = records.main_runs("e3sn")
    model, speed = _scores(records, chosen), records.speed("davis2016", chosen)
    points = []
    if records.whole_set("davis2016"):
        for method, row in paper_rows("table1").items():
            of_two = method in VARIANTS.values()
            label, colour = (f"{method}, {PAPER}", ORANGE) if of_two else (method, QUIET)
            points.append((label, row["FPS"], np.mean([row[name] for name in MEANS]), colour))
    if len(speed):
        mean = np.mean([model.value(name) for name in MEANS])
        points.append((f"E3SN, {ours(records)}", speed["fps"].mean(), mean, BLUE))
    for label, row in records.int8_graphs.items():
        if label == "as e3sn track":  # it looks at the same places
            continue
        mean = np.mean([100 * row[name] for name in MEANS])
        points.append((f"E3SN, {ours(records)}, {label}", row["fps"], mean, BLUE))
    figure, axes = axes_grid(1, 1, (7.5, 4.2))
    for label, fps, mean, colour in points:
        fill = "white" if colour == ORANGE else colour
        axes.plot(fps, mean, "o", color=fill, mec=colour, ms=8)
        near = [place for name, place in LABEL_PLACES.items() if name in label]
        shift, ha, va = near[0] if near else ((0, 8), "center", "bottom")
        look: dict[str, Any] = {"textcoords": "offset points", "color": colour, "fontsize": 9}
        axes.annotate(label, (fps, mean), shift, ha=ha, va=va, **look)
    axes.set(xscale="log", xlabel="frames per second", ylabel="mean of J and F, %")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15, y=0.15)
    return figure


@styled
def thresholds(records: Records) -> Figure:
    """J and F of E3SN on DAVIS-2016 against the threshold that makes masks of probabilities."""
    chosen = records.main_runs("e3sn")
    _scores(records, chosen)
    found = records.by_threshold("davis2016", chosen)
    figure, axes = axes_grid(1, 1, (6.0, 3.2))
    ends = {}
    for statistic, colour in zip(MEANS, (BLUE, style.PURPLE), strict=True):
        values = [each.value(statistic) for each in found.values()]
        axes.plot(list(found), values, "o-", color=colour)
        ends[f"{statistic[0]} mean"] = (values[-1], colour)
    axes.axvline(PAPER_THRESHOLD, color=ORANGE, linewidth=1.2, linestyle=":")
    text, place = f" the paper's {PAPER_THRESHOLD}", axes.get_xaxis_transform()
    axes.text(PAPER_THRESHOLD, 0.98, text, transform=place, color=ORANGE, va="top")
    axes.set(title="score by mask threshold, %", xlabel="threshold", xticks=list(found))
    axes.margins(y=0.25)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], 0))
    style.label_lines(axes, ends, 0.08)
    return figure


@styled
def gains(records: Records, new: str = "e3sn", old: str = "e3sn-s") -> Figure:
    """The gain of one variant over another on DAVIS-2016, sequence by sequence, in points."""
    a, b = (_scores(records, names) for names in records.compared_runs(new, old).values())
    order = (a.by_sequence("J-Mean") - b.by_sequence("J-Mean")).sort_values().index
    figure, grid = axes_grid(1, 2, (10.5, 1.2 + 0.3 * len(order)), sharey=True)
    for axes, statistic in zip(grid, MEANS, strict=True):
        name_rows(axes, list(order))
        values = (a.by_sequence(statistic) - b.by_sequence(statistic))[order]
        axes.barh(range(len(order)), values, color=np.where(values >= 0, BLUE, RED), height=0.66)
        mean = a.minus(b, statistic)
        axes.axvspan(mean.low, mean.high, color=style.FAINT, alpha=0.8, zorder=0, linewidth=0)
        axes.axvline(mean.mean, color=INK, linewidth=1.6)
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.set_title(f"{statistic[0]}: {interval_text(mean, signed=True)}", fontsize=10)
        reach = 1.15 * max(values.abs().max(), abs(mean.low), abs(mean.high), 1.0)
        axes.set_xlim(-reach, reach)
    title = f"{VARIANTS[new]} minus {VARIANTS[old]}, points"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure


@styled
def ablations(records: Records, variant: str) -> Figure:
    """What changed settings of a variant gain on DAVIS-2016, in points, in all and by seed."""
    found = {}
    for changes, group, base in records.ablations():
        new, old = (records.measure("davis2016", runs["run"]) for runs in (group, base))
        if new and old and group["variant"].iloc[0] == variant:
            found["\n".join([*changes, f"{group['pairs'].max():,} pairs"])] = (new, old)
    if not found:
        raise InputError(f"no ablation of {variant} has been scored on davis2016; make one first")
    figure, grid = axes_grid(1, 2, (10.5, 1.1 + 0.5 * len(found)), sharey=True)
    for axes, statistic in zip(grid, MEANS, strict=True):
        name_rows(axes, list(found))
        for row, (new, old) in enumerate(found.values()):
            gain, by_seed = new.minus(old, statistic), new.minus_by_seed(old, statistic)
            axes.plot(gain[1:], [row, row], color=INK, linewidth=1.4)
            colour = BLUE if gain.low > 0 else RED if gain.high < 0 else QUIET
            axes.plot(gain.mean, row, "o", color=colour, ms=8)
            axes.plot(by_seed, [row] * len(by_seed), "|", color=QUIET, ms=12, mew=1.6, zorder=3)
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.set(xlabel=f"gain in {statistic[0]} mean, points", ylim=(len(found) - 0.5, -0.5))
    return figure


@styled
def over_time(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """J of every scored frame of some sequences: it shows where an object is lost.

    `frames` has, by title, the columns object and J of `frame_scores`.
    """
    figure, grid = axes_grid(1, len(frames), (3.6 * len(frames), 2.5), sharey=True, squeeze=False)
    for axes, (title, table) in zip(grid[0], frames.items(), strict=True):
        for number, part in table.groupby("object"):
            numbers = np.arange(1, len(part) + 1)
            axes.fill_between(numbers, part["J"], color=BLUE, alpha=0.12)
            axes.plot(numbers, part["J"], color=BLUE if number == 1 else ORANGE)
        axes.axhline(0.5, color=QUIET, linewidth=1, linestyle=":")
        axes.set(title=title, ylim=(0, 1), xlabel="frame")
    grid[0, 0].set_ylabel("J")
    return figure


@styled
def reliability(records: Records) -> Figure:
    """J against the J that was predicted, by tenths and frame by frame; how well they agree."""
    table = records.required("confidence")
    names = {"train": "train, cross-validated", "val": "val"}
    figure, grid = axes_grid(1, len(names), (9.0, 4.2), sharex=True, sharey=True)
    for axes, (split, name) in zip(grid, names.items(), strict=True):
        rows = table[table["split"] == split]
        found = agreement(*rows[["j", "predicted_j"]].to_numpy().T)
        areas = [f"area {found[f'auc_{level}']:.3f} for J < {level}" for level in LEVELS]
        numbers = [f"rank correlation {found['rank_correlation']:.3f}", *areas]
        axes.text(0.97, 0.03, "\n".join(numbers), ha="right", va="bottom")
        look = {"color": BLUE, "alpha": 0.25, "ms": 4, "mew": 0, "rasterized": True}
        axes.plot(rows["predicted_j"], rows["j"], ".", **look)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1)
        tenths = rows.groupby((10 * rows["predicted_j"]).astype(int))[["predicted_j", "j"]].mean()
        label = "mean in each tenth of predicted J"
        axes.plot(tenths["predicted_j"], tenths["j"], "o-", color=ORANGE, label=label)
        axes.set(title=name, xlabel="predicted J", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    grid[0].set_ylabel("J")
    grid[0].legend(loc="upper left")
    return figure


@styled
def seen_pairs(records: Records) -> Figure:
    """J&F on held-out sequences, and how often a look-alike is taken, against the pairs seen."""
    table = records.required("held_out")
    figure, grid = axes_grid(1, 2, (9.0, 3.2))
    grid[0].plot(table["pairs"], 50 * (table["J-Mean"] + table["F-Mean"]), "o", color=BLUE)
    grid[0].set(title="J&F on held-out sequences")
    for column, label, colour in (
        ("raw_over", "by the score alone", ORANGE),
        ("penalised_over", "with penalty and window", style.GREEN),
    ):
        grid[1].plot(table["pairs"], 100 * table[column], "o", color=colour, label=label)
    grid[1].set(title="look-alike taken, % of scenes", ylim=(0, None))
    grid[1].legend()
    for axes in grid:
        style.count_pairs(axes)
    return figure


def _scores(records: Records, runs: list[str]) -> Measured:
    """Return the scores of some runs on DAVIS-2016, which must be on record."""
    if found := records.measure("davis2016", runs):
        return found
    raise InputError("no run that this needs has been scored on davis2016; evaluate one first")
