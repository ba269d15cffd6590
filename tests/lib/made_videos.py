"""Tiny videos, written by PyAV alone, for tests of what reads and writes videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def still(red: int, green: int, blue: int, width: int = 96, height: int = 64) -> Image:
    return np.full((height, width, 3), (red, green, blue), np.uint8)


def bar(number: int) -> Image:
    """A grey frame with a bright bar whose place says which frame it is, modulo 9."""
    frame = still(60, 60, 60)
    frame[:, 10 * (number % 9) : 10 * (number % 9) + 8] = 220
    return frame


def bars_seen(frames: Iterable[Image]) -> list[int]:
    """What the bars say."""
    means = (frame[..., 0].mean(axis=0)[:90].reshape(9, 10).mean(axis=1) for frame in frames)
    return [int(mean.argmax()) for mean in means]


def write_video(
    path: Path,
    frames: Sequence[Image],
    ticks: Sequence[int] = (),
    time_base: Fraction = Fraction(1, 100),
    turn: Callable[[av.VideoStream], None] = lambda stream: None,
    aspect: Fraction = Fraction(1),
    tone: str = "",
    layout: str = "mono",
    options: dict[str, str] | None = None,
) -> None:
    """Write H.264, a frame every 0.04 s or at given ticks; `tone` names a codec for 440 Hz."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.sample_aspect_ratio = aspect
        turn(stream)
        track = container.add_stream(tone, rate=48000, layout=layout) if tone else None
        ticks = ticks or [4 * number for number in range(len(frames))]
        for image, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track:
            length = int(48000 * ((ticks[-1] - ticks[0]) * time_base + Fraction(1, 25)))
            wave = np.sin(2 * np.pi * 440 / 48000 * np.arange(length)) * 16000
            sound = av.AudioFrame.from_ndarray(wave[None].astype(np.int16), "s16", "mono")
            sound.rate, sound.pts = 48000, int(48000 * ticks[0] * time_base)
            container.mux(track.encode(sound))
            container.mux(track.encode(None))


def pitch(path: Path) -> tuple[float, float]:
    """Seconds of a clip's sound and its loudest frequency in Hz, as PyAV decodes it."""
    resampler = av.AudioResampler("s16", "mono", 8000)
    with av.open(str(path)) as container:
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    wave = np.concatenate([part.to_ndarray()[0] for part in parts])
    return len(wave) / 8000, np.abs(np.fft.rfft(wave)).argmax() * 8000 / len(wave)
