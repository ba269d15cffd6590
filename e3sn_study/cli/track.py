"""The command that follows objects through one's own video."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from e3sn_lib.config import PRECISIONS
from e3sn_lib.errors import InputError, deferred_interrupts, printable
from e3sn_lib.tracking import DEFAULT_SAVE, FILES
from e3sn_study.checkout import BACKENDS, lost_limit, open_tracker
from e3sn_study.cli.options import a_path, at_least

if TYPE_CHECKING:
    from tqdm import tqdm

    from e3sn_lib.tracking.prompts import Prompt
    from e3sn_lib.tracking.video import VideoSource

SECONDS_PER_LINE = 10
"""Between lines of progress without a terminal."""
TRY_WINDOW = "import cv2; cv2.namedWindow('e3sn'); cv2.destroyAllWindows()"
WINDOW_SIDE = 1000
"""Largest side in pixels of the picture that boxes are drawn on."""
BOX_HELP = (
    "an object: its box in the first tracked frame; FRAME:X,Y,W,H for one that appears later; "
    "FRAME:ID=X,Y,W,H corrects object ID from that frame on; repeatable. Frames are counted from "
    "0, objects are numbered 1, 2, ...: those of --mask, then of --box, then those drawn"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn track``."""
    add = command.add_argument
    add("video", type=a_path, help="video file or folder of frames")
    add("--box", type=_prompt, action="append", default=[], metavar="X,Y,W,H", help=BOX_HELP)
    each = "PNG of object ids in the first tracked frame; each gets a box; repeatable"
    add("--mask", type=a_path, action="append", default=[], help=each)
    add("--draw", action="store_true", help="draw boxes on the first tracked frame with the mouse")
    later = "draw boxes on this frame too; FRAME:ID corrects object ID from there on; repeatable"
    add("--draw-in", type=_place, action="append", default=[], metavar="FRAME", help=later)
    add("--backward", action="store_true", help="also follow objects back from their first box")
    add("--from", dest="first", type=at_least(0), default=0, metavar="FRAME", help="first to track")
    add("--to", dest="last", type=at_least(0), metavar="FRAME", help="last frame, included")
    add("--stride", type=at_least(1), default=1, metavar="N", help="track every Nth frame")
    saved = f"some of {', '.join(FILES)} (default: {','.join(DEFAULT_SAVE)}); docs/tracking.md "
    saved += "says what each is; repeatable"
    add("--save", action="append", metavar="KIND,KIND", help=saved)
    add("--clean", action="store_true", help="keep the largest part of each mask, without holes")
    add("--keep-lost", action="store_true", help="keep the masks of objects that seem to be lost")
    limit = "predicted J below which an object is lost (default: 0.4; with your own model 0: never)"
    add("--lost-below", type=_share, metavar="J", help=limit)
    add("--out", type=a_path, required=True, help="folder for the results")
    text = "a trained model or an exported folder (default: E3SN_WEIGHTS, or the shipped one)"
    add("--weights", type=a_path, help=text)
    add_backend(command)
    native = "precision of torch; auto: the fastest that this machine computes natively"
    add("--precision", choices=PRECISIONS, default="auto", help=native)


def add_backend(command: argparse.ArgumentParser) -> None:
    """Add the arguments that say what computes the network."""
    found = "auto: onnx for an exported folder, and for the shipped model without a GPU"
    command.add_argument("--backend", choices=BACKENDS, default="auto", help=found)
    idle = "number of threads (default: idle cores, at most 4)"
    command.add_argument("--threads", type=at_least(0), help=idle)


