"""Write clips: H.264 in MP4, which browsers, phones and editors play, or ProRes 4444 with alpha."""

import math
from collections.abc import Generator, Iterable
from contextlib import closing
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import Flags

from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path
from e3sn_lib.geometry import Image
from e3sn_lib.tracking.video import (
    BT709,
    FRAME_RATE,
    LONGEST_PAUSE,
    VideoSource,
    decoded,
    open_file,
)

LARGEST_SIDE = 16384
"""Pixels; wider or higher frames do not fit into H.264."""
FINEST_CLOCK = Fraction(1, 90_000)
"""Seconds; usual for MPEG."""
SOUND_RATE = 48000
"""Samples per second."""


class ClipWriter:
    """Write frames of one size with their times.

    yuv420p, the one pixel format that every browser plays, needs even sides. So the last column or
    row of an odd side is left out; a single one is doubled.

    Args:
        path: of the clip; ``.mp4`` is H.264 of RGB frames, ``.mov`` ProRes 4444 of RGBA frames.
        like: the video that gives size, clock and shape of pixels.
        with_sound: also write the sound of that video.
    """

    def __init__(self, path: Path, like: VideoSource, with_sound: bool = False) -> None:
        self._like, self._with_sound = like, with_sound and like.has_sound
        self._begin: Fraction | None = None
        options, place = {"movflags": "faststart"}, str(path.absolute())  # see `open_file`
        self._container = av.open(place, "w", container_options=options)
        width, height = like.size
        stream: av.VideoStream
        if path.suffix == ".mov":
            stream = self._container.add_stream("prores_ks", options={"profile": "4444"})
            stream.pix_fmt = "yuva444p10le"
        else:
            # without B-frames, packets come in the order of frames
            options = {"crf": "20", "preset": "veryfast", "bf": "0"}
            stream = self._container.add_stream("libx264", options=options)
            stream.pix_fmt = "yuv420p"
            width, height = max(width // 2 * 2, 2), max(height // 2 * 2, 2)
        self._stream, stream.width, stream.height = stream, width, height
        context = stream.codec_context
        # MP4 keeps the time between two frames in 31 bits; a finer clock would limit it to seconds
        self._clock = max(like.time_base, FINEST_CLOCK)
        self._last_tick = -1
        context.time_base, context.framerate = self._clock, like.rate
        context.sample_aspect_ratio = like.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.flags |= Flags.frame_duration

    def write(self, image: Image, seconds: Fraction, duration: Fraction) -> None:
        """Add a frame; raise OSError if the disk is full.

        Args:
            image: (H, W, 3) RGB, or (H, W, 4) RGBA for ProRes.
            seconds: its time in the video; the clip begins with that of its first frame.
            duration: how many seconds it is shown, which matters for the last frame only.
        """
        if self._begin is None:
            self._begin = seconds
            self._sound = self._encoded_sound(seconds)
            self._heard = next(self._sound, math.inf)
        stream = self._stream
        image = cv2.copyMakeBorder(image, 0, 1, 0, 1, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        image = np.ascontiguousarray(image[: stream.height, : stream.width])
        frame = av.VideoFrame.from_ndarray(image, "rgba" if image.shape[2] == 4 else "rgb24")
        # with several threads, ends of rows get wrong alpha at some widths
        frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=BT709, threads=1)
        tick = round((seconds - self._begin) / self._clock)
        self._last_tick = max(tick, self._last_tick + 1)  # encoders need times that grow
        frame.pts, frame.time_base = self._last_tick, self._clock
        frame.duration = min(max(round(duration / self._clock), 1), 2**31 - 1)
        self._container.mux(stream.encode(frame))
        while self._heard < seconds + duration - self._begin:
            self._heard = next(self._sound, math.inf)

    def close(self) -> None:
        """Complete the clip; raise OSError if the disk is full."""
        with self._container:
            self._container.mux(self._stream.encode(None))
            if self._begin is not None:
                self._sound.close()

    def _encoded_sound(self, begin: Fraction) -> Generator[float, None, None]:
        """Write the video's sound from the time `begin` on, as AAC; yield the seconds written."""
        if not self._with_sound:
            return
        with open_file(self._like.path) as file:
            track = file.streams.audio[0]
            layout = "mono" if track.codec_context.channels == 1 else "stereo"
            encoder = self._container.add_stream("aac", rate=SOUND_RATE, layout=layout)
            kind: Any = None
            resampler: Any = None
            last = -1
            try:
                for frame in decoded(file.demux(track), self._like):
                    if frame.pts is None:
                        continue
                    frame.pts -= round((begin + self._like.start) / frame.time_base)
                    if frame.pts < 0:
                        continue
                    leap = (frame.pts - last) * frame.time_base
                    if not 0 < leap < LONGEST_PAUSE:  # a broken clock
                        self._like.damaged = True
                        continue
                    last, before, seconds = frame.pts, kind, float(frame.pts * frame.time_base)
                    kind = (frame.format.name, frame.layout.name, frame.sample_rate)
                    if kind != before:  # as where a broadcast changes from surround to stereo
                        resampler = av.AudioResampler("fltp", layout, SOUND_RATE)
                    try:
                        parts = resampler.resample(frame)
                    except (av.FFmpegError, ValueError):  # its channels cannot be mixed
                        self._like.damaged, kind, parts = True, None, []
                    for part in parts:
                        part.pts = round(part.pts * part.time_base * SOUND_RATE)
                        part.time_base = Fraction(1, SOUND_RATE)
                        self._container.mux(encoder.encode(part))
                    yield seconds
            finally:  # also where the pictures end first
                self._container.mux(encoder.encode(None))


def write_clip(path: Path, frames: Iterable[Image], fps: float = float(FRAME_RATE)) -> None:
    """Write frames, (H, W, 3) RGB uint8 of one size, as an MP4 of H.264; raises InputError if there
    is none."""
    frames, step = iter(frames), 1 / Fraction(fps).limit_denominator(1001)
    first = next(frames, None)
    if first is None:
        raise InputError(f"cannot write {path}: there are no frames")
    like = VideoSource(path, first.shape[1::-1], rate=1 / step, time_base=step)
    with atomic_path(path) as temporary, closing(ClipWriter(temporary, like)) as clip:
        for number, frame in enumerate(chain([first], frames)):
            clip.write(frame, number * step, step)
