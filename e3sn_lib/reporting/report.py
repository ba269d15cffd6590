"""The report page of a profile, and the README's table, generated from files of record and settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mistune
import pandas as pd
from markupsafe import Markup

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_csv, write_text
from e3sn_lib.notebooks import remote_loads
from e3sn_lib.records import (
    BENCHMARKS,
    MEANS,
    NOT_RUN,
    REFERENCE,
    is_synthetic,
    main_runs,
    measure,
    number,
    read_runs,
    read_scores,
    read_speed,
    reference,
    scope,
)
from e3sn_lib.reporting.cells import PAPER_GPU, RECOMPUTED, to_markdown
from e3sn_lib.reporting.claims import paper_rows
from e3sn_lib.reporting.costs import PAPER_PAIRS
from e3sn_lib.reporting.deviations import chosen, deviations
from e3sn_lib.reporting.page import HTML, MARKDOWN, Row, view
from e3sn_lib.reporting.sections import commands, data, figures, networks, settings
from e3sn_lib.reporting.tables import TABLES, short_table1

NOTEBOOK = {
    **dict.fromkeys(
        (
            "table1",
            "table2",
            "bounds",
            "per_sequence",
            "crops",
            "attributes",
            "threshold_sweep",
            "choices",
            "speed",
        ),
        "04",
    ),
    **dict.fromkeys(("table3", "sampling_cost", "variant_costs"), "05"),
    "table4": "06",
    "ablations": "05,06",
}
"""Which notebooks make a table; the others belong to the whole study."""
ABOUT_NO_SCORES = ("checks", "deviations")
"""Tables that are the same for real and synthetic results."""
MARKS = "<!-- table1:begin -->", "<!-- table1:end -->"


def build_report(report: Path, profile: Profile) -> Path:
    """Write ``tables/*.md`` and ``*.csv`` and the page ``index.html`` from ``results/`` and ``figures/``.

    Args:
        report: folder of one profile's results; what is missing in it is "not run" on the page.
        profile: its settings, which choose the text.

    Returns:
        The page, which needs no network.

    Raises:
        InputError: a file of record is broken, or the page would load something from elsewhere.
    """
    tables = {name: make(report / "results") for name, make in TABLES.items()}
    tables["deviations"] = deviations(profile)
    _write_tables(report, tables, profile)
    page = HTML.get_template("page.html.j2").render(_context(report, profile, tables))
    if loads := remote_loads(page):
        raise InputError(
            f"the report page would load {loads[0]} when it is read; embed it instead"
        )
    write_text(report / "index.html", page)
    return report / "index.html"


def readme_report(reports: Path) -> Path | None:
    """The report whose Table 1 the README shows: that of the largest profile with scores on record."""
    scored = [
        reports / name
        for name in ("paper", "cpu", "smoke")
        if scope(reports / name / "results", "davis2016")
    ]
    return scored[0] if scored else None


def readme_table(readme: Path, report: Path) -> str:
    """What stands between the README's marks: Table 1 in a few rows, what E3SN saw, and where the rest is."""
    results = report / "results"
    table, runs = short_table1(results), read_runs(results)
    main = runs[runs["run"].isin(main_runs(runs, "e3sn"))]
    saw = len(main) and not is_synthetic(results)
    sets = [f"{each['name']} ({each['tracks']:,})" for each in main["data"].iloc[0]] if saw else []
    return MARKDOWN.get_template("readme.md.j2").render(
        title=table.attrs["title"],
        table=to_markdown(table),
        notes=table.attrs["notes"],
        pairs=main["pairs"].max() if saw else 0,
        sets=", ".join(sets),
        page=Path(os.path.relpath(report / "index.html", readme.parent)).as_posix(),
    )


def update_readme(readme: Path, report: Path) -> bool:
    """Replace what stands between the README's marks by `readme_table`; return whether that changed it.

    Raises:
        InputError: the README cannot be read or lacks the marks.
    """
    try:
        content = readme.read_text()
    except OSError as error:
        raise InputError(f"cannot read {readme}: {error.strerror}") from error
    begin, end = content.find(MARKS[0]), content.find(MARKS[1])
    if not 0 <= begin < end:
        raise InputError(
            f"{readme} lacks the lines {MARKS[0]} and {MARKS[1]}, between which Table 1 belongs"
        )
    updated = (
        f"{content[: begin + len(MARKS[0])]}\n{readme_table(readme, report)}\n{content[end:]}"
    )
    if updated != content:
        write_text(readme, updated)
    return updated != content


def _write_tables(report: Path, tables: dict[str, pd.DataFrame], profile: Profile) -> None:
    """Write each table as Markdown and CSV, under names that say if the results are synthetic."""
    synthetic = is_synthetic(report / "results")
    for name, table in tables.items():
        stem = f"{name}_synthetic" if synthetic and name not in ABOUT_NO_SCORES else name
        table.attrs |= {"stem": stem, "command": _command(name, profile)}
        for other in {name, f"{name}_synthetic"} - {stem}:
            for suffix in (".md", ".csv"):
                (report / "tables" / f"{other}{suffix}").unlink(missing_ok=True)
        content = MARKDOWN.get_template("table.md.j2").render(
            table.attrs, table=to_markdown(table)
        )
        write_text(report / "tables" / f"{stem}.md", content)
        write_csv(report / "tables" / f"{stem}.csv", table)


def _command(name: str, profile: Profile) -> str:
    if name == "training_speed":
        return f"e3sn bench train --profile {profile.name} --report reports/{profile.name}"
    if name == "checks":
        return f"E3SN_RECORD=reports/{profile.name}/results/checks.csv .venv/bin/python -m pytest tests/golden"
    return f"make reproduce PROFILE={profile.name}{f' ONLY={NOTEBOOK[name]}' if name in NOTEBOOK else ''}"


def _context(report: Path, profile: Profile, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return everything that the page's template names."""
    results, failures = report / "results", report / "what_did_not_work.md"
    claims = tables["claims"]
    dates = sorted(date[:10] for date in read_runs(results).get("date", []) if date)
    return {
        "profile": profile,
        "synthetic": is_synthetic(results),
        "style": Markup((REFERENCE / "report.css").read_text()),  # noqa: S704 our own file
        "drawing": Markup((REFERENCE / "network.svg").read_text()),  # noqa: S704
        "texts": {
            key: [entry["text"] for entry in chosen(entries, profile)]
            for key, entries in reference("report").items()
        },
        "tiles": _tiles(results, claims),
        "claims": claims.attrs | {"records": claims.to_dict("records")},
        "tables": {name: _shown(table) for name, table in tables.items()},
        "figures": figures(report),
        "data": data(results, profile),
        "networks": view(networks(results)),
        "settings": view(settings(profile)),
        "failures": failures.is_file() and Markup(mistune.create_markdown()(failures.read_text())),  # noqa: S704 escapes
        "commands": commands(report, profile),
        "last_run": dates[-1] if dates else NOT_RUN,
    }


def _shown(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table for the template; published methods that the paper does not list are apart."""
    further = pd.Series(False, index=table.index)
    if "Numbers from" in table:
        others = table["Numbers from"] != RECOMPUTED
        further = ~others & ~table["Method"].isin(table.loc[others, "Method"])
    apart = view(table[further]) | {"source": RECOMPUTED} if further.any() else None
    return table.attrs | view(table[~further], _mark) | {"further": apart}


def _mark(row: Row) -> str:
    """Return the class of a row: ours, or the same numbers computed again."""
    source = row.get("Numbers from", "")
    if source.startswith("ours") or (row.get("Method") == "E3SN" and "What it shows" in row):
        return "ours"
    return "again" if source == RECOMPUTED else ""


def _tiles(results: Path, claims: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Name, number and what to hold it against, for the top of the page."""
    trained, paper = read_runs(results), paper_rows("table1")["E3SN"]
    runs = trained[trained["run"].isin(main_runs(trained, "e3sn"))]
    model = measure(read_scores(results, "davis2016"), runs["run"])
    timed = read_speed(results, "davis2016", runs["run"])
    extent = scope(results, "davis2016") or f"{BENCHMARKS['davis2016']} val"
    tiles = []
    for name in MEANS:
        value, interval = NOT_RUN, ""
        if model:
            found = model.interval(name)
            value = number(model.value(name))
            interval = f"{number(found.low)} to {number(found.high)}, "
        tiles.append(
            (f"{name[0]} mean of E3SN", value, f"{interval}{extent}; the paper: {paper[name]}")
        )
    pairs = int(runs["pairs"].max()) if len(runs) else 0
    share = f"{100 * pairs / PAPER_PAIRS:.2g} % of 12 million" if pairs else "SiamMask: 12 million"
    tiles.append(("training pairs", f"{pairs:,}" if pairs else NOT_RUN, share))
    machines = sorted(set(runs.loc[runs["run"].isin(timed["run"]), "machine"]))
    against = "; ".join([*machines, f"the paper: {paper['FPS']}, {PAPER_GPU}"])
    fps = NOT_RUN if timed.empty else number(timed["fps"].mean())
    tiles.append(("object-frames per second", fps, against))
    counts = claims["Verdict"].str.partition(" (")[0].value_counts()
    order = ("reproduced", "partly", "not reproduced", "not testable here")
    verdicts = ", ".join(f"{counts[each]} {each}" for each in order if each in counts)
    return [*tiles, ("claims", str(len(claims)), verdicts)]
