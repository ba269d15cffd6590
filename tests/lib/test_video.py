"""Videos in: frames of files and folders, upright, whole and at their times; objects on frames."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from made_videos import bar, bars_seen, still, write_video
from PIL import ExifTags, Image

from e3sn_lib.errors import InputError
from e3sn_lib.tracking import video as reading
from e3sn_lib.tracking.video import (
    FRAME_RATE,
    object_colour,
    open_video,
    overlay,
    read_frames,
)


class TestFolders:
    def test_a_folder_in_the_order_of_names(self, tmp_path: Path) -> None:
        for number in (10, 2, 1):
            cv2.imwrite(str(tmp_path / f"{number:05d}.png"), still(0, 0, number)[..., ::-1])
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / "._00001.png").write_text("macOS puts such files beside images")
        assert [int(frame[0, 0, 2]) for frame in read_frames(tmp_path)] == [1, 2, 10]
        source = open_video(tmp_path)
        assert (source.rate, source.announced, source.size) == (FRAME_RATE, 3, (96, 64))
        frames = [(frame.name, float(frame.seconds)) for frame in source.frames()]
        assert frames == [("00001", 0), ("00002", 1 / 24), ("00010", 2 / 24)]

    def test_numbers_count_whatever_their_digits(self, tmp_path: Path) -> None:
        for name in ("frame10.jpg", "frame9.jpg", "a.jpg", "frame100.JPG", "b².jpg"):
            cv2.imwrite(str(tmp_path / name), bar(0))
        in_order = ("a.jpg", "b².jpg", "frame9.jpg", "frame10.jpg", "frame100.JPG")
        assert open_video(tmp_path).names == in_order

    def test_names_may_be_times_of_a_clock(self, tmp_path: Path) -> None:
        """As Python writes them, without zeros at the end."""
        in_order = ("1700000000.125.jpg", "1700000000.25.jpg", "1700000000.5.jpg", "1700000001.jpg")
        for name in in_order:
            cv2.imwrite(str(tmp_path / name), bar(0))
        assert open_video(tmp_path).names == in_order

    def test_two_images_of_one_frame(self, tmp_path: Path) -> None:
        for name in ("1.jpg", "1.png", "2.jpg"):
            (tmp_path / name).touch()
        with pytest.raises(InputError, match=r"has 1\.jpg and 1\.png for one frame; keep one"):
            open_video(tmp_path)

    def test_frames_are_read_when_they_are_needed(self, tmp_path: Path) -> None:
        for number in range(2):
            cv2.imwrite(str(tmp_path / f"{number}.png"), bar(number))
        (tmp_path / "2.jpg").write_bytes(b"\xff\xd8 cut")
        frames = read_frames(tmp_path)
        next(frames), next(frames)
        with pytest.raises(InputError, match=r"2\.jpg is cut short"):
            next(frames)


class TestFiles:
    @pytest.mark.parametrize("content", [b"", b"no video\n", b"\x1aE\xdf\xa3" + bytes(200)])
    def test_what_is_no_video_is_named_in_one_line(
        self, tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "some.mp4").write_bytes(content)
        with pytest.raises(InputError, match=r"some\.mp4 is no video that FFmpeg can read"):
            next(read_frames(tmp_path / "some.mp4"))
        assert capfd.readouterr() == ("", "")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no video or folder of frames"):
            next(read_frames(tmp_path / "absent"))
        with pytest.raises(InputError, match="has no images"):
            next(read_frames(tmp_path))

    def test_sound_alone_is_no_video(self, tmp_path: Path) -> None:
        with av.open(str(tmp_path / "song.wav"), "w") as container:
            track = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            silence.rate = 8000
            container.mux(track.encode(silence))
        with pytest.raises(InputError, match="has no pictures, only sound"):
            open_video(tmp_path / "song.wav")

    def test_frames_keep_uneven_times(self, tmp_path: Path) -> None:
        """As phones record them: 0.1 s, 0.2 s, 0.03 s and 0.67 s long."""
        write_video(tmp_path / "v.mp4", [bar(n) for n in range(4)], ticks=[50, 60, 80, 83])
        source = open_video(tmp_path / "v.mp4")
        frames = list(source.frames())
        assert [100 * frame.seconds for frame in frames] == [0, 10, 30, 33]
        assert [frame.number for frame in frames] == [0, 1, 2, 3]
        assert [frame.name for frame in frames] == ["00000", "00001", "00002", "00003"]
        assert bars_seen(frame.image for frame in frames) == [0, 1, 2, 3]

    def test_a_frame_every_two_seconds(self, shared_path: Callable[[str], Path]) -> None:
        path = shared_path("cases/slow_and_fast_video/half_a_frame_per_second.mp4")
        frames = list(open_video(path).frames())
        assert [(frame.seconds, frame.duration) for frame in frames] == [(0, 2), (2, 2), (4, 2)]

    def test_interlaced_frames_are_found_backwards_without_decoding_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frames = [bar(number) for number in range(200)]
        write_video(
            tmp_path / "v.mp4", frames, options={"x264-params": "tff=1:keyint=10:bframes=0"}
        )
        source, counted, decoded = open_video(tmp_path / "v.mp4"), [], reading.decoded
        monkeypatch.setattr(reading, "HELD_BYTES", 0)  # four frames at once
        monkeypatch.setattr(
            reading,
            "decoded",
            lambda *given: (counted.append(each) or each for each in decoded(*given)),
        )
        found = dict(source.backwards(range(180, 200)))
        assert all(frame.interlaced_frame for frame in counted)
        assert bars_seen(found.values()) == [number % 9 for number in range(199, 179, -1)]
        assert len(counted) < 200 + 5 * (4 + reading.REORDERED + 10) + 10

    def test_interlaced_frames_without_times_follow_the_rate(self, tmp_path: Path) -> None:
        frames = [bar(number) for number in range(5)]
        write_video(tmp_path / "v.h264", frames, options={"x264-params": "tff=1"})
        source = open_video(tmp_path / "v.h264")
        times = [frame.seconds for frame in source.frames()]
        assert [after - before for before, after in pairwise(times)] == [1 / source.rate] * 4
        assert source.missing == ()

    def test_the_pictures_that_move_are_those_of_a_video(self, tmp_path: Path) -> None:
        path = tmp_path / "v.avif"  # its first stream is a still picture
        stills = [Image.fromarray(bar(number)) for number in range(6)]
        stills[0].save(path, save_all=True, append_images=stills[1:], duration=100)
        assert bars_seen(read_frames(path)) == list(range(6))

    def test_interlaced_frames_are_made_whole(self, shared_path: Callable[[str], Path]) -> None:
        """FFmpeg's own frames have the disc in both fields; half a picture would have a comb."""
        path = shared_path("cases/interlaced_video/interlaced.mp4")
        frames = list(read_frames(path))
        assert [frame.shape for frame in frames] == [(64, 96, 3)] * 3
        for frame in frames:
            rows = frame[..., 0].astype(float)
            assert np.abs(rows[:-2] - 2 * rows[1:-1] + rows[2:]).mean() < 5  # 6.5 in half pictures
        again = list(read_frames(path))
        assert all(np.array_equal(one, two) for one, two in zip(frames, again, strict=True))

    @pytest.mark.parametrize("degrees", [0, 90, 180, 270])
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_a_phone_held_upright(self, tmp_path: Path, degrees: int, mirrored: bool) -> None:
        """The turn is written by PyAV and must be undone as numpy turns and mirrors."""
        frame = still(40, 40, 40)
        frame[:32, :32] = (220, 30, 30)
        write_video(
            tmp_path / "v.mp4",
            [frame] * 2,
            turn=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
            aspect=Fraction(4, 3),
        )
        expected = np.rot90(frame, degrees // 90)
        expected = expected[:, ::-1] if mirrored else expected
        source = open_video(tmp_path / "v.mp4")
        seen = next(source.frames()).image
        assert seen.shape == expected.shape
        assert source.size == seen.shape[1::-1]
        assert np.abs(seen.astype(int) - expected).mean() < 6
        assert source.pixel_aspect == (Fraction(3, 4) if degrees in (90, 270) else Fraction(4, 3))

    def test_frames_do_not_stay_in_memory(self, tmp_path: Path) -> None:
        """Also before Python looks for cycles, which it does after hundreds of frames."""
        write_video(tmp_path / "v.mp4", [bar(number) for number in range(40)])
        gc.collect()
        gc.disable()
        try:
            frames = iter(open_video(tmp_path / "v.mp4").frames())
            assert [next(frames).number for _ in range(35)][-1] == 34
            alive = sum(type(each) is av.VideoFrame for each in gc.get_objects())
        finally:
            gc.enable()
        assert alive < 10  # some wait in the decoder's threads

    def test_frames_may_be_tiff(self, tmp_path: Path) -> None:
        for number, suffix in enumerate(("tif", "tiff", "png")):
            cv2.imwrite(str(tmp_path / f"{number}.{suffix}"), still(9, 9, number + 1))
        assert [int(frame[0, 0, 0]) for frame in read_frames(tmp_path)] == [1, 2, 3]

    @pytest.mark.parametrize(("height", "matrix"), [(720, "ITU709"), (360, "ITU601")])
    def test_colours_that_a_file_does_not_name_are_those_of_players(
        self, tmp_path: Path, height: int, matrix: str
    ) -> None:
        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
            stream.width, stream.height, stream.pix_fmt = 640, height, "yuv420p"
            frame = av.VideoFrame.from_ndarray(still(200, 50, 20, 640, height), "rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            frame.colorspace = 2  # not named
            container.mux([*stream.encode(frame), *stream.encode(None)])
        (seen,) = read_frames(tmp_path / "v.mp4")
        assert seen[9, 9] == pytest.approx([200, 50, 20], abs=3)

    def test_hdr_as_a_player_shows_it_on_a_usual_screen(self, tmp_path: Path) -> None:
        """Without a conversion, white would be 189, and red (165, 58, 26)."""
        signals = {  # in HLG and BT.2020, from 0 to 1
            (0.75, 0.75, 0.75): (255, 255, 255),  # HDR reference white (ITU-R BT.2408)
            (0.656, 0.234, 0.114): (230, 20, 0),  # its share that is HD's red (ITU-R BT.2087)
            (0, 0, 0): (0, 0, 0),
        }
        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc = 9, 9, 18
            for signal in signals:
                luma = np.dot(signal, (0.2627, 0.678, 0.0593))
                chroma = (signal[2] - luma) / 1.8814, (signal[0] - luma) / 1.4746
                frame = av.VideoFrame(64, 64, "yuv420p10le")
                levels = (876 * luma + 64, *(896 * each + 512 for each in chroma))
                for plane, level in zip(frame.planes, levels, strict=True):
                    plane.update(np.full(plane.buffer_size // 2, round(level), np.uint16).tobytes())
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        for image, seen in zip(read_frames(tmp_path / "v.mp4"), signals.values(), strict=True):
            assert np.abs(image[32, 32].astype(int) - seen).max() < 15

    @pytest.mark.parametrize(
        ("colours", "curve"), [(2, 1), (3, 1), (8, 1), (10, 1), (14, 1), (10, 18), (14, 16)]
    )
    def test_grey_is_grey_in_colours_of_any_name(
        self, tmp_path: Path, colours: int, curve: int
    ) -> None:
        """Some of these FFmpeg itself cannot convert."""
        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_trc, context.color_primaries = colours, curve, 9
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            container.mux([*stream.encode(frame), *stream.encode(None)])
        (image,) = read_frames(tmp_path / "v.mp4")
        assert np.ptp(image[32, 32].astype(int)) <= 3
        assert 120 < image.mean() < 210

    def test_a_frame_of_another_size(self, tmp_path: Path) -> None:
        for number, width in enumerate((96, 96, 80)):
            cv2.imwrite(str(tmp_path / f"{number}.png"), still(9, 9, 9, width))
        frames = open_video(tmp_path).frames()
        next(frames), next(frames)
        with pytest.raises(InputError, match=r"frame 2 of .* is 80x64, the first one 96x64"):
            next(frames)

    def test_a_file_that_ends_too_early_gives_what_is_there(self, tmp_path: Path) -> None:
        """As a player does; `announced` says that more was meant."""
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(20)]
        write_video(tmp_path / "whole.mp4", noise, options={"movflags": "faststart"})
        content = (tmp_path / "whole.mp4").read_bytes()
        (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
        source = open_video(tmp_path / "cut.mp4")
        assert 5 <= len(list(source.frames())) <= 12
        assert source.announced == 20

    def test_a_file_in_fragments_does_not_say_how_many_frames_it_has(self, tmp_path: Path) -> None:
        """Its header counts those of the first fragment."""
        options = {"movflags": "frag_keyframe", "x264-params": "keyint=10:scenecut=0"}
        write_video(tmp_path / "v.mp4", [bar(number) for number in range(40)], options=options)
        with av.open(str(tmp_path / "v.mp4")) as file:
            assert file.streams.video[0].frames < 12
        source = open_video(tmp_path / "v.mp4")
        assert len(list(source.frames())) == 40
        assert source.announced == 0

    def test_frames_of_another_size_are_named_backwards_too(self, tmp_path: Path) -> None:
        for name, width in (("one", 96), ("two", 64)):
            frames = [still(9, 9, 9, width) for _ in range(8)]
            write_video(tmp_path / f"{name}.ts", frames)
        both = b"".join((tmp_path / f"{name}.ts").read_bytes() for name in ("one", "two"))
        (tmp_path / "v.ts").write_bytes(both)
        source = open_video(tmp_path / "v.ts")
        for frames in (source.frames(), source.backwards(range(16))):
            with pytest.raises(InputError, match=r"frame \d+ of .* is 64x64, the first one 96x64"):
                list(frames)

    def test_the_clock_of_joined_files_goes_on(self, tmp_path: Path) -> None:
        write_video(tmp_path / "one.ts", [bar(number) for number in range(50)])
        (tmp_path / "v.ts").write_bytes(2 * (tmp_path / "one.ts").read_bytes())
        source = open_video(tmp_path / "v.ts")
        seconds = [float(frame.seconds) for frame in source.frames()]
        assert seconds == pytest.approx([number / 25 for number in range(100)], abs=0.05)
        backwards = [image for _, image in source.backwards(range(100))]
        assert bars_seen(backwards) == [number % 50 % 9 for number in reversed(range(100))]

    def test_a_clock_that_jumps_ahead_is_no_pause(self, tmp_path: Path) -> None:
        hours = 50 * 365 * 24  # a camera whose clock is set while it records
        ticks = [4 * number + 360_000 * hours * (number >= 10) for number in range(14)]
        write_video(tmp_path / "v.mkv", [bar(number) for number in range(14)], ticks)
        source = open_video(tmp_path / "v.mkv")
        seconds = [float(frame.seconds) for frame in source.frames()]
        assert seconds == pytest.approx([number / 25 for number in range(14)], abs=0.01)
        assert source.left_out == (f"a jump of {hours} hours in time before frame 10",)

    def test_more_tracks_than_are_used_are_told(self, tmp_path: Path) -> None:
        write_video(tmp_path / "v.mp4", [bar(number) for number in range(9)], tone="aac")
        with av.open(str(tmp_path / "v.mp4")) as one, av.open(str(tmp_path / "w.mkv"), "w") as two:
            tracks = [two.add_stream_from_template(each) for each in 2 * [*one.streams]]
            for packet in one.demux():
                if packet.dts is not None:
                    for track in tracks[packet.stream.index :: 2]:
                        packet.stream = track
                        two.mux(packet)
        assert open_video(tmp_path / "w.mkv").left_out == (
            "1 more sound track",
            "1 more picture track",
        )

    def test_transparency_is_told(self, tmp_path: Path) -> None:
        image = np.dstack([bar(3), np.full(bar(3).shape[:2], 128, np.uint8)])
        opaque = np.dstack([bar(3), np.full(bar(3).shape[:2], 255, np.uint8)])
        for name, pixels in (("with", image), ("without", image[..., :3]), ("opaque", opaque)):
            (tmp_path / name).mkdir()
            Image.fromarray(pixels).save(tmp_path / name / "0.png")
        Image.fromarray(bar(3)).save(tmp_path / "v.gif")
        with av.open(str(tmp_path / "v.mov"), "w") as clip:
            track = clip.add_stream("prores_ks", rate=10, options={"profile": "4444"})
            track.pix_fmt, track.height, track.width = "yuva444p10le", *image.shape[:2]
            for frame in (av.VideoFrame.from_ndarray(image, format="rgba"), None):
                clip.mux(track.encode(frame))
        told = ("transparency: the colours below it are taken",)
        left_out = [open_video(tmp_path / name).left_out for name in ("with", "without", "v.mov")]
        assert left_out == [told, (), told]
        assert [open_video(tmp_path / name).left_out for name in ("opaque", "v.gif")] == [(), ()]

    @pytest.mark.parametrize(
        ("numbers", "missing"),
        [
            (range(0, 100, 5), ()),
            (
                [*range(10), *range(12, 20)],
                ("numbers are left out at 1 place, the first before a12b.png",),
            ),
            ([1, 4, 9, 16, 25, 36], ()),
        ],
    )
    def test_gaps_in_the_numbers_of_images(
        self, tmp_path: Path, numbers: Sequence[int], missing: tuple[str, ...]
    ) -> None:
        for number in numbers:
            cv2.imwrite(str(tmp_path / f"a{number}b.png"), bar(number))
        assert open_video(tmp_path).missing == missing

    def test_what_is_missing_is_told_by_the_times(self, tmp_path: Path) -> None:
        ticks = [4 * number for number in range(40) if number not in range(20, 23)]
        frames = [bar(number) for number in range(40)]
        for name, times in (("whole", ()), ("gap", ticks), ("uneven", [7, 8, 30, 31, 60, 66])):
            write_video(tmp_path / f"{name}.mkv", frames[: len(times) or 40], times)
        content = (tmp_path / "whole.mkv").read_bytes()
        (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
        missing = {}
        for path in tmp_path.glob("*.mkv"):
            source = open_video(path)
            assert list(source.frames())
            missing[path.stem] = source.missing
        assert missing["whole"] == missing["uneven"] == ()
        assert missing["gap"] == ("gaps in time at 1 place, the first before frame 20",)
        assert missing["cut"][0].startswith("the file announces 1.6 s, 0.")

    def test_a_name_in_no_encoding(
        self, shared_path: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = tmp_path / "vid\udce9o.mp4"
        shutil.copyfile(shared_path("cases/name_not_utf8/clip.mp4"), path)
        assert len(list(read_frames(path))) == 2

    def test_an_image_with_the_name_of_a_pattern_is_itself(self, tmp_path: Path) -> None:
        for name, grey in (("q%d.png", 90), ("q0.png", 10), ("q1.png", 20)):
            cv2.imwrite(str(tmp_path / name), still(grey, grey, grey))
        (frame,) = read_frames(tmp_path / "q%d.png")
        assert frame.max() == 90

    def test_lists_of_files_are_whole_in_both_directions(self, tmp_path: Path) -> None:
        """A list of files cannot jump to a time."""
        for part in range(5):
            frames = [bar(8 * part + number) for number in range(8)]
            write_video(tmp_path / f"{part}.ts", frames)
        parts = "".join(f"#EXTINF:1,\n{part}.ts\n" for part in range(5))
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{parts}"
        (tmp_path / "v.m3u8").write_text(playlist)  # of a recording that was cut off
        with pytest.raises(InputError, match=r"v\.m3u8 has no end; add a line #EXT-X-ENDLIST"):
            open_video(tmp_path / "v.m3u8")
        (tmp_path / "v.m3u8").write_text(f"{playlist}#EXT-X-ENDLIST\n")
        lines = "".join(f"file {part}.ts\n" for part in range(5))
        (tmp_path / "v.ffconcat").write_text(f"ffconcat version 1.0\n{lines}")
        for name in ("v.m3u8", "v.ffconcat"):
            source = open_video(tmp_path / name)
            assert bars_seen(frame.image for frame in source.frames()) == [n % 9 for n in range(40)]
            found = dict(source.backwards(range(30, 40)))
            assert bars_seen(found.values()) == [n % 9 for n in range(39, 29, -1)]

    def test_a_text_is_no_video(self, tmp_path: Path) -> None:
        (tmp_path / "boxes.txt").write_text("10,20,30,40\n" * 200)
        with pytest.raises(InputError, match=r"boxes\.txt is a text"):
            open_video(tmp_path / "boxes.txt")

    def test_a_noted_duration_of_many_digits_is_no_duration(self) -> None:
        found = {hours: reading._clock(f"{hours}:00:16.667") for hours in ("9" * 5000, "00")}
        assert list(found.values()) == [0, Fraction("16.667")]

    def test_a_rotation_noted_in_images_is_told(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        Image.fromarray(bar(0)).save(tmp_path / "0.jpg", exif=exif)
        assert open_video(tmp_path).left_out == ("the rotation noted in the images (EXIF)",)
        Image.fromarray(bar(0)).save(tmp_path / "0.jpg", exif=b"Exif\0\0damaged", dpi=(72, 72))
        assert open_video(tmp_path).left_out == ()

    def test_a_playlist_opens_no_address(self, tmp_path: Path) -> None:
        (tmp_path / "v.m3u8").write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(InputError, match=r"v\.m3u8 is no video|v\.m3u8 has no pictures"):
            open_video(tmp_path / "v.m3u8")


@pytest.fixture(scope="module", params=["v.mp4", "v.mkv", "v.ts", "folder"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames; every frame has a bar that tells its number."""
    path: Path = tmp_path_factory.mktemp("video") / request.param
    frames = [bar(number) for number in range(40)]
    if request.param == "folder":
        path.mkdir()
        for number, frame in enumerate(frames):
            cv2.imwrite(str(path / f"{number}.png"), frame)
    else:
        write_video(path, frames, options={"bf": "3", "g": "7"})
    return path


class TestChoice:
    """Some frames, forward and backward."""

    @pytest.mark.parametrize("chosen", [range(40), range(3, 31, 4), range(38, 99), range(5, 6)])
    def test_frames_forward(self, video: Path, chosen: range) -> None:
        expected = [number for number in chosen if number < 40]
        frames = list(open_video(video).frames(chosen))
        assert [frame.number for frame in frames] == expected
        assert bars_seen(frame.image for frame in frames) == [number % 9 for number in expected]

    @pytest.mark.parametrize("held", [1, 10**9])
    @pytest.mark.parametrize("chosen", [range(40), range(3, 31, 4), range(5, 6)])
    def test_the_same_frames_backwards(
        self, video: Path, chosen: range, held: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("e3sn_lib.tracking.video.HELD_BYTES", held)
        source = open_video(video)
        forward = {frame.number: frame.image for frame in source.frames(chosen)}
        backwards = list(source.backwards(chosen))
        assert [number for number, _ in backwards] == list(reversed(chosen))
        assert all(np.array_equal(image, forward[number]) for number, image in backwards)


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_frame_with_notes_that_are_unknown_is_turned_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, degrees: int
) -> None:
    """PyAV refuses all notes of a frame if it does not know the kind of one, such as EXIF."""
    corner = still(0, 0, 0)
    corner[:20, :30] = 255
    path = tmp_path / "v.mp4"
    write_video(path, [corner], turn=lambda stream: stream.set_display_rotation(degrees))
    upright = next(read_frames(path))

    class Unknown:
        def __init__(self, frame: av.VideoFrame) -> None:
            self.rotation = frame.rotation

        @property
        def side_data(self) -> None:
            raise ValueError("31 is not a valid Type")

    known = reading._turn
    monkeypatch.setattr(reading, "_turn", lambda frame: known(Unknown(frame)))  # type: ignore[arg-type]
    assert np.array_equal(next(read_frames(path)), upright)


class TestOverlay:
    def test_background_keeps_its_pixels(self) -> None:
        rng = np.random.default_rng(0)
        frame = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        ids = np.zeros((64, 96), np.uint8)
        ids[20:40, 30:60] = 2
        kept = frame.copy()
        shown = overlay(frame, ids)
        assert np.array_equal(frame, kept)
        far = cv2.dilate(ids, np.ones((7, 7), np.uint8)) == 0
        assert np.array_equal(shown[far], frame[far])
        assert (shown[ids > 0] != frame[ids > 0]).any(axis=1).mean() > 0.95
        assert np.array_equal(overlay(frame, np.zeros_like(ids)), frame)

    def test_inside_frame_and_colour_are_mixed(self) -> None:
        frame, ids = still(100, 100, 100), np.full((64, 96), 1, np.uint8)
        middle = overlay(frame, ids, opacity=0.25)[32, 48]
        expected = [0.75 * 100 + 0.25 * value for value in object_colour(1)]
        assert middle.tolist() == pytest.approx(expected, abs=1)

    def test_any_whole_numbers_are_ids(self) -> None:
        frame, ids = still(100, 100, 100), np.zeros((64, 96), np.int64)
        ids[20:40, 30:60] = 1
        assert np.array_equal(overlay(frame, ids == 1), overlay(frame, ids))
        for wrong in (ids.T, ids / 1.0, ids[:-1], -ids, 256 * ids):
            with pytest.raises(InputError, match=r"numbers from 0 to 255 of shape \(64, 96\)"):
                overlay(frame, wrong)
        with pytest.raises(InputError, match=r"opacity is 1\.5; give .* 0 to 1"):
            overlay(frame, ids, 1.5)
        with pytest.raises(InputError, match="give RGB, uint8"):
            overlay(frame / 255, ids)

    def test_objects_differ(self) -> None:
        assert len({object_colour(number) for number in range(1, 7)}) == 6
        assert all(0 <= each <= 255 for each in object_colour(255))
