"""Score a benchmark: masks on the disk, then scores and speed as tables of record.

Masks are written frame by frame and scored from their files. So memory does not grow with the
video, other evaluators can read what was scored, and an interrupted evaluation goes on with the
next sequence.
"""

import glob
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import locked, read_mask, write_mask
from e3sn_lib.geometry import Box, box_xywh
from e3sn_lib.metrics.scoring import score_sequence, summarise
from e3sn_lib.tracking.tracker import Tracker, check_frame
from e3sn_study.evaluation import baselines
from e3sn_study.evaluation.baselines import Ids
from e3sn_study.records.schema import BOUND, BOX, MODEL, SCORES, THRESHOLDS, TIMING, at_threshold
from e3sn_study.records.store import digest, once


def evaluate_tracker(
    tracker: Tracker,
    sequences: list[Video],
    out: Path,
    *,
    extras: bool = True,
    thresholds: Iterable[float] | None = None,
    show: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Track sequences from the boxes of their first masks (paper 4.2), and score the masks.

    The sequences are of one benchmark; for `out` see `write_masks`. Extras are the tracker's filled
    boxes, masks at the true boxes and, unless others are given, at `THRESHOLDS`. `show` gets a line
    of progress for each sequence. Return scores per object (0 to 1), with ``method`` and
    ``mask_threshold``; and timing per sequence, in seconds.
    """
    own = tracker.config.mask_threshold
    wanted = thresholds if thresholds is not None else THRESHOLDS if extras else ()
    others = {at_threshold(each): each for each in wanted if each != own}
    methods = [MODEL, *([BOX, BOUND] if extras else []), *others]
    scores, timings = [], []
    made = write_masks(tracker, sequences, out, extras=extras, thresholds=others.values())
    with closing(made) as written:  # else an error here would keep `out` locked
        for number, (sequence, timing) in enumerate(zip(sequences, written, strict=True), start=1):
            masks = {each: read_masks(out / each, sequence) for each in methods}
            found = [score_method(each, masks[each], sequence) for each in methods]
            j, f = (100 * found[0][f"{name}-Mean"].mean() for name in "JF")
            show(f"{number}/{len(sequences)} {sequence.name}: J {j:.1f}, F {f:.1f}")
            scores += found
            timings.append(timing)
    table = pd.concat(scores, ignore_index=True)
    table["mask_threshold"] = table["method"].map(others).astype(float).fillna(own)
    return table, pd.concat(timings, ignore_index=True)


def write_masks(
    tracker: Tracker,
    sequences: Iterable[Video],
    out: Path,
    *,
    extras: bool = False,
    thresholds: Iterable[float] = (),
) -> Generator[pd.DataFrame, None, None]:
    """Write the masks of sequences as ``out/METHOD/SEQUENCE/FRAME.png``; yield the timing of each,
    one row with the columns of `TIMING`.

    Masks that are there already are kept if the same network made them with the same settings
    from the same frames and true masks, and if they are as it wrote them. `out` is locked until the
    generator is closed, so score the masks before that. Raises InputError if a
    frame or mask cannot be read, if a first mask has another size than its frame, or if another
    process writes to `out`.
    """
    thresholds, network = tuple(thresholds), (tracker.backend.identity, tracker.config)
    sequences, timing = list(sequences), out / "timing"
    for sequence in sequences:
        _first_boxes(sequence)  # refused now, not after minutes
    timing.mkdir(parents=True, exist_ok=True)
    with locked(timing / "lock", f"{out} is in use by another evaluation"):
        for sequence in sequences:

            def made_of(sequence: Video = sequence) -> str:
                masks = sorted(out.glob(f"*/{glob.escape(sequence.name)}/*.png"))
                return digest(network, extras, thresholds, sequence, masks)

            track = partial(_track, tracker, sequence, out, extras, thresholds)
            yield once(timing / f"{sequence.name}.csv", TIMING, made_of, track)


def evaluate_baselines(
    sequences: list[Video], trackers: Mapping[str, baselines.MakeTracker], out: Path
) -> pd.DataFrame:
    """Return the scores per object of all methods that need no network of this study.

    Each of OpenCV's `trackers` is scored with its box filled and with GrabCut in it. As many
    sequences are done at a time as there are cores. `out` keeps the scores for the next time.
    """
    settings = baselines.GRABCUT, cv2.__version__
    makers = [(name, getattr(make, "args", ())) for name, make in trackers.items()]

    def score(sequence: Video) -> pd.DataFrame:
        def compute() -> pd.DataFrame:
            masks = baselines.baseline_masks(sequence, trackers)
            return pd.concat([score_method(*each, sequence) for each in masks.items()])

        made_of = digest(settings, makers, sequence)
        return once(out / f"{sequence.name}.csv", SCORES, made_of, compute)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scores = pd.concat(pool.map(score, sequences))
    by_method = scores.groupby("method", sort=False)
    return pd.concat([rows for _, rows in by_method], ignore_index=True)


def score_method(method: str, masks: Iterable[Ids], sequence: Video) -> pd.DataFrame:
    """Return the statistics per object (0 to 1) of one method's masks of one sequence."""
    per_object, _ = summarise(score_sequence(masks, sequence))
    per_object.insert(0, "method", method)
    return per_object


def read_masks(folder: Path, sequence: Video, frames: Iterable[int] | None = None) -> Iterator[Ids]:
    """Yield the masks (H, W) of ids that were written for some or all frames of a sequence."""
    for index in range(len(sequence)) if frames is None else frames:
        yield read_mask(_mask_path(folder, sequence, index))


def frame_scores(folder: Path, sequence: Video) -> pd.DataFrame:
    """Return J and F of every scored frame, as `score_sequence` does, of written masks."""
    return score_sequence(read_masks(folder, sequence), sequence)


def _mask_path(folder: Path, sequence: Video, index: int) -> Path:
    return folder / sequence.name / f"{sequence.frame_paths[index].stem}.png"


def _track(
    tracker: Tracker, sequence: Video, out: Path, extras: bool, thresholds: tuple[float, ...]
) -> pd.DataFrame:
    """Write all masks of one sequence; return its timing, one row."""
    first, boxes = sequence.mask(0), _first_boxes(sequence)
    ids = np.array([0, *boxes], np.uint8)  # by number of the tracked object
    reading = list[float]()
    frames = _timed_frames(sequence, reading)
    started, writing = time.perf_counter(), 0.0
    for index, result in enumerate(tracker.run(frames, [box_xywh(box) for box in boxes.values()])):
        begun = time.perf_counter()
        outputs = {MODEL: ids[result.ids]}
        outputs |= {at_threshold(each): ids[result.labels(each)] for each in thresholds}
        if extras:
            tracked = dict(zip(boxes, result.boxes_frame_xyxy.tolist(), strict=True))
            outputs[BOX] = baselines.paint_boxes(tracked, first.shape)
        for method, labels in outputs.items():
            write_mask(_mask_path(out / method, sequence, index), labels if index else first)
        writing += time.perf_counter() - begun
    tracking = time.perf_counter() - started - writing - sum(reading)
    if extras:
        for index, labels in enumerate(baselines.mask_in_true_boxes(sequence, tracker)):
            write_mask(_mask_path(out / BOUND, sequence, index), labels)
    row = (sequence.name, len(sequence), len(boxes), sum(reading), tracking)
    from e3sn_lib.model.device import machine  # it imports PyTorch, which graphs do not need

    device = getattr(tracker.backend, "device", None)  # of torch; graphs are for CPUs
    computes = machine(device.type if device else "cpu")["machine"]
    return pd.DataFrame([row], columns=TIMING.columns).assign(machine=computes)


def _first_boxes(sequence: Video) -> dict[int, Box]:
    """Return the boxes of the objects of a sequence's first mask, by their ids."""
    first = sequence.mask(0)
    height, width = sequence.frame(0).shape[:2]
    if first.shape != (height, width):
        size = f"{first.shape[1]}x{first.shape[0]}"
        raise InputError(f"mask {sequence.mask_paths[0]} is {size}, its frame {width}x{height}")
    return baselines.boxes_of(first, sequence.object_ids())


def _timed_frames(sequence: Video, seconds: list[float]) -> Iterator[Ids]:
    """Yield the frames of a sequence; note the seconds that reading each takes."""
    frame_hw = None
    for index in range(len(sequence)):
        begun = time.perf_counter()
        frame = sequence.frame(index)
        seconds.append(time.perf_counter() - begun)
        check_frame(frame, frame_hw, str(sequence.frame_paths[index]))
        frame_hw = frame.shape[:2]
        yield frame
