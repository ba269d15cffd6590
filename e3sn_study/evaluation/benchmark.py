"""A benchmark through a tracker: masks on disk, then scores and speed as files of record.

Masks are written frame by frame and scored from the files, so memory does not grow with the video, other evaluators can read
what was scored, and an interrupted evaluation goes on with the next sequence.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask, write_csv, write_mask
from e3sn_lib.geometry import Box, box_xywh
from e3sn_lib.metrics.scoring import score_sequence, summarise
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.evaluation.baselines import BASELINES, boxes_of, fill_boxes, mask_in_true_boxes
from e3sn_study.evaluation.opencv_baselines import MakeTracker, masks_from_boxes, tracked_boxes, true_boxes

MODEL = "mask"
"""Method name of the model itself, at its own threshold."""
BOX = "tracker box filled"
BOUND = "mask in true boxes"
THRESHOLDS = (0.3, 0.4, 0.6)


def evaluate_tracker(
    tracker: Tracker,
    sequences: list[Video],
    out: Path,
    *,
    extras: bool = True,
    thresholds: tuple[float, ...] | None = None,
    show: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Track every sequence from the boxes of its first mask (paper 4.2), write the masks, score them.

    Args:
        tracker: with the inference settings to be scored.
        sequences: of one benchmark.
        out: masks go to ``out/METHOD/SEQUENCE/FRAME.png``; sequences that this tracker finished there are not tracked again.
        extras: also score other thresholds, the tracker's filled boxes, and masks at the true boxes.
        thresholds: those other ones, scored with or without extras; unless given, `THRESHOLDS` with extras and none without.
        show: where progress lines go.

    Returns:
        Scores per object with a column ``method``, and speed per sequence.
    """
    chosen = thresholds if thresholds is not None else THRESHOLDS if extras else ()
    methods = [MODEL, *([BOX, BOUND] if extras else []), *map(at_threshold, chosen)]
    scores, speed = [], []
    for number, sequence in enumerate(sequences, start=1):
        speed.append(write_masks(tracker, sequence, out, extras=extras, thresholds=chosen))
        scores += [score_method(method, _written(out / method, sequence), sequence) for method in methods]
        model = scores[-len(methods)]
        show(
            f"{number}/{len(sequences)} {sequence.name}: J {100 * model['J-Mean'].mean():.1f}, F {100 * model['F-Mean'].mean():.1f}"
        )
    return pd.concat(scores, ignore_index=True), pd.concat(speed, ignore_index=True)


def write_masks(
    tracker: Tracker, sequence: Video, out: Path, *, extras: bool = False, thresholds: tuple[float, ...] = ()
) -> pd.DataFrame:
    """Track one sequence and write its masks as `evaluate_tracker` does, unless this tracker has; returns its timing, one row."""
    timing = out / "timing" / f"{sequence.name}.csv"
    maker = _fingerprint(tracker, extras, thresholds)
    if not timing.is_file() or maker not in timing.read_text():
        write_csv(timing, _track(tracker, sequence, out, extras, thresholds).assign(maker=maker))
    return pd.read_csv(timing).drop(columns="maker")


def score_written(folder: Path, sequence: Video) -> pd.DataFrame:
    """J and F per frame, as `score_sequence` gives them, of masks ``folder/SEQUENCE/FRAME.png``."""
    return score_sequence(_written(folder, sequence), sequence)


def at_threshold(threshold: float) -> str:
    """Method name of the model at another threshold than its own."""
    return f"{MODEL}@{threshold:.2f}"


