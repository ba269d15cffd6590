"""Still images in one folder, their masks in another: ECSSD, DUTS-TR, Penn-Fudan, your own."""

from collections import Counter
from pathlib import Path

import numpy as np

from e3sn_lib.config import TrainSetConfig
from e3sn_lib.data.types import MANY_IDS, VOID, PngMask, Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import JPEG, files_by_stem, read_bytes, read_mask


def image_and_mask_folder(root: Path, config: TrainSetConfig) -> tuple[Path, Path]:
    """Return the folders of images and masks that `config` names, if `root` is its first path.

    Below its other paths, or if one of the two does not exist, they are ``images`` and ``masks``.
    """
    named, plain = (root / config.images, root / config.masks), (root / "images", root / "masks")
    is_first = root.name == Path(config.path[0]).name
    return named if is_first or all(each.is_dir() for each in named) else plain


def mask_folder_tracks(root: Path, config: TrainSetConfig) -> TrackSet:
    """Return one track of one frame for each image with a mask, or for each id of a mask of ids.
    `TrainSetConfig` explains the settings; masks below ``min_area`` are read as empty. Raises
    InputError if not one image has a mask, or a mask of ids cannot be read."""
    folders = image_and_mask_folder(root, config)
    images, found = map(files_by_stem, folders)
    end = config.mask_suffix
    masks = {stem.removesuffix(end): path for stem, path in found.items() if stem.endswith(end)}
    if not images.keys() & masks.keys():
        which = f"{root}: none of {len(images)} images"
        raise InputError(f"{which} has a mask of the same name among {len(found)} masks")
    left_out = Counter(["image without mask"] * len(images.keys() - masks.keys()))
    left_out.update(["mask without image"] * len(masks.keys() - images.keys()))
    below = sum(path.is_dir() for folder in folders for path in folder.iterdir())
    left_out.update(["folder inside images or masks"] * below)
    tracks = [
        Track(name, (TrackFrame(image, source, min_area=config.min_area),))
        for stem, image in images.items()
        if stem in masks
        for name, source in _objects(stem, masks[stem], config.mask_kind)
    ]
    return TrackSet(root.name, tuple(tracks), left_out=left_out)


def _objects(stem: str, mask: Path, kind: str) -> list[tuple[str, PngMask]]:
    """Return name and mask of each object in one mask file; 255 is void beside other ids."""
    if kind == "ids":
        values = [int(value) for value in np.unique(read_mask(mask)) if value > 0]
        ids = [value for value in values if value < VOID] or values
        fault = ""
        if read_bytes(mask, "mask").startswith(JPEG):
            fault = "is a JPEG, whose noise changes object numbers"
        elif len(ids) > MANY_IDS:
            fault = f"has {len(ids)} values, as soft edges give; at most {MANY_IDS} are read"
        if fault:
            raise InputError(f"mask {mask} {fault}; save a PNG of object numbers")
        return [(f"{stem}/{value}", PngMask(mask, value)) for value in ids]
    return [(stem, PngMask(mask, kind=kind))]
