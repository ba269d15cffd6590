"""Write clips: H.264 in MP4, which browsers, phones and editors play, or ProRes 4444 with alpha."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path
from e3sn_lib.tracking.video import FRAME_RATE, Image, VideoSource, open_file

LARGEST_SIDE = 16384
"""Pixels; wider or higher frames do not fit into H.264."""
COPIED_SOUND = ("aac", "mp3")
"""Codecs that every player of MP4 knows; other sound is encoded anew, as AAC."""
BT709 = 1
"""FFmpeg's number of the colour space that players expect in a video of today."""


class ClipWriter:
    """Write frames of one size with their times.

    yuv420p, the one pixel format that every browser plays, has even sides: of an odd width or
    height the last column or row is left out, and a single one is doubled.

    Args:
        path: of the clip; ``.mp4`` is H.264 of RGB frames, ``.mov`` ProRes 4444 of RGBA frames.
        like: the video that gives size, clock and shape of pixels.
        with_sound: also write the sound of that video.
    """

    def __init__(self, path: Path, like: VideoSource, with_sound: bool = False) -> None:
        self.path, self.count = path, 0
        self.sound: Sound | None = None
        self._like, self._with_sound = like, with_sound and like.has_sound
        self._begin = Fraction(0)
        self._durations: deque[int] = deque()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w", container_options={"movflags": "faststart"})
        self._stream = self._new_stream()

    def write(self, image: Image, seconds: Fraction, duration: Fraction) -> None:
        """Add a frame.

        Args:
            image: (H, W, 3) RGB, or (H, W, 4) RGBA for ProRes.
            seconds: its time in the video; the clip begins with that of its first frame.
            duration: how many seconds it is shown, which matters for the last frame only.

        Raises:
            OSError: the disk is full.
        """
        if self.count == 0:
            self._begin = seconds
            if self._with_sound:
                self.sound = Sound(self._like, self._container, seconds)
        base, stream = self._like.time_base, self._stream
        image = cv2.copyMakeBorder(image, 0, 1, 0, 1, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        image = np.ascontiguousarray(image[: stream.height, : stream.width])
        frame = av.VideoFrame.from_ndarray(image, "rgba" if image.shape[2] == 4 else "rgb24")
        frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=BT709)
        frame.pts, frame.time_base = round((seconds - self._begin) / base), base
        self._durations.append(max(round(duration / base), 1))
        self._mux(frame)
        self.count += 1
        if self.sound:
            self.sound.write(seconds + duration - self._begin)

    def close(self) -> None:
        """Complete the clip and count its frames.

        Raises:
            InputError: no frame was written.
            OSError: the disk is full.
        """
        if self.count == 0:
            raise InputError(f"cannot write {self.path}: there are no frames")
        self._mux(None)
        self._container.close()
        with av.open(str(self.path)) as container:
            found = sum(packet.size > 0 for packet in container.demux(video=0))
        if found != self.count:
            raise OSError(f"{self.path.name} holds {found} of {self.count} frames")

    def release(self) -> None:
        """Close the file, whether complete or not."""
        with suppress(OSError):
            self._container.close()

    def _new_stream(self) -> av.VideoStream:
        width, height = self._like.size
        stream: av.VideoStream
        if self.path.suffix == ".mov":
            stream = self._container.add_stream("prores_ks", options={"profile": "4444"})
            stream.pix_fmt = "yuva444p10le"
        else:
            # without B-frames, packets come in the order of frames and keep their durations
            options = {"crf": "20", "preset": "veryfast", "bf": "0"}
            stream = self._container.add_stream("libx264", options=options)
            stream.pix_fmt = "yuv420p"
            width, height = max(width // 2 * 2, 2), max(height // 2 * 2, 2)
        stream.width, stream.height = width, height
        context = stream.codec_context
        context.time_base, context.framerate = self._like.time_base, self._like.rate
        context.sample_aspect_ratio = self._like.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = BT709
        return stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._durations.popleft()
            self._container.mux(packet)


class Sound:
    """The sound of a video on its way into a clip: copied, or encoded anew.

    Args:
        source: the video.
        clip: the clip; nothing may have been written to it.
        begin: time in the video at which the clip begins, in seconds.
    """

    def __init__(
        self, source: VideoSource, clip: av.container.OutputContainer, begin: Fraction
    ) -> None:
        self.damaged = False
        """Whether the sound ends early because it cannot be decoded."""
        self._clip, self._begin = clip, begin + source.start
        self._file = open_file(source.path)
        self._track = self._file.streams.audio[0]
        context = self._track.codec_context
        self._encoder: av.AudioStream | None = None
        if context.codec.canonical_name in COPIED_SOUND:
            self._out = clip.add_stream_from_template(self._track)
        else:
            layout = "mono" if context.channels == 1 else "stereo"
            self._out = self._encoder = clip.add_stream("aac", rate=48000, layout=layout)
        self._packets = self._read()
        self._next = next(self._packets, None)

    def write(self, until: Fraction) -> None:
        """Write what sounds before this time of the clip, in seconds."""
        while self._next and (self._next.pts or 0) * self._next.time_base < until:
            self._clip.mux(self._next)
            self._next = next(self._packets, None)

    def _read(self) -> Iterator[av.Packet[av.AudioStream]]:
        with self._file:
            try:
                for packet in self._file.demux(self._track):
                    if self._encoder is None:
                        if self._moved(packet):
                            packet.dts, packet.stream = packet.pts, self._out
                            yield packet
                    else:
                        for frame in filter(self._moved, packet.decode()):
                            yield from self._encoder.encode(frame)
                yield from self._encoder.encode(None) if self._encoder else ()
            except av.FFmpegError:
                self.damaged = True

    def _moved(self, part: av.Packet[av.AudioStream] | av.AudioFrame) -> bool:
        """Give a packet or frame its time in the clip; False if it lies before the clip."""
        if part.pts is None or part.time_base is None:
            return False
        part.pts -= round(self._begin / part.time_base)
        return part.pts >= 0


def write_clip(path: Path, frames: Iterable[Image], fps: float = float(FRAME_RATE)) -> int:
    """Write frames as an MP4 of H.264; return how many.

    Args:
        path: of the clip.
        frames: (H, W, 3) RGB uint8, of one size.
        fps: frames per second.

    Raises:
        InputError: there is no frame.
    """
    step = 1 / Fraction(fps).limit_denominator(1001)
    writer: ClipWriter | None = None
    with atomic_path(path) as temporary:
        for number, frame in enumerate(frames):
            if writer is None:
                size = frame.shape[1], frame.shape[0]
                like = VideoSource(path, size, rate=1 / step, time_base=step)
                writer = ClipWriter(temporary, like)
            writer.write(frame, number * step, step)
        if writer is None:
            raise InputError(f"cannot write {path}: there are no frames")
        writer.close()
    return writer.count
