"""The report page of a profile and the README's table, made of files of record and settings."""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mistune
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from e3sn_lib.config import Profile
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_text, write_csv, write_text
from e3sn_lib.profiles.loading import profile_from_dict
from e3sn_study.figures import curves, scores
from e3sn_study.figures.style import save_figure
from e3sn_study.records import BENCHMARKS, REFERENCE, VARIANTS, Records, reference, without_folders
from e3sn_study.report import sections
from e3sn_study.report.page import HTML, MARKDOWN, Row, view
from e3sn_study.tables.cells import NONE, NOT_RUN, RECOMPUTED, to_markdown, trained_on
from e3sn_study.tables.deviations import chosen, deviations, set_label, sets_seen, training_sets
from e3sn_study.tables.tables import TABLES, short_table1

ABOUT_NO_SCORES = ("checks", "deviations")
"""Tables that are the same for real and synthetic results."""
MARKS = "<!-- table1:begin -->", "<!-- table1:end -->"


def build_report(report: Path, profile: Profile) -> Path:
    """Write the tables and the page ``index.html`` from ``results/`` and ``figures/``.

    Return the page, which needs no network. What is missing in the folder is "not run" on it. The
    settings of the main run choose its text; the profile says how the study is repeated. Raises
    InputError if a file of record is broken.
    """
    records = Records(report / "results")
    main = _profile_of(records, records.main_runs("e3sn"), profile)
    compared = _profile_of(records, records.compared_runs(*VARIANTS)["e3sn"], profile)
    tables = {name: make(records) for name, make in TABLES.items()}
    tables["deviations"] = deviations(main, compared)
    _write_tables(report, records.synthetic, tables, profile)
    context = _context(report, records, profile, main, tables)
    page = report / "index.html"
    write_text(page, HTML.get_template("page.html.j2").render(context))
    return page


def _profile_of(records: Records, runs: list[str], profile: Profile) -> Profile:
    """Return the settings that runs share: the profile's own, or others (see ``study.main``).

    The pairs are all that they have seen, in all legs. Training sets that were absent are left out.
    """
    for run in records.rows(runs).to_dict("records"):
        own = profile_from_dict(run["config"]) if run["config"] else profile
        profile = replace(own, train=replace(own.train, pairs=run["pairs"]))
        if seen := tuple(sets_seen(profile, run["absent"])):
            profile = replace(profile, data=replace(profile.data, train=seen))
    return profile


def draw_figures(report: Path) -> None:
    """Draw the figures made of files of record alone; print which ones lack their records."""
    records = Records(report / "results")
    suffix = "_synthetic" if records.synthetic else ""
    for name, draw in FIGURES.items():
        try:
            figure = draw(records)
        except InputError as error:
            print(f"figure {name} is not drawn: {error}")
        else:
            save_figure(report / "figures" / f"{name}{suffix}.png", figure)


def _training(records: Records) -> str:
    """Return on what the legs of the main run were trained; "" if there is none. Consecutive legs
    on the same data count as one."""
    legs = [leg for run in records.main_runs("e3sn")[:1] for leg in records.legs(run)]
    return "; then on ".join(
        f"{sum(leg['own_pairs'] for leg in alike):,} pairs of the objects of {objects}"
        for objects, alike in itertools.groupby(legs, lambda leg: trained_on(leg["data"]))
    )


def _main_log(records: Records) -> pd.DataFrame:
    return records.history(next(iter(records.main_runs("e3sn")), "RUN"))


FIGURES: dict[str, Callable[[Records], Figure]] = {
    "training_curves": lambda records: curves.training_curves({"e3sn": _main_log(records)}),
    "level_weights": lambda records: curves.level_weights(_main_log(records)),
    "throughput": lambda records: curves.throughput(_main_log(records)),
    "trade_off": scores.trade_off,
    "ladder": scores.ladder,
    "per_sequence": scores.per_sequence,
    "thresholds": scores.thresholds,
    "gains": scores.gains,
    "ablation_sampling": lambda records: scores.ablations(records, "e3sn-s"),
    "ablation_aggregation": lambda records: scores.ablations(records, "e3sn"),
    "stage_times": curves.stage_times,
    "sampling_cost": curves.sampling_cost,
    "reliability": scores.reliability,
    "seen_pairs": scores.seen_pairs,
}
"""Figures that need neither data nor models."""


def readme_report(reports: Path) -> Path | None:
    """Return the report whose Table 1 the README shows: the largest profile with scores."""
    folders = (reports / name for name in ("paper", "cpu", "smoke"))
    return next((each for each in folders if Records(each / "results").scope("davis2016")), None)


def readme_table(readme: Path, report: Path) -> str:
    """Return what stands between the README's marks: a short Table 1 and where the rest is."""
    records = Records(report / "results")
    table = short_table1(records)
    content = MARKDOWN.get_template("readme.md.j2").render(
        table.attrs,
        table=to_markdown(table),
        **sections.answer(TABLES["claims"](records)),
        speed=_speed(records),
        page=Path(os.path.relpath(report / "index.html", readme.parent)).as_posix(),
    )
    return content.rstrip()


def _speed(records: Records) -> dict[str, Any]:
    """Return the row of the int8 graphs with one object, and what they are compared with."""
    timed = records.table("tracking_speed")
    timed = timed[(timed["width"] == timed["width"].min()) & (timed["objects"] == 1)]
    rows = timed.set_index("contender", drop=False).to_dict("index")
    others = [name for name in rows if "SiamMask" in name]
    if "ONNX int8" not in rows or not others:
        return {}
    ours, other = rows["ONNX int8"], rows[others[-1]]
    name = other["contender"].partition(", ")[2]
    return ours | {"other": name, "times": other["step_ms"] / ours["step_ms"]}


