"""A plain folder of still images: ``images/`` and ``masks/``, joined by the name without suffix (ECSSD, DUTS, one's own)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.reading import at_least, files_by_stem
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask


@dataclass(frozen=True, slots=True)
class BinaryMask:
    """A mask in grey levels: above 127 is the object. A mask of 0 and 1 alone (one bit, or so written) counts by its 1."""

    path: Path

    def read(self) -> NDArray[np.bool_]:
        grey = read_mask(self.path)
        return grey > (127 if grey.max(initial=0) > 1 else 0)


def mask_folder_tracks(root: Path, min_area: float = 0.0) -> TrackSet:
    """One track of one frame for each image with a mask; boxes are left to be taken from the masks.

    Args:
        root: holds ``images`` and ``masks``.
        min_area: in pixels; smaller masks read as empty.

    Raises:
        InputError: not one image has a mask.
    """
    images, masks = files_by_stem(root / "images"), files_by_stem(root / "masks")
    counts = {"image without mask": len(images.keys() - masks.keys()), "mask without image": len(masks.keys() - images.keys())}
    tracks = tuple(
        Track(stem, (TrackFrame(image, at_least(BinaryMask(masks[stem]), min_area)),))
        for stem, image in images.items()
        if stem in masks
    )
    if not tracks:
        raise InputError(f"{root}: none of {len(images)} images has a mask of the same name among {len(masks)} masks")
    return TrackSet(root.name, tracks, Counter({reason: count for reason, count in counts.items() if count}))
