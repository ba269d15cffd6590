"""Tracks as two flat arrays: read from a file instead of parsed at every start, and shared by worker processes.

A million small objects take seconds to make, and every forked worker would end up with its own copy of them, because reading an
object writes its reference count. Here a track is a few bytes of JSON until it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import Track, TrackSet
from e3sn_lib.files import atomic_path

VERSION = 2
"""Rises whenever a reader keeps other values; older indices are then made anew."""
NAMED = 5
"""Missing files that are named; the rest is counted."""


@dataclass
class Findings:
    """What a reader notes beside the tracks."""

    left_out: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    """Files that the annotations name and the disk lacks."""


Parse = Callable[[Findings], Iterator[Any]]
"""Yields one value of plain lists, strings and numbers for each track, and notes what it leaves out."""


class PackedTracks(Sequence[Track]):
    """Tracks that are made when they are asked for.

    Args:
        packed: (bytes,) uint8, the JSON of one track after the other.
        offsets: (T + 1,) int64, where each begins, and the end.
        unpack: makes a track of what its JSON holds; a function that can be sent to another process.
    """

    def __init__(self, packed: NDArray[np.uint8], offsets: NDArray[np.int64], unpack: Callable[[Any], Track]) -> None:
        self.packed, self.offsets, self.unpack = packed, offsets, unpack

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Track: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Track, ...]: ...
    def __getitem__(self, index: int | slice) -> Track | tuple[Track, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(len(self))[index])
        number = range(len(self))[index]
        return self.unpack(json.loads(self.packed[self.offsets[number] : self.offsets[number + 1]].tobytes()))


def indexed_tracks(
    name: str,
    key: Iterable[object],
    sources: Iterable[Path | str],
    parse: Parse,
    unpack: Callable[[Any], Track],
    category: Callable[[Any], int] | None = None,
) -> TrackSet:
    """The tracks of a set from its index if the sources are as they were; else as parsed, and kept for the next time.

    Args:
        name: of the set.
        key: what the tracks depend on beside the sources: folders, settings.
        sources: every file and folder that `parse` looks into; another size or modification time of any makes the index stale.
        parse: reads the sources.
        unpack: as for `PackedTracks`.
        category: the category of a value that `parse` yields; None: the set knows none.

    Raises:
        InputError: from `parse`; nothing is kept then.
    """
    header = {"version": VERSION, "name": name, "key": json.dumps([*key], default=os.path.realpath)}
    path = cache_folder() / f"tracks-{hashlib.sha256(json.dumps(header).encode()).hexdigest()[:16]}.npz"
    header["sources"] = _fingerprint(sources)  # before parsing: what changes meanwhile counts as changed
    tracks = _load(path, header, unpack)
    if tracks is None:
        findings = Findings()
        chunks, categories = [], []
        for value in parse(findings):
            chunks.append(json.dumps(value, separators=(",", ":")).encode())
            if category:
                categories.append(category(value))
        arrays: dict[str, NDArray[Any]] = {
            "header": _bytes(header),
            "findings": _bytes([findings.left_out, list(dict.fromkeys(findings.missing))[:NAMED]]),
            "packed": np.frombuffer(b"".join(chunks), np.uint8),
            "offsets": np.cumsum([0, *map(len, chunks)], dtype=np.int64),
        }
        if category:
            arrays["categories"] = np.array(categories, np.int64)
        _save(path, arrays, name)
        tracks = _track_set(name, arrays, unpack)
    return tracks


def cache_folder() -> Path:
    """Where indices are kept: ``e3sn`` in the user's cache folder (XDG_CACHE_HOME, else ``~/.cache``)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "e3sn"
    except RuntimeError:  # no home: a place where nothing can be read or written
        return Path(os.devnull) / "e3sn"


def _fingerprint(sources: Iterable[Path | str]) -> str:
    digest = hashlib.sha256()
    for path in sources:
        try:
            status = os.stat(path)
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            stamp = "absent"
        digest.update(os.fsencode(path) + f"\0{stamp}\n".encode())
    return digest.hexdigest()


def _load(path: Path, header: dict[str, Any], unpack: Callable[[Any], Track]) -> TrackSet | None:
    """None if there is no index of just these sources; a damaged one shows by the checksums of its archive."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if json.loads(archive["header"].tobytes()) == header:
                return _track_set(header["name"], {key: archive[key] for key in archive.files}, unpack)
    except (OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile):
        pass  # whatever it is, it is no index, and is replaced by one
    return None


def _track_set(name: str, arrays: dict[str, NDArray[Any]], unpack: Callable[[Any], Track]) -> TrackSet:
    left_out, missing = json.loads(arrays["findings"].tobytes())
    tracks = PackedTracks(arrays["packed"], arrays["offsets"], unpack)
    return TrackSet(name, tracks, Counter(left_out), tuple(missing), arrays.get("categories"))


def _save(path: Path, arrays: dict[str, Any], name: str) -> None:
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)
    except OSError as error:
        reason = error.strerror or error
        print(f"note: no index of {name} can be kept in {path.parent} ({reason}); it is parsed again at each start")


def _bytes(content: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)
