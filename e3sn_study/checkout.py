"""Find files in a checkout of this repository, and open the model that comes with it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from e3sn_lib.errors import InputError

if TYPE_CHECKING:
    from e3sn_lib.tracking.tracker import Tracker

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTS = ROOT / "reports"
SHIPPED = ROOT / "models" / "e3sn.safetensors"
"""The trained model that comes with the repository."""


BACKENDS = ("auto", "torch", "onnx")


def from_checkout(path: str | Path) -> Path:
    """Return a path with the home folder for ``~``. If Python runs in ``notebooks/``, a relative
    path starts in the repository."""
    return (ROOT if Path.cwd() == NOTEBOOKS else Path()) / os.path.expanduser(path)


def open_tracker(
    weights: Path | None = None,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Tracker:
    """Return a tracker on a model file, or on an exported folder, which needs no torch; raises
    InputError if there is no such model, or the backend cannot use it.

    Without `weights` it is what the variable E3SN_WEIGHTS names, else the shipped model. For the
    shipped model, ``auto`` means torch if there is a GPU or a `precision` is given (see
    `precision_of`), else the export. For `threads` see `thread_count`.
    """
    from e3sn_lib.tracking.backends import WEIGHTS_VARIABLE, finds_export, load_export, thread_count
    from e3sn_lib.tracking.tracker import Tracker

    origin = ""
    if weights is None and (named := os.environ.get(WEIGHTS_VARIABLE)):
        weights = Path(os.path.expanduser(named))
        origin = f", which the variable {WEIGHTS_VARIABLE} names"
    if weights and not weights.exists():
        raise InputError(f"there is no file {weights}{origin}")
    exported = weights.is_dir() if weights else finds_export()
    if backend not in BACKENDS:
        raise InputError(f"there is no backend '{backend}'; choose from {', '.join(BACKENDS)}")
    if backend == "auto":
        by_torch = not weights and SHIPPED.is_file() and (precision != "auto" or _has_gpu())
        backend = "onnx" if exported and not by_torch else "torch"
    if backend == "onnx":
        if weights and not exported:
            remedy = f"make one: e3sn export {weights} OUT"
            raise InputError(f"{weights} is no exported folder; {remedy}")
        if precision != "auto":
            fault = f"--precision {precision} is for torch"
            raise InputError(f"{fault}; exported graphs have their own")
        return Tracker(load_export(weights, threads))
    if weights and exported:
        raise InputError(f"{weights} is an exported folder, which torch cannot use; give the model")
    if not weights and not SHIPPED.is_file():
        remedy = "e3sn train --profile cpu --data DIR, then e3sn ship --run RUN"
        advice = f"give --weights FILE, or train one: {remedy}"
        raise InputError(f"there is no {SHIPPED.parent.name}/{SHIPPED.name}; {advice}")
    import torch

    from e3sn_lib.model.weights import load_model

    torch.set_num_threads(thread_count(threads))
    return Tracker(load_model(weights or SHIPPED), precision=precision)


def _has_gpu() -> bool:
    """Return whether torch finds a GPU. Importing it takes seconds, so only a machine with NVIDIA's
    tools is asked."""
    modules = ("torch", "torchvision", "safetensors")
    if not shutil.which("nvidia-smi") or not all(map(importlib.util.find_spec, modules)):
        return False
    import torch

    return torch.cuda.is_available()


def lost_limit(weights: Path | None = None) -> float:
    """Return the predicted J below which an object counts as lost.

    It was fitted for the shipped model. For a model of another run, given as `weights` or by the
    variable E3SN_WEIGHTS, it is 0: no object counts as lost. Errors are as in `open_tracker`.
    """
    from e3sn_lib.files import read_json
    from e3sn_lib.tracking.backends import MANIFEST, PACKAGED, WEIGHTS_VARIABLE
    from e3sn_lib.tracking.confidence import shipped_table

    def run_of(folder: Path) -> object:
        return read_json(folder / MANIFEST, "manifest").get("model", {}).get("run")

    fitted: float = shipped_table()["lost_below"]
    if not (named := weights or os.environ.get(WEIGHTS_VARIABLE)):
        return fitted
    if (path := Path(os.path.expanduser(named))).is_dir():
        run = run_of(path)
    else:
        from e3sn_lib.model.weights import read_metadata

        run = read_metadata(path).get("run")
    return fitted if run and run == run_of(PACKAGED) else 0.0
