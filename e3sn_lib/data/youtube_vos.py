"""YouTube-VOS in the official layout: ``meta.json``, ``JPEGImages/VIDEO`` and ``Annotations/VIDEO`` with palette ids."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from e3sn_lib.data.reading import at_least, files_by_stem, read_json
from e3sn_lib.data.types import PngMask, Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError


def youtube_vos_tracks(root: Path, split: str = "train", min_area: float = 0.0) -> TrackSet:
    """One track for each object of each video, with the frames that ``meta.json`` gives it: every fifth, those that have masks.

    Boxes are left to be taken from the masks.

    Args:
        root: the folder that holds ``train``.
        split: a folder of `root`.
        min_area: in pixels; smaller masks read as empty.

    Raises:
        InputError: ``meta.json`` cannot be read or lacks a key, or none of its frames is on the disk.
    """
    folder = root / split
    meta = folder / "meta.json"
    left_out: Counter[str] = Counter()
    tracks = []
    try:
        for video, description in sorted(read_json(meta)["videos"].items()):
            images = files_by_stem(folder / "JPEGImages" / video)
            masks = files_by_stem(folder / "Annotations" / video, (".png",))
            if not images or not masks:
                left_out["video not on disk"] += 1
                continue
            for object_id, thing in description["objects"].items():
                there = [stem for stem in thing["frames"] if stem in images and stem in masks]
                if len(there) < len(thing["frames"]):
                    left_out["frame or mask not on disk"] += len(thing["frames"]) - len(there)
                if not there:
                    left_out["object without frames"] += 1
                    continue
                frames = (TrackFrame(images[stem], at_least(PngMask(masks[stem], int(object_id)), min_area)) for stem in there)
                tracks.append(Track(f"{video}/{object_id}", tuple(frames)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{meta} is no YouTube-VOS meta.json: {type(error).__name__} {error}") from error
    if not tracks:
        raise InputError(f"no frame of {meta} is in {folder / 'JPEGImages'} and {folder / 'Annotations'}; unpack them there")
    return TrackSet(f"youtube_vos-{split}", tuple(tracks), left_out)
