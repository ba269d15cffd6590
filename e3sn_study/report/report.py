"""The report page of a profile, and the README's table: everything in them is generated from files of record and settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_csv, write_text
from e3sn_study.records import BENCHMARKS, MEANS, REFERENCE, Records, reference
from e3sn_study.report.page import bullets, folded, notes_html, page_html, paragraphs, table_html, text, verdict
from e3sn_study.report.sections import commands_section, data_section, figures_section, markdown_html, networks, settings
from e3sn_study.tables.cells import NOT_RUN, PAPER_GPU, RECOMPUTED, number, to_markdown
from e3sn_study.tables.claims import paper_rows
from e3sn_study.tables.costs import PAPER_PAIRS
from e3sn_study.tables.deviations import chosen, deviations
from e3sn_study.tables.tables import TABLES, short_table1

NOTEBOOK = {
    **dict.fromkeys(
        ("table1", "table2", "bounds", "per_sequence", "crops", "attributes", "threshold_sweep", "choices", "speed"), "04"
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
    """Write ``tables/*.md`` and ``*.csv`` and the page ``index.html``, which needs no network, from ``results/`` and ``figures/``.

    Args:
        report: folder of one profile's results; what is missing in it is "not run" on the page.
        profile: its settings, which choose the text.

    Returns:
        The page.

    Raises:
        InputError: a file of record is broken.
    """
    records = Records(report / "results")
    tables = {name: make(records) for name, make in TABLES.items()} | {"deviations": deviations(profile)}
    stems = _write_tables(report, records, tables, profile)
    page = _page(report, records, profile, tables, stems)
    write_text(report / "index.html", page)
    return report / "index.html"


def readme_report(reports: Path) -> Path | None:
    """The report whose Table 1 the README shows: that of the largest profile with scores on record."""
    scored = [reports / name for name in ("paper", "cpu", "smoke") if Records(reports / name / "results").scope("davis2016")]
    return scored[0] if scored else None


def readme_table(readme: Path, report: Path) -> str:
    """What stands between the README's marks: Table 1 in a few rows, and where the rest is."""
    records = Records(report / "results")
    table = short_table1(records)
    page = Path(os.path.relpath(report / "index.html", readme.parent)).as_posix()
    link = f"All tables, claims and figures: [{page}]({page})"
    notes = "".join(f"{note}\n\n" for note in table.attrs["notes"])
    return f"**{table.attrs['title']}**\n\n{to_markdown(table)}\n{notes}{_seen(records)}{link}"


def _seen(records: Records) -> str:
    """What E3SN's main run saw, beside what the paper's did."""
    main = records.rows(records.main_runs("e3sn"))
    if main.empty or records.synthetic:
        return ""
    sets = ", ".join(f"{each['name']} ({each['tracks']:,})" for each in main["data"].iloc[0])
    return (
        f"Our E3SN saw the objects of {sets}, in {main['pairs'].max():,} pairs of images. The paper's saw ImageNet-VID, COCO and "
        f"YouTube-VOS; the first stage of SiamMask's training has 12 million pairs.\n\n"
    )


def update_readme(readme: Path, report: Path) -> bool:
    """Replace what stands between the README's marks by `readme_table`; whether that changed anything.

    Raises:
        InputError: the README cannot be read or lacks the marks.
    """
    try:
        content = readme.read_text()
    except OSError as error:
        raise InputError(f"cannot read {readme}: {error.strerror}") from error
    begin, end = content.find(MARKS[0]), content.find(MARKS[1])
    if not 0 <= begin < end:
        raise InputError(f"{readme} lacks the lines {MARKS[0]} and {MARKS[1]}, between which Table 1 belongs")
    updated = f"{content[: begin + len(MARKS[0])]}\n{readme_table(readme, report)}\n{content[end:]}"
    if updated != content:
        write_text(readme, updated)
    return updated != content


def _write_tables(report: Path, records: Records, tables: dict[str, pd.DataFrame], profile: Profile) -> dict[str, str]:
    """Write each table as Markdown and CSV; returns the files' stems, which say so if the results are synthetic."""
    stems = {}
    for name, table in tables.items():
        stems[name] = f"{name}_synthetic" if records.synthetic and name not in ABOUT_NO_SCORES else name
        for other in {name, f"{name}_synthetic"} - {stems[name]}:
            for suffix in (".md", ".csv"):
                (report / "tables" / f"{other}{suffix}").unlink(missing_ok=True)
        notes = "".join(f"\n{note}\n" for note in table.attrs["notes"])
        content = f"<!-- {_command(name, profile)} -->\n# {table.attrs['title']}\n\n{to_markdown(table)}{notes}"
        write_text(report / "tables" / f"{stems[name]}.md", content)
        write_csv(report / "tables" / f"{stems[name]}.csv", table)
    return stems


def _command(name: str, profile: Profile) -> str:
    if name == "training_speed":
        return f"e3sn bench train --profile {profile.name} --report reports/{profile.name}"
    if name == "checks":
        return f"E3SN_RECORD=reports/{profile.name}/results/checks.csv .venv/bin/python -m pytest tests/golden"
    return f"make reproduce PROFILE={profile.name}{f' ONLY={NOTEBOOK[name]}' if name in NOTEBOOK else ''}"


def _page(report: Path, records: Records, profile: Profile, tables: dict[str, pd.DataFrame], stems: dict[str, str]) -> str:
    prose = {key: [entry["text"] for entry in chosen(entries, profile)] for key, entries in reference("report").items()}
    shown = {name: _table(name, tables[name], stems[name], profile) for name in tables if name != "claims"}
    failures = report / "what_did_not_work.md"
    sections = {
        "Claims and verdicts": _claims(tables["claims"], stems["claims"], profile),
        "Summary": _summary(prose),
        "Main results": "".join(shown[name] for name in ("table1", "table2", "table3", "table4")),
        "Where the points are": "".join(
            shown[name] for name in ("bounds", "per_sequence", "crops", "attributes", "threshold_sweep", "choices")
        ),
        "Cost": shown["variant_costs"] + shown["speed"] + shown["sampling_cost"] + shown["training_speed"],
        "Ablations": shown["ablations"],
        "Figures": figures_section(report, records),
        "What this was checked against": shown["checks"],
        "Data": data_section(records, profile),
        "Model and training": (
            f"{(REFERENCE / 'network.svg').read_text()}{table_html(networks(profile))}"
            f"{paragraphs(prose['training'])}{folded('All settings of this profile', table_html(settings(profile)))}"
        ),
        "Evaluation": paragraphs(prose["evaluation"]),
        "Deviations": shown["deviations"],
        "What did not work": markdown_html(failures) if failures.is_file() else "<p>Nothing is on record.</p>",
        "Limits": bullets(prose["limits"]),
        "Commands and runs": commands_section(report, records, profile) + shown["runs"],
        "Licences and use": bullets(prose["impact"]),
    }
    title = f"E3SN study, profile {profile.name}{', synthetic' if records.synthetic else ''}"
    dates = sorted(date[:10] for date in records.runs["date"] if date)
    footer = f"Generated from the files of record in results/. Last training run: {dates[-1] if dates else NOT_RUN}."
    header = _header(records, profile, tables["claims"], prose["meaning"])
    return page_html(title, (REFERENCE / "report.css").read_text(), header, sections, text(footer))


def _header(records: Records, profile: Profile, claims: pd.DataFrame, meaning: list[str]) -> str:
    tiles = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in _tiles(records, claims)
    )
    synthetic = records.synthetic
    lead = '<p class="banner"><b>Synthetic results.</b> ' if synthetic else '<p class="lead">'
    return (
        f'<p class="kicker">Reproduction report · profile {text(profile.name)}{" · synthetic" if synthetic else ""}</p>'
        "<h1>E3SN: Efficient End-to-End Siamese Network for Video Object Segmentation</h1>"
        f'<p class="lead">An independent study of the paper by Lan, Zhang, Xu and Zhang: {text(profile.title)}.</p>'
        f'{lead}{" ".join(map(text, meaning))}</p><dl class="tiles">{tiles}</dl>'
    )


def _tiles(records: Records, claims: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Name, number and what to hold it against, for the top of the page."""
    runs, paper = records.rows(records.main_runs("e3sn")), paper_rows("table1")["E3SN"]
    model, timed = records.measure("davis2016", runs["run"]), records.speed("davis2016", runs["run"])
    extent = records.scope("davis2016") or f"{BENCHMARKS['davis2016']} val"
    tiles = []
    for name in MEANS:
        value, interval = NOT_RUN, ""
        if model:
            found = model.interval(name)
            value, interval = number(model.value(name)), f"{number(found.low)} to {number(found.high)}, "
        tiles.append((f"{name[0]} mean of E3SN", value, f"{interval}{extent}; the paper: {paper[name]}"))
    pairs = int(runs["pairs"].max()) if len(runs) else 0
    share = f"{100 * pairs / PAPER_PAIRS:.2g} % of 12 million" if pairs else "SiamMask: 12 million"
    tiles.append(("training pairs", f"{pairs:,}" if pairs else NOT_RUN, share))
    machines = "".join(f"{machine}; " for machine in sorted(set(runs.loc[runs["run"].isin(timed["run"]), "machine"])))
    fps = NOT_RUN if timed.empty else number(timed["fps"].mean())
    tiles.append(("object-frames per second", fps, f"{machines}the paper: {paper['FPS']}, {PAPER_GPU}"))
    counts = claims["Verdict"].str.partition(" (")[0].value_counts()
    order = ("reproduced", "partly", "not reproduced", "not testable here")
    tiles.append(("claims", str(len(claims)), ", ".join(f"{counts[each]} {each}" for each in order if each in counts)))
    return tiles


def _summary(prose: dict[str, list[str]]) -> str:
    return (
        f"<h3>Scope</h3>{paragraphs(prose['scope'])}<h3>Method</h3>{bullets(prose['method'], ordered=True)}"
        f'<div class="columns"><div><h3>What was easy</h3>{bullets(prose["easy"])}</div>'
        f"<div><h3>What was difficult</h3>{bullets(prose['difficult'])}</div></div>"
        f"<h3>Communication with the authors</h3>{paragraphs(prose['communication'])}"
    )


def _claims(table: pd.DataFrame, stem: str, profile: Profile) -> str:
    rows = "".join(
        f'<tr><td>{row["Claim"]}</td><td class="t long">{text(row["The paper says"])}<small>{text(row["Where"])}</small></td>'
        f'<td class="t">{text(row["Paper"])}</td><td class="t long">{text(row["Ours"])}<small>{text(row["Ours is"])}</small></td>'
        f"<td>{verdict(row['Verdict'])}</td></tr>"
        for row in table.to_dict("records")
    )
    head = "".join(f"<th>{name}</th>" for name in ("Claim", "The paper says", "Paper", "Ours", "Verdict"))
    content = f'<div class="scroll"><table class="claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    rules = folded("How verdicts are made", notes_html(table.attrs["notes"]))
    return f"<!-- {_command('claims', profile)} -->{content}{rules}{_files(stem, 'claims', profile)}"


def _table(name: str, table: pd.DataFrame, stem: str, profile: Profile) -> str:
    """A table with heading, notes and files; published methods that the paper does not list are folded away."""
    further = pd.Series(False, index=table.index)
    if "Numbers from" in table:
        others = table["Numbers from"] != RECOMPUTED
        further = ~others & ~table["Method"].isin(table.loc[others, "Method"])
    content = table_html(table[~further], _row_class)
    if further.any():
        content += folded(f"{further.sum()} further methods, {RECOMPUTED}", table_html(table[further]))
    heading = f"<!-- {_command(name, profile)} --><h3>{text(table.attrs['title'])}</h3>"
    return f"{heading}{content}{notes_html(table.attrs['notes'])}{_files(stem, name, profile)}"


def _row_class(row: dict[str, Any]) -> str:
    source = row.get("Numbers from", "")
    if source.startswith("ours") or (row.get("Method") == "E3SN" and "What it shows" in row):
        return "ours"
    return "again" if source == RECOMPUTED else ""


def _files(stem: str, name: str, profile: Profile) -> str:
    links = f'<a href="tables/{stem}.csv">CSV</a> · <a href="tables/{stem}.md">Markdown</a>'
    return f'<p class="notes"><code>{text(_command(name, profile))}</code> · {links}</p>'