def evaluate_baselines(
    sequences: list[Video], trackers: Mapping[str, MakeTracker] | None = None, out: Path | None = None
) -> pd.DataFrame:
    """Scores per object of everything that needs no network of this study.

    Args:
        sequences: of one benchmark; several are done at a time, one per core.
        trackers: OpenCV's, by name; each is scored with its box filled and with GrabCut within it, as the true boxes are.
        out: where the scores of each finished sequence are kept, to go on with the next one after an interruption.
    """

    def score(sequence: Video) -> pd.DataFrame:
        kept = out / f"{sequence.name}.csv" if out else None
        if kept is None or not kept.is_file():
            table = pd.concat([score_method(*method, sequence) for method in _baseline_masks(sequence, trackers or {})])
            if kept is None:
                return table
            write_csv(kept, table)
        return pd.read_csv(kept)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scores = pd.concat(pool.map(score, sequences))
    order = {method: place for place, method in enumerate(scores["method"].unique())}
    return scores.sort_values("method", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def _baseline_masks(sequence: Video, trackers: Mapping[str, MakeTracker]) -> Iterator[tuple[str, Iterator[NDArray[np.uint8]]]]:
    for method, baseline in BASELINES.items():
        yield method, baseline(sequence)
    sources = {"true": true_boxes(sequence)} | {name: tracked_boxes(sequence, make) for name, make in trackers.items()}
    for name, boxes in sources.items():
        for method, masks in masks_from_boxes(name, sequence, boxes).items():
            if method not in BASELINES:
                yield method, masks


def score_method(method: str, masks: Iterable[NDArray[np.uint8]], sequence: Video) -> pd.DataFrame:
    """Statistics per object of one method's masks of one sequence."""
    per_object, _ = summarise(score_sequence(masks, sequence))
    per_object.insert(0, "method", method)
    return per_object


def _track(tracker: Tracker, sequence: Video, out: Path, extras: bool, thresholds: tuple[float, ...]) -> pd.DataFrame:
    """Write all masks of one sequence and return its timing, one row."""
    ids = sequence.object_ids()
    first = sequence.mask(0)
    height, width = sequence.frame(0).shape[:2]
    if first.shape != (height, width):
        raise InputError(f"mask {sequence.mask_paths[0]} is {first.shape[1]}x{first.shape[0]}, its frame {width}x{height}")
    boxes = boxes_of(first, ids)
    known = [number for number in ids if boxes[number] is not None]
    order = np.array([0, *known], np.uint8)
    reader = _TimedFrames(sequence)
    results = tracker.run(reader, [box_xywh(box) for box in boxes.values() if box is not None])
    started, writing = time.perf_counter(), 0.0
    for index, result in enumerate(results):
        begun = time.perf_counter()
        outputs = {MODEL: order[result.ids]}
        outputs |= {at_threshold(each): order[result.labels(each)] for each in thresholds}
        if extras:
            tracked: dict[int, Box | None] = dict(zip(known, map(tuple, result.boxes_frame_xyxy.tolist()), strict=True))
            outputs[BOX] = fill_boxes(tracked, first.shape)
        for method, labels in outputs.items():
            write_mask(_mask_path(out / method, sequence, index), first if index == 0 else labels)
        writing += time.perf_counter() - begun
    tracking = time.perf_counter() - started - writing - reader.seconds
    if extras:
        for index, labels in enumerate(mask_in_true_boxes(sequence, tracker)):
            write_mask(_mask_path(out / BOUND, sequence, index), labels)
    return pd.DataFrame(
        [
            {
                "sequence": sequence.name,
                "frames": len(sequence),
                "objects": len(known),
                "seconds_reading": reader.seconds,
                "seconds_tracking": tracking,
            }
        ]
    )


def _fingerprint(tracker: Tracker, extras: bool, thresholds: tuple[float, ...]) -> str:
    """A digest of all that masks depend on beside the sequence, so that none are taken for another network's."""
    text = f"{tracker.backend.identity} {tracker.config} {extras} {thresholds}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class _TimedFrames:
    """The frames of a sequence, with the time that reading them takes."""

    def __init__(self, sequence: Video) -> None:
        self.sequence, self.seconds = sequence, 0.0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for index in range(len(self.sequence)):
            begun = time.perf_counter()
            frame = self.sequence.frame(index)
            self.seconds += time.perf_counter() - begun
            yield frame


def _mask_path(folder: Path, sequence: Video, index: int) -> Path:
    return folder / sequence.name / f"{sequence.frame_paths[index].stem}.png"


def _written(folder: Path, sequence: Video) -> Iterator[NDArray[np.uint8]]:
    return (read_mask(_mask_path(folder, sequence, index)) for index in range(len(sequence)))
