"""Videos in and out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking.own_video import track_video
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.tracking.video import (
    FRAME_RATE,
    announced_frames,
    frame_names,
    frame_rate,
    object_colour,
    overlay,
    read_frames,
    write_clip,
)


def still(red: int, green: int, blue: int, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    return np.full((height, width, 3), (red, green, blue), np.uint8)


def bar(number: int) -> NDArray[np.uint8]:
    """A grey frame with a bright bar whose place says which frame it is."""
    frame = still(60, 60, 60)
    frame[:, 10 * number : 10 * number + 8] = 220
    return frame


class TestClips:
    def test_what_is_written_is_read(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "deep" / "clip.webm"
        assert write_clip(path, (bar(number) for number in range(8))) == 8
        frames = list(read_frames(path))
        assert [frame.shape for frame in frames] == [(64, 96, 3)] * 8
        for number, frame in enumerate(frames):
            assert frame.dtype == np.uint8
            assert int(frame[..., 0].mean(axis=0).argmax()) in range(10 * number, 10 * number + 8)
        assert path.read_bytes()[:4] == b"\x1aE\xdf\xa3"  # the mark of Matroska and WebM
        assert [each.name for each in path.parent.iterdir()] == ["clip.webm"]
        assert capfd.readouterr() == ("", "")

    def test_colours_keep_their_order(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "clip.webm", [still(200, 60, 30)] * 2)
        red, green, blue = next(read_frames(tmp_path / "clip.webm")).mean(axis=(0, 1))
        assert (red, green, blue) == pytest.approx((200, 60, 30), abs=12)

    def test_odd_sizes_lose_their_last_row_and_column(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "clip.webm", [still(100, 100, 100, 97, 65)] * 2)
        assert next(read_frames(tmp_path / "clip.webm")).shape == (64, 96, 3)

    def test_the_frame_rate_is_kept(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "clip.webm", [bar(0)] * 3, fps=12.5)
        assert frame_rate(tmp_path / "clip.webm") == pytest.approx(12.5, abs=0.1)
        assert frame_rate(tmp_path) == FRAME_RATE
        assert (announced_frames(tmp_path / "clip.webm"), announced_frames(tmp_path)) == (3, 0)

    def test_an_error_in_the_middle_leaves_nothing(self, tmp_path: Path) -> None:
        def frames() -> Iterator[NDArray[np.uint8]]:
            yield from (bar(0), bar(1))
            raise InputError("no more")

        with pytest.raises(InputError, match="no more"):
            write_clip(tmp_path / "clip.webm", frames())
        assert list(tmp_path.iterdir()) == []

    def test_no_frames_are_no_clip(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there are no frames"):
            write_clip(tmp_path / "clip.webm", [])
        assert list(tmp_path.iterdir()) == []


class TestReading:
    def test_a_folder_in_the_order_of_names(self, tmp_path: Path) -> None:
        for number in (10, 2, 1):
            cv2.imwrite(str(tmp_path / f"{number:05d}.png"), still(0, 0, number)[..., ::-1])
        (tmp_path / "notes.txt").write_text("no image")
        assert frame_names(tmp_path) == ["00001.png", "00002.png", "00010.png"]
        assert [int(frame[0, 0, 2]) for frame in read_frames(tmp_path)] == [1, 2, 10]

    def test_numbers_count_whatever_their_digits(self, tmp_path: Path) -> None:
        for name in ("frame10.jpg", "frame9.jpg", "a.jpg", "frame100.JPG", "b².jpg"):
            (tmp_path / name).touch()
        assert frame_names(tmp_path) == ["a.jpg", "b².jpg", "frame9.jpg", "frame10.jpg", "frame100.JPG"]

    def test_frames_are_read_when_they_are_needed(self, tmp_path: Path) -> None:
        for number in range(2):
            cv2.imwrite(str(tmp_path / f"{number}.png"), bar(number))
        (tmp_path / "2.jpg").write_bytes(b"\xff\xd8 cut")
        frames = read_frames(tmp_path)
        next(frames), next(frames)
        with pytest.raises(InputError, match=r"2\.jpg is cut short"):
            next(frames)

    @pytest.mark.parametrize("content", [b"", b"no video\n", b"\x1aE\xdf\xa3" + bytes(200)])
    def test_what_is_no_video_is_named_in_one_line(self, tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "some.mp4").write_bytes(content)
        with pytest.raises(InputError, match=r"some\.mp4 is no video that OpenCV can read"):
            next(read_frames(tmp_path / "some.mp4"))
        assert capfd.readouterr() == ("", "")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no video or folder of frames"):
            next(read_frames(tmp_path / "absent"))
        with pytest.raises(InputError, match="has no images"):
            next(read_frames(tmp_path))


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
        assert middle.tolist() == pytest.approx([0.75 * 100 + 0.25 * value for value in object_colour(1)], abs=1)

    def test_objects_differ(self) -> None:
        assert len({object_colour(number) for number in range(1, 7)}) == 6
        assert object_colour(255)


def test_a_video_is_followed_as_its_frames_are(tiny_model: E3SN, data_root: Path, tmp_path: Path) -> None:
    """Masks on the disk are those that the tracker gives frame by frame, under the frames' names."""
    video = davis_sequences(data_root / "synthetic", 2016, "val")[0]
    box = [20.0, 20.0, 60.0, 50.0]
    tracker = Tracker(tiny_model)
    scores = track_video(tracker, video.frame_paths[0].parent, [box], tmp_path)
    expected = list(tracker.run((video.frame(index) for index in range(len(video))), [box]))
    assert scores.tolist() == [result.scores.tolist() for result in expected]
    for path, result in zip(video.frame_paths, expected, strict=True):
        assert np.array_equal(read_mask(tmp_path / "masks" / f"{path.stem}.png"), result.ids)
    assert len(list(read_frames(tmp_path / "overlay.webm"))) == len(video)
