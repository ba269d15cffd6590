"""Follow boxed objects through a user's video; write masks, a clip and a table to the disk."""

import errno
import os
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from e3sn_lib.errors import InputError, deferred_interrupts, is_lack_of_memory
from e3sn_lib.files import atomic_path, nearest_existing, temporary_path
from e3sn_lib.tracking import DEFAULT_SAVE, FILES
from e3sn_lib.tracking.outputs import open_outputs
from e3sn_lib.tracking.prompts import Placed, Prompt, first_frames, placed
from e3sn_lib.tracking.session import Seen, Session, cleaned
from e3sn_lib.tracking.tracker import Boxes, Tracker
from e3sn_lib.tracking.video import Frame, VideoSource, open_video

T = TypeVar("T")
END = object()
LONGEST_NAME = 230
"""Bytes of the name of a folder for results. File systems allow 255, but the folder for the results
of a stopped run has a longer name."""


@dataclass(frozen=True)
class Tracked:
    """The result of tracking a video."""

    frames: int
    """How many are done."""
    objects: int
    files: tuple[Path, ...]
    """What was written: folders of images, and files."""
    stopped: bool
    """Whether it was stopped before the end."""
    notes: tuple[str, ...]
    """What the user should know, such as which frames could not be read."""
    lost: Mapping[int, Sequence[int]]
    """For each lost object, the numbers of the frames in which it was lost."""


