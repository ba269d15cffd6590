"""Ship a trained run: one file in half precision, and a model card made of files of record."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_text
from e3sn_lib.model.weights import load_model, save_model
from e3sn_lib.training.state import FINAL
from e3sn_study.records import (
    BENCHMARKS,
    MEANS,
    NONE,
    NOT_RUN,
    STATISTICS,
    VARIANTS,
    is_synthetic,
    measure,
    number,
    percent,
    read_runs,
    read_scores,
    reason_not_run,
    scope,
)
from e3sn_study.report.page import MARKDOWN
from e3sn_study.tables.attributes import ATTRIBUTES, read_attributes, with_and_without
from e3sn_study.tables.cells import titled, to_markdown
from e3sn_study.tables.costs import runs
from e3sn_study.tables.deviations import set_label
from e3sn_study.tables.tables import OUTER

WORST = 3
"""Sequences and attributes that the card names."""
PROTOCOL = (
    "Percent, by the official protocol, from the bounding rectangle of the first mask; brackets "
    "hold the 95 % bootstrap interval over sequences."
)


def ship(run: Path, results: Path, out: Path) -> tuple[Path, Path]:
    """Write a run's model as ``VARIANT.safetensors`` in half precision and its card ``VARIANT.md``.

    The file carries the settings of inference that the run was evaluated with, and no folder of
    this machine. The same weights and records give the same bytes.

    Args:
        run: folder of a finished run.
        results: files of record of the study that evaluated it.
        out: a folder.

    Returns:
        The file and the card.

    Raises:
        InputError: the run is not finished or not on record, or a weight is not finite.
    """
    model, profile = load_model(run / FINAL)
    record = _record(results, run.name)
    track = (
        TrackConfig(**record["track"]) if isinstance(record.get("track"), dict) else profile.track
    )
    shipped = replace(profile, track=track, data=replace(profile.data, root=""))
    path = out / f"{profile.variant}.safetensors"
    notes = {"run": run.name, "commit": str(record.get("commit", "unknown"))}
    save_model(path, model, shipped, half=True, notes=notes)
    card = path.with_suffix(".md")
    write_text(card, model_card(results, run.name, shipped, path))
    return path, card


def model_card(results: Path, run: str, profile: Profile, file: Path) -> str:
    """Return what a shipped model is, in Markdown: data, licences, scores, limits, use.

    Args:
        results: the files of record.
        run: its name there.
        profile: what the run was trained by.
        file: the shipped model, of which the card gives the size and the digest.

    Raises:
        InputError: the run is not on record.
    """
    record, content = _record(results, run), file.read_bytes()
    absent, scores = record.get("absent", []), _scores(results, run)
    return (
        MARKDOWN.get_template("card.md.j2").render(
            name=VARIANTS.get(profile.variant, profile.variant),
            synthetic=is_synthetic(results),
            file=file.name,
            size=f"{len(content) / 1e6:.1f}",
            digest=hashlib.sha256(content).hexdigest(),
            run=runs(results).set_index("Run", drop=False).loc[run],
            seed=record["seed"],
            pairs=record["pairs"],
            profile=profile,
            track=profile.to_dict()["track"],
            sets=to_markdown(_data(profile, absent)),
            absent=absent,
            scores=to_markdown(scores),
            notes=scores.attrs["notes"],
            **_failures(results, run),
        )
        + "\n"
    )


def _record(results: Path, run: str) -> dict[str, Any]:
    trained = read_runs(results)
    found = trained[trained["run"] == run]
    if found.empty:
        raise InputError(
            f"run {run} is not on record in {results}; evaluate it first with e3sn reproduce, "
            "or name its --report"
        )
    return {str(key): value for key, value in found.iloc[0].to_dict().items()}


def _data(profile: Profile, absent: list[str]) -> pd.DataFrame:
    """Return the training sets with their shares of the pairs; sets that were absent have none."""
    gone = [
        any(notice.startswith(f"training set {each.kind} ({each.path[0]})") for notice in absent)
        for each in profile.data.train
    ]
    kept = [
        each.weight * (not is_gone) for each, is_gone in zip(profile.data.train, gone, strict=True)
    ]
    rows = [
        {
            "Training set": set_label(each),
            "Share of pairs": percent(weight / sum(kept)) if weight else "absent",
            "Held out for choices": ", ".join(each.hold_out) or NONE,
            "Terms": KINDS[each.kind].terms,
        }
        for each, weight in zip(profile.data.train, kept, strict=True)
    ]
    return pd.DataFrame(rows)


def _scores(results: Path, run: str) -> pd.DataFrame:
    """Return the scores of the run and of what bounds it, with notes on what was scored."""
    rows, notes = [], [PROTOCOL]
    for benchmark, title in BENCHMARKS.items():
        scores = read_scores(results, benchmark)
        methods = {"this model": measure(scores, [run])}
        methods |= {name: measure(scores, method=name) for name in OUTER}
        for label, measured in methods.items():
            values = dict.fromkeys(STATISTICS, NOT_RUN)
            if measured:
                values = {key: number(measured.value(key)) for key in STATISTICS}
                values |= {key: measured.interval(key).text() for key in MEANS}
            if measured or label == "this model":
                rows.append({"Benchmark": f"{title} val", "Method": label} | values)
        if extent := scope(results, benchmark):
            notes.append(f"{title}: {extent}.")
        elif reason := reason_not_run(results, benchmark):
            notes.append(f"{title}: not run: {reason.rstrip('.')}.")
    return titled(pd.DataFrame(rows), results, "Scores", run, "", *notes)


def _failures(results: Path, run: str) -> dict[str, str]:
    """Return where the model is at its worst on DAVIS-2016, and what perfect boxes would gain."""
    found = {"worst": "", "losses": "", "gains": ""}
    scores, labels = read_scores(results, "davis2016"), read_attributes(results)
    model, bound = measure(scores, [run]), measure(scores, [run], "mask in true boxes")
    if model:
        worst = model.by_sequence("J-Mean").nsmallest(WORST)
        found["worst"] = ", ".join(f"{name} {number(value)}" for name, value in worst.items())
    if model and labels is not None:
        losses = with_and_without(model, labels, "J-Mean")["difference"].nsmallest(WORST)
        found["losses"] = ", ".join(
            f"{ATTRIBUTES.get(str(name), name)} {number(value, signed=True)}"
            for name, value in losses.items()
        )
    if model and bound:
        found["gains"] = " and ".join(
            f"{name[0]} {number(bound.minus(model, name).mean, signed=True)}" for name in MEANS
        )
    return found
