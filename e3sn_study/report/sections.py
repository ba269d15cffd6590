"""Parts of the report page besides its tables of scores: figures, data, networks, settings, runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from e3sn_lib.config import Profile
from e3sn_lib.data.sources import ORIGIN
from e3sn_study.records import (
    BENCHMARKS,
    MEANS,
    NONE,
    NOT_RUN,
    VARIANTS,
    is_synthetic,
    main_runs,
    measure,
    number,
    percent,
    read_runs,
    read_scores,
    read_speed,
    reference,
    scope,
    without_folders,
)
from e3sn_study.report.page import CLIPS, picture, view
from e3sn_study.tables.cells import PAPER_GPU
from e3sn_study.tables.claims import paper_rows
from e3sn_study.tables.costs import PAPER_PAIRS
from e3sn_study.tables.deviations import set_label

TERMS = {
    "davis": "CC BY-NC 4.0",
    "coco": "annotations CC BY 4.0, images under their Flickr licences",
    "youtube_vos": "annotations CC BY 4.0, non-commercial research",
    "imagenet_vid": "non-commercial research and education",
    "mask_folder": "research data, terms of the respective set",
    "synthetic": "made by this study, MIT",
}
VERDICTS = {
    "reproduced": "reproduced",
    "not reproduced": "not reproduced",
    "partly": "in part",
    "not testable here": "not tested",
}
"""Verdicts, and how a sentence calls them."""
_SETTING = r"\w+\.\w+=(?:\[[^\]]*\]|[^\s:;,]+)"


def answer(claims: pd.DataFrame) -> dict[str, Any]:
    """Return the claims with their short names, and by verdict; not by verdict if none was tested."""
    known = reference("claims")["claims"]
    rows = [known[place] | row for place, row in enumerate(claims.to_dict("records"))]
    kinds = claims["Verdict"].str.partition(" (")[0]
    groups = {
        label: [row for row, found in zip(rows, kinds, strict=True) if found == kind]
        for kind, label in VERDICTS.items()
    }
    shown = [(label, group) for label, group in groups.items() if group or label == "reproduced"]
    return {"claims": rows, "verdicts": [] if set(kinds) == {"not testable here"} else shown}


def tiles(results: Path, claims: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return name, number and what to hold it against, for the top of the page."""
    trained, paper = read_runs(results), paper_rows("table1")["E3SN"]
    runs = trained[trained["run"].isin(main_runs(trained, "e3sn"))]
    model = measure(read_scores(results, "davis2016"), runs["run"])
    timed = read_speed(results, "davis2016", runs["run"])
    extent = scope(results, "davis2016") or f"{BENCHMARKS['davis2016']} val"
    found = []
    for name in MEANS:
        value, against = NOT_RUN, f"{extent}; the paper: {paper[name]}"
        if model:
            interval = model.interval(name)
            value = number(model.value(name))
            against = f"{number(interval.low)} to {number(interval.high)}, {against}"
        found.append((f"{name[0]} mean of E3SN", value, against))
    pairs = int(runs["pairs"].max()) if len(runs) else 0
    share = f"{100 * pairs / PAPER_PAIRS:.2g} % of 12 million" if pairs else "SiamMask: 12 million"
    found.append(("training pairs", f"{pairs:,}" if pairs else NOT_RUN, share))
    machines = sorted(set(runs.loc[runs["run"].isin(timed["run"]), "machine"]))
    against = "; ".join([*machines, f"the paper: {paper['FPS']}, {PAPER_GPU}"])
    fps = NOT_RUN if timed.empty else number(timed["fps"].mean())
    found.append(("object-frames per second", fps, against))
    counts = claims["Verdict"].str.partition(" (")[0].value_counts()
    verdicts = ", ".join(f"{counts[each]} {each}" for each in VERDICTS if each in counts)
    return [*found, ("claims", str(len(claims)), verdicts)]


def figures(report: Path) -> dict[str, list[dict[str, Any]]]:
    """Return figures and clips by the table or section they belong to, as ``figures.yaml`` says."""
    known = reference("figures")
    order = {name: place for place, name in enumerate(known)}
    files = [path for path in (report / "figures").glob("*") if path.suffix in (".png", *CLIPS)]
    names = {path: path.stem.removesuffix("_synthetic") for path in files}
    files.sort(key=lambda path: (order.get(names[path], len(order)), path.name))
    synthetic = "Synthetic. " if is_synthetic(report / "results") else ""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in files:
        entry = known.get(names[path], {"beside": "pictures", "caption": names[path]})
        shown = picture(path, f"{synthetic}{entry['caption']}")
        found.setdefault(entry["beside"], []).append(shown)
    return found


def in_words(results: Path) -> Callable[[str], str]:
    """Return a function that puts names of runs and settings within a text into words."""
    phrases, known = dict(reference("words")["phrases"]), reference("words")["settings"]

    def setting(found: re.Match[str]) -> str:
        key, value = found[0].split("=", 1)
        phrase = known.get(found[0], known.get(key, ""))
        return phrase.format(f"{int(value):,}" if value.isdigit() else value) or found[0]

    def words(text: str) -> str:
        for raw, phrase in phrases.items():
            text = text.replace(raw, phrase)
        text = re.sub(rf"({_SETTING}) (?={_SETTING})", r"\1, ", text)
        return re.sub(_SETTING, setting, text)

    for run in read_runs(results).to_dict("records"):
        changed = dict.fromkeys([f"train.pairs={run['pairs']}", *run["settings"].split()])
        label = VARIANTS.get(run["variant"], run["variant"])
        phrases[run["run"]] = f"{label}, {words(' '.join(changed))}, seed {run['seed']}"
    return words


