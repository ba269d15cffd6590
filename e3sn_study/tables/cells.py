"""How numbers look in a table, and what every table carries: a title that says what was scored, and notes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from e3sn_study.records import NONE, NOT_RUN, Measured, is_synthetic, number, read_runs, reason_not_run, scope, signed

PAPER = "the paper"
PAPER_GPU = "NVIDIA TITAN RTX"
SHORT = 360.0
"""Seconds of training that are not told in hours."""
RECOMPUTED = "recomputed from the DAVIS authors' files"
AVERAGES = (
    "Scores in percent, without the first and last frame of a sequence; mean, recall and decay are of each object over its frames, "
    "then averaged over objects. Brackets hold the 95 % bootstrap interval over sequences, ± is the standard deviation over seeds."
)
FROZEN = "Runs with train.unfreeze_at=1 are too short to train their backbone."
GAINS = (
    "A difference is paired over the sequences; brackets hold its 95 % bootstrap interval over them, which knows nothing of other "
    "trainings: those are the differences by seed."
)


def titled(table: pd.DataFrame, results: Path, name: str, title: str, benchmark: str = "", *notes: str) -> pd.DataFrame:
    """Make a table's cells text and give it ``attrs["title"]`` and ``attrs["notes"]``.

    With a `benchmark` the title says how much of it was scored, and the notes why it was not run and which runs are left out.
    """
    synthetic, extent = is_synthetic(results), scope(results, benchmark) if benchmark else ""
    reason = reason_not_run(results, benchmark) if benchmark and not extent else ""
    repeated = ", ".join(read_runs(results).attrs.get("left_out", [])) if benchmark else ""
    table = table.reset_index(drop=True).astype(str)
    table.attrs["title"] = f"{name}{', synthetic' if synthetic else ''}: {title}{f' (ours: {extent})' if extent else ''}"
    further = [
        f"Not run: {reason.rstrip('.')}." if reason else "",
        f"Left out, as trained again with the same seed and settings: {repeated}." if repeated else "",
    ]
    table.attrs["notes"] = [note for note in (*notes, *further) if note]
    return table


def ours(results: Path) -> str:
    """What our rows are called: "ours (cpu)", "ours (smoke, synthetic)"."""
    words = [*read_runs(results)["profile"].unique(), *(["synthetic"] if is_synthetic(results) else [])]
    return f"ours ({', '.join(words)})" if words else "ours"


def score(measured: Measured | None, statistic: str) -> str:
    """``51.4 ± 0.8 (45.0 to 57.9)``; the interval for means only."""
    if measured is None:
        return NOT_RUN
    text = number(measured.value(statistic))
    if measured.seeds > 1:
        text += f" ± {number(measured.spread(statistic))}"
    if statistic.endswith("Mean") and len(measured.weights) > 1:
        interval = measured.interval(statistic)
        text += f" ({number(interval.low)} to {number(interval.high)})"
    return text


def gain_text(new: Measured, old: Measured, statistic: str) -> str:
    """``+12.5 (+9.1 to +15.9), by seed +4.9 +20.2``."""
    by_seed, text = new.minus_by_seed(old, statistic), new.minus(old, statistic).text(signed=True)
    return text if len(by_seed) < 2 else f"{text}, by seed {signed(by_seed)}"


def spread(group: pd.DataFrame, column: str, unit: str = "", decimals: int = 0) -> str:
    """Mean over runs, with the standard deviation where they differ."""
    if group.empty:
        return NOT_RUN
    deviation = "" if group[column].nunique() == 1 else f" ± {number(group[column].std(), decimals=decimals)}"
    return f"{number(group[column].mean(), decimals=decimals)}{deviation} {unit}".rstrip()


def duration(group: pd.DataFrame) -> str:
    """Training time of some runs: ``0.50 ± 0.02 h (1,800 s)``, or ``121 ± 2 s``."""
    if group.empty:
        return NOT_RUN
    if group["seconds"].mean() < SHORT:
        return spread(group, "seconds", "s")
    hours = spread(group.assign(hours=group["seconds"] / 3600), "hours", "h", 2)
    return f"{hours} ({number(group['seconds'].mean(), decimals=0)} s)"


def known(value: Any) -> str:
    """A recorded value as text; "unknown" where it was not recorded."""
    return "unknown" if value is None or value != value else f"{value:g}" if isinstance(value, float) else str(value)


def plain_markdown(value: object) -> str:
    """Return text for one line of Markdown in which no HTML, table cell or paragraph can begin.

    Names of runs, files and sequences come from others. Markdown (`Markup`) stays as it is.
    """
    if isinstance(value, Markup):
        return value
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", str(value)).replace("|", "\\|").replace("\n", " ")


def to_markdown(table: pd.DataFrame) -> Markup:
    """Return a table of text as Markdown; columns of numbers are aligned to the right."""
    cells = [[plain_markdown(cell) for cell in row] for row in table.to_numpy()]
    rule = ["---:" if each else "---" for each in numeric_columns(table)]
    lines = ([*map(str, table.columns)], rule, *cells)
    return Markup("".join(f"| {' | '.join(line)} |\n" for line in lines))  # noqa: S704 escaped above


def numeric_columns(table: pd.DataFrame) -> list[bool]:
    """Which columns, but for the first, hold nothing but numbers, "not run" and dashes."""

    def is_number(cell: str) -> bool:
        return cell in (NOT_RUN, NONE) or cell.lstrip("+-")[:1].isdigit()

    return [place > 0 and all(map(is_number, table[name].astype(str))) for place, name in enumerate(table.columns)]
