"""From boxes in anyone's video to masks, a clip and a table on the disk."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from e3sn_lib.errors import InputError
from e3sn_lib.tracking import DEFAULT_SAVE, FILES
from e3sn_lib.tracking.outputs import Clip, Output, open_outputs
from e3sn_lib.tracking.pipeline import prefetch
from e3sn_lib.tracking.prompts import Plan, Prompt
from e3sn_lib.tracking.session import Seen, Session, cleaned
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.tracking.video import Frame, open_video

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Tracked:
    """What became of a video."""

    frames: int
    """How many are done."""
    objects: int
    files: tuple[Path, ...]
    """What was written: folders of images, and files."""
    stopped: bool
    """Whether it was stopped before the end."""
    notes: tuple[str, ...]
    """What the user should know, such as frames that could not be read."""
    lost: Mapping[int, Sequence[int]]
    """The numbers of the frames in which each object was lost; of such objects only."""


def track_video(
    tracker: Tracker,
    video: Path,
    boxes_frame_xywh: Sequence[Sequence[float]],
    out: Path,
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
    """Follow boxed objects through a video, one frame in memory at a time.

    Args:
        tracker: with the network.
        video: a file, or a folder of frames.
        boxes_frame_xywh: of objects in the first frame; their ids are 1, 2, ...
        out: a folder, made if there is none; files of the same names are replaced.
        prompts: further boxes, in other frames or with given ids.
        save: what to write, keys of `FILES`.
        first, last: numbers of the first and last frame; None: the last of the video.
        stride: 2 for every second frame.
        backward: also follow each object from its first box back to the first frame.
        clean: keep only the largest part of each mask and fill its holes.
        lost_below, keep_lost: see `Session`.
        watch: called after each step with the number of steps done and of all, 0 if unknown.
        stopped: asked after each step; True ends with the frames that are done.

    Raises:
        InputError: the video cannot be read, or a box cannot be used; nothing is written.
        OSError: the disk is full; what is done is kept, and the message names it.
    """
    source = open_video(video)
    check_out(out, save, [video])
    frames = range(first, sys.maxsize if last is None else last + 1, stride)
    plan = Plan([*map(Prompt, boxes_frame_xywh), *prompts], source, frames)
    start = partial(Session, tracker, lost_below=lost_below, keep_lost=keep_lost)
    follower = _Follower(start, plan, watch, stopped)
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    with TemporaryDirectory(dir=nearest, prefix=f".{out.name}.", suffix=".tmp") as temporary:
        work, scratch = Path(temporary, "out"), Path(temporary, "scratch")
        work.mkdir()
        scratch.mkdir()
        outputs = open_outputs(save, work, source)
        try:
            if backward:
                follower.backward(scratch)
            with closing(prefetch(follower.forward(scratch))) as steps:
                for frame, seen in steps:  # written while the next frame is followed
                    seen = replace(seen, ids=cleaned(seen.ids)) if clean else seen
                    for output in outputs:
                        output.write(frame, seen)
            for output in outputs if follower.done else ():
                output.close()
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise OSError(f"the disk is full; kept: {_rescued(outputs, out)}") from error
        finally:
            for output in outputs:
                output.release()
        files, notes = _move(work, out) if follower.done else ([], [])
    if any(output.lost_sound for output in outputs if isinstance(output, Clip)):
        notes.append("the sound is damaged; the clip has it as far as it could be decoded")
    notes += _missing(follower)
    for number, frames_lost in sorted(follower.lost.items()):
        where = f"{len(frames_lost)} frames, the first is {frames_lost[0]}"
        notes.append(f"object {number} is probably lost in {where}; see predicted_j in tracks.csv")
    ended = follower.stopped
    done = follower.done, len(plan.begins), tuple(files), ended, tuple(notes), follower.lost
    return Tracked(*done)


def check_out(out: Path, save: Sequence[str], inputs: Sequence[Path]) -> None:
    """Refuse an output folder that is none, or outputs that lie on or in an input.

    Raises:
        InputError: says which.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a new folder, or one to add the results to")
    for name in (FILES[kind] for kind in save if kind in FILES):
        path = (out / name).resolve()
        if path.exists() and path.is_dir() != (not path.suffix):
            raise InputError(f"{out / name} is in the way; move it, or give another --out")
        for other in inputs:
            given = other.resolve()
            if given == path or given in path.parents or path in given.parents:
                raise InputError(f"{out / name} would lie on or in {other}; give another --out")


