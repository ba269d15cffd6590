"""From boxes in the first frame of anyone's video to masks on the disk and a clip to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.files import write_mask
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.tracking.video import Image, frame_names, frame_rate, overlay, read_frames, write_clip


def track_video(tracker: Tracker, video: Path, boxes_frame_xywh: Sequence[Sequence[float]], out: Path) -> NDArray[np.float64]:
    """Follow boxed objects through a video, one frame in memory at a time.

    Args:
        tracker: with the network.
        video: a file, or a folder of frames.
        boxes_frame_xywh: of the objects in the first frame.
        out: a folder; ``masks/`` gets one palette PNG of object ids per frame, named as the frames are, ``overlay.webm`` a
            clip of the video's frame rate.

    Returns:
        (T, N) scores of the frames' objects, 0 to 1; below 0.5 an object was probably lost.

    Raises:
        InputError: the video cannot be read, or a box does not lie in its first frame.
    """
    names = frame_names(video)
    scores: list[NDArray[np.float64]] = []

    def masks_and_overlays() -> Iterator[Image]:
        shown, tracked = tee(read_frames(video))
        for index, (frame, result) in enumerate(zip(shown, tracker.run(tracked, boxes_frame_xywh), strict=True)):
            stem = Path(names[index]).stem if names else f"{index:05d}"
            write_mask(out / "masks" / f"{stem}.png", result.ids)
            scores.append(result.scores)
            yield overlay(frame, result.ids)

    # VP9 would take six times as long as the network
    write_clip(out / "overlay.webm", masks_and_overlays(), frame_rate(video), codec="VP80")
    return np.array(scores)
