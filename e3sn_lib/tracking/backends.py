"""Between tracker and network: the protocol, and exported graphs, which need no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from pydantic.dataclasses import dataclass

from e3sn_lib.config import TrackConfig
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_json

FORMAT = 1
"""Version of the export folder; other versions are refused."""
MANIFEST = "export.json"
TEMPLATE, SEARCH, MASK = GRAPHS = ("template.onnx", "search.onnx", "mask.onnx")
WEIGHTS = "weights.bin"
PACKAGED = Path(__file__).parent / "shipped"
"""The export that comes with the package."""
WEIGHTS_VARIABLE = "E3SN_WEIGHTS"
"""Environment variable that names another export folder; for ``e3sn track`` also a model file,
which `load_export` cannot read."""
LARGEST_MAP = 255
"""Rows and columns: feature maps are not larger than search crops."""
ADVICE = "make one with e3sn export MODEL FOLDER"
Floats = NDArray[np.float32]
Arrays = dict[str, Floats]


class Backend(Protocol):
    """A network in numpy's terms. Only the backend itself can read its templates and features. It
    may have ``config``, a `TrackConfig`; a tracker then uses it."""

    @property
    def identity(self) -> str:
        """Return a digest of everything that masks depend on."""

    def encode_template(self, crops: NDArray[np.uint8]) -> Any:
        """Return what is kept of N objects, from their RGB crops (N, 127, 127, 3). Its method
        ``select`` takes a list of places and returns some of the objects."""

    def search(self, crops: NDArray[np.uint8], template: Any) -> tuple[Floats, Floats, Any]:
        """Look for N objects in their RGB crops (N, 255, 255, 3). Return class logits
        (N, 2, 5, 25, 25), background first; box offsets (N, 4, 5, 25, 25); features for `segment`.
        """

    def segment(self, template: Any, features: Any, cells: NDArray[np.int64]) -> Floats:
        """Return mask logits (N, 127, 127) at one cell of each object, row and column (N, 2)."""


class _Filters(list[Arrays]):
    """For each object, its filters by name."""

    def select(self, objects: Sequence[int]) -> _Filters:
        return _Filters(self[index] for index in objects)


@dataclass(frozen=True)
class Window:
    """Where the windows of cells lie in feature maps."""

    size: Annotated[int, Field(ge=1, le=LARGEST_MAP)]
    """Rows and columns of a window."""
    step: Annotated[int, Field(ge=1, le=LARGEST_MAP)]
    """Rows or columns from the window of one cell to that of its neighbour."""
    first: Annotated[int, Field(ge=-LARGEST_MAP, le=LARGEST_MAP)]
    """Where the first window begins; below 0 it begins outside the maps."""


class Manifest(BaseModel, extra="allow"):
    """The entries of ``export.json`` that the tracker needs; its others are for the record."""

    files: dict[str, str]
    """Digests by name."""
    windows: dict[str, Window]
    track: TrackConfig
    model: dict[str, Any] = {}
    """What was exported: its run and digest, among others."""


class OnnxBackend:
    """Exported graphs in ONNX Runtime, as a `Backend`. Objects are computed side by side.

    The folder is what ``e3sn export`` wrote; for `threads` see `thread_count`. Raises InputError if
    the folder is no export of this version, or if its files do not fit together.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.manifest = read_manifest(folder)
        self.config = self.manifest.track
        self._threads = count = thread_count(threads)
        self._session = cache(lambda name, threads: _session(folder / name, threads))
        template, _, mask = (self._session(name, self._threads) for name in GRAPHS)
        filters = {each.name for each in template.get_outputs()}
        sizes = {one.name: one.shape[-1] for one in mask.get_inputs() if one.name not in filters}
        if sizes != {name: window.size for name, window in self.manifest.windows.items()}:
            problem = f"the windows in {folder / MANIFEST} do not fit {MASK}"
            raise InputError(f"{problem}; export the model again")
        # one pool for each process, since a forked one has none of its parent's threads; without
        # self, so that this object is freed together with its pool
        self._pool = cache(lambda process: ThreadPoolExecutor(count))

    @property
    def identity(self) -> str:
        """Return a digest of the files."""
        return hashlib.sha256(repr(sorted(self.manifest.files.items())).encode()).hexdigest()

    def encode_template(self, crops: NDArray[np.uint8]) -> _Filters:
        """See `Backend`."""
        return _Filters(self._run(TEMPLATE, [partial(dict, crop=crop[None]) for crop in crops]))

    def search(self, crops: NDArray[np.uint8], template: _Filters) -> tuple[Floats, Floats, Any]:
        """See `Backend`."""
        pairs = zip(crops, template, strict=True)
        found = self._run(SEARCH, [partial(dict, each, crop=crop[None]) for crop, each in pairs])
        cls, loc = (np.concatenate([each[name] for each in found]) for name in ("cls", "loc"))
        return cls, loc, found

    def segment(self, template: _Filters, features: Any, cells: NDArray[np.int64]) -> Floats:
        """See `Backend`."""

        def inputs(filters: Arrays, maps: Arrays, row: int, column: int) -> Arrays:
            windows = self.manifest.windows.items()
            return filters | {
                name: cut_window(maps[name], row, column, window) for name, window in windows
            }

        objects = zip(template, features, *cells.T.tolist(), strict=True)
        found = self._run(MASK, [partial(inputs, *each) for each in objects])
        return np.concatenate([each["logits"] for each in found])

    def _run(self, name: str, makers: Sequence[Callable[[], Mapping[str, Any]]]) -> list[Arrays]:
        """Run a graph once for each object. A maker returns the inputs of an object when its turn
        comes, so few are in memory. Objects share the threads. Those that are left over share
        the threads afterwards."""
        rest = len(makers) % self._threads
        if 0 < rest < len(makers):
            return self._run(name, makers[:-rest]) + self._run(name, makers[-rest:])
        session = self._session(name, max(self._threads // len(makers), 1))
        inputs = [each.name for each in session.get_inputs()]
        outputs = [each.name for each in session.get_outputs()]

        def run(give: Callable[[], Mapping[str, Any]]) -> Arrays:
            values = give()
            with _named_errors(f"compute {name}"):
                found = session.run(outputs, {each: values[each] for each in inputs})
            return dict(zip(outputs, found, strict=True))

        if len(makers) == 1:
            return [run(makers[0])]
        return list(self._pool(os.getpid()).map(run, makers))


def cut_window(maps: Floats, row: int, column: int, window: Window) -> Floats:
    """Return the window of a cell, (1, C, size, size), from maps (1, C, H, W); outside is zero."""
    (height, width), size = maps.shape[2:], window.size
    top, left = (window.first + window.step * place for place in (row, column))
    y1, y2, x1, x2 = max(top, 0), min(top + size, height), max(left, 0), min(left + size, width)
    if y2 - y1 == x2 - x1 == size:
        return np.ascontiguousarray(maps[:, :, y1:y2, x1:x2])
    cut = np.zeros((*maps.shape[:2], size, size), np.float32)
    cut[:, :, y1 - top : y2 - top, x1 - left : x2 - left] = maps[:, :, y1:y2, x1:x2]
    return cut


def load_export(folder: str | Path | None = None, threads: int | None = None) -> OnnxBackend:
    """Open an exported model, such as ``Tracker(load_export())``.

    The folder is what ``e3sn export`` wrote; None: the folder that the variable E3SN_WEIGHTS names,
    else the one that comes with the package. Raises InputError if there is none, or as
    `OnnxBackend`.
    """
    if folder is None and not finds_export():
        where = f"none in {PACKAGED}, and {WEIGHTS_VARIABLE} is not set"
        raise InputError(f"there is no exported model: {where}; {ADVICE}")
    chosen = folder or os.environ.get(WEIGHTS_VARIABLE) or PACKAGED
    return OnnxBackend(Path(os.path.expanduser(chosen)), threads)


def finds_export() -> bool:
    """Say whether `load_export` finds a folder by itself."""
    return bool(os.environ.get(WEIGHTS_VARIABLE)) or (PACKAGED / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read ``export.json``, check the files that it lists; raises InputError as `OnnxBackend`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} is no exported model: it has no {MANIFEST}; {ADVICE}")
    content = read_json(path, "manifest")
    if (found := content.get("format")) != FORMAT:
        problem = f"{path} has format {found!r}, but this version reads {FORMAT}"
        raise InputError(f"{problem}; export the model again")
    try:
        manifest = Manifest(**content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise InputError(f"{path} is not valid: {'; '.join(problems)}") from error
    copy = "copy the whole folder, or export the model again"
    for name in {*GRAPHS, WEIGHTS, *manifest.files}:
        file = folder / name
        if not file.is_file():
            raise InputError(f"there is no {file}; {copy}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != manifest.files.get(name):
            raise InputError(f"{file} does not belong to {MANIFEST}; {copy}")
    return manifest


def thread_count(wanted: int | None = None) -> int:
    """Return how many threads to use: `wanted`, but at most one per processor.

    None or 0: the number of processors that are idle now, from 1 to 4. One thread too many costs
    more time than one too few, and more than 4 hardly help a single crop. Raises InputError if
    `wanted` is below 0.
    """
    if wanted is not None and wanted < 0:
        raise InputError(f"threads is {wanted}; give 0 or more")
    processors = os.cpu_count() or 1
    if wanted:
        return min(wanted, processors)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else processors
    idle = round(processors * (1 - psutil.cpu_percent(interval=0.1) / 100))
    with suppress(OSError, ValueError):  # ValueError: "max", without a limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # of a container
        usable = min(usable, int(quota) // int(period))
    return max(min(usable, idle, 4), 1)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime  # not needed for a network in torch, nor for --help

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait keep the cores from decoding and from other programs.
    # So they spin for the short time between two layers only, where waking up takes longer.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    with _named_errors(f"open {path}"):
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextmanager
def _named_errors(act: str) -> Iterator[None]:
    """Turn errors of ONNX Runtime, such as too little memory, into an InputError."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's errors have no class of their own
        import onnxruntime

        program, reason = f"ONNX Runtime {onnxruntime.__version__}", " ".join(str(error).split())
        raise InputError(f"{program} cannot {act}: {reason}") from error
