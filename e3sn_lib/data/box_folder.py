"""Videos with a box for each frame, as tracking sets pack them: GOT-10k, LaSOT, OTB, VOT."""

import fnmatch
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from e3sn_lib.data.index import indexed_tracks, track_of_boxes
from e3sn_lib.data.types import Findings, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import by_number, file_names, files_by_stem, read_text, walk
from e3sn_lib.geometry import Box

BOXES = "groundtruth*.txt"
"""Files of boxes: ``groundtruth.txt``, ``groundtruth_rect.txt``; numbered for several objects."""
FRAMES = ("img", "color")
"""Folders of the frames beside such a file; without images in them, the frames lie beside it."""


def box_folder_tracks(root: Path) -> TrackSet:
    """Return one track for each file of boxes below `root`, in whatever subfolder it lies.

    Line i of the file has the box of the i-th frame, by the numbers in the frames' names: left,
    top, width and height in pixels, or the four corners of a turned box. A turned box becomes an
    upright one of the same centre, area and proportions (as in SiamMask's code for VOT). A track
    with more frames than lines, or fewer, is left out: which frames the lines mean is not known.
    Raises InputError if there is no such file, or a line has neither four nor eight numbers.
    """
    files = sorted(box_files(root))
    if not files:
        raise InputError(f"{root}: no {BOXES} in any of its folders; unpack a tracking set there")
    sources = [source for file in files for source in (file, _frames_folder(file))]
    parse, unpack = partial(_parse, root, files), partial(track_of_boxes, root)
    return indexed_tracks(root.name, (root,), sources, parse, unpack)


def box_files(root: Path) -> Iterator[Path]:
    """Yield the files of boxes below a folder; links to folders are followed."""
    for folder, names in walk(root):
        yield from (folder / name for name in fnmatch.filter(names, BOXES))


def _frames_folder(file: Path) -> Path:
    folders = [file.parent / name for name in FRAMES]
    return next((folder for folder in folders if file_names(folder)), file.parent)


def _parse(root: Path, files: list[Path], findings: Findings) -> Iterator[Any]:
    """Yield the name of a track, the folder of its frames, and file names and boxes."""
    for file in files:
        folder, shown, name = _frames_folder(file), [], file.relative_to(root)
        text = read_text(file, "boxes").rstrip()
        lines = text.split("\n") if text else []
        images = [path.name for path in sorted(files_by_stem(folder).values(), key=by_number)]
        boxes = [_box(file, number, line) for number, line in enumerate(lines, 1)]
        if len(images) != len(boxes):
            fault = f"{name} with {len(boxes)} boxes for {len(images)} frames"
            findings.leave_out("track whose boxes belong to unknown frames", fault)
            continue
        for image, box in zip(images, boxes, strict=True):
            if box is None:
                findings.leave_out("box without area")
            else:
                shown.append((image, box))
        if shown:
            track = name.with_suffix("").as_posix()
            yield track, folder.relative_to(root).as_posix(), shown


def _box(file: Path, number: int, line: str) -> Box | None:
    """Return the box of one line as x1, y1, x2, y2; None if the object is not seen."""
    try:
        values = np.array([float(each) for each in re.split(r"[,\s]+", line.strip())])
    except ValueError:
        values = np.empty(0)
    if values.size not in (4, 8):
        what = f"line {number} has neither left, top, width, height nor four corners"
        raise InputError(f"{file}: {what}: '{line.strip()[:60]}'")
    if values.size == 8:
        values = _upright(values.reshape(4, 2))
    left, top, width, height = (float(each) for each in values)
    if not (np.isfinite(values).all() and width > 0 and height > 0):
        return None
    return left, top, left + width, top + height


def _upright(corners: np.ndarray) -> np.ndarray:
    """Return left, top, width, height of an upright box for (4, 2) corners of a turned one."""
    size = np.ptp(corners, axis=0)
    sides = np.linalg.norm(corners[[1, 2]] - corners[[0, 1]], axis=1)
    size = size * np.sqrt(sides.prod() / max(size.prod(), 1e-9))
    return np.concatenate([corners.mean(axis=0) - size / 2, size])
