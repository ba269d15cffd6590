"""Commands about a trained model: score it, use it, pass it on."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from contextlib import closing
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_text, write_csv
from e3sn_lib.profiles.loading import load_profile
from e3sn_study.checkout import open_tracker
from e3sn_study.cli.options import a_path, add_data, add_profile
from e3sn_study.cli.track import add_backend

if TYPE_CHECKING:
    import pandas as pd

    from e3sn_lib.data.pairs import Source


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn evaluate``."""
    add_profile(command, default="that of the model; cpu for an exported folder")
    add_data(command)
    given = command.add_mutually_exclusive_group(required=True).add_argument
    given("--run", dest="run_folder", type=a_path, metavar="RUN", help="folder of a finished run")
    given("--model", type=a_path, help="a trained model (model.safetensors), or an exported folder")
    given("--masks", type=a_path, help="PNG masks to score: DIR/SEQUENCE/FRAME.png")
    add_backend(command)
    add = command.add_argument
    text = "benchmark of the profile to score a model on (default: davis2016)"
    add("--benchmark", help=text)
    add("--annotations", type=a_path, help="true masks: DIR/SEQUENCE/FRAME.png")
    add("--sequences", type=a_path, help="text file: names to score, one a line, or a DAVIS list")
    text = "name of the set in the names of the output files (default: val)"
    add("--name", default="val", help=text)
    add("--out", type=a_path, help="folder for the tables")


def evaluate(options: argparse.Namespace) -> None:
    """Score PNG masks, or the masks of a run or a model on a benchmark."""
    import pandas as pd

    from e3sn_lib.metrics.scoring import summarise, write_official_csvs

    if Path(options.name).name != options.name:
        raise InputError(f"--name '{options.name}' is no name for a file")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file; give a folder for the tables")
    scores, out, seconds = _given_masks(options) if options.masks else _model_masks(options)
    write_official_csvs(out, scores, options.name)
    per_object, overall = summarise(scores)
    with pd.option_context("display.max_rows", None):
        print(per_object.round(3).to_string(index=False))
    print("  ".join(f"{name} {value:.3f}" for name, value in overall.items()))
    frames = f"{per_object['frames'].sum()} object frames (first and last left out)"
    print(f"{frames} scored in {seconds:.1f} s; tables in {out}")


def _given_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """Return scores per frame, the folder for the tables, and the seconds of scoring."""
    from e3sn_lib.data.davis import read_list
    from e3sn_lib.metrics.scoring import score_folder

    if not options.annotations:
        raise InputError("--masks needs --annotations, the folder with the true masks")
    defaults = {"benchmark": None, "profile": "", "backend": "auto", "threads": None}
    for name, default in defaults.items():
        if getattr(options, name) != default:
            raise InputError(f"--{name} belongs to --run and --model, not to --masks")
    out = options.out or Path("scores")
    _check_beside(out, options.masks, options.annotations)
    names = read_list(options.sequences) if options.sequences else []
    started = time.perf_counter()
    scores = score_folder(options.masks, options.annotations, names)
    seconds = time.perf_counter() - started
    for note in scores.attrs["notes"]:
        print(f"note: {note}")
    return scores, out, seconds


def _model_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """Make masks first, then return the same as `_given_masks`."""
    import pandas as pd

    from e3sn_lib.data.sources import open_evaluation
    from e3sn_lib.model.weights import load_profile_of
    from e3sn_lib.training.state import FINAL
    from e3sn_study.evaluation.benchmark import frame_scores, write_masks
    from e3sn_study.records.schema import MODEL

    if options.annotations or options.sequences:
        raise InputError("--annotations and --sequences belong to --masks; see --benchmark, --data")
    path = options.run_folder / FINAL if options.run_folder else options.model
    precision = "auto" if path.is_dir() else "fp32"  # exported graphs have their own
    tracker = open_tracker(path, options.backend, precision, options.threads)
    named = options.profile or ("cpu" if path.is_dir() else "")  # an export says nothing of data
    profile = load_profile(named) if named else load_profile_of(path)
    data = replace(profile.data, root=options.data or profile.data.root)
    benchmark = options.benchmark or "davis2016"
    sequences = open_evaluation(data, benchmark)
    out = options.out or Path("evaluation") / benchmark
    _check_beside(out, sequences[0].mask_paths[0].parent.parent)
    timed, scores, scoring = list[pd.DataFrame](), list[pd.DataFrame](), 0.0
    with closing(write_masks(tracker, sequences, out)) as written:
        for number, (sequence, timing) in enumerate(zip(sequences, written, strict=True), start=1):
            timed.append(timing)
            seconds = timing["seconds_tracking"].iloc[0]
            print(f"{number}/{len(sequences)} {sequence.name}: {seconds:.1f} s of tracking")
            started = time.perf_counter()
            scores.append(frame_scores(out / MODEL, sequence))
            scoring += time.perf_counter() - started
    write_csv(out / "speed.csv", pd.concat(timed))
    return pd.concat(scores, ignore_index=True), out, scoring


