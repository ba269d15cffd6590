"""From a profile's data settings to open sets: where each is, what is absent, where that can be had."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from e3sn_lib.config import DataConfig, EvalSetConfig, TrainSetConfig
from e3sn_lib.data.coco import coco_tracks
from e3sn_lib.data.davis import DAVIS_SITE, davis_attributes, davis_list, davis_sequences, davis_tracks, sequence_tracks
from e3sn_lib.data.imagenet_vid import imagenet_vid_tracks
from e3sn_lib.data.index import NAMED
from e3sn_lib.data.mask_folder import image_and_mask_folder, mask_folder_tracks
from e3sn_lib.data.synthetic import MARKER, ensure_synthetic
from e3sn_lib.data.types import PngMask, Sequence, TrackFrame, TrackSet
from e3sn_lib.data.youtube_vos import youtube_vos_tracks
from e3sn_lib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MADE = "it is made on the spot at first use"
ORIGIN = {
    "davis": DAVIS_SITE,
    "coco": "https://cocodataset.org/#download (2017 images and annotations; for a subset see the README)",
    "youtube_vos": "https://youtube-vos.org/dataset/vos (2018 training set)",
    "imagenet_vid": "https://image-net.org/challenges/LSVRC/2015/2015-downloads.php (VID; needs an account)",
    "mask_folder": "any images with masks, such as ECSSD (https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html) "
    "or DUTS-TR (http://saliencydetection.net/duts)",
    "synthetic": MADE,
}
"""Where each kind of set can be had; its keys are the kinds there are."""

SAMPLE = 200
"""Frames of each set that `prepare` opens."""

SetConfig: TypeAlias = TrainSetConfig | EvalSetConfig


@dataclass(frozen=True)
class AbsentSet:
    """A set that is not there."""

    config: SetConfig
    folder: Path
    """Where it belongs."""
    lacking: Path
    """What was looked for and not found."""

    @property
    def notice(self) -> str:
        """One line: what is absent, where it can be had, where it belongs."""
        return f"{_label(self.config)} is absent: no {self.lacking}; {_remedy(self.config, self.folder)}"


@dataclass(frozen=True)
class TrainSets:
    """The training sets that are there, each with its settings, and those that are not."""

    opened: list[tuple[TrackSet, TrainSetConfig]] = field(default_factory=list)
    absent: list[AbsentSet] = field(default_factory=list)


def open_train_sets(data: DataConfig) -> TrainSets:
    """Open every training set that is there.

    Raises:
        InputError: no data root, no set at all, an unknown kind, a set that is there but broken or without a usable object.
    """
    sets = TrainSets()
    for config in data.train:
        place = _locate(data, config)
        if isinstance(place, AbsentSet):
            sets.absent.append(place)
        else:
            sets.opened.append((_open_tracks(place, config), config))
    if not sets.opened:
        raise InputError("no training data: " + ("; ".join(each.notice for each in sets.absent) or "data.train lists no set"))
    return sets


def open_evaluation(data: DataConfig, name: str) -> list[Sequence]:
    """The sequences of a benchmark of ``data.evaluation``.

    Raises:
        InputError: no data root, no benchmark of that name, or its data are absent or broken.
    """
    return _open_sequences(*_benchmark(data, name))


def open_held_out(data: DataConfig) -> list[Sequence]:
    """The sequences that are kept out of training (``hold_out``), with their masks.

    Raises:
        InputError: no set names any, or its data are absent or broken.
    """
    return [sequence for sequences, _ in _held_out(data) for sequence in sequences]


def open_held_out_tracks(data: DataConfig) -> list[tuple[TrackSet, TrainSetConfig]]:
    """The same sequences as the sets that training would draw pairs from; raises InputError as `open_held_out`."""
    found = []
    for sequences, config in _held_out(data):
        left_out: Counter[str] = Counter()
        tracks = [track for each in sequences for track in sequence_tracks(each, config.min_area, left_out)]
        found.append((TrackSet(f"{config.kind}{config.year}-{config.split} held out", tuple(tracks), left_out), config))
    return found


def open_held_out_stills(data: DataConfig) -> TrackSet:
    """Return the objects of the COCO images that are kept out of training (``hold_out_share``).

    Raises:
        InputError: no set keeps any, or its data are absent or broken.
    """
    for config in data.train:
        if config.hold_out_share:
            place = _locate(data, config)
            if isinstance(place, AbsentSet):
                raise InputError(place.notice)
            images, annotations = place / config.images, place / config.annotations
            return coco_tracks(images, annotations, config.min_area, config.hold_out_share, held_out=True)
    raise InputError("this profile holds out no still images; give hold_out_share to a coco set of data.train")


def _held_out(data: DataConfig) -> list[tuple[list[Sequence], TrainSetConfig]]:
    found = []
    for config in data.train:
        if config.hold_out and config.kind in ("davis", "synthetic"):
            place = _locate(data, config)
            if isinstance(place, AbsentSet):
                raise InputError(place.notice)
            found.append((davis_sequences(place, config.year, config.split, config.hold_out), config))
    if not found:
        raise InputError("this profile holds out no training sequences to choose on; name some in hold_out of a set of data.train")
    return found


def open_attributes(data: DataConfig, name: str) -> dict[str, list[str]]:
    """Attributes of each sequence of a benchmark, from the ``db_info.yml`` in its folder.

    Raises:
        InputError: as `open_evaluation`, or there is no such file.
    """
    folder, _ = _benchmark(data, name)
    attributes = davis_attributes(folder)
    if attributes is None:
        raise InputError(f"the attributes need db_info.yml of the DAVIS-2016 tool kit in {folder / 'Annotations'}")
    return attributes


def verify(data: DataConfig) -> pd.DataFrame:
    """What is there and what is not, one row for each set.

    Columns: ``use`` (train, evaluation), ``name``, ``kind``, ``path``, ``state``, ``tracks`` (objects), ``images``,
    ``with_masks`` (tracks), ``left_out`` (counts and reasons; for an absent or broken set what is wrong), ``remedy`` for those.
    A set's state is ok; partial (files that its annotations name are not there; it can be used without them); broken; or absent.
    No set is made: a procedural one that has not been made yet is absent. Indices of large sets are, as whenever one is opened.

    Raises:
        InputError: no data root, or an unknown kind.
    """
    return _table(data, make=False, sample=0)


def prepare(data: DataConfig, sample: int = SAMPLE) -> pd.DataFrame:
    """Make what can be made, and open `sample` frames of each set, evenly spread, with their masks; the table of `verify`.

    A further state is damaged: some of those frames cannot be used; ``left_out`` counts them and names the first.

    Raises:
        InputError: as `verify`, or the procedural set cannot be made.
    """
    return _table(data, make=True, sample=sample)


def _table(data: DataConfig, make: bool, sample: int) -> pd.DataFrame:
    import pandas as pd

    configs: list[SetConfig] = [*data.train, *data.evaluation]
    return pd.DataFrame([_verify_set(data, config, make, sample) for config in configs])


def _benchmark(data: DataConfig, name: str) -> tuple[Path, EvalSetConfig]:
    config = next((each for each in data.evaluation if each.name == name), None)
    if config is None:
        known = ", ".join(each.name for each in data.evaluation) or "none"
        raise InputError(f"there is no benchmark '{name}' in this profile's data.evaluation; there are: {known}")
    place = _locate(data, config)
    if isinstance(place, AbsentSet):
        raise InputError(place.notice)
    return place, config


def _verify_set(data: DataConfig, config: SetConfig, make: bool, sample: int) -> dict[str, str | int]:
    row: dict[str, str | int] = {
        "use": "train" if isinstance(config, TrainSetConfig) else "evaluation",
        "name": config.name if isinstance(config, EvalSetConfig) else config.kind,
        "kind": config.kind,
        "path": "",
        "state": "ok",
        "tracks": 0,
        "images": 0,
        "with_masks": 0,
        "left_out": "",
        "remedy": "",
    }
    place = _locate(data, config, make)
    if isinstance(place, AbsentSet):
        found = {"path": str(place.folder), "state": "absent", "left_out": f"no {place.lacking}"}
        return row | found | {"remedy": _remedy(config, place.folder)}
    row |= {"path": str(place), "remedy": _remedy(config, place)}
    counts: dict[str, str | int]
    try:
        if isinstance(config, TrainSetConfig):
            tracks = _open_tracks(place, config)
            images = {frame.image for track in tracks.tracks for frame in track.frames}
            with_masks = sum(track.frames[0].mask is not None for track in tracks.tracks)
            reasons = [f"{count} {reason}" for reason, count in tracks.left_out.items()]
            if tracks.missing:
                more = " and perhaps more" if len(tracks.missing) == NAMED else ""
                reasons.append(f"missing: {', '.join(tracks.missing)}{more}")
                row["state"] = "partial"
            counts = {"tracks": len(tracks.tracks), "images": len(images), "with_masks": with_masks}
            shown = [tracks.tracks[number].frames for number in _spread(len(tracks.tracks), sample)]
            chosen = [frames[len(frames) // 2] for frames in shown]
        else:
            sequences = _open_sequences(place, config)
            objects, reasons = sum(len(sequence.object_ids()) for sequence in sequences), []
            counts = {"tracks": objects, "images": sum(map(len, sequences)), "with_masks": objects}
            files = [pair for each in sequences for pair in zip(each.frame_paths, each.mask_paths, strict=True)]
            chosen = [TrackFrame(image, PngMask(mask)) for image, mask in (files[number] for number in _spread(len(files), sample))]
        if bad := _unusable(chosen):
            row["state"] = "damaged"
            reasons.append(f"{len(bad)} of {len(chosen)} frames that were opened cannot be used, the first: {bad[0]}")
        counts["left_out"] = "; ".join(reasons)
    except InputError as error:
        counts = {"state": "broken", "left_out": str(error)}
    return row | counts


def _spread(count: int, sample: int) -> list[int]:
    """Up to `sample` numbers below `count`, evenly spread."""
    return [int(number) for number in np.unique(np.linspace(0, count - 1, min(sample, count)).astype(int))]


def _unusable(frames: list[TrackFrame]) -> list[str]:
    """What is wrong with those frames that cannot be read."""
    problems = []
    for frame in frames:
        try:
            frame.read()
        except InputError as error:
            problems.append(str(error))
    return problems


def _locate(data: DataConfig, config: SetConfig, make: bool = True) -> Path | AbsentSet:
    """The first of a set's folders that holds it."""
    if config.kind not in ORIGIN or (isinstance(config, EvalSetConfig) and config.kind not in ("davis", "synthetic")):
        kinds = "davis, synthetic" if isinstance(config, EvalSetConfig) else ", ".join(ORIGIN)
        raise InputError(f"data: unknown kind of set '{config.kind}'; it can be {kinds}")
    if not config.path:
        raise InputError(f"data: the {config.kind} set has no path")
    if not data.root:
        raise InputError("no data folder: give one with --data DIR or in the environment variable E3SN_DATA")
    root = Path(data.root).expanduser()
    if config.kind == "synthetic" and make:
        return ensure_synthetic(root / config.path[0])
    if config.kind != "synthetic" and not root.is_dir():
        raise InputError(f"the data folder {root} does not exist; give another with --data DIR or E3SN_DATA")
    folders = [root / path for path in config.path]
    for folder in folders:
        if _lacking(folder, config) is None:
            return folder
    nearest = next((folder for folder in folders if folder.is_dir()), folders[0])
    return AbsentSet(config, nearest, _lacking(nearest, config) or nearest)