def update_readme(readme: Path, report: Path) -> bool:
    """Replace what stands between the README's marks; return whether that changed the file. Raises
    InputError if the README cannot be read or lacks the marks."""
    begin, end = MARKS
    content = read_text(readme)
    before, _, old = content.partition(begin)
    _, found, after = old.partition(end)
    if not found:
        raise InputError(f"{readme} lacks the lines {begin} and {end}; put them around its table")
    updated = f"{before}{begin}\n{readme_table(readme, report)}\n{end}{after}"
    if updated != content:
        write_text(readme, updated)
    return updated != content


def _write_tables(
    report: Path, synthetic: bool, tables: dict[str, pd.DataFrame], profile: Profile
) -> None:
    """Write each table as Markdown and CSV, under names that say if the results are synthetic."""
    folder, pages = report / "tables", sorted((report / "notebooks").glob("[!.]*.html"))
    for name, table in tables.items():
        stem = f"{name}_synthetic" if synthetic and name not in ABOUT_NO_SCORES else name
        other = name if stem != name else f"{name}_synthetic"
        for suffix in (".md", ".csv"):
            (folder / f"{other}{suffix}").unlink(missing_ok=True)
        about = reference("tables")["tables"].get(name, {})
        made_by = about.get("notebooks", [])
        links = [f"notebooks/{page.name}" for page in pages if page.name[:2] in made_by]
        repeat = "make reproduce PROFILE={0}"
        repeat += "" if profile.data.is_synthetic else " DATA=DIR SET=study.recorded=true"
        only = f" ONLY={','.join(made_by)}" if made_by else ""
        command = about.get("command", repeat + only).format(profile.name)
        table.attrs |= {"name": name, "stem": stem, "command": command, "pages": links}
        content = MARKDOWN.get_template("table.md.j2").render(table.attrs, table=to_markdown(table))
        write_text(folder / f"{stem}.md", content)
        write_csv(folder / f"{stem}.csv", table)


def _context(
    report: Path, records: Records, profile: Profile, main: Profile, tables: dict[str, pd.DataFrame]
) -> dict[str, Any]:
    runs, claims = records.runs, tables["claims"]
    words, short = (sections.in_words(records, with_pairs) for with_pairs in (True, False))
    packages = runs.sort_values("date")["packages"].dropna()
    failures = report / "what_did_not_work.md"
    own_text = mistune.create_markdown()(read_text(failures, "notes")) if failures.is_file() else ""
    return {
        "profile": profile,
        "main": main,
        "settings": main.to_dict(),
        "synthetic": records.synthetic,
        "style": Markup(read_text(REFERENCE / "report.css")),  # noqa: S704 our own file
        "drawing": Markup(read_text(REFERENCE / "network.svg")),  # noqa: S704 our own file
        "failures": Markup(own_text),  # noqa: S704 mistune escapes
        "texts": {
            key: [each["text"] for each in chosen(entries, main)]
            for key, entries in reference("report").items()
        },
        **sections.answer(claims),
        "tiles": sections.tiles(tables["table1"], records.scope("davis2016"), claims),
        "tables": {
            name: _shown(table, short if {"Run", "Pairs"} <= {*table} else words)
            for name, table in tables.items()
        },
        "words": words,
        "figures": sections.figures(report),
        "next_figure": itertools.count(1).__next__,
        "slider": records.slider,
        "networks": records.table("networks").replace({"variant": VARIANTS}).to_dict("records"),
        "sets": view(training_sets(main)),
        "set_label": set_label,
        "kinds": KINDS,
        "benchmarks": BENCHMARKS,
        "training": _training(records),
        "missing": sorted({without_folders(each) for of in runs["absent"] for each in of}),
        "notebooks": view(_notebooks(report, records)),
        "versions": packages.iloc[-1] if len(packages) else {},
        "last_run": max(runs["date"], default="")[:10] or NOT_RUN,
    }


def _notebooks(report: Path, records: Records) -> pd.DataFrame:
    """Return the notebooks by name: status, seconds, and a link where the executed page is."""
    found = {each["name"]: each for each in records.notebooks}
    pages = {page.stem for page in (report / "notebooks").glob("[!.]*.html")}
    link, rows = Markup('<a href="notebooks/{}.html">{}</a>'), []
    for name in sorted({*found, *pages}):
        run = found.get(name, {"status": "not on record", "seconds": 0.0})
        shown = link.format(quote(name), name) if name in pages else name
        seconds = f"{run['seconds']:,.1f}" if run["seconds"] else NONE
        rows.append({"Notebook": shown, "Status": run["status"], "Seconds": seconds})
    return pd.DataFrame(rows, columns=["Notebook", "Status", "Seconds"], dtype=object)


def _shown(table: pd.DataFrame, words: Callable[[str], str]) -> dict[str, Any]:
    """Return a table as the page shows it, in words; methods the paper does not list are apart."""
    attrs = table.attrs | {"notes": [words(note) for note in table.attrs["notes"]]}
    if attrs["name"] == "runs":
        table = sections.shown_runs(table, words)
    elif attrs["name"] != "deviations":
        table = table.map(words)
    further = pd.Series(False, index=table.index)
    if "Numbers from" in table:
        others = table["Numbers from"] != RECOMPUTED
        further = ~others & ~table["Method"].isin(table.loc[others, "Method"])
    apart = {"further": view(table[further])["rows"], "source": RECOMPUTED}
    return attrs | view(table[~further], _mark) | apart


def _mark(row: Row) -> str:
    """Return the class of a row: ours, or the same numbers computed again."""
    source = row.get("Numbers from", "")
    if source.startswith("ours") or (row.get("Method") == "E3SN" and "What it shows" in row):
        return "ours"
    return "again" if source == RECOMPUTED else ""