def shown_runs(table: pd.DataFrame, words: Callable[[str], str]) -> pd.DataFrame:
    """Return the table of runs with each run in words, as a link to its record, above its command."""
    if "Command" not in table:
        return table
    cell = Markup('<a href="results/runs/{}.json">{}</a><small><code>{}</code></small>')
    runs = [
        cell.format(quote(run), words(run), command)
        for run, command in zip(table["Run"], table["Command"], strict=True)
    ]
    return table.drop(columns="Command").assign(Run=runs)


def data(results: Path, profile: Profile) -> dict[str, Any]:
    """Return training sets with their terms and origin, what is said of them, and what was left out."""
    total = sum(each.weight for each in profile.data.train)
    sets = [
        {
            "Training set": set_label(each),
            "Share of pairs": percent(each.weight / total),
            "Frames apart": f"at most {each.frame_range}" if each.frame_range > 1 else NONE,
            "Smallest object": f"{each.min_area:,.0f} pixels"
            if each.kind != "imagenet_vid"
            else NONE,
            "Held out for choices": ", ".join(each.hold_out) or NONE,
            "Terms": TERMS.get(each.kind, "unknown"),
            "From": ORIGIN.get(each.kind, "unknown").format(year=each.year),
        }
        for each in profile.data.train
    ]
    runs = read_runs(results)
    opened = sorted({(each["name"], each["tracks"]) for data in runs["data"] for each in data})
    found = ", ".join(f"{name} {tracks:,}" for name, tracks in opened)
    own = [each for each in profile.data.train if each.kind in ("davis", "synthetic")]
    trained = ", ".join(f"{each.kind} {each.year} {each.split}" for each in own)
    tested = [
        f"{BENCHMARKS.get(each.name, each.name)} {each.split}" for each in profile.data.evaluation
    ]
    lines = [
        f"Benchmarks: {', '.join(tested)}.",
        f"Training ({trained}) and validation share no sequence." if trained else "",
        f"Usable objects on record: {found}." if found else "",
        "`e3sn data verify` counts what is there and says where the rest can be had.",
    ]
    notices = {without_folders(each) for absent in runs.get("absent", []) for each in absent}
    return {
        "sets": view(pd.DataFrame(sets)),
        "lines": list(filter(None, lines)),
        "missing": sorted(notices),
    }


def networks(results: Path) -> pd.DataFrame:
    """Return size and work of each variant, from ``networks.csv``."""
    path = results / "networks.csv"
    found = pd.read_csv(path, dtype={"levels": str}).to_dict("records") if path.is_file() else []
    rows = [
        {
            "Network": VARIANTS.get(row["variant"], row["variant"]),
            "Backbone": row["backbone"],
            "Levels for the mask": row["levels"],
            "Training stages": row["stages"],
            "Parameters": f"{row['parameters']:,}",
            "Multiply-adds per object and frame": f"{row['multiply_adds'] / 1e9:.2f} billion",
        }
        for row in found
    ]
    return pd.DataFrame(rows or [{"Network": NOT_RUN, "Parameters": NOT_RUN}])


def settings(profile: Profile) -> pd.DataFrame:
    """Return every setting but the data sets, which have a table of their own."""
    rows = []
    for section, values in profile.to_dict().items():
        entries = values.items() if isinstance(values, dict) else [("", values)]
        rows += [
            {"Setting": f"{section}.{key}".rstrip("."), "Value": json.dumps(value)}
            for key, value in entries
            if section != "data" or key in ("negative_pairs", "workers")
        ]
    return pd.DataFrame(rows)


def commands(report: Path, profile: Profile) -> dict[str, Any]:
    """Return what to type, how the notebooks ended with links to them, and versions of packages."""
    manifest = report / "results" / "manifest.json"
    runs = json.loads(manifest.read_text())["notebooks"] if manifest.is_file() else []
    ended = {run["name"]: (run["status"], number(run["seconds"])) for run in runs}
    pages = {path.stem: f"notebooks/{path.name}" for path in (report / "notebooks").glob("*.html")}
    packages = read_runs(report / "results").get("packages", pd.Series(dtype=object)).dropna()
    versions = packages.iloc[-1].items() if len(packages) else ()
    synthetic = all(each.kind == "synthetic" for each in profile.data.train)
    minutes = f", about {profile.minutes:g} minutes on two CPU cores" if profile.minutes else ""
    return {
        "data": "" if synthetic else " DATA=dir",
        "minutes": minutes,
        "notebooks": [
            (name, pages.get(name), *ended.get(name, ("not on record", NONE)))
            for name in sorted({*ended, *pages})
        ],
        "versions": ", ".join(" ".join(each) for each in versions) or "not on record",
    }
