"""DAVIS 2016 and 2017 in the official layout: ``JPEGImages/480p/SEQ``, ``Annotations/480p/SEQ``, lists in ``ImageSets``."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from e3sn_lib.data.reading import at_least, files_by_stem, listed
from e3sn_lib.data.types import PngMask, Track, TrackFrame, TrackSet, Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask

DAVIS_SITE = "https://davischallenge.org/davis{year}/code.html"

_EMPTY_MASK_BYTES = 1500
"""No larger is an 854x480 PNG without any object; larger files show one and need not be read to know it."""


def davis_list(root: Path, year: int, split: str) -> Path | None:
    """The file that lists a split, or None: ``ImageSets/YEAR/SPLIT.txt``, for 2016 also ``ImageSets/480p/SPLIT.txt``."""
    if year not in (2016, 2017):
        raise InputError(f"there is no DAVIS-{year}; the year can be 2016 or 2017")
    folders = (str(year), "480p") if year == 2016 else (str(year),)
    paths = (root / "ImageSets" / folder / f"{split}.txt" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def davis_sequences(root: Path, year: int, split: str, names: Iterable[str] = ()) -> list[Video]:
    """The sequences of a split, in the order of its list.

    Args:
        root: the folder that holds ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        year: 2016 has one object, so ids are merged; 2017 has palette ids, read from ``Annotations_2017`` where that exists.
        split: ``train``, ``val``, ...
        names: only these; with names the list itself may be absent.

    Raises:
        InputError: no such list or name, frames or masks that are absent or do not match, 0/255 masks where ids are asked for.
    """
    names = list(names)
    path = davis_list(root, year, split)
    if path is not None:
        known = read_list(path)
        _check_names(names, known, path)
        names = [name for name in known if name in names or not names]
    elif not names:
        raise InputError(f"{root} has no list ImageSets/{year}/{split}.txt; get DAVIS-{year} from {DAVIS_SITE.format(year=year)}")

    frame_root, mask_root = root / "JPEGImages" / "480p", root / "Annotations" / "480p"
    if year == 2017 and (root / "Annotations_2017" / "480p").is_dir():
        mask_root = root / "Annotations_2017" / "480p"
    frames = {name: files_by_stem(frame_root / name) for name in names}
    masks = {name: files_by_stem(mask_root / name, (".png",)) for name in names}
    for what, found, folder in (("frames", frames, frame_root), ("masks", masks, mask_root)):
        absent = [name for name in names if not found[name]]
        if absent:
            raise InputError(f"no {what} of {listed(absent)} in {folder}; get DAVIS-{year} from {DAVIS_SITE.format(year=year)}")

    sequences = []
    for name in names:
        unmatched = sorted(frames[name].keys() ^ masks[name].keys())
        if unmatched:
            stem = unmatched[0]
            absent_file = mask_root / name / f"{stem}.png" if stem in frames[name] else frame_root / name / f"{stem}.jpg"
            raise InputError(
                f"sequence {name}: {len(frames[name])} frames, {len(masks[name])} masks; {absent_file} is missing, copy it again"
            )
        sequence = Video(name, tuple(frames[name].values()), tuple(masks[name].values()), merge_ids=year == 2016)
        _check_ids(sequence.mask_paths[0], year)
        sequences.append(sequence)
    return sequences


def davis_tracks(root: Path, year: int, split: str, hold_out: Iterable[str] = (), min_area: float = 0.0) -> TrackSet:
    """A split as training tracks: one for each sequence (2016) or for each id of a sequence's first mask (2017).

    Boxes are left to be taken from the masks. Frames whose mask is empty are left out; a frame that shows other objects
    only, or less than `min_area` pixels, is known by its empty mask when that is read.

    Args:
        hold_out: sequences of the split that are left out.
        min_area: in pixels; smaller masks read as empty.

    Raises:
        InputError: as `davis_sequences`, or `hold_out` names no sequence of the split.
    """
    sequences = davis_sequences(root, year, split)
    held_out = list(hold_out)
    _check_names(held_out, [sequence.name for sequence in sequences], f"DAVIS-{year} {split}")
    left_out: Counter[str] = Counter()
    tracks: list[Track] = []
    for sequence in sequences:
        if sequence.name in held_out:
            left_out["sequence held out"] += 1
            continue
        tracks += sequence_tracks(sequence, min_area, left_out)
    return TrackSet(f"davis{year}-{split}", tuple(tracks), left_out)


def sequence_tracks(sequence: Video, min_area: float, left_out: Counter[str]) -> list[Track]:
    """A sequence's objects as training tracks, see `davis_tracks`; frames without any object are counted in `left_out`."""
    pairs = list(zip(sequence.frame_paths, sequence.mask_paths, strict=True))
    shown = [(image, mask) for image, mask in pairs if not _is_empty(mask)]
    if len(shown) < len(pairs):
        left_out["frame without object"] += len(pairs) - len(shown)
    tracks = []
    for object_id in [0] if sequence.merge_ids else _ids(sequence.mask_paths[0]):
        name = f"{sequence.name}/{object_id}" if object_id else sequence.name
        frames = (TrackFrame(image, at_least(PngMask(mask, object_id), min_area)) for image, mask in shown)
        tracks.append(Track(name, tuple(frames)))
    return tracks if shown else []


