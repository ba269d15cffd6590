"""ImageNet-VID in the official layout: XML boxes in ``Annotations/VID/SPLIT``, frames in ``Data/VID/SPLIT``; no masks."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

from e3sn_lib.data.reading import files_by_stem
from e3sn_lib.data.types import Box, Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError


def imagenet_vid_tracks(root: Path, split: str = "train") -> TrackSet:
    """One track for each ``trackid`` of each snippet, with the frames that show it; boxes, no masks.

    Args:
        root: the folder that holds ``Annotations`` and ``Data`` (``ILSVRC2015``).
        split: ``train`` (four folders of snippets) or ``val`` (snippets).

    Raises:
        InputError: there are no annotations, an XML file is damaged, or none of the frames is on the disk.
    """
    annotations = root / "Annotations" / "VID" / split
    left_out: Counter[str] = Counter()
    tracks = []
    for folder, subfolders, _ in os.walk(annotations):
        subfolders.sort()
        tracks += _snippet_tracks(Path(folder), annotations, root / "Data" / "VID" / split, left_out)
    if not tracks:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no XML files"
        raise InputError(f"no object of {annotations} can be used ({reasons}); frames belong in {root / 'Data' / 'VID' / split}")
    return TrackSet(f"imagenet_vid-{split}", tuple(tracks), left_out)


def _snippet_tracks(snippet: Path, annotations: Path, data: Path, left_out: Counter[str]) -> list[Track]:
    images = files_by_stem(data / snippet.relative_to(annotations))
    frames: dict[str, list[TrackFrame]] = defaultdict(list)
    for stem, path in files_by_stem(snippet, (".xml",)).items():
        if stem not in images:
            left_out["frame not on disk"] += 1
            continue
        boxes = _boxes(path)
        if not boxes:
            left_out["frame without object"] += 1
        for track_id, box in boxes:
            if box[0] < box[2] and box[1] < box[3]:
                frames[track_id].append(TrackFrame(images[stem], None, box))
            else:
                left_out["box without area"] += 1
    name = snippet.relative_to(annotations).as_posix()
    return [Track(f"{name}/{track_id}", tuple(frames[track_id])) for track_id in sorted(frames)]


def _boxes(path: Path) -> list[tuple[str, Box]]:
    """Track ids and boxes of one file. Its corners are pixels that belong to the object (the official development kit's rule)."""
    try:
        boxes = []
        for thing in ElementTree.parse(path).iterfind("object"):
            x1, y1, x2, y2 = (float(thing.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((thing.findtext("trackid", ""), (x1, y1, x2 + 1, y2 + 1)))
        return boxes
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path} is damaged or no ImageNet-VID annotation ({error}); copy it again") from error
