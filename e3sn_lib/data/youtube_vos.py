"""YouTube-VOS in the official layout: ``meta.json``, ``JPEGImages/VIDEO`` and ``Annotations/VIDEO`` with palette ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from e3sn_lib.data.index import Findings, indexed_tracks
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
    parse, unpack = partial(_parse, folder), partial(_track, folder, min_area)
    return indexed_tracks(f"youtube_vos-{split}", (folder,), _sources(folder), parse, unpack)


def _sources(folder: Path) -> Iterator[Path]:
    yield folder / "meta.json"
    for kind in ("JPEGImages", "Annotations"):
        videos = sorted(os.listdir(folder / kind)) if (folder / kind).is_dir() else []
        yield from (folder / kind / video for video in videos)


def _parse(folder: Path, findings: Findings) -> Iterator[Any]:
    meta = folder / "meta.json"
    left_out, missing, found = findings.left_out, findings.missing, False
    try:
        for video, description in sorted(read_json(meta)["videos"].items()):
            images = files_by_stem(folder / "JPEGImages" / video)
            masks = files_by_stem(folder / "Annotations" / video, (".png",))
            if not images or not masks:
                left_out["video not on disk"] += 1
                missing.append(video)
                continue
            for object_id, thing in description["objects"].items():
                there = [stem for stem in thing["frames"] if stem in images and stem in masks]
                if len(there) < len(thing["frames"]):
                    left_out["frame or mask not on disk"] += len(thing["frames"]) - len(there)
                    missing += (f"{video}/{stem}" for stem in thing["frames"] if stem not in images or stem not in masks)
                if not there:
                    left_out["object without frames"] += 1
                    continue
                found = True
                yield video, int(object_id), [(images[stem].name, masks[stem].name) for stem in there]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{meta} is no YouTube-VOS meta.json: {type(error).__name__} {error}") from error
    if not found:
        raise InputError(f"no frame of {meta} is in {folder / 'JPEGImages'} and {folder / 'Annotations'}; unpack them there")


def _track(folder: Path, min_area: float, record: Any) -> Track:
    video, object_id, files = record
    images, masks = folder / "JPEGImages" / video, folder / "Annotations" / video
    frames = (TrackFrame(images / image, at_least(PngMask(masks / mask, object_id), min_area)) for image, mask in files)
    return Track(f"{video}/{object_id}", tuple(frames))
