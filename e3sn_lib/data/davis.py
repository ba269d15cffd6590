"""DAVIS 2016 and 2017 in the official layout: frames in ``JPEGImages/480p/SEQ``, masks in
``Annotations/480p/SEQ``, lists in ``ImageSets``."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from e3sn_lib.config import TrainSetConfig
from e3sn_lib.data.types import MANY_IDS, VOID, PngMask, Track, TrackFrame, TrackSet, Video
from e3sn_lib.errors import InputError, did_you_mean
from e3sn_lib.files import by_number, files_by_stem, read_mask, read_text
from e3sn_lib.profiles.loading import parse_yaml

DAVIS_SITE = "https://davischallenge.org/davis{year}/code.html"


def davis_list(root: Path, year: int, split: str) -> Path:
    """Return the file that lists a split, ``ImageSets/YEAR/SPLIT.txt`` (for 2016 also
    ``ImageSets/480p/SPLIT.txt``), or where it belongs if there is none."""
    folders = [str(year), "480p"] if year == 2016 else [str(year)]
    paths = [root / "ImageSets" / folder / f"{split}.txt" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def davis_sequences(root: Path, year: int, split: str, names: Iterable[str] = ()) -> list[Video]:
    """Return the sequences of a split, in the order of its list.

    Raises InputError if there is no such list or name, if frames or masks are absent or do not
    match, or if masks are 0/255 where ids are needed.

    Args:
        year: 2016 has one object, so ids are merged; 2017 has palette ids, which are read from
            ``Annotations_2017`` if that exists.
        names: return only these sequences; the list may then be absent.
    """
    names, path = list(names), davis_list(root, year, split)
    if path.is_file():
        known = read_list(path)
        _check_names(names, known, path)
        names = [name for name in known if name in names or not names]
    elif not names:
        raise InputError(f"{root} has no list {path.relative_to(root)}; {_remedy(year)}")
    mask_root = root / "Annotations_2017" / "480p"
    if year != 2017 or not mask_root.is_dir():
        mask_root = root / "Annotations" / "480p"
    return [_video(root / "JPEGImages" / "480p" / name, mask_root / name, year) for name in names]


def _video(frame_folder: Path, mask_folder: Path, year: int) -> Video:
    """Return one sequence, whose frames and masks must match."""
    frames, masks = files_by_stem(frame_folder), files_by_stem(mask_folder, (".png",))
    name = frame_folder.name
    for what, files, folder in (("frames", frames, frame_folder), ("masks", masks, mask_folder)):
        if not files:
            raise InputError(f"no {what} of {name} in {folder.parent}; {_remedy(year)}")
    if lone := sorted(frames.keys() ^ masks.keys()):
        is_frame = lone[0] in frames
        path = mask_folder / f"{lone[0]}.png" if is_frame else frame_folder / f"{lone[0]}.jpg"
        counts = f"{len(frames)} frames, {len(masks)} masks"
        raise InputError(f"sequence {name}: {counts}; {path} is missing, copy it again")
    frame_paths = tuple(sorted(frames.values(), key=by_number))
    mask_paths = tuple(sorted(masks.values(), key=by_number))
    _check_ids(mask_paths[0], year)
    return Video(name, frame_paths, mask_paths, merge_ids=year == 2016)


def davis_tracks(root: Path, config: TrainSetConfig) -> TrackSet:
    """Return a split as training tracks: one for each sequence (2016) or object (2017).

    An object of 2017 is an id of its sequence's first mask. Boxes are taken from the masks later.
    Frames with an empty mask are left out, and so are the sequences of ``hold_out``. If a frame
    shows only other objects, or fewer than ``min_area`` pixels, its mask is read as empty. Raises
    InputError as `davis_sequences`, or if ``hold_out`` names no sequence of the split.
    """
    year, split, held_out = config.year, config.split, config.hold_out
    videos = davis_sequences(root, year, split)
    _check_names(held_out, [video.name for video in videos], f"DAVIS-{year} {split}")
    kept = [video for video in videos if video.name not in held_out]
    tracks = video_tracks(f"davis{year}-{split}", kept, config.min_area)
    if held_out:
        tracks.left_out["sequence held out"] = len(videos) - len(kept)
    return tracks


def video_tracks(name: str, videos: Iterable[Video], min_area: float) -> TrackSet:
    """Return the objects of videos as training tracks, see `davis_tracks`; `min_area` in pixels."""
    left_out: Counter[str] = Counter()
    tracks = []
    for video in videos:
        first = video.mask(0)
        largest_empty = 1100 + first.size // 1000  # bytes; PNG packs zeros a thousandfold
        shown = [
            (image, mask)
            for image, mask in zip(video.frame_paths, video.mask_paths, strict=True)
            if (mask.is_file() and mask.stat().st_size > largest_empty) or read_mask(mask).any()
        ]
        if empty := len(video) - len(shown):
            left_out["frame without object"] += empty
        ids = [0]
        if not video.merge_ids:
            ids = [each for each in np.unique(first).tolist() if 0 < each < VOID]
        if not ids:
            left_out["video without object in its first mask"] += 1
        for object_id in ids if shown else []:
            frames = tuple(
                TrackFrame(image, PngMask(mask, object_id), min_area=min_area)
                for image, mask in shown
            )
            label = f"{video.name}/{object_id}" if object_id else video.name
            tracks.append(Track(label, frames))
    return TrackSet(name, tuple(tracks), left_out=left_out)


def davis_attributes(root: Path) -> dict[str, list[str]]:
    """Return the attributes of each sequence, such as OCC and FM, as DAVIS-2016 labels them.

    They are in ``db_info.yml``, in the DAVIS folder or in its ``Annotations``. Raises InputError if
    there is no such file, or it does not list sequences with their attributes.
    """
    places = [folder / "db_info.yml" for folder in (root / "Annotations", root)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        place = root / "Annotations"
        raise InputError(f"the attributes need db_info.yml of the DAVIS-2016 tool kit in {place}")
    try:
        sequences = parse_yaml(read_text(path), str(path))["sequences"]
        attributes = {each["name"]: list(each["attributes"]) for each in sequences}
        if not all(isinstance(word, str) for word in sum(attributes.values(), [*attributes])):
            raise TypeError("names are words")
        return attributes
    except (KeyError, TypeError) as error:
        advice = "copy the db_info.yml of DAVIS-2016 again"
        raise InputError(f"{path} lists no sequences with attributes; {advice}") from error


def read_list(path: Path) -> list[str]:
    """Return the sequences that a text file lists, each once; raises InputError if it cannot be
    read, or lists none.

    A line is a name, or a pair of paths: ``/JPEGImages/480p/SEQ/00000.jpg
    /Annotations/480p/SEQ/00000.png``.
    """
    lines = map(str.strip, read_text(path, "the list of sequences").splitlines())
    names = [Path(line.split()[0]).parent.name if "/" in line else line for line in lines if line]
    if not names:
        raise InputError(f"{path} lists no sequence; copy it again")
    if unknown := [name for name in names if name in ("", ".", "..")]:
        raise InputError(f"{path} lists '{unknown[0]}', which is no sequence; copy it again")
    return list(dict.fromkeys(names))


def _check_names(names: Iterable[str], known: list[str], where: Path | str) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"there is no sequence '{name}' in {where}{did_you_mean(name, known)}")


def _check_ids(path: Path, year: int) -> None:
    """Refuse masks of the other year, which have the same names.

    Masks of 2016 show one object of value 255 (or 1 in a set of the user), those of 2017 ids.
    """
    values = set(np.unique(read_mask(path)).tolist())
    if year == 2017 and values <= {0, 255} and 255 in values:
        what = "is a DAVIS-2016 mask (values 0 and 255) where object ids of DAVIS-2017 are needed"
    elif year == 2017 and len(values - {0, VOID}) > MANY_IDS:
        what = f"has {len(values)} values, as soft edges give, where object ids are needed"
    elif year == 2016 and values & set(range(2, 255)):
        what = "has several objects, as in DAVIS-2017; DAVIS-2016 has other masks of one object"
    else:
        return
    raise InputError(f"{path} {what}; {_remedy(year)}")


def _remedy(year: int) -> str:
    return f"get DAVIS-{year} from {DAVIS_SITE.format(year=year)}"
