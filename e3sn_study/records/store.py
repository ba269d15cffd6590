"""Tables of record on the disk: made once, bound to their inputs, checked when read."""

import functools
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path, write_csv
from e3sn_study.records.schema import Schema

HASHED_BYTES = 1 << 30
"""Up to this size in all, files count by content; larger sets by sizes and times of change."""
STAMPED_FILES = 20_000
"""Of more files, only this many evenly spread ones are looked at; the others count by name."""


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any part changes.

    A path stands for the content of its file (see `HASHED_BYTES`) and for its name without the
    folder, so that data may be moved. Dataclasses, sequences and iterators count by their
    members, and everything else by its text.
    """
    files, total = list[Path](), hashlib.sha256()
    for part in _members(parts):
        if isinstance(part, Path):
            files.append(part)
        text = part.name if isinstance(part, Path) else repr(part)
        if not isinstance(part, str | Path) and " at 0x" in text:  # an address, another tomorrow
            raise TypeError(f"{text} has no lasting text, so it cannot be part of a digest")
        total.update(f"{text}\0".encode(errors="surrogateescape"))
    chosen = np.linspace(0, len(files) - 1, min(len(files), STAMPED_FILES)).astype(int)
    stamps = [_stamp(files[place]) for place in chosen]
    is_small = len(stamps) == len(files) and sum(size for _, size, _ in stamps) <= HASHED_BYTES
    for stamp in stamps:
        total.update(_content(*stamp) if is_small else f"{stamp[1:]}".encode())
    return total.hexdigest()[:16]


def _members(value: Any) -> Iterator[Any]:
    """Yield a value, or what a dataclass, sequence or iterator is made of."""
    if is_dataclass(value):
        value = [getattr(value, each.name) for each in fields(value)]
    if isinstance(value, Sequence | Iterator) and not isinstance(value, str | bytes):
        for each in value:
            yield from _members(each)
    else:
        yield value


def _stamp(path: Path) -> tuple[Path, int, int]:
    """Return a path with its size and time of change. What is no readable file has the size -1: it
    may be absent, or a pipe, whose reading may never end."""
    try:
        status = path.stat()
        is_file = stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)
    except OSError:
        is_file = False
    return (path, status.st_size, status.st_mtime_ns) if is_file else (path, -1, 0)


@functools.lru_cache(maxsize=100_000)
def _content(path: Path, size: int, time: int) -> bytes:
    """Return the digest of a file; `size` and `time` are part of the key under which it is kept."""
    if size < 0:
        return b"absent"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def once(
    path: Path,
    schema: Schema,
    made_of: str | Callable[[], str],
    compute: Callable[[], pd.DataFrame],
    copy: Path | None = None,
) -> pd.DataFrame:
    """Return the table at `path`; compute and write it first unless it is there and fits.

    Args:
        made_of: the `digest` of all that the table depends on; a file with another digest is made
            again. A function that returns it is called before and after the table is made.
        copy: a second place for the table, such as beside the report.
    """
    current = made_of if callable(made_of) else lambda: made_of
    table, wanted = None, current()
    if path.is_file():
        try:
            table = schema.read(path)
        except InputError as error:
            print(f"made anew: {error}")
    if table is None or "made" not in table or str(table["made"][0]).partition("/")[0] != wanted:
        computed = compute()
        write_record(path, computed, current())
        table = schema.read(path)
    if copy:
        with atomic_path(copy) as temporary:
            shutil.copyfile(path, temporary)
    return table.drop(columns="made")


def write_record(path: Path, table: pd.DataFrame, made_of: str = "") -> None:
    """Write a table with a column ``made``, by which a reader sees whether rows are lost."""
    write_csv(path, table.assign(made=f"{made_of}/{len(table)}"))