def track(options: argparse.Namespace) -> None:
    """Follow boxed objects through your own video."""
    import cv2
    from av import FFmpegError

    from e3sn_lib.tracking.own_video import check_out, track_video

    cv2.setNumThreads(1)  # a second pool of threads would take turns with the network's
    started = time.perf_counter()
    inputs = [options.video, *options.mask, options.weights]
    save = ",".join(options.save or DEFAULT_SAVE).split(",")
    check_out(options.out, save, [path for path in inputs if path])
    prompts = _prompts(options)
    tracker = open_tracker(options.weights, options.backend, options.precision, options.threads)
    limit = lost_limit(options.weights) if options.lost_below is None else options.lost_below
    names = ("first", "last", "stride", "backward", "clean", "keep_lost")
    given: dict[str, Any] = {"prompts": prompts, "save": save, "lost_below": limit}
    given.update((name, getattr(options, name)) for name in names)
    with deferred_interrupts() as stopped, _progress() as bar:

        def watch(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        def ended() -> bool:
            if stopped():
                print("completing the results; Ctrl-C again would discard them", file=sys.stderr)
            return stopped()

        try:
            tracked = track_video(
                tracker, options.video, [], options.out, watch=watch, stopped=ended, **given
            )
        except (OSError, FFmpegError) as error:
            fault = f"cannot write the results to {options.out}: {error.strerror or error}"
            raise InputError(f"{fault}; nothing of them is kept") from error
    seconds = time.perf_counter() - started
    counts = {"frame": tracked.frames, "object": tracked.objects}
    counted = [f"{count} {noun}{'s' * (count != 1)}" for noun, count in counts.items()]
    results = ", ".join(map(str, tracked.files)) or "nothing is written"
    notes = [*tracked.notes]
    if limit == 0 and options.lost_below is None:
        notes.append("no object counts as lost: with this model, that needs --lost-below")
    for line in (f"{', '.join(counted)}, {seconds:.1f} s: {results}", *notes):
        print(printable(line))
    if tracked.stopped:
        raise KeyboardInterrupt(f"stopped after {counted[0]}; what is there is complete")


def one_word_boxes(arguments: Iterable[str]) -> list[str]:
    """Turn ``--box 5 6 7 8`` and ``--box -5,6,7,8`` into the ``--box=...`` that argparse reads."""
    rest, words = list(arguments), []
    while rest:
        word = rest.pop(0)
        if word == "--box":
            parts = list(takewhile(re.compile(r"(\d+:(\d+=)?)?-?[\d.]+").fullmatch, rest[:4]))
            parts = parts or [part for part in rest[:1] if not part.startswith("--")]
            del rest[: len(parts)]
            word = f"--box={','.join(parts)}" if parts else word
        words.append(word)
    return words


def _prompts(options: argparse.Namespace) -> list[Prompt]:
    from e3sn_lib.tracking.prompts import prompts_from_mask
    from e3sn_lib.tracking.video import open_video

    if not (options.box or options.mask or options.draw or options.draw_in):
        raise InputError("one of these is required: --box, --mask, --draw, --draw-in")
    if options.last is not None and options.last < options.first:
        raise InputError(f"--to {options.last} lies before --from {options.first}")
    last = sys.maxsize if options.last is None else options.last + 1
    for frame, _ in options.draw_in:
        if frame not in range(options.first, last, options.stride):
            raise InputError(f"--draw-in {frame}: this frame is not among those to track")
    prompts: list[Prompt] = options.box
    for path in reversed(options.mask):
        prompts = prompts_from_mask(path, open_video(options.video).size) + prompts
    for place in [(options.first, None)] * options.draw + options.draw_in:
        prompts = prompts + _drawn(open_video(options.video), *place)
    return prompts


def _drawn(source: VideoSource, number: int, corrected: int | None) -> list[Prompt]:
    """Let the user draw boxes on a frame in a window: of new objects, or one that corrects."""
    import cv2
    import numpy as np

    from e3sn_lib.tracking.prompts import Prompt

    # without a screen OpenCV's window ends the process, so another process tries first
    if subprocess.run([sys.executable, "-c", TRY_WINDOW], capture_output=True).returncode:
        raise InputError("--draw needs a screen; give --box x,y,width,height instead")
    frame = next(source.frames(range(number, number + 1)), None)
    if frame is None:
        raise InputError(f"{source.path} has no frame {number}")
    scale = min(WINDOW_SIDE / max(source.size), 1.0)
    picture = cv2.resize(frame.image[..., ::-1], None, fx=scale, fy=scale)
    title = f"Frame {number}: drag a box, press Enter; again for the next object; Escape when done"
    boxes = cv2.selectROIs(title, picture, showCrosshair=False, printNotice=False)
    cv2.destroyAllWindows()
    if len(boxes) == 0:
        raise InputError(f"no box was drawn on frame {number}")
    if corrected is not None and len(boxes) > 1:
        raise InputError(f"{len(boxes)} boxes were drawn to correct object {corrected}; draw one")
    factors = np.tile(np.divide(source.size, picture.shape[1::-1]), 2)  # the picture is rounded
    new = [(box * factors).tolist() for box in boxes]
    return [Prompt(box, number, corrected, corrects=corrected is not None) for box in new]


def _place(text: str) -> tuple[int, int | None]:
    """Read ``FRAME`` or ``FRAME:ID``."""
    if not (found := re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text, re.ASCII)):
        raise argparse.ArgumentTypeError(f"'{text}' is not FRAME or FRAME:ID")
    return int(found[1]), int(found[2]) if found[2] else None


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return value


class _Lines:
    """Replaces a terminal: each new state of the bar becomes a line of its own."""

    last = ""

    def write(self, text: str) -> None:
        if (text := text.strip()) and text != self.last:
            self.last = text
            if " of ? " in text:  # then the time left is not known
                text = text.replace(" of ?", "").rpartition(", ")[0]
            print(text, file=sys.stderr)


def _progress() -> tqdm:
    """Return a progress bar with frames/s and the time left; without a terminal, print lines."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        bar = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
        return tqdm(unit=" frames", bar_format=bar, dynamic_ncols=True, leave=False)
    line = "{n_fmt} of {total_fmt} frames, {rate_noinv_fmt}, {remaining} left"
    times = {"mininterval": SECONDS_PER_LINE, "delay": SECONDS_PER_LINE, "miniters": 1}
    return tqdm(file=_Lines(), unit=" frames", bar_format=line, **times)


def _prompt(text: str) -> Prompt:
    from e3sn_lib.tracking.prompts import prompt_from_text

    try:
        return prompt_from_text(text)
    except ValueError as error:
        wordings = "x,y,width,height, FRAME:x,y,width,height or FRAME:ID=x,y,width,height"
        raise argparse.ArgumentTypeError(f"'{text}' is not {wordings}") from error
