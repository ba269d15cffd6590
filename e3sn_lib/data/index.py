"""Tracks as two flat arrays: kept in a file, so that a set is parsed once, and shared by workers.

A million small Python objects take seconds to make. Every worker process would also copy them,
because reading an object changes its reference count. Here a track stays a few bytes of JSON until
it is used.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import Findings, Track, TrackFrame, TrackSet
from e3sn_lib.files import atomic_path

VERSION = 8
"""To be raised whenever a reader stores other values; older indices are then made again."""
NAMED = 5
"""Number of missing files that are named; further ones are only counted."""
Unpack = Callable[[Any], Track]
"""Makes a track of the value that its JSON holds; it can be sent to another process."""


class PackedTracks(Sequence[Track]):
    """Tracks that are made when they are used, from their JSON, one after the other.

    `packed` has its bytes; `offsets`, (T + 1,), where each track begins, and the end. This is no
    dataclass: `e3sn_study.records.store.digest` must read the tracks, not these fields.
    """

    def __init__(
        self, packed: NDArray[np.uint8], offsets: NDArray[np.int64], unpack: Unpack
    ) -> None:
        self.packed, self.offsets, self.unpack = packed, offsets, unpack

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        """Return one track, or those of a slice as a tuple."""
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return tuple(self[number] for number in numbers)
        begin, end = self.offsets[numbers], self.offsets[numbers + 1]
        return self.unpack(json.loads(self.packed[begin:end].tobytes()))


def indexed_tracks(
    name: str,
    key: Iterable[object],
    sources: Iterable[Path | str],
    parse: Callable[[Findings], Iterator[Any]],
    unpack: Unpack,
) -> TrackSet:
    """Return a set's tracks from its index, or parse them and keep the index for the next time.

    Raises InputError from `parse`; nothing is kept then.

    Args:
        key: what else the tracks depend on: folders, settings.
        sources: every file and folder that `parse` reads; if the size or time of one of them
            changes, the index is out of date.
        parse: reads the sources. It yields a value of lists, strings and numbers for each track,
            and notes what it leaves out.
    """
    header = json.dumps([VERSION, name, *key], default=os.path.realpath)
    path = cache_folder() / f"tracks-{hashlib.sha256(header.encode()).hexdigest()[:16]}.npz"
    header += _fingerprint(sources)  # before parsing: what changes meanwhile counts as changed
    arrays = _load(path, header)
    if arrays is None:
        findings = Findings()
        lines = [json.dumps(value, separators=(",", ":")).encode() for value in parse(findings)]
        findings.missing = list(dict.fromkeys(findings.missing))[:NAMED]
        arrays = {
            "header": np.array(header),
            "findings": np.array(json.dumps(vars(findings))),
            "packed": np.frombuffer(b"".join(lines), np.uint8),
            "offsets": np.cumsum([0, *map(len, lines)], dtype=np.int64),
        }
        _save(path, arrays, name)
    tracks = PackedTracks(arrays["packed"], arrays["offsets"], unpack)
    found = json.loads(str(arrays["findings"]))
    found["left_out"] = Counter(found["left_out"])
    return TrackSet(name, tracks, **found)


def track_of_boxes(root: Path, record: Any) -> Track:
    """Make a track without masks from its name, a folder in `root`, and file names with boxes."""
    name, folder, frames = record
    shown = [TrackFrame(root / folder / image, None, tuple(box)) for image, box in frames]
    return Track(name, tuple(shown))


def cache_folder() -> Path:
    """Return where indices are kept: ``e3sn`` in XDG_CACHE_HOME or ``~/.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "e3sn"
    except RuntimeError:  # no home: a place where nothing can be read or written
        return Path(os.devnull) / "e3sn"


def _fingerprint(sources: Iterable[Path | str]) -> str:
    """Return a hash of names, sizes and times of files and folders."""
    digest = hashlib.sha256()
    for path in sources:
        try:
            status = os.stat(path)
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            stamp = "absent"
        digest.update(os.fsencode(path) + f"\0{stamp}\n".encode())
    return digest.hexdigest()


def _load(path: Path, header: str) -> dict[str, Any] | None:
    """Return the arrays of an index of exactly these sources; checksums find a damaged index."""
    if not os.path.isfile(path):  # a pipe would never end
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("header", "findings", "packed", "offsets")}
    except Exception:  # whatever it is, it is no index, and is replaced by one
        return None
    return arrays if str(arrays["header"]) == header else None


def _save(path: Path, arrays: dict[str, Any], name: str) -> None:
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)
    except OSError as error:
        where = f"{path.parent} ({error.strerror or error})"
        print(f"note: no index of {name} can be kept in {where}; it is parsed again at each start")