def davis_attributes(root: Path) -> dict[str, list[str]] | None:
    """The attributes of each sequence, such as OCC and FM, as DAVIS-2016 labels them; None without its ``db_info.yml``.

    Args:
        root: the DAVIS folder; the file lies in it or in its ``Annotations``.

    Raises:
        InputError: the file is there but does not list sequences with their attributes.
    """
    places = (root / "Annotations" / "db_info.yml", root / "db_info.yml")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    try:
        listed_sequences = yaml.safe_load(path.read_text())["sequences"]
        return {str(each["name"]): [str(name) for name in each["attributes"]] for each in listed_sequences}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} lists no sequences with attributes; copy the db_info.yml of DAVIS-2016 again") from error


def read_list(path: Path) -> list[str]:
    """Sequences of a list of names, or of pairs ``/JPEGImages/480p/SEQ/00000.jpg /Annotations/480p/SEQ/00000.png``.

    Raises:
        InputError: it cannot be read, or lists none.
    """
    try:
        entries = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list of sequences {path}: {error}") from error
    names = list(dict.fromkeys(Path(entry).parent.name if "/" in entry else entry for entry in entries))
    if not names:
        raise InputError(f"{path} lists no sequence; copy it again")
    return names


def _check_names(names: list[str], known: list[str], where: Path | str) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise InputError(f"there is no sequence '{name}' in {where}{hint}")


def _check_ids(path: Path, year: int) -> None:
    """The two editions have masks of the same names; 2016 has one object of value 255 (a set of one's own: 1), 2017 has ids."""
    values = set(np.unique(read_mask(path)).tolist())
    if year == 2017 and values <= {0, 255} and 255 in values:
        raise InputError(
            f"{path} is a DAVIS-2016 mask (values 0 and 255) where object ids of DAVIS-2017 are needed; "
            f"get DAVIS-2017 from {DAVIS_SITE.format(year=2017)}"
        )
    if year == 2016 and values & set(range(2, 255)):
        raise InputError(
            f"{path} has several objects, as in DAVIS-2017; together they are another mask than that of DAVIS-2016; "
            f"get DAVIS-2016 from {DAVIS_SITE.format(year=2016)}"
        )


def _ids(path: Path) -> list[int]:
    return [int(value) for value in np.unique(read_mask(path)) if 0 < value < 255]


def _is_empty(path: Path) -> bool:
    return path.stat().st_size <= _EMPTY_MASK_BYTES and not read_mask(path).any()
