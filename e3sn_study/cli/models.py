"""Commands about a trained model: score it, use it, pass it on."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import load_profile
from e3sn_study.cli.study import data_root


def evaluate(options: argparse.Namespace) -> int:
    """Score anyone's PNG masks, or a run's or a model's own on a benchmark."""
    from e3sn_lib.metrics.scoring import summarise, write_official_csvs

    scores, out, seconds = _given_masks(options) if options.masks else _model_masks(options)
    write_official_csvs(out, scores, options.name)
    per_object, overall = summarise(scores)
    with pd.option_context("display.max_rows", None):
        print(per_object.round(3).to_string(index=False))
    print("  ".join(f"{name} {value:.3f}" for name, value in overall.items()))
    frames = int(per_object["frames"].sum())
    print(f"{frames} object frames (first and last left out) scored in {seconds:.1f} s; tables in {out}")
    return 0


def _given_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """Scores per frame, the folder for the tables, seconds of scoring."""
    from e3sn_lib.data.davis import read_list
    from e3sn_lib.metrics.scoring import score_folder

    if options.model or options.run_folder:
        raise InputError("give --masks, or one of --run and --model, not both")
    if not options.annotations:
        raise InputError("--masks needs --annotations, the folder with the true masks")
    names = read_list(options.sequences) if options.sequences else []
    started = time.perf_counter()
    scores = score_folder(options.masks, options.annotations, names)
    seconds = time.perf_counter() - started
    for note in scores.attrs["notes"]:
        print(f"note: {note}")
    out = options.out or Path("scores")
    if out.resolve().is_relative_to(options.masks.resolve()):
        raise InputError(f"--out {out} lies inside the masks folder; choose another, so that results are not taken for masks")
    return scores, out, seconds


def _model_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """As `_given_masks`, of masks that are made first."""
    from e3sn_lib.data.sources import open_evaluation
    from e3sn_lib.files import write_csv
    from e3sn_lib.model.weights import load_model
    from e3sn_lib.tracking.tracker import Tracker
    from e3sn_lib.training.state import FINAL
    from e3sn_study.evaluation.benchmark import MODEL, score_written, write_masks

    if bool(options.run_folder) == bool(options.model):
        raise InputError("give --run DIR (a run's folder), --model FILE (a trained model), or --masks DIR with --annotations DIR")
    model, own = load_model(options.run_folder / FINAL if options.run_folder else options.model)
    profile = load_profile(options.profile) if options.profile else own
    root = data_root(options) or profile.data.root
    sequences = open_evaluation(replace(profile.data, root=root), options.benchmark)
    out = options.out or Path("evaluation") / options.benchmark
    tracker, timed = Tracker(model, own.track), []
    for number, sequence in enumerate(sequences, start=1):
        timed.append(write_masks(tracker, sequence, out))
        print(f"{number}/{len(sequences)} {sequence.name}: {timed[-1]['seconds_tracking'].sum():.1f} s of tracking")
    write_csv(out / "speed.csv", pd.concat(timed))
    started = time.perf_counter()
    scores = pd.concat([score_written(out / MODEL, sequence) for sequence in sequences], ignore_index=True)
    return scores, out, time.perf_counter() - started


def ship(options: argparse.Namespace) -> int:
    """Write a finished run's model as one half-precision file, with a model card from the files of record."""
    from e3sn_lib.model.weights import load_model
    from e3sn_lib.training.state import FINAL
    from e3sn_study.report.shipping import ship as write

    report = Path(options.report or f"reports/{load_model(options.run_folder / FINAL)[1].name}")
    model, card = write(options.run_folder, report / "results", options.out)
    print(f"model: {model} ({model.stat().st_size / 1e6:.1f} MB)\ncard: {card}")
    return 0


def convert(options: argparse.Namespace) -> int:
    """Published SiamMask weights into a model of this project."""
    from e3sn_lib.model.convert import convert_file

    convert_file(options.checkpoint, options.out)
    print(f"model: {options.out}")
    return 0
