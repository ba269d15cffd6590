"""Parts of the report that describe the study rather than its scores: data, networks, settings, commands, figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import Profile
from e3sn_lib.data.sources import ORIGIN
from e3sn_lib.records import (
    NONE,
    NOT_RUN,
    VARIANTS,
    is_synthetic,
    number,
    percent,
    read_runs,
    reference,
    without_folders,
)
from e3sn_lib.reporting.deviations import set_label
from e3sn_lib.reporting.page import picture, view

TERMS = {
    "davis": "CC BY-NC 4.0",
    "coco": "annotations CC BY 4.0, images under their Flickr licences",
    "youtube_vos": "annotations CC BY 4.0, non-commercial research",
    "imagenet_vid": "non-commercial research and education",
    "mask_folder": "research data, terms of the respective set",
    "synthetic": "made by this study, MIT",
}


def figures(report: Path) -> list[dict[str, Any]]:
    """Return every figure and clip in the order of ``reference/figures.yaml``; unknown ones follow, with their names."""
    captions = reference("figures")
    order = {name: place for place, name in enumerate(captions)}
    files = [path for path in (report / "figures").glob("*") if path.suffix in (".png", ".webm")]
    names = {path: path.stem.removesuffix("_synthetic") for path in files}
    files.sort(key=lambda path: (order.get(names[path], len(order)), path.name))
    synthetic = "Synthetic. " if is_synthetic(report / "results") else ""
    return [picture(path, f"{synthetic}{captions.get(names[path], names[path])}") for path in files]


def data(results: Path, profile: Profile) -> dict[str, Any]:
    """Return training sets with their terms and origin, what is said of them, and what was left out."""
    total = sum(each.weight for each in profile.data.train)
    sets = [
        {
            "Training set": set_label(each),
            "Share of pairs": percent(each.weight / total),
            "Frames apart": f"at most {each.frame_range}" if each.frame_range > 1 else NONE,
            "Smallest object": NONE
            if each.kind == "imagenet_vid"
            else f"{each.min_area:,.0f} pixels",
            "Held out for choices": ", ".join(each.hold_out) or NONE,
            "Terms": TERMS.get(each.kind, "unknown"),
            "From": ORIGIN.get(each.kind, "unknown").format(year=each.year),
        }
        for each in profile.data.train
    ]
    runs = read_runs(results)
    opened = sorted({(each["name"], each["tracks"]) for data in runs["data"] for each in data})
    found = ", ".join(f"{name} {tracks:,}" for name, tracks in opened)
    trained = [
        f"{each.kind} {each.year} {each.split}"
        for each in profile.data.train
        if each.kind in ("davis", "synthetic")
    ]
    tested = ", ".join(
        f"{each.name} ({each.kind} {each.year} {each.split})" for each in profile.data.evaluation
    )
    lines = [
        f"Benchmarks: {tested}.",
        f"Training ({', '.join(trained)}) and validation share no sequence." if trained else "",
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
    """Return what to type, how the notebooks ended with links to them, and the versions of the last run."""
    manifest = report / "results" / "manifest.json"
    runs = json.loads(manifest.read_text())["notebooks"] if manifest.is_file() else []
    ended = {run["name"]: (run["status"], number(run["seconds"])) for run in runs}
    pages = {
        path.stem: f"notebooks/{path.name}" for path in (report / "notebooks").glob("*.html")
    }
    packages = read_runs(report / "results").get("packages", pd.Series(dtype=object)).dropna()
    versions = [f"{name} {version}" for name, version in packages.iloc[-1].items()] if len(packages) else []
    synthetic = all(each.kind == "synthetic" for each in profile.data.train)
    return {
        "data": "" if synthetic else " DATA=dir",
        "minutes": f", about {profile.minutes:g} minutes on two CPU cores" if profile.minutes else "",
        "notebooks": [
            (name, pages.get(name), *ended.get(name, ("not on record", NONE)))
            for name in sorted({*ended, *pages})
        ],
        "versions": ", ".join(versions) or "not on record",
    }
