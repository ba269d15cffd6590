"""Ship a trained run: one file in half precision, and a model card made of files of record."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.errors import InputError
from e3sn_lib.files import temporary_path, write_text
from e3sn_lib.model.weights import load_model, save_model
from e3sn_lib.training.state import FINAL
from e3sn_study.records import BENCHMARKS, MEANS, STATISTICS, VARIANTS, Records, reference
from e3sn_study.records.entries import without_places
from e3sn_study.records.schema import BOUND, MODEL
from e3sn_study.report.page import MARKDOWN
from e3sn_study.tables.cells import number, score, to_markdown
from e3sn_study.tables.deviations import training_sets
from e3sn_study.tables.origins import runs
from e3sn_study.tables.tables import ATTRIBUTES, OUTER, with_and_without

WORST = 3
"""Sequences and attributes that the card names."""


def ship(run: Path, results: Path, out: Path) -> tuple[Path, Path]:
    """Write a run's model as ``VARIANT.safetensors`` in half precision and its card ``VARIANT.md``.

    The file carries the settings of inference that the run was evaluated with, and no folder of
    this machine. The same weights and records give the same bytes. `run` is the folder of a
    finished run; `results` has the records of the study that evaluated it. Both files come into the
    folder `out`, and their paths are returned. Raises InputError if the run is not finished or not
    on record, or a weight is not finite.
    """
    model, profile = load_model(run / FINAL)
    records = Records(results)
    record = _record(records, run.name)
    track = TrackConfig(**record["track"]) if record["track"] else profile.track
    shipped = replace(without_places(profile), track=track)
    path, card = (out / f"{profile.variant}{suffix}" for suffix in (".safetensors", ".md"))
    notes = {"run": run.name, "pairs": str(record["pairs"])}
    notes |= {"commit": str(record.get("commit", "unknown"))}
    beside = out / "ship" if out.is_dir() else out  # on the same disk, and no folder is left empty
    with temporary_path(beside) as work:  # both are made before one of them is replaced
        work.mkdir()
        made = work / path.name
        save_model(made, model, shipped, half=True, **notes)
        text = model_card(records, run.name, shipped, made)
        out.mkdir(parents=True, exist_ok=True)
        made.replace(path)
    write_text(card, text)
    return path, card


def model_card(records: Records, run: str, profile: Profile, file: Path) -> str:
    """Return what a shipped model is, in Markdown: data, licences, scores, limits, use; raises
    InputError if the run is not on record."""
    record, content, extents = _record(records, run), file.read_bytes(), dict[str, str]()
    for name, title in BENCHMARKS.items():
        if reason := records.reason_not_run(name):
            extents[title] = f"not run: {reason.rstrip('.')}"
        if extent := records.scope(name):
            extents[title] = extent
    sets = training_sets(profile, record["absent"])
    sets = sets.drop(columns=["Frames apart", "Smallest object", "From"])
    return MARKDOWN.get_template("card.md.j2").render(
        name=VARIANTS.get(profile.variant, profile.variant),
        synthetic=records.synthetic,
        file=file.name,
        size=f"{len(content) / 1e6:.1f}",
        digest=hashlib.sha256(content).hexdigest(),
        record=record,
        run=runs(records).set_index("Run", drop=False).loc[run],
        profile=profile,
        track=profile.to_dict()["track"],
        sets=to_markdown(sets),
        scores=to_markdown(_scores(records, run)),
        remark=reference("tables")["remarks"].get(run, ""),
        has_boxes=any(each.kind == "box_folder" for each in profile.data.train),
        extents=extents,
        **_failures(records, run),
    )


def _record(records: Records, run: str) -> dict[str, Any]:
    if found := records.rows([run]).to_dict("records"):
        return found[0]
    remedy = "evaluate it first with e3sn reproduce, or name its --report"
    raise InputError(f"run {run} is not on record in {records.folder}; {remedy}")


def _scores(records: Records, run: str) -> pd.DataFrame:
    rows = []
    for benchmark, title in BENCHMARKS.items():
        methods = {"this model": records.measure(benchmark, [run])}
        methods |= {name: records.measure(benchmark, method=name) for name in OUTER}
        for label, measured in methods.items():
            if measured or label == "this model":
                values = {key: score(measured, key) for key in STATISTICS}
                rows.append({"Benchmark": f"{title} val", "Method": label} | values)
    return pd.DataFrame(rows)


def _failures(records: Records, run: str) -> dict[str, str]:
    """Return where the model is at its worst on DAVIS-2016, and what perfect boxes would gain."""
    found = {"worst": "", "losses": "", "gains": ""}
    model, bound = (records.measure("davis2016", [run], method) for method in (MODEL, BOUND))
    labels = records.attributes("davis2016")
    if model:
        worst = model.by_sequence("J-Mean").nsmallest(WORST)
        found["worst"] = ", ".join(f"{name} {number(value)}" for name, value in worst.items())
    if model and labels is not None:
        losses = with_and_without(model, labels, "J-Mean")["difference"].nsmallest(WORST)
        losses = losses[losses < 0]
        found["losses"] = ", ".join(
            f"{ATTRIBUTES.get(str(name), name)} {number(value, signed=True)}"
            for name, value in losses.items()
        )
    if model and bound:
        found["gains"] = " and ".join(
            f"{name[0]} {number(bound.minus(model, name).mean, signed=True)}" for name in MEANS
        )
    return found
