"""The kinds of data sets: where each can be had, on what terms, what it needs, how it is opened."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e3sn_lib.config import TrainSetConfig
from e3sn_lib.data.box_folder import BOXES, box_files, box_folder_tracks
from e3sn_lib.data.coco import coco_tracks
from e3sn_lib.data.davis import DAVIS_SITE, davis_list, davis_tracks
from e3sn_lib.data.imagenet_vid import imagenet_vid_tracks
from e3sn_lib.data.mask_folder import image_and_mask_folder, mask_folder_tracks
from e3sn_lib.data.synthetic import MARKER, VERSION
from e3sn_lib.data.types import TrackSet
from e3sn_lib.data.youtube_vos import youtube_vos_tracks


@dataclass(frozen=True)
class Kind:
    """One kind of data set; ``{year}`` and ``{split}`` in its texts stand for the settings."""

    title: str
    origin: str
    terms: str
    needs: Callable[[Path, Any], Iterable[Path]]
    """Files and folders that must exist; if one does not, the set is absent."""
    tracks: Callable[[Path, TrainSetConfig], TrackSet]
    """Opens a folder for training."""
    has_masks: bool = True
    """False: its objects have boxes only, and no limit of size."""
    has_videos: bool = False
    """True: its sequences can be evaluated on."""


KINDS = {
    "davis": Kind(
        "DAVIS-{year} {split}",
        DAVIS_SITE,
        "CC BY-NC 4.0",
        lambda folder, config: [davis_list(folder, config.year, config.split)],
        davis_tracks,
        has_videos=True,
    ),
    "coco": Kind(
        "COCO",
        "https://cocodataset.org/#download (2017 images and annotations; "
        "for a subset see docs/data.md)",
        "annotations CC BY 4.0, images under their Flickr licences",
        lambda folder, config: [folder / config.annotations, folder / config.images],
        coco_tracks,
    ),
    "youtube_vos": Kind(
        "YouTube-VOS",
        "https://youtube-vos.org/dataset/vos (2018 training set)",
        "annotations CC BY 4.0, non-commercial research",
        lambda folder, config: [folder / config.split / "meta.json"],
        lambda folder, config: youtube_vos_tracks(folder, config.split, config.min_area),
    ),
    "imagenet_vid": Kind(
        "ImageNet-VID",
        "https://image-net.org/challenges/LSVRC/2015/2015-downloads.php (VID; needs an account)",
        "non-commercial research and education",
        lambda folder, config: [folder / "Annotations" / "VID" / config.split],
        lambda folder, config: imagenet_vid_tracks(folder, config.split),
        has_masks=False,
    ),
    "box_folder": Kind(
        "videos with boxes",
        "the site of the set (docs/data.md lists the sites)",
        "terms of each set, see docs/data.md",
        lambda folder, config: [next(box_files(folder), folder / "*" / BOXES)],
        lambda folder, config: box_folder_tracks(folder),
        has_masks=False,
    ),
    "mask_folder": Kind(
        "still images with masks",
        "the site of the set (docs/data.md lists the sites)",
        "terms of each set, see docs/data.md",
        image_and_mask_folder,
        mask_folder_tracks,
    ),
    "synthetic": Kind(
        "procedural clips",
        "it is made on the spot at first use",
        "made by this study, MIT",
        lambda folder, config: [folder / MARKER],
        # the version of the pictures is in the name of the set, and so in the names of runs
        lambda folder, config: replace(
            davis_tracks(folder, config), name=f"synthetic-v{VERSION}-{config.split}"
        ),
        has_videos=True,
    ),
}
