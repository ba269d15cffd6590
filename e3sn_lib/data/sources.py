"""Open the data sets of a profile: find each set; say what is missing and where to get it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from e3sn_lib.config import DataConfig, EvalSetConfig, TrainSetConfig
from e3sn_lib.data.coco import coco_tracks
from e3sn_lib.data.davis import davis_attributes, davis_sequences
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.data.synthetic import ensure_synthetic
from e3sn_lib.data.types import PngMask, Track, TrackFrame, TrackSet, Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_bytes

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 200
"""Largest number of frames of each set that `prepare` opens."""

ROW: dict[str, Any] = {"use": "", "name": "", "kind": "", "path": "", "state": "absent"}
ROW |= {"tracks": 0, "images": 0, "with_masks": 0, "left_out": "", "remedy": ""}
"""The columns of `verify`, and a set that is not there."""

SetConfig: TypeAlias = TrainSetConfig | EvalSetConfig


@dataclass(frozen=True)
class TrainSets:
    """The training sets that are there, each with its settings, and those that are not."""

    opened: list[tuple[TrackSet, TrainSetConfig]] = field(default_factory=list)
    absent: list[tuple[str, TrainSetConfig]] = field(default_factory=list)
    """For each absent set a line (its name, where to get it, where to put it), and its settings."""


def open_train_sets(data: DataConfig) -> TrainSets:
    """Open every training set that is there; raises InputError if there is no data root, set, or
    set with masks, if a set cannot be opened or has no usable object, or if a benchmark scores one
    of its videos."""
    sets = TrainSets()
    for config in data.train:
        folder, lacking = _locate(data, config)
        if lacking:
            sets.absent.append((_notice(config, folder, lacking), config))
        else:
            sets.opened.append((_open_tracks(folder, config), config))
    absent = "; ".join(notice for notice, _ in sets.absent)
    if not sets.opened:
        raise InputError(f"no training data: {absent or 'data.train lists no set'}")
    if not any(tracks.tracks[0].frames[0].mask for tracks, _ in sets.opened):
        needs = "no training set has masks, which a network needs"
        raise InputError(f"{needs}: {absent or 'add one to data.train'}")
    _check_apart(data, sets)
    return sets


def _check_apart(data: DataConfig, sets: TrainSets) -> None:
    """Refuse to train on a video of a benchmark: one of the same name and first frame. A benchmark
    of the split ``train`` may be asked for on purpose."""
    for benchmark in (each for each in data.evaluation if each.split != "train"):
        scored = dict[str, Video]()
        with suppress(InputError):  # it is absent
            scored = {video.name: video for video in open_evaluation(data, benchmark.name)}
        for tracks, config in sets.opened:
            for track in tracks.tracks if KINDS[config.kind].has_videos else ():
                video = scored.get(track.name.split("/")[0])
                image = track.frames[0].image
                if video and read_bytes(image) == read_bytes(video.frame_paths[0]):
                    fault = f"has {video.name}, which is scored in {benchmark.name}"
                    remedy = "give another split, name it in hold_out, or leave the benchmark out"
                    raise InputError(f"{_label(config)} {fault}; {remedy} (data.evaluation)")


def open_evaluation(data: DataConfig, name: str) -> list[Video]:
    """Return the videos of a benchmark of ``data.evaluation``; raises InputError if there is no
    data root, no benchmark of that name, or its data are absent or damaged."""
    folder, config = _benchmark(data, name)
    return davis_sequences(folder, config.year, config.split, config.sequences)


def open_held_out(data: DataConfig) -> list[tuple[list[Video], TrainSetConfig]]:
    """Return the videos that are kept out of training (``hold_out``), by set with its settings;
    raises InputError if no set names any, or its data are absent or damaged."""
    found = [
        (davis_sequences(_present(data, each), each.year, each.split, each.hold_out), each)
        for each in data.train
        if each.hold_out
    ]
    if not found:
        advice = "name some in hold_out of a set of data.train"
        raise InputError(f"this profile holds out no training sequences; {advice}")
    return found


def open_held_out_stills(data: DataConfig) -> TrackSet:
    """Return the objects of the images that the first set with ``hold_out_share`` keeps out of
    training; raises InputError if no set keeps any, or its data are absent or damaged."""
    for config in data.train:
        if config.hold_out_share:
            return coco_tracks(_present(data, config), config, held_out=True)
    raise InputError("no still images are held out; give hold_out_share to a coco set")


def open_attributes(data: DataConfig, name: str) -> dict[str, list[str]]:
    """Return `davis_attributes` of a benchmark; raises InputError as that or `open_evaluation`."""
    return davis_attributes(_benchmark(data, name)[0])


def verify(data: DataConfig, prepare: bool = False) -> pd.DataFrame:
    """Report which data are there, one row per set; write nothing but indices of large sets.

    Columns: ``use`` (train, evaluation), ``name`` (of a training set its folder), ``kind``,
    ``path``, ``state``, ``tracks`` (objects that can be used), ``images``, ``with_masks`` (tracks),
    ``left_out`` (how many of what and why, or what is missing or damaged), ``remedy`` (where to get
    the set).

    A set is *present*: complete; *partial*: some files are missing or damaged (without tracks it
    cannot be used at all); or *absent*.

    With `prepare`, also make what can be made, and open frames and masks of each set. Frames that
    cannot be used make it *partial*; ``left_out`` counts them and names the first. Raises
    InputError if there is no data root, or if the procedural set cannot be made.
    """
    import pandas as pd

    configs: list[SetConfig] = [*data.train, *data.evaluation]
    return pd.DataFrame([_row(data, config, prepare) for config in configs], columns=[*ROW])


def _row(data: DataConfig, config: SetConfig, make: bool) -> dict[str, Any]:
    folder, lacking = _locate(data, config, make)
    is_train = isinstance(config, TrainSetConfig)
    row = ROW | {
        "use": "train" if is_train else "evaluation",
        "name": getattr(config, "name", folder.name),
        "kind": config.kind,
        "path": str(folder),
        "left_out": f"no {lacking}",
        "remedy": _remedy(config, folder),
    }
    if lacking:
        return row
    try:
        if isinstance(config, EvalSetConfig):
            tracks, objects = _open_frames(folder, config)
            masks = objects
        else:
            tracks = _open_tracks(folder, config)
            objects = len(tracks.tracks)
            masks = sum(track.frames[0].mask is not None for track in tracks.tracks)
    except InputError as error:
        return row | {"state": "partial", "left_out": str(error)}
    opened, problems, empty = _opened(tracks.tracks, is_train) if make else (1, [], [])
    of = f"of {opened} frames that were opened"
    problem, small = "", ""
    if problems:
        problem = f"{len(problems)} {of} cannot be used, the first: {problems[0]}"
    if empty:
        small = f"{len(empty)} {of} show less of their object than min_area, the first: {empty[0]}"
    return row | {
        "state": "partial" if tracks.missing or tracks.faults or problem else "present",
        "tracks": objects if len(problems) + len(empty) < opened else 0,
        "images": len({frame.image for track in tracks.tracks for frame in track.frames}),
        "with_masks": masks,
        "left_out": "; ".join(filter(None, [tracks.reasons(), problem, small])),
    }


def _open_frames(folder: Path, config: EvalSetConfig) -> tuple[TrackSet, int]:
    """Return each frame of a benchmark as a track, and the number of its objects."""
    videos = davis_sequences(folder, config.year, config.split, config.sequences)
    tracks = [
        Track(video.name, (TrackFrame(image, PngMask(mask)),))
        for video in videos
        for image, mask in zip(video.frame_paths, video.mask_paths, strict=True)
    ]
    return TrackSet(config.name, tracks), sum(len(video.object_ids()) for video in videos)


def _opened(tracks: Sequence[Track], is_train: bool) -> tuple[int, list[str], list[str]]:
    """Open a frame of up to `SAMPLE` evenly spaced tracks. Return how many were opened, what is
    wrong, and the training images with a mask that is read as empty."""
    spread = np.linspace(0, len(tracks) - 1, min(SAMPLE, len(tracks))).astype(int)
    problems, empty = [], []
    for number in spread:
        frames = tracks[number].frames
        frame = frames[len(frames) // 2]
        try:
            _, mask = frame.read()
        except InputError as error:
            problems.append(str(error))
            continue
        if is_train and mask is not None and not mask.any():
            empty.append(str(frame.image))
    return len(spread), problems, empty


def _benchmark(data: DataConfig, name: str) -> tuple[Path, EvalSetConfig]:
    for config in data.evaluation:
        if config.name == name:
            return _present(data, config), config
    known = ", ".join(each.name for each in data.evaluation) or "none"
    where = f"in this profile's data.evaluation; there are: {known}"
    raise InputError(f"there is no benchmark '{name}' {where}")


def _present(data: DataConfig, config: SetConfig) -> Path:
    folder, lacking = _locate(data, config)
    if lacking:
        raise InputError(_notice(config, folder, lacking))
    return folder


def _locate(data: DataConfig, config: SetConfig, make: bool = True) -> tuple[Path, Path | None]:
    """Return the folder of a set, or the folder where it should be and what is missing there."""
    if not data.root:
        advice = "give one with --data DIR or in the environment variable E3SN_DATA"
        raise InputError(f"no data folder: {advice}")
    root = Path(data.root)
    folders = [root / path for path in config.path]
    if config.kind == "synthetic" and make:
        return ensure_synthetic(folders[0]), None
    if config.kind != "synthetic" and not root.is_dir():
        advice = "give another with --data DIR or E3SN_DATA"
        fault = "is no folder" if root.exists() else "does not exist"
        raise InputError(f"the data folder {root} {fault}; {advice}")
    lacking = {}
    for folder in folders:
        wanted = [folder, *KINDS[config.kind].needs(folder, config)]
        lacking[folder] = next((path for path in wanted if not path.exists()), None)
    whole = [folder for folder in folders if not lacking[folder]]
    begun = [folder for folder in folders if folder.is_dir()]
    best = (whole or begun or folders)[0]
    return best, lacking[best]


def _open_tracks(folder: Path, config: TrainSetConfig) -> TrackSet:
    tracks = KINDS[config.kind].tracks(folder, config)
    if not tracks.tracks:
        reasons = tracks.reasons() or "it is empty"
        raise InputError(f"{_label(config)} in {folder} has no usable object: {reasons}")
    return tracks


def _label(config: SetConfig) -> str:
    if isinstance(config, EvalSetConfig):
        return f"benchmark {config.name}"
    return f"training set {config.kind} ({config.path[0]})"


def _notice(config: SetConfig, folder: Path, lacking: Path) -> str:
    return f"{_label(config)} is absent: no {lacking}; {_remedy(config, folder)}"


def _remedy(config: SetConfig, folder: Path) -> str:
    origin = KINDS[config.kind].origin.format(year=config.year, split=config.split)
    if config.kind == "synthetic":
        return f"{origin}, in {folder}"
    return f"get it from {origin} and put it in {folder}"
