"""From a profile's data settings to open sets: where each is, what is missing, where to get it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from e3sn_lib.config import DataConfig, EvalSetConfig, TrainSetConfig
from e3sn_lib.data.coco import coco_tracks
from e3sn_lib.data.davis import davis_attributes, davis_sequences, sequence_tracks
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.data.synthetic import ensure_synthetic
from e3sn_lib.data.types import PngMask, TrackFrame, TrackSet, Video
from e3sn_lib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

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
        """Say in one line what is absent, where it can be had and where it belongs."""
        remedy = _remedy(self.config, self.folder)
        return f"{_label(self.config)} is absent: no {self.lacking}; {remedy}"


@dataclass(frozen=True)
class TrainSets:
    """The training sets that are there, each with its settings, and those that are not."""

    opened: list[tuple[TrackSet, TrainSetConfig]] = field(default_factory=list)
    absent: list[AbsentSet] = field(default_factory=list)


def open_train_sets(data: DataConfig) -> TrainSets:
    """Open every training set that is there.

    Raises:
        InputError: no data root, no set at all, or a set that is there but cannot be opened or has
            no usable object.
    """
    sets = TrainSets()
    for config in data.train:
        place = _locate(data, config)
        if isinstance(place, AbsentSet):
            sets.absent.append(place)
        else:
            sets.opened.append((_open_tracks(place, config), config))
    if not sets.opened:
        reasons = "; ".join(each.notice for each in sets.absent) or "data.train lists no set"
        raise InputError(f"no training data: {reasons}")
    return sets


def open_evaluation(data: DataConfig, name: str) -> list[Video]:
    """Return the videos of a benchmark of ``data.evaluation``.

    Raises:
        InputError: no data root, no benchmark of that name, or its data are absent or damaged.
    """
    return _open_videos(*_benchmark(data, name))


def open_held_out(data: DataConfig) -> list[Video]:
    """Return the videos that are kept out of training (``hold_out``), with their masks.

    Raises:
        InputError: no set names any, or its data are absent or damaged.
    """
    return [video for videos, _ in _held_out(data) for video in videos]


def open_held_out_tracks(data: DataConfig) -> list[tuple[TrackSet, TrainSetConfig]]:
    """Return the same videos as training sets; raises InputError as `open_held_out`."""
    found = []
    for videos, config in _held_out(data):
        left_out: Counter[str] = Counter()
        tracks = [
            track for each in videos for track in sequence_tracks(each, config.min_area, left_out)
        ]
        name = f"{config.kind}{config.year}-{config.split} held out"
        found.append((TrackSet(name, tuple(tracks), left_out), config))
    return found


def open_held_out_stills(data: DataConfig) -> TrackSet:
    """Return the objects of the COCO images that are kept out of training (``hold_out_share``).

    Raises:
        InputError: no set keeps any, or its data are absent or damaged.
    """
    for config in data.train:
        if config.hold_out_share:
            folder = _present(data, config)
            files = folder / config.images, folder / config.annotations
            return coco_tracks(*files, config.min_area, config.hold_out_share, held_out=True)
    advice = "give hold_out_share to a coco set of data.train"
    raise InputError(f"this profile holds out no still images; {advice}")


def open_attributes(data: DataConfig, name: str) -> dict[str, list[str]]:
    """Return the attributes of each sequence of a benchmark, from ``db_info.yml`` in its folder.

    Raises:
        InputError: as `open_evaluation`, or there is no such file.
    """
    folder, _ = _benchmark(data, name)
    attributes = davis_attributes(folder)
    if attributes is None:
        place = folder / "Annotations"
        raise InputError(f"the attributes need db_info.yml of the DAVIS-2016 tool kit in {place}")
    return attributes


def verify(data: DataConfig) -> pd.DataFrame:
    """Look what is there, without making anything but indices of large sets; one row per set.

    Columns: ``use`` (train, evaluation), ``name``, ``kind``, ``path``, ``state``, ``tracks``
    (objects that can be used), ``images``, ``with_masks`` (tracks), ``left_out`` (how many of what
    and why, or what is missing or damaged), ``remedy`` (where to get the set).

    State is *present*: it is all there; *partial*: some files are missing or damaged, and if there
    are no tracks it cannot be used at all; *absent*: it is not there.

    Raises:
        InputError: no data root.
    """
    return _table(data, make=False, sample=0)


def prepare(data: DataConfig, sample: int = SAMPLE) -> pd.DataFrame:
    """Make what can be made, then open frames and masks of each set; the table of `verify`.

    Args:
        data: the settings.
        sample: frames of each set that are opened, evenly spread. A set with one that cannot be
            used is partial; ``left_out`` counts them and names the first.

    Raises:
        InputError: as `verify`, or the procedural set cannot be made.
    """
    return _table(data, make=True, sample=sample)


def _table(data: DataConfig, make: bool, sample: int) -> pd.DataFrame:
    import pandas as pd

    configs: list[SetConfig] = [*data.train, *data.evaluation]
    return pd.DataFrame([_row(data, config, make, sample) for config in configs])


def _row(data: DataConfig, config: SetConfig, make: bool, sample: int) -> dict[str, Any]:
    place = _locate(data, config, make)
    folder = place.folder if isinstance(place, AbsentSet) else place
    row = {
        "use": "train" if isinstance(config, TrainSetConfig) else "evaluation",
        "name": config.name if isinstance(config, EvalSetConfig) else config.kind,
        "kind": config.kind,
        "path": str(folder),
        "state": "absent",
        "tracks": 0,
        "images": 0,
        "with_masks": 0,
        "left_out": "",
        "remedy": _remedy(config, folder),
    }
    if isinstance(place, AbsentSet):
        return row | {"left_out": f"no {place.lacking}"}
    examine = _examine_tracks if isinstance(config, TrainSetConfig) else _examine_videos
    try:
        found, frames = examine(place, config, sample)
    except InputError as error:
        return row | {"state": "partial", "left_out": str(error)}
    if bad := _unusable(frames):
        counts = f"{len(bad)} of {len(frames)} frames that were opened cannot be used"
        reasons = [found["left_out"], f"{counts}, the first: {bad[0]}"]
        found |= {"state": "partial", "left_out": "; ".join(filter(None, reasons))}
    return row | found


def _examine_tracks(
    folder: Path, config: Any, sample: int
) -> tuple[dict[str, Any], list[TrackFrame]]:
    """Return what a row says of a training set, and the frames to open."""
    tracks = _open_tracks(folder, config)
    found = {
        "state": "partial" if tracks.missing or tracks.faults else "present",
        "tracks": len(tracks.tracks),
        "images": len({frame.image for track in tracks.tracks for frame in track.frames}),
        "with_masks": sum(track.frames[0].mask is not None for track in tracks.tracks),
        "left_out": tracks.reasons(),
    }
    shown = [tracks.tracks[number].frames for number in _spread(len(tracks.tracks), sample)]
    return found, [frames[len(frames) // 2] for frames in shown]


def _examine_videos(
    folder: Path, config: Any, sample: int
) -> tuple[dict[str, Any], list[TrackFrame]]:
    """Return what a row says of a benchmark, and the frames to open."""
    videos = _open_videos(folder, config)
    objects = sum(len(video.object_ids()) for video in videos)
    files = [
        pair for each in videos for pair in zip(each.frame_paths, each.mask_paths, strict=True)
    ]
    found = {"state": "present", "tracks": objects, "images": len(files), "with_masks": objects}
    chosen = [files[number] for number in _spread(len(files), sample)]
    frames = [TrackFrame(image, PngMask(mask)) for image, mask in chosen]
    return found | {"left_out": ""}, frames


def _spread(count: int, sample: int) -> list[int]:
    """Return up to `sample` numbers below `count`, evenly spread."""
    return [
        int(each) for each in np.unique(np.linspace(0, count - 1, min(sample, count)).astype(int))
    ]


def _unusable(frames: list[TrackFrame]) -> list[str]:
    """Return what is wrong with those frames that cannot be read."""
    problems = []
    for frame in frames:
        try:
            frame.read()
        except InputError as error:
            problems.append(str(error))
    return problems


def _benchmark(data: DataConfig, name: str) -> tuple[Path, EvalSetConfig]:
    config = next((each for each in data.evaluation if each.name == name), None)
    if config is None:
        known = ", ".join(each.name for each in data.evaluation) or "none"
        where = "this profile's data.evaluation"
        raise InputError(f"there is no benchmark '{name}' in {where}; there are: {known}")
    return _present(data, config), config


def _held_out(data: DataConfig) -> list[tuple[list[Video], TrainSetConfig]]:
    found = [
        (davis_sequences(_present(data, each), each.year, each.split, each.hold_out), each)
        for each in data.train
        if each.hold_out and KINDS[each.kind].has_videos
    ]
    if not found:
        advice = "name some in hold_out of a set of data.train"
        raise InputError(f"this profile holds out no training sequences to choose on; {advice}")
    return found


def _present(data: DataConfig, config: SetConfig) -> Path:
    """Return the folder that holds a set; raises InputError if there is none."""
    place = _locate(data, config)
    if isinstance(place, AbsentSet):
        raise InputError(place.notice)
    return place


def _locate(data: DataConfig, config: SetConfig, make: bool = True) -> Path | AbsentSet:
    """Return the first of a set's folders that holds it."""
    if not data.root:
        advice = "give one with --data DIR or in the environment variable E3SN_DATA"
        raise InputError(f"no data folder: {advice}")
    root = Path(data.root).expanduser()
    folders = [root / path for path in config.path]
    if config.kind == "synthetic" and make:
        return ensure_synthetic(folders[0])
    if config.kind != "synthetic" and not root.is_dir():
        advice = "give another with --data DIR or E3SN_DATA"
        raise InputError(f"the data folder {root} does not exist; {advice}")
    for folder in folders:
        if _lacking(folder, config) is None:
            return folder
    nearest = next((folder for folder in folders if folder.is_dir()), folders[0])
    return AbsentSet(config, nearest, _lacking(nearest, config) or nearest)