def _lacking(folder: Path, config: SetConfig) -> Path | None:
    """The first thing without which a folder does not hold a set; None if it holds it."""
    wanted: list[Path]
    if config.kind == "davis":
        listed = davis_list(folder, config.year, config.split)
        wanted = [listed or folder / "ImageSets" / str(config.year) / f"{config.split}.txt"]
    elif config.kind == "youtube_vos":
        wanted = [folder / config.split / "meta.json"]
    elif config.kind == "imagenet_vid":
        wanted = [folder / "Annotations" / "VID" / config.split]
    elif isinstance(config, TrainSetConfig) and config.kind == "mask_folder":
        wanted = [*image_and_mask_folder(folder, config)]
    elif isinstance(config, TrainSetConfig) and config.kind == "coco":
        wanted = [folder / config.annotations, folder / config.images]
    else:
        wanted = [folder / MARKER]
    return next((path for path in [folder, *wanted] if not path.exists()), None)


def _open_tracks(folder: Path, config: TrainSetConfig) -> TrackSet:
    if config.hold_out and config.kind not in ("davis", "synthetic"):
        raise InputError(f"{_label(config)}: hold_out names sequences of a DAVIS-like set; a {config.kind} set has none")
    if config.hold_out_share and config.kind != "coco":
        raise InputError(f"{_label(config)}: hold_out_share is for coco sets; it keeps a share of their images out of training")
    match config.kind:
        case "coco":
            tracks = coco_tracks(folder / config.images, folder / config.annotations, config.min_area, config.hold_out_share)
        case "youtube_vos":
            tracks = youtube_vos_tracks(folder, config.split, config.min_area)
        case "imagenet_vid":
            tracks = imagenet_vid_tracks(folder, config.split)
        case "mask_folder":
            tracks = mask_folder_tracks(folder, config)
        case kind:
            tracks = davis_tracks(folder, config.year, config.split, config.hold_out, config.min_area)
            if kind == "synthetic":
                tracks = dataclasses.replace(tracks, name=f"synthetic-{config.split}")
    if not tracks.tracks:
        reasons = ", ".join(f"{count} {reason}" for reason, count in tracks.left_out.items()) or "it is empty"
        raise InputError(f"{_label(config)} in {folder} has no usable object: {reasons}")
    return tracks


def _open_sequences(folder: Path, config: EvalSetConfig) -> list[Sequence]:
    return davis_sequences(folder, config.year, config.split, config.sequences)


def _label(config: SetConfig) -> str:
    if isinstance(config, EvalSetConfig):
        return f"benchmark {config.name}"
    return f"training set {config.kind} ({config.path[0]})"


def _remedy(config: SetConfig, folder: Path) -> str:
    if config.kind == "synthetic":
        return f"{MADE}, in {folder}"
    return f"get it from {ORIGIN[config.kind].format(year=config.year)} and put it in {folder}"