def _check_beside(out: Path, *folders: Path) -> None:
    """Raise InputError if the next run would take the output folder for a sequence."""
    for folder in folders:
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder)):
            raise InputError(f"--out {out} lies inside {folder}, which has masks; choose another")


def add_export(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn export``."""
    add = command.add_argument
    add("model", type=a_path, help="a trained model (model.safetensors)")
    add("out", type=a_path, help="folder for the graphs")
    add("--precision", choices=["fp32", "int8"], default="fp32", help="int8 is 3 times as fast")
    add_data(command, "folder of the model's training sets, to calibrate int8 on")
    folders = "or folders with images/ and masks/ of the same names, for int8"
    add("--calibration", type=a_path, nargs="+", default=[], metavar="FOLDER", help=folders)
    scores = "scores to note in export.json: a global_results CSV of e3sn evaluate"
    add("--accuracy", type=a_path, metavar="CSV", help=scores)


def export(options: argparse.Namespace) -> None:
    """Write a model as ONNX graphs, which run without torch and in other languages."""
    from e3sn_lib.model.weights import load_model, read_metadata
    from e3sn_lib.tracking.export import export_model
    from e3sn_lib.tracking.quantise import calibration_samples

    model, profile = load_model(options.model, "cpu")
    accuracy = _read_scores(options.accuracy) if options.accuracy else {}
    is_int8 = options.precision == "int8"
    if options.calibration and not is_int8:
        raise InputError("--calibration is for --precision int8")
    samples = calibration_samples(profile, _calibration_sets(options, profile)) if is_int8 else []
    metadata = read_metadata(options.model)
    digest = hashlib.sha256(options.model.read_bytes()).hexdigest()
    origin = {"file": options.model.name, "sha256": digest}
    origin |= {key: metadata[key] for key in ("run", "commit") if key in metadata}
    differences = export_model(model, profile, options.out, samples, origin, accuracy)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"{options.precision} graphs: {options.out} ({size:.1f} MB)")
    text = ", ".join(f"{name} {value:.2g}" for name, value in differences.items())
    print(f"largest difference from torch in fp32, of one crop: {text}")


def _calibration_sets(options: argparse.Namespace, profile: Profile) -> list[Source]:
    """Open the folders of ``--calibration``, else the training sets that are there."""
    from e3sn_lib.data.mask_folder import mask_folder_tracks
    from e3sn_lib.data.sources import open_train_sets

    if not options.calibration:
        data = replace(profile.data, root=options.data or profile.data.root)
        return open_train_sets(data).opened
    if absent := [folder for folder in options.calibration if not folder.is_dir()]:
        raise InputError(f"there is no folder {absent[0]} for --calibration")
    config = TrainSetConfig(kind="mask_folder", path=("given",), min_area=0.0)
    return [(mask_folder_tracks(folder, config), config) for folder in options.calibration]


def _read_scores(path: Path) -> dict[str, float]:
    import pandas as pd

    try:
        table = pd.read_csv(StringIO(read_text(path)), dtype=float)
        (row,) = table.to_dict("records")
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("a row has more cells than the header")
    except (InputError, ValueError) as error:
        what = "no table of scores as e3sn evaluate writes it"
        raise InputError(f"{path} is {what}: {error}") from error
    if not all(abs(value) <= 1 for value in row.values()):
        raise InputError(f"{path} has a score outside -1 to 1; make it again with e3sn evaluate")
    return {str(name): value for name, value in row.items()}


def add_ship(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn ship``."""
    add, text = command.add_argument, "folder of a finished run"
    add("--run", dest="run_folder", type=a_path, required=True, metavar="RUN", help=text)
    add("--report", type=a_path, help="folder of its results (default: reports/PROFILE)")
    text = "folder for model and card (default: models)"
    add("--out", type=a_path, default=Path("models"), help=text)


def ship(options: argparse.Namespace) -> None:
    """Write a run's model as one half-precision file, with a model card from its records."""
    from e3sn_lib.model.weights import load_profile_of
    from e3sn_lib.training.state import FINAL
    from e3sn_study.report.shipping import ship as write

    report = options.report or Path("reports", load_profile_of(options.run_folder / FINAL).name)
    model, card = write(options.run_folder, report / "results", options.out)
    print(f"model: {model} ({model.stat().st_size / 1e6:.1f} MB)\ncard: {card}")


def add_convert(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn convert``."""
    add = command.add_argument
    add("layout", choices=["siammask"], help="network of the weights")
    add("checkpoint", type=a_path, help="published weights of SiamMask or PySOT (.pth)")
    add("out", type=a_path, help="the model to write (.safetensors)")


def convert(options: argparse.Namespace) -> None:
    """Turn published SiamMask weights into a model of this project."""
    from e3sn_lib.model.convert import convert_file

    convert_file(options.checkpoint, options.out)
    print(f"model: {options.out}")
