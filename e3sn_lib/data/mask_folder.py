"""Still images in one folder, their masks in another: ECSSD, DUTS-TR, Penn-Fudan, your own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.config import TrainSetConfig
from e3sn_lib.data.reading import at_least, files_by_stem
from e3sn_lib.data.types import MaskSource, PngMask, Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask

OBJECT, BACKGROUND, BORDER = 1, 2, 3
"""Values of a trimap (Oxford-IIIT Pet)."""


@dataclass(frozen=True, slots=True)
class BinaryMask:
    """A mask in grey levels: the object is above 127 or, in a mask of only 0 and 1, it is 1."""

    path: Path

    def read(self) -> NDArray[np.bool_]:
        """Return the object, (H, W) bool; raises InputError as `read_mask`."""
        grey = read_mask(self.path)
        return grey > (127 if grey.max(initial=0) > 1 else 0)


@dataclass(frozen=True, slots=True)
class TrimapMask:
    """A mask of object, background and a border between them.

    The outline runs inside the border, so a border pixel goes to whichever of the two is nearer.
    """

    path: Path

    def read(self) -> NDArray[np.bool_]:
        """Return the object, (H, W) bool; raises InputError as `read_mask`."""
        trimap = read_mask(self.path)
        inside, outside = ((trimap != value).astype(np.uint8) for value in (OBJECT, BACKGROUND))
        if inside.all() or outside.all():  # without one of the two there is no distance to it
            return trimap == OBJECT
        nearer = cv2.distanceTransform(inside, cv2.DIST_L2, 5) <= cv2.distanceTransform(
            outside, cv2.DIST_L2, 5
        )
        return (trimap == OBJECT) | ((trimap == BORDER) & nearer)


def image_and_mask_folder(root: Path, config: TrainSetConfig) -> tuple[Path, Path]:
    """Return the folders that `config` names or, if not both exist, ``images`` and ``masks``."""
    named, plain = (root / config.images, root / config.masks), (root / "images", root / "masks")
    return next((two for two in (named, plain) if two[0].is_dir() and two[1].is_dir()), named)


def mask_folder_tracks(root: Path, config: TrainSetConfig) -> TrackSet:
    """Return one track of one frame for each image with a mask, or for each id of a mask of ids.

    `config` has the names of the two folders below `root`, what joins a mask to its image, what a
    mask's values mean, and ``min_area`` in pixels; smaller masks read as empty.

    Raises:
        InputError: not one image has a mask, or a mask of ids cannot be read.
    """
    images, found = (files_by_stem(folder) for folder in image_and_mask_folder(root, config))
    suffix = config.mask_suffix
    masks = {
        stem.removesuffix(suffix): path for stem, path in found.items() if stem.endswith(suffix)
    }
    if not images.keys() & masks.keys():
        raise InputError(
            f"{root}: none of {len(images)} images has a mask of the same name among "
            f"{len(found)} masks"
        )
    left_out = Counter(["image without mask"] * len(images.keys() - masks.keys()))
    left_out.update(["mask without image"] * len(masks.keys() - images.keys()))
    tracks = [
        Track(name, (TrackFrame(image, at_least(source, config.min_area)),))
        for stem, image in images.items()
        if stem in masks
        for name, source in _objects(stem, masks[stem], config.mask_kind)
    ]
    return TrackSet(root.name, tuple(tracks), left_out)


def _objects(stem: str, mask: Path, kind: str) -> list[tuple[str, MaskSource]]:
    """Return name and mask of each object in one mask file."""
    if kind == "ids":
        ids = [int(value) for value in np.unique(read_mask(mask)) if value > 0]
        return [(f"{stem}/{value}", PngMask(mask, value)) for value in ids]
    return [(stem, TrimapMask(mask) if kind == "trimap" else BinaryMask(mask))]
