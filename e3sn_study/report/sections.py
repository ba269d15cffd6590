"""What the report page says in words and pictures: the answer, tiles, figures, names of runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from e3sn_study.figures.style import entry
from e3sn_study.records import MEANS, VARIANTS, Records, reference
from e3sn_study.report.page import parts, picture
from e3sn_study.tables.cells import NOT_RUN, PAPER_GPU, PAPER_PAIRS

VERDICTS = {
    "reproduced": "reproduced",
    "not reproduced": "not reproduced",
    "partly": "in part",
    "undecided": "undecided",
    "not testable here": "not tested",
}
"""Verdicts, and how a sentence calls them."""
_SETTING = r"\w+\.\w+=(?:\[[^\]]*\]|[^\s:;,]*[^\s:;,.])"


def answer(claims: pd.DataFrame) -> dict[str, Any]:
    """Return ``claims`` with their short names, and ``verdicts``, none if no claim was tested."""
    known = reference("claims")["claims"]
    rows = [known[place] | row for place, row in enumerate(claims.to_dict("records"))]
    kinds = claims["Verdict"].str.partition(" (")[0]
    groups = {
        label: [row for row, found in zip(rows, kinds, strict=True) if found == kind]
        for kind, label in VERDICTS.items()
    }
    shown = [(label, group) for label, group in groups.items() if group or label == "reproduced"]
    return {"claims": rows, "verdicts": [] if set(kinds) == {"not testable here"} else shown}


def tiles(table1: pd.DataFrame, extent: str, claims: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return name, number and what to hold it against, for the top of the page."""
    paper, ours = table1[table1["Method"] == "E3SN"].to_dict("records")[:2]
    found = []
    for name in MEANS:
        value, interval = parts(ours[name])
        within = f"{interval.strip('()')}, " if interval else ""
        against = f"{within}{extent or 'DAVIS-2016 val'}; the paper: {paper[name]}"
        found.append((f"{name[0]} mean of E3SN", value, against))
    speed = f"by PyTorch; the paper: {paper['FPS']}, {PAPER_GPU}"
    pairs, share = ours["Pairs"], "SiamMask: 12 million"
    if pairs != NOT_RUN:
        share = f"{100 * int(pairs.split()[0].replace(',', '')) / PAPER_PAIRS:.2g} % of 12 million"
    counts = claims["Verdict"].str.partition(" (")[0].value_counts()
    verdicts = ", ".join(f"{counts[each]} {each}" for each in VERDICTS if each in counts)
    return [
        *found,
        ("training pairs", pairs, share),
        ("object-frames per second", ours["FPS"], speed),
        ("claims", str(len(claims)), verdicts),
    ]


def figures(report: Path) -> dict[str, list[dict[str, Any]]]:
    """Return figures and clips by the table or section they belong to, as ``figures.yaml`` says."""
    files = [each for each in (report / "figures").glob("[!.]*") if each.suffix in (".png", ".mp4")]
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(files, key=lambda path: (entry(path)["rank"], path.name)):
        about = entry(path)
        found.setdefault(about["beside"], []).append(picture(path, about["caption"] or path.stem))
    return found


def in_words(records: Records, with_pairs: bool = True) -> Callable[[str], str]:
    """Return a function that puts names of runs and settings within a text into words; a run's
    pairs may be left out, where they have a column of their own."""
    phrases, known = dict(reference("words")["phrases"]), reference("words")["settings"]

    def setting(found: re.Match[str]) -> str:
        key, value = found[0].split("=", 1)
        phrase = known.get(found[0], known.get(key, ""))
        shown = f"{int(value):,}" if value.isdigit() else value.strip("[]")
        return phrase.format(shown) or found[0]

    def words(text: str) -> str:
        for raw, phrase in phrases.items():  # whole names: one run's may begin with another's
            text = re.sub(rf"{re.escape(raw)}(?![\w-])", phrase.replace("\\", r"\\"), text)
        text = re.sub(rf"({_SETTING}) (?={_SETTING})", r"\1, ", text)
        return re.sub(_SETTING, setting, text)

    for run in records.runs.to_dict("records"):
        pairs, own = f"train.pairs={run['pairs']}", ("train.pairs=", "train.init_weights=")
        changes = [each for each in run["settings"].split() if not each.startswith(own)]
        text = words(" ".join([pairs, *changes] if with_pairs else changes))
        label = VARIANTS.get(run["variant"], run["variant"])
        phrases[run["run"]] = ", ".join(filter(None, [label, text, f"seed {run['seed']}"]))
    return words


def shown_runs(table: pd.DataFrame, words: Callable[[str], str]) -> pd.DataFrame:
    """Return the table of runs with each run as a link to its record, above its command."""
    if "Command" not in table:
        return table
    cell = Markup('<a href="results/runs/{}.json">{}</a><small><code>{}</code></small>')
    runs = [
        cell.format(quote(run), words(run), command)
        for run, command in zip(table["Run"], table["Command"], strict=True)
    ]
    return table.drop(columns="Command").assign(Run=runs)
