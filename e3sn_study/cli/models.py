"""Commands about a trained model: score it, use it, pass it on."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import load_profile
from e3sn_study.checkout import open_tracker
from e3sn_study.cli.options import add_data, add_profile
from e3sn_study.cli.track import add_backend

if TYPE_CHECKING:
    import pandas as pd


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn evaluate``."""
    add_profile(command, default="")  # the profile of the model
    add_data(command)
    add = command.add_argument
    add("--run", dest="run_folder", type=Path, metavar="RUN", help="folder of a finished run")
    add("--model", type=Path, help="a trained model (model.safetensors), or an exported folder")
    add_backend(command)
    add("--benchmark", default="davis2016")
    add("--masks", type=Path, help="PNG masks to score: DIR/SEQUENCE/FRAME.png")
    add("--annotations", type=Path, help="true masks: DIR/SEQUENCE/FRAME.png")
    add("--sequences", type=Path, help="text file: names to score, one a line, or a DAVIS list")
    add("--name", default="val", help="name of the set in the names of the output files")
    add("--out", type=Path, help="folder for the tables")


def evaluate(options: argparse.Namespace) -> int:
    """Score PNG masks, or the masks of a run or a model on a benchmark."""
    import pandas as pd

    from e3sn_lib.metrics.scoring import summarise, write_official_csvs

    scores, out, seconds = _given_masks(options) if options.masks else _model_masks(options)
    write_official_csvs(out, scores, options.name)
    per_object, overall = summarise(scores)
    with pd.option_context("display.max_rows", None):
        print(per_object.round(3).to_string(index=False))
    print("  ".join(f"{name} {value:.3f}" for name, value in overall.items()))
    frames = f"{per_object['frames'].sum()} object frames (first and last left out)"
    print(f"{frames} scored in {seconds:.1f} s; tables in {out}")
    return 0


def _given_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """Return scores per frame, the folder for the tables, and the seconds of scoring."""
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
        raise InputError(f"--out {out} lies inside the masks folder; choose another")
    return scores, out, seconds


def _model_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """Make masks first, then return the same as `_given_masks`."""
    import pandas as pd

    from e3sn_lib.data.sources import open_evaluation
    from e3sn_lib.files import write_csv
    from e3sn_lib.model.weights import load_profile_of
    from e3sn_lib.training.state import FINAL
    from e3sn_study.evaluation.benchmark import frame_scores, write_masks
    from e3sn_study.records.schema import MODEL

    if bool(options.run_folder) == bool(options.model):
        ways = "--run DIR (a run's folder), --model FILE (a trained model), or --masks DIR"
        raise InputError(f"give {ways} with --annotations DIR")
    path = options.run_folder / FINAL if options.run_folder else options.model
    tracker = open_tracker(path, options.backend, "fp32", options.threads)
    named = options.profile or ("cpu" if path.is_dir() else "")  # an export says nothing of data
    profile = load_profile(named) if named else load_profile_of(path)
    data = replace(profile.data, root=options.data or profile.data.root)
    sequences = open_evaluation(data, options.benchmark)
    out = options.out or Path("evaluation") / options.benchmark
    timed = []
    for number, timing in enumerate(write_masks(tracker, sequences, out), start=1):
        timed.append(timing)
        name, seconds = timing[["sequence", "seconds_tracking"]].iloc[0]
        print(f"{number}/{len(sequences)} {name}: {seconds:.1f} s of tracking")
    write_csv(out / "speed.csv", pd.concat(timed))
    started = time.perf_counter()
    scores = pd.concat([frame_scores(out / MODEL, each) for each in sequences], ignore_index=True)
    return scores, out, time.perf_counter() - started


def add_ship(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn ship``."""
    add, text = command.add_argument, "folder of a finished run"
    add("--run", dest="run_folder", type=Path, required=True, metavar="RUN", help=text)
    add("--report", default="", help="folder of its results (default: reports/PROFILE)")
    add(
        "--out",
        type=Path,
        default=Path("models"),
        help="folder for model and card (default: models)",
    )


def ship(options: argparse.Namespace) -> int:
    """Write a run's model as one half-precision file, with a model card from its records."""
    from e3sn_lib.model.weights import load_model
    from e3sn_lib.training.state import FINAL
    from e3sn_study.report.shipping import ship as write

    report = Path(options.report or f"reports/{load_model(options.run_folder / FINAL)[1].name}")
    model, card = write(options.run_folder, report / "results", options.out)
    print(f"model: {model} ({model.stat().st_size / 1e6:.1f} MB)\ncard: {card}")
    return 0


def add_convert(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn convert``."""
    command.add_argument("layout", choices=["siammask"])
    command.add_argument("checkpoint", type=Path)
    command.add_argument("out", type=Path)


def convert(options: argparse.Namespace) -> int:
    """Turn published SiamMask weights into a model of this project."""
    from e3sn_lib.model.convert import convert_file

    convert_file(options.checkpoint, options.out)
    print(f"model: {options.out}")
    return 0
