"""Between tracker and network: the protocol, and exported graphs in ONNX Runtime, which need no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from e3sn_lib.config import TrackConfig
from e3sn_lib.data.reading import read_json
from e3sn_lib.errors import InputError

FORMAT = 1
"""Version of the export folder; a reader refuses others."""
MANIFEST = "export.json"
PACKAGED = Path(__file__).parent / "export"
"""The export that comes with the package."""
VARIABLE = "E3SN_WEIGHTS"
"""Environment variable that names another export folder."""
GRAPHS = ("template.onnx", "search.onnx", "mask.onnx")
Floats = NDArray[np.float32]


class Templates(Protocol):
    """What a backend keeps of N objects."""

    def select(self, objects: Sequence[int]) -> Any:
        """Only these objects."""


class Backend(Protocol):
    """A network in numpy's terms; what it returns as templates and features only itself can read."""

    @property
    def identity(self) -> str:
        """A digest of all that masks depend on."""

    def encode_template(self, crops: NDArray[np.uint8]) -> Any:
        """(N, 127, 127, 3) RGB crops to `Templates` of N objects."""

    def search(self, crops: NDArray[np.uint8], template: Any) -> tuple[Floats, Floats, Any]:
        """(N, 255, 255, 3) RGB crops to class logits (N, 2, 5, 25, 25), box offsets (N, 4, 5, 25, 25), and features."""

    def segment(self, template: Any, features: Any, cells: NDArray[np.int64]) -> Floats:
        """Mask logits (N, 127, 127) at one cell, row and column (N, 2), of each object."""


class _Filters(list[dict[str, Floats]]):
    """Inputs of the graphs by name, for each object."""

    def select(self, objects: Sequence[int]) -> _Filters:
        return _Filters(self[index] for index in objects)


class OnnxBackend:
    """Exported graphs.

    Args:
        folder: what ``e3sn export`` wrote.
        threads: of a step; None: one for each core, at most 4.

    Raises:
        InputError: the folder is no export, its files do not belong together, or its version is unknown.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.manifest = read_manifest(folder)
        self.config = TrackConfig(**self.manifest["track"])
        threads = threads or default_threads()
        self._sessions = {name: _session(folder / name, threads) for name in GRAPHS}
        self._windows: Mapping[str, Mapping[str, int]] = self.manifest["windows"]

    @property
    def identity(self) -> str:
        """A digest of the files."""
        return hashlib.sha256(repr(sorted(self.manifest["files"].items())).encode()).hexdigest()

    def encode_template(self, crops: NDArray[np.uint8]) -> _Filters:
        """See `Backend`."""
        return _Filters(self._run("template.onnx", {"crop": crop[None]}) for crop in crops)

    def search(self, crops: NDArray[np.uint8], template: _Filters) -> tuple[Floats, Floats, list[dict[str, Floats]]]:
        """See `Backend`."""
        found = [self._run("search.onnx", {"crop": c[None], **each}) for c, each in zip(crops, template, strict=True)]
        cls, loc = (np.concatenate([each[name] for each in found]) for name in ("cls", "loc"))
        return cls, loc, found

    def segment(self, template: _Filters, features: list[dict[str, Floats]], cells: NDArray[np.int64]) -> Floats:
        """See `Backend`."""
        logits = []
        for filters, maps, (row, column) in zip(template, features, cells.tolist(), strict=True):
            windows = {name: cut_window(maps[name], row, column, **each) for name, each in self._windows.items()}
            logits.append(self._run("mask.onnx", filters | windows)["logits"])
        return np.concatenate(logits)

    def _run(self, name: str, given: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
        session = self._sessions[name]
        outputs = session.run(None, {each.name: given[each.name] for each in session.get_inputs()})
        return dict(zip((each.name for each in session.get_outputs()), outputs, strict=True))


def cut_window(maps: Floats, row: int, column: int, *, size: int, step: int, first: int) -> Floats:
    """Cut the window of a cell out of feature maps (1, C, H, W): (1, C, size, size), zero outside the maps."""
    height, width = maps.shape[2:]
    top, left = first + step * row, first + step * column
    y1, y2, x1, x2 = max(top, 0), min(top + size, height), max(left, 0), min(left + size, width)
    window = np.zeros((*maps.shape[:2], size, size), np.float32)
    window[:, :, y1 - top : y2 - top, x1 - left : x2 - left] = maps[:, :, y1:y2, x1:x2]
    return window


def load_export(folder: str | Path | None = None, threads: int | None = None) -> OnnxBackend:
    """Open an export; without a folder that of the environment variable E3SN_WEIGHTS, or the one in the package.

    Raises:
        InputError: there is none, or as `OnnxBackend`.
    """
    if folder is None:
        named = os.environ.get(VARIABLE)
        folder = Path(named) if named else PACKAGED
        if not (folder / MANIFEST).is_file():
            looked = f"{VARIABLE}={named}" if named else f"{PACKAGED} (the package's own); {VARIABLE} is not set"
            raise InputError(f"there is no exported model in {looked}; make one with e3sn export MODEL FOLDER")
    return OnnxBackend(Path(folder), threads)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check ``export.json`` and the digests of the files it lists; raises InputError as `OnnxBackend`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} is no exported model: it has no {MANIFEST}; make one with e3sn export MODEL {folder}")
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        raise InputError(f"{path} has format {found!r}, this version reads {FORMAT}; export the model again with it")
    wanted = {"files": dict, "windows": dict, "track": dict}
    lacking = [key for key, kind in wanted.items() if not isinstance(manifest.get(key), kind)]
    lacking += [name for name in GRAPHS if name not in (manifest.get("files") or {})]
    if lacking:
        raise InputError(f"{path} lacks '{lacking[0]}'; export the model again")
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"there is no {file}, which {MANIFEST} lists; export the model again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise InputError(f"{file} is not the file that {MANIFEST} lists; copy the whole folder, or export the model again")
    return manifest


def default_threads() -> int:
    """One thread for each core that this process may use, at most 4: more help a single crop little."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores away from decoding and from other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        reason = " ".join(str(error).split())
        raise InputError(f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {reason}") from error
