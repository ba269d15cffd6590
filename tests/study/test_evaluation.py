"""Baselines with closed-form scores, and an evaluation that leaves readable masks and never does its work twice."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from planted import Planted
from torch import Tensor

from e3sn_lib.config import TrackConfig
from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask, write_mask
from e3sn_lib.metrics.scoring import score_sequence
from e3sn_lib.model.network import E3SN, Search, Template
from e3sn_lib.model.windows import Cells
from e3sn_lib.tracking.tracker import Tracker
from e3sn_study.evaluation import benchmark
from e3sn_study.evaluation.baselines import (
    baseline_masks,
    boxes_of,
    mask_in_true_boxes,
    paint_boxes,
)
from e3sn_study.evaluation.benchmark import evaluate_baselines, evaluate_tracker, write_masks
from e3sn_study.records.schema import BOUND, BOX, MODEL, STILL, STILL_BOX, THRESHOLDS, TRUE_BOX

HEIGHT, WIDTH, SIDE, STEP = 100, 160, 40, 10
Ids = NDArray[np.uint8]


def write_sequence(root: Path, truth: Iterable[Ids], name: str = "made") -> Video:
    frames, masks = [], []
    for number, ids in enumerate(truth):
        frames.append(root / "JPEGImages" / name / f"{number:05d}.png")
        frames[-1].parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(frames[-1]), np.repeat(ids[..., None], 3, axis=2) * 60)
        masks.append(root / "Annotations" / name / f"{number:05d}.png")
        write_mask(masks[-1], ids)
    return Video(name, tuple(frames), tuple(masks))


def square(left: int, number: int = 1, top: int = 30, side: int = SIDE) -> Ids:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[top : top + side, left : left + side] = number
    return ids


@pytest.fixture
def moving_square(tmp_path: Path) -> Video:
    """Ten pixels to the right in every frame."""
    return write_sequence(tmp_path, [square(10 + STEP * number) for number in range(6)])


def region(method: str, sequence: Video) -> list[float]:
    return score_sequence(baseline_masks(sequence, {})[method], sequence)["J"].tolist()


class TestBaselines:
    def test_held_still_a_square_loses_what_it_moved(self, moving_square: Video) -> None:
        """Two squares of side s, d apart: s - d over s + d. The first and the last frame are not scored."""
        expected = [
            max(SIDE - STEP * n, 0) / (SIDE + STEP * n) if n < 4 else 0 for n in range(1, 5)
        ]
        assert region(STILL_BOX, moving_square) == pytest.approx(expected)
        assert region(STILL, moving_square) == pytest.approx(expected)
        assert region(TRUE_BOX, moving_square) == [1, 1, 1, 1]

    def test_the_true_box_of_a_half_is_half_right(self, tmp_path: Path) -> None:
        two_quarters = np.zeros((HEIGHT, WIDTH), np.uint8)
        two_quarters[20:40, 20:40] = two_quarters[40:60, 40:60] = 1
        sequence = write_sequence(tmp_path, [two_quarters] * 4)
        assert region(TRUE_BOX, sequence) == region(STILL_BOX, sequence) == [0.5, 0.5]
        assert region(STILL, sequence) == [1, 1]

    def test_masks_at_the_true_boxes_follow_them(self, moving_square: Video) -> None:
        """A network that fills half of each window, and would lose the object if it had to find it."""
        tracker = Tracker(Planted(row=0, column=0, side=63.5), TrackConfig())
        masks = list(mask_in_true_boxes(moving_square, tracker))
        for ids, index in zip(masks, range(6), strict=True):
            truth = moving_square.mask(index)
            assert (ids & truth).sum() / (ids | truth).sum() > 0.94

    def test_absent_objects_and_gaps_between_ids(self, tmp_path: Path) -> None:
        """Objects 1 and 3 of which one leaves; id 2 is in no frame."""
        both = square(10) | square(100, 3)
        sequence = write_sequence(tmp_path, [both, both, square(100, 3), both])
        tracker = Tracker(Planted(side=63.5), TrackConfig())
        baselines = baseline_masks(sequence, {})
        for baseline in (baselines[TRUE_BOX], mask_in_true_boxes(sequence, tracker)):
            found = [set(np.unique(ids).tolist()) for ids in baseline]
            assert found == [{0, 1, 3}, {0, 1, 3}, {0, 3}, {0, 1, 3}]
        assert set(np.unique(next(baselines[STILL_BOX]))) == {0, 1, 3}

    def test_masks_at_the_true_boxes_are_of_the_objects_that_are_there(
        self, tmp_path: Path
    ) -> None:
        """Object 1 leaves: what is left is segmented with the template of object 3."""

        class Noting(Planted):
            asked: ClassVar[list[list[float]]] = []

            def encode_template(self, image: Tensor) -> Template:
                brightness = image[:, 0, 63, 63].float()[:, None, None, None]
                return Template(brightness, brightness, (brightness,))

            def segment(self, template: Template, search: Search, cells: Cells) -> Tensor:
                self.asked.append(template.cls.flatten().tolist())
                return super().segment(template, search, cells)

        both = square(10) | square(100, 3)
        sequence = write_sequence(tmp_path, [both, square(100, 3), both])
        list(mask_in_true_boxes(sequence, Tracker(Noting(), TrackConfig())))
        assert Noting.asked == [[60, 180], [180], [60, 180]]

    def test_void_is_no_object(self, tmp_path: Path) -> None:
        with_void = square(10) | square(100, 255)
        sequence = write_sequence(tmp_path, [with_void] * 4)
        for method in baseline_masks(sequence, {}):
            assert region(method, sequence) == [1, 1]

    def test_of_overlapping_boxes_the_smaller_is_in_front(self) -> None:
        ids = paint_boxes({1: (10.0, 10.0, 20.0, 20.0), 2: (0.0, 0.0, 30.0, 30.0)}, (40, 50))
        assert (ids == 1).sum() == 100
        assert (ids == 2).sum() == 800
        assert ids.shape == (40, 50)
        assert (paint_boxes({7: (-5.4, 3.6, 4.4, 99.0)}, (40, 50)) == 7).sum() == 4 * 36

    def test_boxes_of_a_mask(self) -> None:
        found = boxes_of(square(10) | square(100, 3), [1, 2, 3])
        assert found == {1: (10, 30, 50, 70), 3: (100, 30, 140, 70)}

    def test_table(self, moving_square: Video, tmp_path: Path) -> None:
        scores = evaluate_baselines([moving_square], {}, tmp_path / "kept")
        assert scores.set_index("method")["J-Mean"].to_dict() == pytest.approx(
            {
                STILL_BOX: (0.6 + 1 / 3 + 1 / 7) / 4,
                STILL: (0.6 + 1 / 3 + 1 / 7) / 4,
                TRUE_BOX: 1,
                "true box + GrabCut": 1,
            },
            abs=1e-6,  # the tables of record have six decimals
        )

    def test_finished_sequences_are_not_scored_again(
        self, moving_square: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = evaluate_baselines([moving_square], {}, tmp_path / "kept")
        monkeypatch.delattr(benchmark.baselines, "baseline_masks")
        pd.testing.assert_frame_equal(
            evaluate_baselines([moving_square], {}, tmp_path / "kept"), first
        )

    def test_other_masks_of_the_same_names_are_scored_anew(
        self, moving_square: Video, tmp_path: Path
    ) -> None:
        evaluate_baselines([moving_square], {}, tmp_path / "kept")
        for path in moving_square.mask_paths:
            write_mask(path, square(10))
        second = evaluate_baselines([moving_square], {}, tmp_path / "kept")
        assert second.set_index("method")["J-Mean"][STILL] == 1


@pytest.fixture
def two_objects(data_root: Path) -> list[Video]:
    """One procedural clip with two objects, one with one."""
    return davis_sequences(data_root / "synthetic", 2017, "val")


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sequences that are tracked from now on."""
    names, track = list[str](), benchmark._track

    def noted(tracker: Tracker, sequence: Video, *arguments: Any) -> pd.DataFrame:
        names.append(sequence.name)
        return track(tracker, sequence, *arguments)

    monkeypatch.setattr(benchmark, "_track", noted)
    return names


