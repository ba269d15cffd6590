"""No frame of a DAVIS val sequence may be trained on, under whatever name and in whatever size it comes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.sources import open_evaluation, open_train_sets
from e3sn_lib.profiles.loading import load_profile

CLOSE = 6
"""Bits of 64 in which the hashes of two copies of one picture differ at most; two different pictures differ in some 32."""


def difference_hash(path: Path) -> NDArray[np.uint8] | None:
    """Return 64 bits, (8,) uint8: whether the picture, shrunk to 9 x 8 grey pixels, grows brighter to the right (dHash)."""
    grey = cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    if grey is None:
        return None
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return np.packbits(small[:, 1:] > small[:, :-1])


def closest(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> int:
    """Return in how many bits the closest of `others` (N, 8) differs."""
    return int(np.unpackbits(one ^ others, axis=1).sum(axis=1).min())


def test_a_copy_is_found_in_another_size_and_quality(davis_2016: Path, tmp_path: Path) -> None:
    frames = sorted((davis_2016 / "JPEGImages" / "480p" / "camel").glob("*.jpg"))
    image = cv2.imread(str(frames[40]))
    cv2.imwrite(
        str(tmp_path / "copy.jpg"), cv2.resize(image, (400, 225)), [cv2.IMWRITE_JPEG_QUALITY, 60]
    )
    copy, frame = difference_hash(tmp_path / "copy.jpg"), difference_hash(frames[40])
    assert copy is not None
    assert frame is not None
    assert closest(copy, frame[None]) <= CLOSE
    other = difference_hash(next((davis_2016 / "JPEGImages" / "480p" / "bear").glob("*.jpg")))
    assert other is not None
    assert closest(copy, other[None]) > 2 * CLOSE


def test_no_training_image_of_the_long_profile_is_a_val_frame(davis_2016: Path) -> None:
    """Every tenth frame of each val sequence against every third still image and every tenth frame of the training videos."""
    data = load_profile("long", data_root=davis_2016.parent).data
    val = [
        path
        for sequence in open_evaluation(data, "davis2016")
        for path in sequence.frame_paths[::10]
    ]
    hashes = np.stack([found for path in val if (found := difference_hash(path)) is not None])
    assert len(hashes) == len(val) > 100
    sets = open_train_sets(data)
    sequences = {path.parent.name for path in val}
    names = set()
    paths: list[Path] = []
    for tracks, config in sets.opened:
        images = sorted({frame.image for track in tracks.tracks for frame in track.frames})
        names |= {path.parent.name for path in images} if config.kind == "davis" else set()
        paths += images[:: 10 if config.frame_range > 1 else 3]
    assert not sequences & names
    near = {
        path.name
        for path in paths
        if (found := difference_hash(path)) is not None and closest(found, hashes) <= CLOSE
    }
    assert not near, f"{sorted(near)} look like frames of DAVIS val"