def _lacking(folder: Path, config: SetConfig) -> Path | None:
    """Return the first thing without which a folder does not hold a set; None if it holds it."""
    wanted = [folder, *KINDS[config.kind].needs(folder, config)]
    return next((path for path in wanted if not path.exists()), None)


def _open_tracks(folder: Path, config: TrainSetConfig) -> TrackSet:
    kind, label = KINDS[config.kind], _label(config)
    if config.hold_out and not kind.has_videos:
        what = "hold_out names sequences of a DAVIS-like set"
        raise InputError(f"{label}: {what}; a {config.kind} set has none")
    if config.hold_out_share and config.kind != "coco":
        what = "hold_out_share is for coco sets; it keeps a share of their images out of training"
        raise InputError(f"{label}: {what}")
    tracks = kind.tracks(folder, config)
    if not tracks.tracks:
        reasons = tracks.reasons() or "it is empty"
        raise InputError(f"{label} in {folder} has no usable object: {reasons}")
    return tracks


def _open_videos(folder: Path, config: EvalSetConfig) -> list[Video]:
    return davis_sequences(folder, config.year, config.split, config.sequences)


def _label(config: SetConfig) -> str:
    if isinstance(config, EvalSetConfig):
        return f"benchmark {config.name}"
    return f"training set {config.kind} ({config.path[0]})"


def _remedy(config: SetConfig, folder: Path) -> str:
    origin = KINDS[config.kind].origin.format(year=config.year, split=config.split)
    if config.kind == "synthetic":
        return f"{origin}, in {folder}"
    return f"get it from {origin} and put it in {folder}"
