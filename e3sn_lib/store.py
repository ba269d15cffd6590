"""Tables of record on the disk: made once, bound to what they were made of, checked when read."""

from __future__ import annotations

import functools
import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path, write_csv

HASHED_BYTES = 1 << 30
"""Up to this size in all, files count by content; larger sets by sizes and times of change."""
STAMPED_FILES = 20_000
"""Of more files, only this many evenly spread ones are looked at; the others count by name."""


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any part changes.

    A path stands for the content of its file (see `HASHED_BYTES`) and for its name without the
    folder, so that data may be moved. Dataclasses and sequences count by their members, and
    everything else by its text.
    """
    files, total = list[Path](), hashlib.sha256()
    for part in _members(parts):
        if isinstance(part, Path):
            files.append(part)
        text = part.name if isinstance(part, Path) else repr(part)
        total.update(f"{text}\0".encode(errors="surrogateescape"))
    chosen = np.linspace(0, len(files) - 1, min(len(files), STAMPED_FILES)).astype(int)
    stamps = [_stamp(files[place]) for place in chosen]
    is_small = len(stamps) == len(files) and sum(size for _, size, _ in stamps) <= HASHED_BYTES
    for stamp in stamps:
        total.update(_content(*stamp) if is_small else f"{stamp[1:]}".encode())
    return total.hexdigest()[:16]


def _members(value: Any) -> Iterator[Any]:
    if is_dataclass(value):
        value = [getattr(value, each.name) for each in fields(value)]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in value:
            yield from _members(each)
    else:
        yield value


def _stamp(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path, -1, 0
    return path, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=100_000)
def _content(path: Path, size: int, time: int) -> bytes:
    """Return the digest of a file; `size` and `time` are part of the key under which it is kept."""
    if size < 0:
        return b"absent"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass(frozen=True)
class Schema:
    """The columns that a CSV file of record must have. Further columns are allowed."""

    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    """Columns of finite numbers."""
    gaps: tuple[str, ...] = ()
    """Columns of finite numbers in which cells may be empty, or which may be absent."""
    key: tuple[str, ...] = ()
    """Columns that no two rows share."""
    may_be_empty: bool = False
    remedy: str = "delete it and make it again with e3sn reproduce"

    def read(self, path: Path) -> pd.DataFrame:
        """Return the table in `path`; columns of texts hold str, without missing values.

        Raises:
            InputError: the file is absent, damaged or cut short, lacks a column, or has a cell
                that does not belong in its column.
        """
        numbers = [*self.numbers, *self.gaps]
        try:
            content = path.read_text()
            header = pd.read_csv(io.StringIO(content), nrows=0).columns
            table = pd.read_csv(
                io.StringIO(content),
                dtype=dict.fromkeys(self.texts, str),
                keep_default_na=False,  # a sequence may be called "nan"
                na_values={name: [""] for name in header.difference(self.texts)},
            )
        except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
            raise self.misfit(path, f"is no table ({' '.join(str(error).split())})") from error
        if not content.endswith("\n") or not isinstance(table.index, pd.RangeIndex):
            raise self.misfit(path, "is cut short or damaged")
        table = table.assign(**{name: np.nan for name in self.gaps if name not in table})
        if lacking := [name for name in (*self.texts, *numbers) if name not in table]:
            raise self.misfit(path, f"lacks the column {lacking[0]}")
        if table.empty and not self.may_be_empty:
            raise self.misfit(path, "has no rows")
        if table.duplicated([*self.key]).any():
            raise self.misfit(path, "has a row twice")
        values = table[numbers].apply(pd.to_numeric, errors="coerce")
        wrong = ~np.isfinite(values) & ~(table[numbers].isna() & values.columns.isin(self.gaps))
        wrong = wrong.join(table[list(self.texts)].isna())
        for name in wrong.columns[wrong.any()]:
            row = int(wrong[name].to_numpy().argmax())
            raise self.misfit(path, f"has no valid {name} in row {row + 1}")
        self._check_length(path, table)
        return table.assign(**values)

    def misfit(self, path: Path, problem: str) -> InputError:
        """Return the error that names a file, what is wrong with it, and what to do."""
        return InputError(f"{path} {problem}; {self.remedy}")

    def _check_length(self, path: Path, table: pd.DataFrame) -> None:
        """Compare the number of rows with the one that `once` wrote into the column ``made``."""
        made = set(table["made"].astype(str)) if "made" in table else set()
        stated = {each.rpartition("/")[2] for each in made if "/" in each}
        if stated and (len(made) > 1 or stated != {str(len(table))}):
            raise self.misfit(path, f"has {len(table)} of {' and '.join(sorted(stated))} rows")


_STATISTICS = tuple(f"{measure}-{name}" for measure in "JF" for name in ("Mean", "Recall", "Decay"))
SETTINGS = ("size_lr", "window_influence", "penalty_k", "mask_threshold")
"""Settings of inference that are chosen on held-out training sequences."""
SCORES = Schema(
    ("method", "sequence"), ("object", *_STATISTICS, "frames"), key=("method", "sequence", "object")
)
SCORES_OF_RECORD = replace(
    SCORES, texts=("benchmark", "variant", "run", *SCORES.texts), gaps=("seed", "mask_threshold")
)
TIMING = Schema(
    ("sequence",), ("frames", "objects", "seconds_reading", "seconds_tracking"), key=("sequence",)
)
SPEED = replace(TIMING, texts=("run", "sequence"))
ATTRIBUTES = Schema(("sequence", "attributes"), (), key=("sequence",), may_be_empty=True)
LACKING = Schema(("method", "reason"), (), key=("method",), may_be_empty=True)
CHOICES = Schema(
    ("sequence",), (*SETTINGS, "object", "J-Mean", "F-Mean"), key=(*SETTINGS, "sequence", "object")
)
CROPS = Schema(
    ("set",), ("pair",), ("mask_iou", "box_iou", "size", "predicted_size"), key=("set", "pair")
)
VARIANT_COSTS = Schema(
    ("variant", "part", "stage", "backbone", "machine"),
    ("share", "seconds", "batch"),
    key=("variant", "part", "stage", "backbone"),
)
SAMPLING_COST = Schema(
    (),
    ("samples_per_image", "samples"),
    ("seconds_per_step", "peak_memory_mb", "estimated_memory_mb"),
    key=("samples_per_image",),
)
TRAINING_SPEED = Schema(
    ("phase", "contender", "machine"),
    ("pairs_per_second", "ratio", "forward", "backward", "update", "batch"),
    ("data",),
    key=("phase", "contender"),
    remedy="make it again with e3sn bench train",
)
CHECKS = Schema(
    ("check", "source"),
    ("largest", "tolerance", "cases"),
    key=("check",),
    remedy="make it again with the golden tests",
)
LOG = Schema(("stage",), ("pairs", "seconds", "peak_memory_mb"), key=("pairs",))


def once(
    path: Path,
    schema: Schema,
    made_of: str,
    compute: Callable[[], pd.DataFrame],
    copy: Path | None = None,
) -> pd.DataFrame:
    """Return the table at `path`; compute and write it first unless it is there.

    Args:
        path: a CSV file.
        schema: its columns. A file that does not fit is made anew.
        made_of: the `digest` of all that the table depends on. A file of another one is made anew.
        compute: makes the table.
        copy: where the table is kept too, such as beside the report.
    """
    table = None
    if path.is_file():
        try:
            table = schema.read(path)
        except InputError as error:
            print(f"made anew: {error}")
    if table is None or "made" not in table or table["made"].iloc[0].partition("/")[0] != made_of:
        write_record(path, compute(), made_of)
        table = schema.read(path)
    if copy:
        with atomic_path(copy) as temporary:
            shutil.copyfile(path, temporary)
    return table.drop(columns="made")


def write_record(path: Path, table: pd.DataFrame, made_of: str = "") -> None:
    """Write a table with a column ``made``, by which a reader can tell whether rows are lost."""
    write_csv(path, table.assign(made=f"{made_of}/{len(table)}"))