@dataclass
class _Follower:
    """The two ways through a video: from later boxes back to the first frame, and forward."""

    start: Callable[[], Session]
    plan: Plan
    watch: Callable[[int, int], None]
    ask: Callable[[], bool]
    done: int = 0
    """Frames whose results are complete."""
    back: int = 0
    """Steps of the way back."""
    stopped: bool = False
    lost: dict[int, list[int]] = field(default_factory=dict)
    """As in `Tracked`."""

    def backward(self, folder: Path) -> None:
        """Follow each object from its first box back to the first frame; write a file per frame."""
        frames, session = self.plan.frames, self.start()
        way = frames[: frames.index(max(self.plan.begins.values())) + 1]
        for number, image in self.plan.source.backwards(way):
            for each, box in self.plan.boxes.get(number, {}).items():
                if self.plan.begins[each] == number:
                    session.add(box, each)
            np.savez_compressed(folder / f"{number}.npz", **vars(session.step(image)))
            self.back += 1
            if self._stops(len(way)):
                break

    def forward(self, folder: Path) -> Iterator[tuple[Frame, Seen]]:
        """Yield frames in order with their objects, those that `backward` found included."""
        if self.stopped:
            return
        session, last = self.start(), -1
        with closing(prefetch(self.plan.source.frames(self.plan.frames))) as frames:
            for frame in frames:
                for number, box in self.plan.boxes.get(frame.number, {}).items():
                    if number in session.numbers:
                        session.correct(number, box)
                    else:
                        session.add(box, number)
                seen, last = session.step(frame.image), frame.number
                if (earlier := folder / f"{frame.number}.npz").is_file():
                    with np.load(earlier) as found:
                        seen = seen.joined(Seen(**found))
                for number in np.array(seen.numbers)[seen.lost].tolist():
                    self.lost.setdefault(number, []).append(frame.number)
                yield frame, seen
                self.done += 1
                if self._stops(self.back):
                    return
        if last < max(self.plan.boxes):
            latest = max(self.plan.boxes)
            raise InputError(f"{self.plan.source.path} ends before frame {latest}, which has a box")

    def expected(self) -> int:
        """Return how many frames the way forward has; 0 if the video does not say."""
        frames, announced = self.plan.frames, self.plan.source.announced
        return len(range(frames.start, min(frames.stop, announced), frames.step))

    def _stops(self, back: int) -> bool:
        expected = self.expected()
        self.watch(self.back + self.done, expected and expected + back)
        self.stopped = self.ask()
        return self.stopped


def _rescued(outputs: Sequence[Output], out: Path) -> str:
    """Move what can be completed on a full disk, clips deleted first; return what that is."""
    kept = [output for output in reversed(outputs) if output.rescue()]
    if kept:
        _move(kept[0].path.parent, out)
    return (
        " and ".join(f"{out / each.path.name} ({each.count} frames)" for each in kept) or "nothing"
    )


def _move(work: Path, out: Path) -> tuple[list[Path], list[str]]:
    """Move results to their folder; return where they are, and lines about what else is there."""
    out.mkdir(parents=True, exist_ok=True)
    files, notes = [], []
    for name in [name for name in FILES.values() if (work / name).exists()]:
        files.append(out / name)
        if (work / name).is_file():
            (work / name).replace(out / name)
            continue
        (out / name).mkdir(exist_ok=True)
        images = {path.name for path in (work / name).iterdir()}
        for image in images:
            (work / name / image).replace(out / name / image)
        if others := sum(path.name not in images for path in (out / name).iterdir()):
            notes.append(f"{others} other files were in {out / name} before and are still there")
    paths = [out / name for name in FILES.values()]
    if older := [str(path) for path in paths if path.exists() and path not in files]:
        notes.append(f"of an earlier call, and still there: {', '.join(older)}")
    return files, notes


def _missing(follower: _Follower) -> list[str]:
    """Return lines about frames that could not be read."""
    source, notes = follower.plan.source, []
    missing = follower.expected() - follower.done
    if missing > 1 and not follower.stopped:  # some files are wrong by one
        announced = f"the file announces {source.announced} frames"
        notes.append(f"{announced}; {missing} of those wanted could not be read")
    if source.damaged:
        notes.append("parts of the file are damaged; they were left out")
    return notes
