"""DAVIS 2016 and 2017 in the official layout.

Frames are in ``JPEGImages/480p/SEQ``, masks in ``Annotations/480p/SEQ``, lists in ``ImageSets``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from e3sn_lib.data.reading import at_least, files_by_stem, listed
from e3sn_lib.data.types import PngMask, Track, TrackFrame, TrackSet, Video
from e3sn_lib.errors import InputError, did_you_mean
from e3sn_lib.files import read_mask, read_text

DAVIS_SITE = "https://davischallenge.org/davis{year}/code.html"

_EMPTY_MASK_BYTES = 1500
"""An 854x480 PNG without any object is no larger; a larger file shows one and is not read."""


def davis_list(root: Path, year: int, split: str) -> Path | None:
    """Return the file that lists a split, or None if there is none.

    It is ``ImageSets/YEAR/SPLIT.txt``, for 2016 also ``ImageSets/480p/SPLIT.txt``.

    Raises:
        InputError: DAVIS has no such year.
    """
    if year not in (2016, 2017):
        raise InputError(f"there is no DAVIS-{year}; the year can be 2016 or 2017")
    folders = (str(year), "480p") if year == 2016 else (str(year),)
    paths = (root / "ImageSets" / folder / f"{split}.txt" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def davis_sequences(root: Path, year: int, split: str, names: Iterable[str] = ()) -> list[Video]:
    """Return the sequences of a split, in the order of its list.

    Args:
        root: the folder that holds ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        year: 2016 has one object, so ids are merged; 2017 has palette ids, which are read from
            ``Annotations_2017`` if that exists.
        split: ``train``, ``val``, ...
        names: only these; with names the list itself may be absent.

    Raises:
        InputError: there is no such list or name, frames or masks are absent or do not match, or
            masks are 0/255 where ids are needed.
    """
    names = list(names)
    path, source = davis_list(root, year, split), DAVIS_SITE.format(year=year)
    if path is not None:
        known = read_list(path)
        _check_names(names, known, path)
        names = [name for name in known if name in names or not names]
    elif not names:
        wanted = f"ImageSets/{year}/{split}.txt"
        raise InputError(f"{root} has no list {wanted}; get DAVIS-{year} from {source}")

    frame_root, mask_root = root / "JPEGImages" / "480p", root / "Annotations" / "480p"
    if year == 2017 and (root / "Annotations_2017" / "480p").is_dir():
        mask_root = root / "Annotations_2017" / "480p"
    frames = {name: files_by_stem(frame_root / name) for name in names}
    masks = {name: files_by_stem(mask_root / name, (".png",)) for name in names}
    for what, found, folder in (("frames", frames, frame_root), ("masks", masks, mask_root)):
        if absent := [name for name in names if not found[name]]:
            where = f"{listed(absent)} in {folder}"
            raise InputError(f"no {what} of {where}; get DAVIS-{year} from {source}")

    videos = []
    for name in names:
        for stem in sorted(frames[name].keys() ^ masks[name].keys()):
            has_frame = stem in frames[name]
            path = (
                mask_root / name / f"{stem}.png" if has_frame else frame_root / name / f"{stem}.jpg"
            )
            counts = f"{len(frames[name])} frames, {len(masks[name])} masks"
            raise InputError(f"sequence {name}: {counts}; {path} is missing, copy it again")
        paths = tuple(frames[name].values()), tuple(masks[name].values())
        videos.append(Video(name, *paths, merge_ids=year == 2016))
        _check_ids(paths[1][0], year)
    return videos


def davis_tracks(
    root: Path, year: int, split: str, hold_out: Iterable[str] = (), min_area: float = 0.0
) -> TrackSet:
    """Return a split as training tracks: one for each sequence (2016) or object (2017).

    An object of 2017 is an id of its sequence's first mask. Boxes are taken from the masks later.
    Frames whose mask is empty are left out. A frame that shows other objects only, or fewer than
    `min_area` pixels, has a mask that reads as empty.

    Args:
        root: as for `davis_sequences`.
        year: 2016 or 2017.
        split: ``train``, ``val``, ...
        hold_out: sequences of the split that are left out.
        min_area: in pixels; smaller masks read as empty.

    Raises:
        InputError: as `davis_sequences`, or `hold_out` names no sequence of the split.
    """
    videos, held_out = davis_sequences(root, year, split), list(hold_out)
    _check_names(held_out, [video.name for video in videos], f"DAVIS-{year} {split}")
    left_out: Counter[str] = Counter()
    tracks: list[Track] = []
    for video in videos:
        if video.name in held_out:
            left_out["sequence held out"] += 1
        else:
            tracks += sequence_tracks(video, min_area, left_out)
    return TrackSet(f"davis{year}-{split}", tuple(tracks), left_out)


def sequence_tracks(video: Video, min_area: float, left_out: Counter[str]) -> list[Track]:
    """Return the objects of a sequence as training tracks, see `davis_tracks`.

    Frames without any object are counted in `left_out`.
    """
    pairs = list(zip(video.frame_paths, video.mask_paths, strict=True))
    shown = [(image, mask) for image, mask in pairs if not _is_empty(mask)]
    if len(shown) < len(pairs):
        left_out["frame without object"] += len(pairs) - len(shown)
    tracks = []
    for object_id in [0] if video.merge_ids else _ids(video.mask_paths[0]):
        name = f"{video.name}/{object_id}" if object_id else video.name
        masks = (at_least(PngMask(mask, object_id), min_area) for _, mask in shown)
        images = (image for image, _ in shown)
        tracks.append(Track(name, tuple(map(TrackFrame, images, masks))))
    return tracks if shown else []


def davis_attributes(root: Path) -> dict[str, list[str]] | None:
    """Return the attributes of each sequence, such as OCC and FM, as DAVIS-2016 labels them.

    Args:
        root: the DAVIS folder; ``db_info.yml`` lies in it or in its ``Annotations``. Without that
            file the result is None.

    Raises:
        InputError: the file is there but does not list sequences with their attributes.
    """
    places = (root / "Annotations" / "db_info.yml", root / "db_info.yml")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    try:
        sequences = yaml.safe_load(read_text(path))["sequences"]
        attributes = {each["name"]: list(each["attributes"]) for each in sequences}
        if not all(isinstance(word, str) for word in sum(attributes.values(), [*attributes])):
            raise TypeError("names are words")
        return attributes
    except (yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        advice = "copy the db_info.yml of DAVIS-2016 again"
        raise InputError(f"{path} lists no sequences with attributes; {advice}") from error


def read_list(path: Path) -> list[str]:
    """Return the sequences that a text file lists, each once.

    A line is a name, or a pair of paths: ``/JPEGImages/480p/SEQ/00000.jpg
    /Annotations/480p/SEQ/00000.png``.

    Raises:
        InputError: the file cannot be read, or lists none.
    """
    lines = read_text(path, "the list of sequences").splitlines()
    entries = [line.split()[0] for line in lines if line.strip()]
    names = [Path(entry).parent.name if "/" in entry else entry for entry in entries]
    if not names:
        raise InputError(f"{path} lists no sequence; copy it again")
    if unknown := [name for name in names if name in ("", ".", "..")]:
        raise InputError(f"{path} lists '{unknown[0]}', which is no sequence; copy it again")
    return list(dict.fromkeys(names))


def _check_names(names: list[str], known: list[str], where: Path | str) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"there is no sequence '{name}' in {where}{did_you_mean(name, known)}")


def _check_ids(path: Path, year: int) -> None:
    """Refuse masks of the other year, which have the same names.

    Those of 2016 show one object of value 255 (in a set of one's own: 1), those of 2017 ids.
    """
    values = set(np.unique(read_mask(path)).tolist())
    if year == 2017 and values <= {0, 255} and 255 in values:
        what = "is a DAVIS-2016 mask (values 0 and 255) where object ids of DAVIS-2017 are needed"
    elif year == 2016 and values & set(range(2, 255)):
        what = "has several objects, as in DAVIS-2017; DAVIS-2016 has other masks of one object"
    else:
        return
    raise InputError(f"{path} {what}; get DAVIS-{year} from {DAVIS_SITE.format(year=year)}")


def _ids(path: Path) -> list[int]:
    return [int(value) for value in np.unique(read_mask(path)) if 0 < value < 255]


def _is_empty(path: Path) -> bool:
    return path.stat().st_size <= _EMPTY_MASK_BYTES and not read_mask(path).any()
