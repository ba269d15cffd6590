"""How numbers look in a table, and what every table carries: its title and its notes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from e3sn_study.records import MEANS, REFERENCE, VARIANTS, Records, reference
from e3sn_study.records.averages import Interval, Measured

NOT_RUN = "not run"
NONE = "–"
"""Text of a cell that cannot have a value."""
PAPER = "the paper"
PAPER_GPU = "NVIDIA TITAN RTX"
PAPER_PAIRS = 12_000_000
"""Image pairs of SiamMask's first stage, 20 epochs of 600,000. The paper does not give its own."""
RECOMPUTED = "recomputed from the DAVIS authors' files"


def number(value: float, signed: bool = False, decimals: int = 1) -> str:
    """Return a value for display; never a negative zero."""
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''},.{decimals}f}"


def percent(share: float) -> str:
    """Return a share for display, in whole percent."""
    return f"{number(100 * share, decimals=0)} %"


def signed(values: Iterable[float]) -> str:
    """Return differences for display: ``+4.9 -0.3``."""
    return " ".join(number(value, signed=True) for value in values)


def interval_text(interval: Interval, signed: bool = False) -> str:
    """Return ``51.4 (45.0 to 57.9)``."""
    mean, low, high = (number(value, signed) for value in interval)
    return f"{mean} ({low} to {high})"


def note(key: str, **values: Any) -> str:
    """Return a note of ``reference/tables.yaml`` with its values filled in."""
    return reference("tables")["notes"][key].format(**values)


def paper_rows(table: str) -> dict[str, dict[str, Any]]:
    """Return the rows of one of the paper's tables by method."""
    content = reference("paper_tables")[table]
    return {row[0]: dict(zip(content["columns"], row, strict=True)) for row in content["rows"]}


def recomputed_rows() -> dict[str, dict[str, str]]:
    """Return what the DAVIS authors' files give on DAVIS-2016 by method, the best first."""
    table = pd.read_csv(REFERENCE / "davis16_recomputed.csv", dtype=str)
    return table.sort_values("J-Mean", ascending=False).set_index("name").to_dict("index")


def paper_difference(table: str, a: str, b: str) -> dict[str, float]:
    """Return what the paper's table says variant `a` gains over `b`, in points of J and F mean."""
    rows = paper_rows(table)
    return {name: round(rows[VARIANTS[a]][name] - rows[VARIANTS[b]][name], 1) for name in MEANS}


def titled(
    rows: Iterable[Mapping[str, Any]] | pd.DataFrame, records: Records, key: str, *notes: str
) -> pd.DataFrame:
    """Return rows as a table of text with ``attrs["title"]`` and ``attrs["notes"]``.

    Cells that rows lack are dashes. Without rows it is one cell, "not run". Title and notes are
    those of ``reference/tables.yaml`` under `key`. The title says how much of a benchmark was
    scored. The notes are followed by the given ones, and say why a benchmark was not run and which
    runs are left out.
    """
    about = reference("tables")["tables"][key]
    table = pd.DataFrame(rows).reset_index(drop=True).astype(object).fillna(NONE).astype(str)
    if table.empty:
        table = pd.DataFrame({about["name"]: [NOT_RUN]})
    paper = reference("paper_tables").get(key, {}).get("title", "")
    title = about["title"].format(paper=paper)
    found = [*about.get("notes", []), *notes]
    if benchmark := about.get("benchmark"):
        extent, reason = records.scope(benchmark), records.reason_not_run(benchmark)
        if extent:
            title += f" (ours: {extent})"
        elif reason:
            found.append(note("reason", reason=reason.rstrip(".")))
    if records.left_out and (benchmark or key == "runs"):
        found.append(note("repeated", runs=", ".join(records.left_out)))
    synthetic = ", synthetic" if records.synthetic and key != "checks" else ""
    table.attrs |= {"title": f"{about['name']}{synthetic}: {title}", "notes": found}
    return table


def ours(records: Records) -> str:
    """Return the label of our rows: "ours", or "ours (synthetic)"."""
    return "ours (synthetic)" if records.synthetic else "ours"


def score(measured: Measured | None, statistic: str) -> str:
    """Return ``51.4 ± 0.8 (45.0 to 57.9)``; the interval for means only."""
    if measured is None:
        return NOT_RUN
    text = number(measured.value(statistic))
    if measured.seeds > 1:
        text += f" ± {number(measured.by_seed(statistic).std())}"
    if statistic in MEANS and len(measured.weights) > 1:
        _, low, high = measured.interval(statistic)
        text += f" ({number(low)} to {number(high)})"
    return text


def gain_text(new: Measured, old: Measured, statistic: str) -> str:
    """Return ``+12.5 (+9.1 to +15.9), by seed +4.9 +20.2``."""
    by_seed = new.minus_by_seed(old, statistic)
    text = interval_text(new.minus(old, statistic), signed=True)
    return text if len(by_seed) < 2 else f"{text}, by seed {signed(by_seed)}"


def spread(group: pd.DataFrame, column: str, unit: str = "") -> str:
    """Return the mean over runs, with the standard deviation where they differ."""
    if group.empty:
        return NOT_RUN
    text = number(group[column].mean(), decimals=0)
    if group[column].nunique() > 1:
        text += f" ± {number(group[column].std(), decimals=0)}"
    return f"{text} {unit}".rstrip()


def trained_on(sets: Iterable[Mapping[str, Any]]) -> str:
    """Return the training sets of a run, each with its number of objects."""
    return ", ".join(f"{each['name']} ({each['tracks']:,})" for each in sets)


def duration(seconds: float) -> str:
    """Return a training time as hours, such as ``0.50 h``; below 0.1 h as seconds."""
    if seconds < 360:
        return f"{number(seconds, decimals=0)} s"
    return f"{number(seconds / 3600, decimals=2)} h"


def or_unknown(value: Any) -> str:
    """Return a recorded value as text; "unknown" where it was not recorded."""
    if pd.isna(value):
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain_markdown(value: object) -> str:
    """Return text for one line of Markdown in which no HTML, link, table cell or paragraph can
    begin, as names of runs, files and sequences come from others. Markdown (`Markup`) stays."""
    if isinstance(value, Markup):
        return value
    text = re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", str(value)).replace("](", "]\\(")
    return text.replace("|", "\\|").replace("\n", " ")


def to_markdown(table: pd.DataFrame) -> Markup:
    """Return a table of text as Markdown; columns of numbers are aligned to the right."""
    cells = [[plain_markdown(cell) for cell in row] for row in table.to_numpy()]
    rule = ["---:" if each else "---" for each in numeric_columns(table)]
    lines = ([*map(str, table.columns)], rule, *cells)
    return Markup("".join(f"| {' | '.join(line)} |\n" for line in lines))  # noqa: S704 escaped above


def numeric_columns(table: pd.DataFrame) -> list[bool]:
    """Return True for each column of numbers, "not run" and dashes; the first is never one."""
    cells = table.astype(str)
    is_number = cells.map(lambda cell: cell in (NOT_RUN, NONE) or cell.lstrip("+-")[:1].isdigit())
    return [False, *is_number.all()[1:]]
