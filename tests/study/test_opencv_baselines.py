"""Boxes and outlines from OpenCV: what GrabCut must find, what it falls back on, and trackers that are or are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.data.types import Video
from e3sn_lib.files import write_mask
from e3sn_lib.metrics.measures import region_similarity
from e3sn_study.evaluation.baselines import (
    LARGEST_AREA,
    NANOTRACK_FILES,
    baseline_masks,
    grabcut,
    opencv_trackers,
    paint_boxes,
    tracked_boxes,
)

HW = 120, 200


def disc(
    hw: tuple[int, int] = HW, centre: tuple[int, int] = (100, 60), radius: int = 30
) -> NDArray[np.bool_]:
    y, x = np.mgrid[: hw[0], : hw[1]]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


def painted(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 40, (*mask.shape, 3))
    return np.where(mask[..., None], [200, 60, 40], [30, 80, 180]).astype(np.uint8) + noise.astype(
        np.uint8
    )


class TestGrabCut:
    def test_a_disc_is_cut_out_of_its_box(self) -> None:
        truth = disc()
        found = grabcut(painted(truth), (70.0, 30.0, 130.0, 90.0))
        assert region_similarity(found, truth) > 0.97
        assert np.array_equal(found, grabcut(painted(truth), (70.0, 30.0, 130.0, 90.0)))

    def test_nothing_is_outside_the_box(self) -> None:
        found = grabcut(painted(disc()), (70.0, 30.0, 100.0, 90.0))
        assert found.any()
        assert not found[:, 100:].any()

    @pytest.mark.parametrize(
        ("box", "area"),
        [
            ((0.0, 0.0, 200.0, 120.0), 120 * 200),  # no background
            ((-9.0, -9.0, 300.0, 300.0), 120 * 200),
            ((10.0, 10.0, 12.0, 12.0), 4),  # too few pixels
            ((300.0, 10.0, 320.0, 30.0), 0),
            ((10.4, 10.0, 10.4, 30.0), 0),
        ],
    )
    def test_the_box_stays_where_there_is_nothing_to_tell_apart(
        self, box: tuple[float, ...], area: int
    ) -> None:
        assert grabcut(painted(disc()), box).sum() == area  # type: ignore[arg-type]

    def test_a_frame_of_one_colour(self) -> None:
        assert grabcut(np.full((*HW, 3), 90, np.uint8), (70.0, 30.0, 130.0, 90.0)).sum() <= 3600

    def test_large_boxes_are_scaled_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        truth, sizes, cut = disc((480, 854), (400, 240), 180), [], cv2.grabCut

        def noted(image: Any, *arguments: Any) -> Any:
            sizes.append(image.shape[0] * image.shape[1])
            return cut(image, *arguments)

        monkeypatch.setattr(cv2, "grabCut", noted)
        found = grabcut(painted(truth), (220.0, 60.0, 580.0, 420.0))
        assert sizes[0] <= 1.01 * LARGEST_AREA
        assert region_similarity(found, truth) > 0.97

    def test_the_smaller_object_is_in_front(self) -> None:
        boxes = {1: (90.0, 50.0, 92.0, 52.0), 2: (70.0, 30.0, 130.0, 90.0)}
        ids = paint_boxes(boxes, HW, painted(disc()))
        assert (ids == 1).sum() == 4
        assert (ids == 2).sum() > 2500


class Steps:
    """Moves its box to the right by one pixel, and gives up at every second frame."""

    def init(self, frame: NDArray[np.uint8], box: tuple[int, ...]) -> None:
        self.box, self.calls, self.first = box, 0, frame

    def update(self, frame: NDArray[np.uint8]) -> tuple[bool, tuple[int, ...]]:
        self.calls += 1
        x, *rest = self.box
        return self.calls % 2 == 1, (x + self.calls, *rest)


@pytest.fixture
def sequence(tmp_path: Path) -> Video:
    frames, masks = [], []
    for index in range(4):
        ids = np.where(disc(centre=(80 + 5 * index, 60)), 2, 0).astype(np.uint8)
        frames.append(tmp_path / "frames" / f"{index:05d}.png")
        masks.append(tmp_path / "masks" / f"{index:05d}.png")
        frames[-1].parent.mkdir(exist_ok=True)
        cv2.imwrite(str(frames[-1]), painted(ids > 0)[..., ::-1])
        write_mask(masks[-1], ids)
    return Video("made", tuple(frames), tuple(masks))


class TestTrackers:
    def test_boxes_follow_and_stay_where_the_tracker_gives_up(self, sequence: Video) -> None:
        boxes = list(tracked_boxes(sequence, Steps))
        assert boxes == [{2: (51 + shift, 31, 110 + shift, 90)} for shift in (0, 1, 1, 3)]

    def test_a_source_of_boxes_makes_two_methods(self, sequence: Video) -> None:
        methods = baseline_masks(sequence, {"Steps": Steps})
        assert list(methods)[-2:] == ["Steps box filled", "Steps box + GrabCut"]
        filled, cut = (list(methods[f"true box {how}"]) for how in ("filled", "+ GrabCut"))
        for index in range(4):
            assert (filled[index] == 2).sum() == 59 * 59
            assert region_similarity(cut[index] == 2, sequence.mask(index) == 2) > 0.97

    def test_opencvs_own_follows_a_disc(self, sequence: Video, tmp_path: Path) -> None:
        found, _ = opencv_trackers(tmp_path)
        if "MIL" not in found:
            pytest.skip("this OpenCV has no TrackerMIL")
        x1, _, x2, _ = list(tracked_boxes(sequence, found["MIL"]))[-1][2]
        assert 80 < (x1 + x2) / 2 < 110

    def test_what_cannot_be_had_says_what_it_needs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("TrackerMIL_create", "TrackerCSRT_create"):
            monkeypatch.delattr(cv2, name, raising=False)
        monkeypatch.setattr(cv2, "TrackerNano_create", lambda _: None, raising=False)
        found, lacking = opencv_trackers(tmp_path)
        assert found == {}
        assert list(lacking) == ["MIL", "CSRT", "NanoTrack"]
        assert all(reason.startswith("needs ") for reason in lacking.values())
        assert "opencv-contrib-python" in lacking["CSRT"]
        assert all(name in lacking["NanoTrack"] for name in NANOTRACK_FILES)
        assert str(tmp_path) not in lacking["NanoTrack"]
        monkeypatch.delattr(cv2, "TrackerNano_create")
        assert opencv_trackers(tmp_path)[1]["NanoTrack"] == "needs an OpenCV with TrackerNano"

    def test_nanotrack_is_used_where_its_networks_lie(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "opencv").mkdir()
        for name in NANOTRACK_FILES:
            (tmp_path / "opencv" / name).touch()
        monkeypatch.setattr(cv2, "TrackerNano_Params", SimpleNamespace, raising=False)
        monkeypatch.setattr(cv2, "TrackerNano_create", lambda settings: settings, raising=False)
        found, lacking = opencv_trackers(tmp_path)
        assert "NanoTrack" not in lacking
        settings = found["NanoTrack"]()
        assert [Path(each).name for each in (settings.backbone, settings.neckhead)] == list(
            NANOTRACK_FILES
        )


def test_the_colours_of_real_video(shared_path: Callable[[str], Path]) -> None:
    """A black and white dog on grass, in its true boxes: far better than the boxes, which cover 50 %."""
    (dog,) = davis_sequences(shared_path("data/DAVIS_mini"), 2016, "val", ["dog"])
    some = Video(dog.name, dog.frame_paths[::20], dog.mask_paths[::20], merge_ids=True)
    masks = enumerate(baseline_masks(some, {})["true box + GrabCut"])
    found = [region_similarity(ids > 0, some.mask(index) > 0) for index, ids in masks]
    assert np.mean(found) > 0.75
