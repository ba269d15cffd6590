"""The command that writes a model as ONNX graphs."""

from __future__ import annotations

import argparse
import csv
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from e3sn_lib.errors import InputError
from e3sn_study.cli.options import add_data

if TYPE_CHECKING:
    from e3sn_lib.config import Profile
    from e3sn_lib.data.pairs import Source


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn export``."""
    add = command.add_argument
    add("model", type=Path, help="a trained model (model.safetensors)")
    add("out", type=Path, help="folder for the graphs")
    add("--precision", choices=["fp32", "int8"], default="fp32", help="int8 is 3 times as fast")
    add_data(command, "folder of the model's training sets, to calibrate int8 on")
    folders = "or folders with images/ and masks/ of the same names, for int8"
    add("--calibration", type=Path, nargs="+", default=[], metavar="FOLDER", help=folders)
    scores = "scores to note in export.json: a global_results CSV of e3sn evaluate"
    add("--accuracy", type=Path, metavar="CSV", help=scores)


def export(options: argparse.Namespace) -> int:
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
    origin: dict[str, str] = {
        "file": options.model.name,
        "sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(),
        **{key: metadata[key] for key in ("run", "commit") if key in metadata},
    }
    differences = export_model(model, profile, options.out, samples, origin, accuracy)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"{options.precision} graphs: {options.out} ({size:.1f} MB)")
    text = ", ".join(f"{name} {value:.2g}" for name, value in differences.items())
    print(f"largest difference from torch in fp32, of one crop: {text}")
    return 0


def _calibration_sets(options: argparse.Namespace, profile: Profile) -> list[Source]:
    """Open the folders of ``--calibration``, else the training sets that are there."""
    from e3sn_lib.config import TrainSetConfig
    from e3sn_lib.data.mask_folder import mask_folder_tracks
    from e3sn_lib.data.sources import open_train_sets

    if not options.calibration:
        data = replace(profile.data, root=options.data or profile.data.root)
        return open_train_sets(data).opened
    config = TrainSetConfig(kind="mask_folder", path=("given",), min_area=0.0)
    return [(mask_folder_tracks(folder, config), config) for folder in options.calibration]


def _read_scores(path: Path) -> dict[str, float]:
    """Read the one row of official scores."""
    try:
        with path.open(newline="") as file:
            (row,) = csv.DictReader(file)
        return {name: float(value) for name, value in dict[str, str](row).items()}
    except (OSError, TypeError, ValueError) as error:
        what = "no table of scores as e3sn evaluate writes it"
        raise InputError(f"{path} is {what}: {error}") from error
