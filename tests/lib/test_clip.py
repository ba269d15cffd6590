"""Clips out: decoded again they have the right frames, times, shape of pixels and sound."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import Image, bar, bars_seen, pitch, still, write_video

from e3sn_lib.errors import InputError
from e3sn_lib.tracking.clip import ClipWriter, write_clip
from e3sn_lib.tracking.video import VideoSource, open_video, read_frames


def copied(video: Path, clip: Path, chosen: range = range(99), sound: bool = False) -> VideoSource:
    """Write some frames of a video as a clip; return the video."""
    source = open_video(video)
    writer = ClipWriter(clip, source, sound)
    for frame in source.frames(chosen):
        writer.write(frame.image, frame.seconds, frame.duration)
    writer.close()
    return source


class TestFrames:
    def test_what_is_written_is_read(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "deep" / "clip.mp4"
        write_clip(path, (bar(number) for number in range(8)))
        frames = list(read_frames(path))
        assert [frame.shape for frame in frames] == [(64, 96, 3)] * 8
        assert bars_seen(frames) == list(range(8))
        assert [each.name for each in path.parent.iterdir()] == ["clip.mp4"]
        assert capfd.readouterr() == ("", "")

    def test_browsers_can_play_it(self, tmp_path: Path) -> None:
        """H.264 in yuv420p; the index comes before the pictures, so that it plays at once."""
        write_clip(tmp_path / "clip.mp4", [bar(0)] * 3)
        with av.open(str(tmp_path / "clip.mp4")) as container:
            context = container.streams.video[0].codec_context
            assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        content = (tmp_path / "clip.mp4").read_bytes()
        assert content[4:8] == b"ftyp"
        assert content.index(b"moov") < content.index(b"mdat")

    def test_colours_keep_their_order(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "clip.mp4", [still(200, 60, 30)] * 2)
        red, green, blue = next(read_frames(tmp_path / "clip.mp4")).mean(axis=(0, 1))
        assert (red, green, blue) == pytest.approx((200, 60, 30), abs=4)

    @pytest.mark.parametrize(
        ("size", "kept"), [((97, 65), (96, 64)), ((1, 1), (2, 2)), ((20, 1), (20, 2))]
    )
    def test_odd_sizes_lose_their_last_row_and_column(
        self, tmp_path: Path, size: tuple[int, int], kept: tuple[int, int]
    ) -> None:
        write_clip(tmp_path / "clip.mp4", [still(100, 100, 100, *size)] * 2)
        frame = next(read_frames(tmp_path / "clip.mp4"))
        assert frame.shape == (kept[1], kept[0], 3)
        assert np.abs(frame.astype(int) - 100).max() < 4

    @pytest.mark.parametrize("fps", [12.5, 0.5, 24, 480, 30000 / 1001])
    def test_the_frame_rate_is_kept(self, tmp_path: Path, fps: float) -> None:
        write_clip(tmp_path / "clip.mp4", [bar(0)] * 3, fps)
        source = open_video(tmp_path / "clip.mp4")
        assert float(source.rate) == pytest.approx(fps, rel=1e-3)
        assert source.announced == 3
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert container.duration == pytest.approx(3e6 / fps, rel=2e-3)

    def test_uneven_times_and_shape_of_pixels_are_kept(self, tmp_path: Path) -> None:
        ticks = [50, 60, 80, 83]
        frames = [bar(number) for number in range(4)]
        write_video(tmp_path / "v.mp4", frames, ticks, aspect=Fraction(4, 3))
        copied(tmp_path / "v.mp4", tmp_path / "clip.mp4")
        with av.open(str(tmp_path / "clip.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.sample_aspect_ratio == Fraction(4, 3)
            times = [frame.pts * frame.time_base for frame in container.decode(stream)]
        assert times == [Fraction(tick - 50, 100) for tick in ticks]

    def test_a_pause_may_be_long_whatever_the_clock_of_the_file(self, tmp_path: Path) -> None:
        """MP4 keeps the time between two frames in 31 bits: two seconds of a clock of nanoseconds."""
        like = VideoSource(tmp_path / "v.mkv", (96, 64), time_base=Fraction(1, 10**9))
        writer, seconds = ClipWriter(tmp_path / "clip.mp4", like), [0, 0, 1, 61, 3600]
        for number, second in enumerate(seconds):
            writer.write(bar(number), Fraction(second), Fraction(300))
        writer.close()
        written = [float(frame.seconds) for frame in open_video(tmp_path / "clip.mp4").frames()]
        assert written == pytest.approx(seconds, abs=1e-3)

    def test_an_error_in_the_middle_leaves_nothing(self, tmp_path: Path) -> None:
        def frames() -> Iterator[Image]:
            yield from (bar(0), bar(1))
            raise InputError("no more")

        with pytest.raises(InputError, match="no more"):
            write_clip(tmp_path / "clip.mp4", frames())
        assert list(tmp_path.iterdir()) == []

    def test_no_frames_are_no_clip(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there are no frames"):
            write_clip(tmp_path / "clip.mp4", [])
        assert list(tmp_path.iterdir()) == []

    def test_a_cut_out_has_an_alpha_channel(self, tmp_path: Path) -> None:
        write_video(tmp_path / "v.mp4", [bar(0)] * 3)
        source = open_video(tmp_path / "v.mp4")
        writer = ClipWriter(tmp_path / "clip.mov", source)
        alpha = np.zeros((64, 96, 1), np.uint8)
        alpha[:, 40:] = 255
        for frame in source.frames():
            writer.write(np.dstack([still(200, 60, 30), alpha]), frame.seconds, frame.duration)
        writer.close()
        with av.open(str(tmp_path / "clip.mov")) as container:
            assert container.streams.video[0].codec_context.name == "prores"
            frames = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]
        assert len(frames) == 3
        assert np.abs(frames[1][..., 3].astype(int) - alpha[..., 0]).max() <= 2
        assert np.abs(frames[1][:, 50:, :3].astype(int) - (200, 60, 30)).max() <= 4

    @pytest.mark.parametrize("width", [641, 854])
    def test_a_cut_out_is_opaque_where_the_mask_is(self, tmp_path: Path, width: int) -> None:
        image = np.random.default_rng(0).integers(0, 256, (480, width, 4), np.uint8)
        image[..., 3] = 0
        image[160:, 200:, 3] = 255
        writer = ClipWriter(tmp_path / "clip.mov", VideoSource(Path("v"), (width, 480)))
        for number in range(10):
            writer.write(image, Fraction(number, 24), Fraction(1, 24))
        writer.close()
        with av.open(str(tmp_path / "clip.mov")) as container:
            for frame in container.decode(video=0):
                alpha = frame.reformat(format="rgba", threads=1).to_ndarray()[..., 3]
                assert np.array_equal(alpha > 127, image[..., 3] > 127)


class TestSound:
    @pytest.mark.parametrize(
        ("name", "codec"),
        [
            ("v.mp4", "aac"),
            ("v.ts", "aac"),
            ("v.mkv", "libmp3lame"),
            ("v.mkv", "libopus"),
            ("v.mov", "pcm_s16le"),
        ],
    )
    @pytest.mark.parametrize("chosen", [range(50), range(20, 45)])
    def test_a_tone_is_heard_as_long_as_the_pictures_last(
        self, tmp_path: Path, name: str, codec: str, chosen: range
    ) -> None:
        write_video(tmp_path / name, [bar(number) for number in range(50)], tone=codec)
        copied(tmp_path / name, tmp_path / "clip.mp4", chosen, sound=True)
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert container.streams.audio[0].codec_context.name == "aac"
            assert container.duration == pytest.approx(4e4 * len(chosen), abs=5e4)
        seconds, hertz = pitch(tmp_path / "clip.mp4")
        assert seconds == pytest.approx(len(chosen) / 25, abs=0.06)
        if chosen.stop < 50:  # the sound goes on, so no picture is silent
            assert seconds >= len(chosen) / 25 - 0.0125
        assert hertz == pytest.approx(440, abs=2)

    @pytest.mark.parametrize(("layouts", "restarts"), [("mono stereo", False), ("mono mono", True)])
    def test_sound_that_changes_or_whose_clock_restarts_is_no_fault(
        self, tmp_path: Path, layouts: str, restarts: bool
    ) -> None:
        frames, parts = [bar(number) for number in range(25)], []
        for number, layout in enumerate(layouts.split()):
            ticks = range(0 if restarts else 100 * number, 100 * (number + 1), 4)[:25]
            path = tmp_path / f"{number}.ts"
            write_video(path, frames, ticks, tone="aac", layout=layout)
            parts.append(path.read_bytes())
        (tmp_path / "v.ts").write_bytes(b"".join(parts))  # parts of a broadcast, one by one
        copied(tmp_path / "v.ts", tmp_path / "clip.mp4", sound=True)
        seconds, hertz = pitch(tmp_path / "clip.mp4")
        assert seconds == pytest.approx(1 if restarts else 2, abs=0.15)
        assert hertz == pytest.approx(440, abs=2)

    def test_sound_whose_channels_cannot_be_mixed_is_left_out(self, tmp_path: Path) -> None:
        """As of a recording of 17 microphones. FFmpeg cannot make it stereo."""
        with av.open(str(tmp_path / "v.mkv"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            track = container.add_stream("pcm_s16le", rate=48000, layout="17 channels")
            for number in range(5):
                frame = av.VideoFrame.from_ndarray(bar(number), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            sound = av.AudioFrame("s16", "17 channels", 9600)
            sound.rate, sound.pts = 48000, 0
            for each, last in ((stream, None), (track, sound), (track, None)):
                container.mux(each.encode(last))
        source = copied(tmp_path / "v.mkv", tmp_path / "clip.mp4", sound=True)
        assert source.damaged
        assert bars_seen(read_frames(tmp_path / "clip.mp4")) == [0, 1, 2, 3, 4]

    def test_without_sound_there_is_none(self, tmp_path: Path) -> None:
        for tone, sound in (("", True), ("aac", False)):
            write_video(tmp_path / "v.mp4", [bar(0)] * 3, tone=tone)
            copied(tmp_path / "v.mp4", tmp_path / "clip.mp4", sound=sound)
            with av.open(str(tmp_path / "clip.mp4")) as container:
                assert len(container.streams.audio) == 0
