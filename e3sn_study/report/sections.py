"""Sections of the report page that describe the study rather than its scores: figures, data, networks, settings, commands."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from e3sn_lib.config import Profile
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.model.network import build_model, count_parameters
from e3sn_lib.model.windows import Cells
from e3sn_study.records import VARIANTS, Records, reference, without_folders
from e3sn_study.report.page import bullets, cell, clip_html, figure_html, paragraphs, table_html, text
from e3sn_study.tables.cells import NONE, number, percent
from e3sn_study.tables.deviations import profiles_of, set_label


def figures_section(report: Path, records: Records) -> str:
    """Every figure and clip that exists; known ones with their caption and in order, others with their name."""
    captions, shown = reference("figures"), []
    order = {name: place for place, name in enumerate(captions)}
    files = [path for path in (report / "figures").glob("*") if path.suffix in (".png", ".mp4")]
    names = {path: path.stem.removesuffix("_synthetic") for path in files}
    synthetic = "Synthetic. " if records.synthetic else ""
    for path in sorted(files, key=lambda path: (order.get(names[path], len(order)), path.name)):
        make = clip_html if path.suffix == ".mp4" else figure_html
        shown.append(make(path, f"{synthetic}{captions.get(names[path], names[path])}", f"figures/{path.name}"))
    if not shown:
        return "<p>None is on record.</p>"
    return f'<p>Drawn by the notebooks; a click opens the full image.</p><div class="figures">{"".join(shown)}</div>'


def data_section(records: Records, profile: Profile) -> str:
    """Training sets with their terms and origin, benchmarks, what was found and what was left out."""
    total = sum(each.weight for each in profile.data.train)
    rows = [
        {
            "Training set": set_label(each),
            "Share of pairs": percent(each.weight / total),
            "Frames apart": f"at most {each.frame_range}" if each.frame_range > 1 else NONE,
            "Smallest object": NONE if each.kind == "imagenet_vid" else f"{each.min_area:,.0f} pixels",
            "Held out for choices": ", ".join(each.hold_out) or NONE,
            "Terms": KINDS[each.kind].terms,
            "From": KINDS[each.kind].origin.format(year=each.year),
        }
        for each in profile.data.train
    ]
    runs = records.runs
    opened = sorted({(each["name"], each["tracks"]) for data in runs["data"] for each in data})
    found = ", ".join(f"{name} {tracks:,}" for name, tracks in opened)
    missing = sorted({without_folders(notice) for notices in runs["absent"] for notice in notices})
    trained = [f"{each.kind} {each.year} {each.split}" for each in profile.data.train if KINDS[each.kind].has_videos]
    tested = ", ".join(f"{each.name} ({each.kind} {each.year} {each.split})" for each in profile.data.evaluation)
    lines = [
        f"Benchmarks: {tested}.",
        f"Training ({', '.join(trained)}) and validation share no sequence." if trained else "",
        f"Usable objects on record: {found}." if found else "",
        "`e3sn data verify` counts what is there and says where the rest can be had.",
    ]
    left_out = f"<p>Left out, because absent:</p>{bullets(missing)}" if missing else ""
    return table_html(pd.DataFrame(rows)) + paragraphs([line for line in lines if line]) + left_out


def networks(profile: Profile) -> pd.DataFrame:
    """Size and work of each variant, counted on the network itself."""
    rows = []
    for variant, each in profiles_of(profile).items():
        model = build_model(each.model).eval()
        cells = Cells(torch.zeros(1, dtype=torch.long), torch.tensor([12]), torch.tensor([12]))
        with torch.no_grad():
            template = model.encode_template(torch.zeros(1, 3, 127, 127))
            with FlopCounterMode(display=False) as counter:
                search = model.encode_search(torch.zeros(1, 3, 255, 255))
                model.locate(template, search)
                model.segment(template, search, cells)
        rows.append(
            {
                "Network": VARIANTS.get(variant, variant),
                "Backbone": each.model.backbone,
                "Levels for the mask": ", ".join(map(str, each.model.levels)),
                "Training stages": ", ".join(each.stages),
                "Parameters": f"{count_parameters(model):,}",
                "Multiply-adds per object and frame": f"{counter.get_total_flops() / 2e9:.2f} billion",
            }
        )
    return pd.DataFrame(rows)


def settings(profile: Profile) -> pd.DataFrame:
    """Every setting but the data sets, which have a table of their own."""
    rows = []
    for section, values in profile.to_dict().items():
        entries = values.items() if isinstance(values, dict) else [("", values)]
        rows += [
            {"Setting": f"{section}.{key}".rstrip("."), "Value": json.dumps(value)}
            for key, value in entries
            if section != "data" or key in ("negative_pairs", "workers")
        ]
    return pd.DataFrame(rows)


def commands_section(report: Path, records: Records, profile: Profile) -> str:
    """What to type, how the notebooks ended, with links to them, and the versions of the last run."""
    ended = {run["name"]: run for run in records.notebooks}
    pages = {path.stem for path in (report / "notebooks").glob("[!.]*.html")}
    rows = ""
    for name in sorted({*ended, *pages}):
        link = f'<a href="notebooks/{name}.html">{text(name)}</a>' if name in pages else text(name)
        status, seconds = (ended[name]["status"], number(ended[name]["seconds"])) if name in ended else ("not on record", NONE)
        rows += f'<tr><td>{link}</td><td>{cell(status)}</td><td class="n">{seconds}</td></tr>'
    head = '<thead><tr><th>Notebook</th><th>Status</th><th class="n">Seconds</th></tr></thead>'
    notebooks = (
        f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>' if rows else "<p>No notebook is on record.</p>"
    )
    minutes = f", about {profile.minutes:g} minutes on two CPU cores" if profile.minutes else ""
    data = "" if all(each.kind == "synthetic" for each in profile.data.train) else " DATA=dir"
    packages = records.runs["packages"].dropna()
    versions = ", ".join(f"{name} {version}" for name, version in packages.iloc[-1].items()) if len(packages) else "not on record"
    return (
        f"<pre>make reproduce PROFILE={text(profile.name)}{data}    # everything on this page{minutes}\n"
        "make test                           # lint, types, tests</pre>"
        f"{notebooks}<p>Versions of the last training run: {text(versions)}.</p>"
    )


def markdown_html(path: Path) -> str:
    """A Markdown file as HTML."""
    from nbconvert.filters import markdown2html

    return str(markdown2html(path.read_text()))
