"""ImageNet-VID in the official layout: frames in ``Data/VID/SPLIT``, boxes as XML in
``Annotations/VID/SPLIT``, no masks."""

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from e3sn_lib.data.index import indexed_tracks, track_of_boxes
from e3sn_lib.data.types import Findings, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import files_by_stem, read_bytes, walk
from e3sn_lib.geometry import Box


def imagenet_vid_tracks(root: Path, split: str = "train") -> TrackSet:
    """Return one track for each ``trackid`` of each snippet: the frames that show it, with boxes.

    Boxes marked as ``occluded`` or ``generated`` (interpolated) are used like the others, as in
    SiamMask's code. `root` holds ``Annotations`` and ``Data`` (``ILSVRC2015``). `split` is
    ``train``, four folders of snippets, or ``val``, a folder of snippets. Raises InputError if an
    XML file is damaged.
    """
    annotations, data = root / "Annotations" / "VID" / split, root / "Data" / "VID" / split
    parse, unpack = partial(_parse, annotations, data), partial(track_of_boxes, data)
    sources = _sources(annotations, data)
    return indexed_tracks(f"imagenet_vid-{split}", (annotations, data), sources, parse, unpack)


def _sources(annotations: Path, data: Path) -> Iterator[Path | str]:
    for folder, names in walk(annotations):
        yield data / folder.relative_to(annotations)
        yield from (f"{folder}/{name}" for name in names)


def _parse(annotations: Path, data: Path, findings: Findings) -> Iterator[Any]:
    """Yield snippet, track id, and file names and boxes of its frames."""
    for folder, _ in walk(annotations):
        snippet = folder.relative_to(annotations)
        images = files_by_stem(data / snippet)
        frames: dict[str, list[tuple[str, Box]]] = defaultdict(list)
        for stem, path in files_by_stem(folder, (".xml",)).items():
            if stem not in images:
                findings.leave_out("frame not on disk", missing=f"{path.parent.name}/{stem}.JPEG")
                continue
            boxes = _boxes(path)
            if not boxes:
                findings.leave_out("frame without object")
            for track_id, box in boxes:
                if box[0] < box[2] and box[1] < box[3] and all(map(isfinite, box)):
                    frames[track_id].append((images[stem].name, box))
                else:
                    findings.leave_out("box without area")
        for track_id, shown in sorted(frames.items()):
            yield f"{snippet.as_posix()}/{track_id}", snippet.as_posix(), shown


def _boxes(path: Path) -> list[tuple[str, Box]]:
    """Return track ids and boxes of one file; both corners of a box are pixels of the object, as in
    the official development kit."""
    try:
        boxes = []
        for thing in ElementTree.fromstring(read_bytes(path, "annotations")).iterfind("object"):
            x1, y1 = (float(thing.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin"))
            x2, y2 = (float(thing.findtext(f"bndbox/{key}", "")) for key in ("xmax", "ymax"))
            if not (track_id := thing.findtext("trackid")):
                raise ValueError("an object has no trackid")
            boxes.append((track_id, (x1, y1, x2 + 1, y2 + 1)))
        return boxes
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # LookupError: the encoding
        reason = f"damaged or no ImageNet-VID annotation ({error})"
        raise InputError(f"{path} is {reason}; copy it again") from error