class TestEvaluation:
    def test_masks_are_palette_pngs_and_the_first_is_the_truth(
        self, two_objects: list[Video], tiny_model: E3SN, tmp_path: Path
    ) -> None:
        lines: list[str] = []
        tracker = Tracker(tiny_model)
        scores, speed = evaluate_tracker(tracker, two_objects, tmp_path, show=lines.append)
        others = (f"{MODEL}@{value:.2f}" for value in THRESHOLDS if value != 0.5)
        methods = [MODEL, BOX, BOUND, *others]
        assert {path.name for path in tmp_path.iterdir()} == {*methods, "timing"}
        for sequence in two_objects:
            for method in methods[:2] + methods[3:]:
                folder = tmp_path / method / sequence.name
                assert [path.stem for path in sorted(folder.iterdir())] == [
                    path.stem for path in sequence.frame_paths
                ]
                assert np.array_equal(read_mask(folder / "00000.png"), sequence.mask(0))
            with Image.open(tmp_path / MODEL / sequence.name / "00003.png") as image:
                assert image.mode == "P"
                assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # DAVIS's colours
                assert image.size == sequence.mask(0).shape[::-1]
                assert set(np.unique(np.array(image))) <= {0, *sequence.object_ids()}
        objects = [len(sequence.object_ids()) for sequence in two_objects]
        assert objects == [2, 1]
        assert scores.groupby("method").size().to_dict() == dict.fromkeys(methods, 3)
        assert scores["frames"].tolist() == [3] * len(scores)
        assert speed["objects"].tolist() == objects
        assert (speed[["seconds_reading", "seconds_tracking"]] > 0).all(axis=None)
        assert [line.split(":")[0] for line in lines] == [
            f"{n}/2 {s.name}" for n, s in enumerate(two_objects, 1)
        ]

    def test_time_of_tracking_is_that_of_the_steps_alone(
        self, moving_square: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By a clock that only goes on while a frame is read (1), tracked (100) or written (10)."""
        clock = [0.0]

        def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
            def slow(*given: Any) -> Any:
                clock[0] += seconds
                return function(*given)

            return slow

        monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
        monkeypatch.setattr(Video, "frame", taking(1, Video.frame))
        monkeypatch.setattr(benchmark, "write_mask", taking(10, benchmark.write_mask))
        monkeypatch.setattr(Planted, "segment", taking(100, Planted.segment))
        (timing,) = write_masks(Tracker(Planted()), [moving_square], tmp_path / "out")
        assert timing[["seconds_reading", "seconds_tracking"]].to_numpy().tolist() == [[6, 600]]

    def test_what_is_scored_is_what_is_written(
        self, two_objects: list[Video], tiny_model: E3SN, tmp_path: Path
    ) -> None:
        sequence = two_objects[0]
        scores, _ = evaluate_tracker(Tracker(tiny_model), [sequence], tmp_path, extras=False)
        written = [read_mask(path) for path in sorted((tmp_path / MODEL / sequence.name).iterdir())]
        per_frame = score_sequence(written, sequence)
        expected = per_frame.groupby("object")["J"].mean().tolist()
        assert scores["J-Mean"].tolist() == pytest.approx(expected)
        assert {path.name for path in tmp_path.iterdir()} == {MODEL, "timing"}

    def test_finished_sequences_are_not_tracked_again(
        self, two_objects: list[Video], tiny_model: E3SN, tmp_path: Path, tracked: list[str]
    ) -> None:
        first = evaluate_tracker(Tracker(tiny_model), two_objects[:1], tmp_path, extras=False)
        times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
        again = evaluate_tracker(Tracker(tiny_model), two_objects, tmp_path, extras=False)
        assert tracked == [video.name for video in two_objects]
        assert {path: path.stat().st_mtime_ns for path in times} == times
        pd.testing.assert_frame_equal(again[0].head(2), first[0])

    def test_masks_that_were_changed_or_deleted_are_made_again(
        self, two_objects: list[Video], tiny_model: E3SN, tmp_path: Path, tracked: list[str]
    ) -> None:
        sequence = two_objects[1]
        first = evaluate_tracker(Tracker(tiny_model), [sequence], tmp_path, extras=False)
        folder = tmp_path / MODEL / sequence.name
        changes = (Path.unlink, lambda path: shutil.copyfile(sequence.mask_paths[2], path))
        for number, change in enumerate(changes, start=2):
            change(folder / "00002.png")
            again = evaluate_tracker(Tracker(tiny_model), [sequence], tmp_path, extras=False)
            pd.testing.assert_frame_equal(again[0], first[0])
            assert len(tracked) == number

    def test_masks_of_other_frames_masks_or_ids_are_not_kept(
        self, data_root: Path, tiny_model: E3SN, tmp_path: Path, tracked: list[str]
    ) -> None:
        """Two benchmarks share the names of their sequences, and data may be mended between two evaluations."""
        root = Path(shutil.copytree(data_root / "synthetic", tmp_path / "data"))

        def write(merge_ids: bool = False) -> Video:
            sequence = replace(davis_sequences(root, 2017, "val")[0], merge_ids=merge_ids)
            list(write_masks(Tracker(tiny_model), [sequence], tmp_path / "out"))
            return sequence

        write(merge_ids=True)
        sequence = write()
        write()
        assert len(tracked) == 2
        cv2.imwrite(str(sequence.frame_paths[3]), np.flipud(sequence.frame(3))[..., ::-1])
        write()
        write_mask(sequence.mask_paths[0], np.fliplr(sequence.mask(0)))
        write()
        assert len(tracked) == 4

    def test_masks_of_two_evaluations_are_not_mixed(
        self, two_objects: list[Video], tiny_model: E3SN, tmp_path: Path
    ) -> None:
        first = write_masks(Tracker(tiny_model), two_objects[:2], tmp_path)
        next(first)
        with pytest.raises(InputError, match=f"{tmp_path} is in use by another evaluation; wait"):
            list(write_masks(Tracker(tiny_model), two_objects[:2], tmp_path))
        list(first)
        assert len(list(write_masks(Tracker(tiny_model), two_objects[:2], tmp_path))) == 2

    def test_an_interrupted_evaluation_leaves_its_folder_free(
        self,
        two_objects: list[Video],
        tiny_model: E3SN,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def score(*_: object) -> pd.DataFrame:
            raise KeyboardInterrupt

        evaluate = partial(evaluate_tracker, Tracker(tiny_model), two_objects[:1], tmp_path)
        with monkeypatch.context() as broken:
            broken.setattr(benchmark, "score_method", score)
            with pytest.raises(KeyboardInterrupt) as kept:
                evaluate(extras=False)
        table, _ = evaluate(extras=False)  # while the traceback still holds the frames
        assert kept.tb
        assert len(table) > 0

    def test_weights_are_looked_at_once(
        self,
        two_objects: list[Video],
        tiny_model: E3SN,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        read: list[int] = []
        state_dict = type(tiny_model).state_dict
        monkeypatch.setattr(
            type(tiny_model), "state_dict", lambda *a, **k: read.append(1) or state_dict(*a, **k)
        )
        evaluate_tracker(Tracker(tiny_model), [two_objects[1]] * 2, tmp_path, extras=False)
        assert len(read) == 1

    def test_an_interrupted_sequence_is_tracked_again(
        self,
        two_objects: list[Video],
        tiny_model: E3SN,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sequence, tracker = two_objects[1], Tracker(tiny_model)
        write, written = benchmark.write_mask, []

        def fail_at_third(path: Path, ids: Ids) -> None:
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(path)
            write(path, ids)

        monkeypatch.setattr(benchmark, "write_mask", fail_at_third)
        with pytest.raises(KeyboardInterrupt):
            evaluate_tracker(tracker, [sequence], tmp_path, extras=False)
        monkeypatch.undo()
        evaluate_tracker(tracker, [sequence], tmp_path, extras=False)
        assert len(list((tmp_path / MODEL / sequence.name).iterdir())) == len(sequence)

    def test_a_mask_of_another_size_than_its_frame(
        self, moving_square: Video, tmp_path: Path
    ) -> None:
        write_mask(moving_square.mask_paths[0], square(10)[:, :-1])
        with pytest.raises(InputError, match=r"00000\.png is 159x100, its frame 160x100$"):
            evaluate_tracker(Tracker(Planted()), [moving_square], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_frame_of_another_size_is_named(self, moving_square: Video, tmp_path: Path) -> None:
        path = moving_square.frame_paths[2]
        cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH - 2, 3), np.uint8))
        words = rf"{re.escape(str(path))} is {WIDTH - 2}x{HEIGHT}, the first one {WIDTH}x"
        with pytest.raises(InputError, match=words):
            evaluate_tracker(Tracker(Planted()), [moving_square], tmp_path / "out", extras=False)

    def test_a_first_mask_without_object(self, moving_square: Video, tmp_path: Path) -> None:
        write_mask(moving_square.mask_paths[0], np.zeros((HEIGHT, WIDTH), np.uint8))
        with pytest.raises(InputError, match=r"the first mask .*00000\.png shows no object"):
            evaluate_tracker(Tracker(Planted()), [moving_square], tmp_path / "out")
        assert not (tmp_path / "out").exists()