def track_video(
    tracker: Tracker,
    video: str | Path,
    boxes_frame_xywh: Boxes,
    out: str | Path,
    *,
    prompts: Sequence[Prompt] = (),
    save: Sequence[str] = DEFAULT_SAVE,
    first: int = 0,
    last: int | None = None,
    stride: int = 1,
    backward: bool = False,
    clean: bool = False,
    lost_below: float = 0.0,
    keep_lost: bool = False,
    watch: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tracked:
    """Follow boxed objects through a video, a few frames in memory at a time.

    Masks take memory too, some kilobytes for each object and frame: those of COCO annotations, and
    those of the way back.

    Args:
        video: a file, or a folder of frames.
        boxes_frame_xywh: of objects in the first frame; their ids are 1, 2, ...
        out: a folder, made if there is none; files of the same names are replaced. If `stopped`
            ends the tracking early and `out` has such files already, they stay as they are: the
            frames that are done go to a folder beside `out`.
        prompts: further boxes, in other frames or with given ids.
        save: what to write, keys of `FILES`.
        first, last: numbers of the first and last frame; None: the last of the video.
        stride: 2 for every second frame.
        backward: also follow each object from its first box back to the first frame.
        clean: keep only the largest part of each mask and fill its holes.
        lost_below, keep_lost: see `Session`.
        watch: called after each step with the number of steps done and of all, 0 if unknown.
        stopped: called after each step and while frames are read, also in another thread; once it
            returns True, the tracking ends with the frames that are done. With `backward` none is
            done before the way back is.

    Raises:
        InputError: the video cannot be read, or a box cannot be used. If some frames are done by
            then, they are kept, as when `stopped` ends it.
        OSError: the disk is full; nothing is kept.
    """
    source, out = open_video(video), Path(out)
    save = (save,) if isinstance(save, str) else tuple(save)
    source.stopped = stopped = _lasting(stopped)
    check_out(out, save, [source.path])
    frames = _chosen(source, first, last, stride)
    boxes = placed([*map(Prompt, boxes_frame_xywh), *prompts], source, frames)
    begins = first_frames(boxes)
    way_back = frames[: frames.index(max(begins.values())) + 1] if backward else range(0)
    expected = len(range(first, min(frames.stop, source.announced), stride))
    start = partial(Session, tracker, lost_below=lost_below, keep_lost=keep_lost)
    done, faults = 0, list[InputError]()
    lost, visible = dict[int, list[int]](), dict[int, bool]()
    with temporary_path(nearest_existing(out) / (out.absolute().name or "results")) as work:
        work.mkdir()
        with (
            open_outputs(save, work, source) as outputs,
            closing(prefetch(_followed(start, source, frames, boxes, way_back))) as steps,
        ):
            for taken, step in enumerate(_until_fault(steps, faults), start=1):
                if step:
                    frame, seen = step
                    seen = seen._replace(ids=cleaned(seen.ids)) if clean else seen
                    for write in outputs:
                        write(frame, seen)
                    pixels = cv2.calcHist([seen.ids], [0], None, [256], [0, 256])
                    for number, each in seen.objects.items():
                        visible[number] = visible.get(number, False) or bool(pixels[number])
                        if each.lost:
                            lost.setdefault(number, []).append(frame.number)
                    done += 1
                watch(taken, expected and expected + len(way_back))
                if stopped():
                    break
            ended = stopped() or bool(faults)  # later nothing is left to be stopped
        kept = [name for name in FILES.values() if (work / name).exists() and (out / name).exists()]
        target = _free(out, "stopped") if ended and kept else out
        with deferred_interrupts():  # else the folder could hold parts of two runs
            files, notes = _move(work, target) if done else ([], [])
    for fault in faults:
        if not done:
            raise fault
        count = f"{done} frame{'s' * (done != 1)}"
        raise InputError(f"{fault}; what was done before, {count}, is in {target}") from fault
    if target != out:
        notes.append(f"the earlier results in {out} are as they were")
    notes += _notes(source, lost, "table" in save, keep_lost)
    hidden = [each for each in sorted(visible) if not visible[each] and each not in lost]
    notes += [f"all masks of object {each} are empty; another may cover it" for each in hidden]
    return Tracked(done, len(begins), tuple(files), ended, tuple(notes), lost)


def _chosen(source: VideoSource, first: int, last: int | None, stride: int) -> range:
    """Return the numbers of the chosen frames, which may reach beyond the end of the video."""
    if first < 0 or stride < 1 or (last is not None and last < first):
        given = f"first is {first}, last is {last} and stride is {stride}"
        rule = "first must be 0 or more, last not before it, and stride 1 or more"
        raise InputError(f"{given}; {rule}")
    if 0 < source.announced <= first:
        last_there = source.announced - 1
        raise InputError(f"tracking begins in frame {first}, but the last frame is {last_there}")
    return range(first, sys.maxsize if last is None else min(last + 1, sys.maxsize), stride)


def _lasting(stopped: Callable[[], bool]) -> Callable[[], bool]:
    """Return a function that stays true once `stopped` was, whichever thread called it."""
    ends = threading.Event()

    def has_stopped() -> bool:
        if not ends.is_set() and stopped():
            ends.set()
        return ends.is_set()

    return has_stopped


def check_out(out: Path, save: Sequence[str], inputs: Sequence[Path]) -> None:
    """Raise InputError if a kind of output is unknown, if `out` is a file or a link to nothing, if
    its name is too long, or if an output would replace an input."""
    if unknown := sorted(set(save) - set(FILES)):
        raise InputError(f"cannot save '{unknown[0]}'; choose from {', '.join(FILES)}")
    places = [out / FILES[kind] for kind in save]
    for path in (out, *places):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to a place that is not there; give another --out")
    if len(os.fsencode(out.name)) > LONGEST_NAME:
        raise InputError(f"the name of --out has over {LONGEST_NAME} bytes; give a shorter one")
    nearest = nearest_existing(out)
    if not nearest.is_dir():
        where = "is a file" if nearest == out else f"would lie in {nearest}, a file"
        raise InputError(f"--out {out} {where}; give a new folder, or one to add the results to")
    for place in places:
        path = Path(os.path.realpath(place))
        if path.exists() and path.is_dir() != (not place.suffix):
            raise InputError(f"{place} is in the way; move it, or give another --out")
        if path.exists() and not os.access(path, os.W_OK):
            raise InputError(f"{place} may not be changed; give another --out")
        for other in inputs:
            given = Path(os.path.realpath(other))
            if _is_in(given, path) or _is_in(path, given):
                raise InputError(f"{place} would lie on or in {other}; give another --out")


def _is_in(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or lies in it, also where names differ in case alone."""
    above = (each for each in (path, *path.parents) if each.exists())
    return folder.exists() and any(each.samefile(folder) for each in above)


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield `items`, which another thread takes while the caller works on earlier ones.

    At most `depth` items are taken ahead, which limits the memory. An error is raised after the
    items before it were yielded. `items` is closed together with this generator.
    """
    found, thread = iter(items), ThreadPoolExecutor(1, "prefetch")
    try:
        waiting = deque(thread.submit(next, found, END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not END:
            waiting.append(thread.submit(next, found, END))
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)
        if isinstance(found, Generator):
            found.close()


def _until_fault(steps: Iterable[T], faults: list[InputError]) -> Iterator[T]:
    """Yield steps until one fails; note the error, so that the steps before it can be kept."""
    try:
        yield from steps
    except InputError as error:
        faults.append(error)
    except Exception as error:
        if not is_lack_of_memory(error):
            raise
        faults.append(InputError(f"not enough memory: {' '.join(str(error).split())}"))


def _followed(
    start: Callable[[], Session], source: VideoSource, frames: range, boxes: Placed, way_back: range
) -> Iterator[tuple[Frame, Seen] | None]:
    """Follow objects backward from their first boxes, then forward.

    Yield None for each backward step, then each frame with its objects of both directions.
    """
    session, begins, earlier = start(), first_frames(boxes), {}
    for number, image in source.backwards(way_back):
        for each, box in boxes.get(number, {}).items():
            if begins[each] == number:
                session.add(box, each)
        ids, objects = session.step(image)
        earlier[number] = cv2.imencode(".png", ids)[1], objects
        yield None
    session, number = start(), -1
    with closing(prefetch(source.frames(frames))) as images:
        for frame in images:
            number = frame.number
            for each, box in boxes.get(number, {}).items():
                if each in session.numbers:
                    session.correct(each, box)
                else:
                    session.add(box, each)
            seen = session.step(frame.image)
            if number in earlier:
                png, objects = earlier.pop(number)
                ids = np.asarray(cv2.imdecode(png, cv2.IMREAD_GRAYSCALE), np.uint8)
                seen = seen.joined(Seen(ids, objects))
            yield frame, seen
    if number < max(boxes) and not source.stopped():
        raise InputError(f"{source.path} ends before frame {max(boxes)}, which has a box")


def _free(out: Path, why: str) -> Path:
    """Return a folder beside `out` that is not there yet: ``OUT-WHY``, ``OUT-WHY-2``, ..."""
    out = out if out.name not in ("", "..") else Path(os.path.abspath(out))
    first = out.with_name(f"{out.name}-{why}") if out.name else out / f"results-{why}"
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(path for path in chain([first], others) if not path.exists())


def _move(work: Path, out: Path) -> tuple[list[Path], list[str]]:
    """Move results to their folder; return their paths, and a note about other files there.

    Raises InputError if a file cannot be moved; the results are then kept beside the folder.
    """
    files = [out / name for name in FILES.values() if (work / name).exists()]
    moved = {out / path.relative_to(work): path for path in work.rglob("*") if path.is_file()}
    try:
        for place, path in moved.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with atomic_path(place) as copy:  # the place is a link to another disk
                    shutil.copyfile(path, copy)
    except OSError as error:
        kept = work.rename(_free(work.parent / (out.absolute().name or "e3sn"), "results"))
        fault = f"{error.filename2 or error.filename or out} is in the way ({error.strerror})"
        raise InputError(f"{fault}; the results that are not yet in {out} are in {kept}") from error
    there = {path for name in FILES.values() for path in (out / name, *(out / name).glob("*"))}
    others = sorted(path for path in there - moved.keys() if path.is_file())
    notes = [f"older files are still there: {len(others)}, such as {others[0]}"] if others else []
    return files, notes


def _notes(
    source: VideoSource, lost: Mapping[int, Sequence[int]], has_table: bool, keep_lost: bool
) -> list[str]:
    notes = [f"left out: {each}" for each in source.left_out]
    notes += [f"frames seem to be missing: {each}" for each in source.missing]
    if source.damaged:
        notes.append("parts of the file are damaged; frames or sound are left out or wrong")
    for number, frames in sorted(lost.items()):
        where = "frame" if len(frames) == 1 else f"{len(frames)} frames, the first is"
        notes.append(f"object {number} is probably lost in {where} {frames[0]}")
    if lost and not keep_lost:
        notes.append("masks of lost objects are empty; keep_lost (--keep-lost) keeps them")
    if lost and has_table:
        notes.append("see predicted_j in tracks.csv")
    return notes
