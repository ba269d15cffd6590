"""YouTube-VOS in the official layout: ``meta.json``, frames in ``JPEGImages/VIDEO``, palette masks
in ``Annotations/VIDEO``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from e3sn_lib.data.index import indexed_tracks
from e3sn_lib.data.types import VOID, Findings, PngMask, Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import files_by_stem, read_json


def youtube_vos_tracks(root: Path, split: str = "train", min_area: float = 0.0) -> TrackSet:
    """Return one track for each object of each video in the folder `split` of `root`.

    A track has the frames that ``meta.json`` gives the object: those with masks, every fifth.
    Boxes are taken from the masks later. Masks of fewer than `min_area` pixels read as empty.
    Raises InputError if ``meta.json`` cannot be read, lacks a key or names a video outside the
    folder.
    """
    folder = root / split
    sources = [folder / "meta.json"]
    for kind in ("JPEGImages", "Annotations"):
        sources += sorted((folder / kind).glob("*"))
    parse, unpack = partial(_parse, folder), partial(_track, folder, min_area)
    return indexed_tracks(f"youtube_vos-{split}", (folder,), sources, parse, unpack)


def _parse(folder: Path, findings: Findings) -> Iterator[Any]:
    meta = folder / "meta.json"
    try:
        for video, description in sorted(read_json(meta)["videos"].items()):
            if video in ("", ".", "..") or Path(video).name != video:
                raise InputError(f"{meta} has a video '{video}', which is no name of a folder")
            yield from _objects(folder, video, description["objects"], findings)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(f"{meta} is no YouTube-VOS meta.json: {reason}") from error


def _objects(folder: Path, video: str, objects: Any, findings: Findings) -> Iterator[Any]:
    """Yield video, id, and file names of frame and mask for each object of one video."""
    images = files_by_stem(folder / "JPEGImages" / video)
    masks = files_by_stem(folder / "Annotations" / video, (".png",))
    if not images or not masks:
        findings.leave_out("video not on disk", missing=video)
        return
    for object_id, thing in objects.items():
        if not 0 < int(object_id) < VOID:
            raise ValueError(f"object id {object_id!r}")
        files = []
        for stem in thing["frames"]:
            if stem in images and stem in masks:
                files.append((images[stem].name, masks[stem].name))
            else:
                findings.leave_out("frame or mask not on disk", missing=f"{video}/{stem}")
        if files:
            yield video, int(object_id), files
        else:
            findings.leave_out("object without frames")


def _track(folder: Path, min_area: float, record: Any) -> Track:
    video, object_id, files = record
    images, masks = folder / "JPEGImages" / video, folder / "Annotations" / video
    frames = (
        TrackFrame(images / image, PngMask(masks / mask, object_id), min_area=min_area)
        for image, mask in files
    )
    return Track(f"{video}/{object_id}", tuple(frames))
