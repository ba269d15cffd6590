"""The tracker: planted answers become the right boxes and masks, objects and videos keep apart, bad input is named."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import Planted

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import Patch, box_from_mask, box_xywh, context_side
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking.confidence import colour_histograms, colour_shares
from e3sn_lib.tracking.tracker import FrameResult, Targets, Tracker, choose, labels_from_patches

HEIGHT, WIDTH = 240, 320
PLAIN = TrackConfig(penalty_k=0.0, window_influence=0.0)
BOX = (140.0, 90.0, 40.0, 40.0)
UNIT = 80 / 127
"""Frame pixels per crop pixel around a square of 40 px, whose context is 80 px wide."""


def noise(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(count)]


def blank(value: int = 0) -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def second(
    model: Planted, config: TrackConfig = PLAIN, box: tuple[float, ...] = BOX
) -> FrameResult:
    """The result for the second frame of two."""
    return list(Tracker(model, config).run([blank(), blank()], [box]))[1]  # type: ignore[arg-type]


class TestPlantedAnswers:
    def test_the_chosen_cell_becomes_a_box_and_a_mask_there(self) -> None:
        result = second(Planted(row=15, column=10, side=32))
        x, y = 160 - 16 * UNIT, 110 + 24 * UNIT
        side = 64 * UNIT
        assert result.boxes_frame_xyxy[0] == pytest.approx(
            [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
        )
        half = 16 * UNIT
        assert box_from_mask(result.ids == 1) == pytest.approx(
            (x - half, y - half, x + half, y + half), abs=1
        )
        assert result.scores == pytest.approx([1])

    def test_offsets_move_and_scale_the_box_but_not_the_window(self) -> None:
        still = second(Planted(side=32))
        offsets = (0.25, -0.5, math.log(1.5), math.log(0.5))
        moved = second(Planted(offsets=offsets, side=32))
        assert np.array_equal(still.soft_masks, moved.soft_masks)
        x, y, w, h = 160 + 16 * UNIT, 110 - 32 * UNIT, 96 * UNIT, 32 * UNIT
        assert moved.boxes_frame_xyxy[0] == pytest.approx(
            [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        )

    def test_the_first_frame_has_the_given_boxes(self) -> None:
        model = Planted(row=3, column=20, side=64)
        first = next(Tracker(model, PLAIN).run([blank()], [BOX, (10, 20, 30, 20)]))
        assert first.boxes_frame_xyxy.tolist() == [[140, 90, 180, 130], [10, 20, 40, 40]]
        assert first.scores.tolist() == [1, 1]
        assert box_from_mask(first.soft_masks[0] > 0.5) == pytest.approx((140, 90, 180, 130), abs=1)

    def test_outside_the_window_there_is_nothing(self) -> None:
        soft = second(Planted(side=200)).soft_masks[0]
        window = (120, 70, 200, 150)  # 127 px of the crop
        assert box_from_mask(soft > 0.5) == pytest.approx(window, abs=1)
        assert set(np.unique(soft[:60])) == {0}
        config = TrackConfig(penalty_k=0, window_influence=0, crop="siammask")
        siammask = second(Planted(side=200), config).soft_masks[0]
        assert set(np.unique(siammask[:60])) == {-1}

    def test_the_centre_stays_in_the_frame_and_the_size_within_its_limits(self) -> None:
        model = Planted(row=24, column=24, offsets=(2.0, 2.0, 5.0, 5.0))
        far = second(model, box=(300, 220, 20, 20)).boxes_frame_xyxy[0]
        assert ((far[:2] + far[2:]) / 2).tolist() == [WIDTH, HEIGHT]
        assert (far[2:] - far[:2]).tolist() == [WIDTH, HEIGHT]
        small = second(Planted(offsets=(0, 0, -5.0, -5.0))).boxes_frame_xyxy[0]
        assert (small[2:] - small[:2]).tolist() == [10, 10]

    def test_the_next_crop_is_around_the_new_box(self) -> None:
        model = Planted(row=12, column=14)
        # the object's centre is at 160 in frame 1, 10.1 px further right in frame 2
        frames = [blank() for _ in range(3)]
        frames[2][:, :161] = 255
        list(Tracker(model, PLAIN).run(frames, [BOX]))
        crop = model.seen[2][0, 0, 127]
        bright = int((crop > 127).sum())
        unit = context_side((64 * UNIT, 64 * UNIT)) / 127
        assert 127.5 - bright == pytest.approx((160 + 16 * UNIT - 161) / unit, abs=1)

    def test_crops_are_padded_with_the_first_frame_s_mean_throughout(self) -> None:
        model = Planted()
        list(Tracker(model, PLAIN).run([blank(90), blank(200)], [(0, 0, 40, 40)]))
        assert model.seen[1][0, :, 0, 0].tolist() == [90, 90, 90]
        assert model.seen[1][0, :, 200, 200].tolist() == [200, 200, 200]


class TestChoice:
    def planted(self, *scores: tuple[int, int, int, float]) -> tuple[torch.Tensor, torch.Tensor]:
        cls, loc = torch.zeros(1, 2, 5, 25, 25), torch.zeros(1, 4, 5, 25, 25)
        cls[:, 1] = -20
        for anchor, row, column, logit in scores:
            cls[0, 1, anchor, row, column] = logit
        return cls, loc

    def test_changes_of_size_and_ratio_are_punished_as_siamrpn_does(self) -> None:
        size = np.array([[127 / 2, 127 / 2]])  # so that a crop pixel is a frame pixel
        cls, loc = self.planted((2, 12, 12, 2.0), (4, 12, 12, 2.0))
        choice = choose(cls, loc, size, TrackConfig(penalty_k=0.5, window_influence=0.0))
        ranked = choice.ranked.reshape(5, 25, 25)[:, 12, 12]
        score = 1 / (1 + math.exp(-2))
        for anchor, (width, height) in ((2, (64, 64)), (4, (32, 96))):
            padding = (width + height) / 2
            scale = math.sqrt((width + padding) * (height + padding)) / 127
            change = max(scale, 1 / scale) * max(width / height, height / width)
            assert ranked[anchor] == pytest.approx(score * math.exp(-0.5 * (change - 1)))
        assert choice.best == 2 * 625 + 12 * 25 + 12
        assert choice.cells.tolist() == [[12, 12]]

    def test_the_window_prefers_the_middle(self) -> None:
        cls, loc = self.planted((2, 12, 12, 2.0), (2, 12, 22, 2.5))
        size = np.array([[63.5, 63.5]])
        windowed = choose(cls, loc, size, TrackConfig(penalty_k=0, window_influence=0.4))
        assert windowed.cells.tolist() == [[12, 12]]
        for config in (PLAIN, TrackConfig(score="raw")):
            assert choose(cls, loc, size, config).cells.tolist() == [[12, 22]]
        hanning = 0.5 - 0.5 * math.cos(2 * math.pi * 22 / 24)
        ranked = windowed.ranked.reshape(5, 25, 25)[2, 12]
        assert ranked[22] == pytest.approx(0.6 / (1 + math.exp(-2.5)) + 0.4 * hanning)

    def test_size_follows_as_far_as_the_score_allows(self) -> None:
        cls, loc = self.planted((2, 12, 12, 0.0))  # a score of one half
        # two frame pixels per crop pixel; the anchor is 128 frame pixels wide
        size = np.array([[127.0, 127.0]])
        for rate in (1.0, 0.25):
            config = TrackConfig(penalty_k=0, window_influence=0, size_lr=rate)
            choice = choose(cls, loc, size, config)
            assert choice.scores == pytest.approx([0.5])
            assert choice.size_wh[0] == pytest.approx([127 + 0.5 * rate, 127 + 0.5 * rate])


class Rival(Planted):
    """Finds the object at column 20, and perhaps at another column too."""

    def __init__(self, column: int, logit: float) -> None:
        super().__init__(column=20)
        self.rival = column, logit

    def locate(self, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        cls, loc = super().locate(*given)
        column, logit = self.rival
        cls[:, 1, 2, 12, column] = logit
        return cls, loc


class TestColours:
    """Columns are 8 pixels of the crop apart, and the boxes here are 64 pixels wide."""

    @pytest.mark.parametrize(
        ("column", "logit", "weight", "chosen"),
        [(4, 2.0, 0.4, 4), (4, 2.0, 0.0, 20), (4, -2.0, 0.4, 20), (18, 2.0, 0.4, 20)],
        ids=["same colours", "colours do not count", "low score", "same place"],
    )
    def test_they_choose_between_places(
        self, column: int, logit: float, weight: float, chosen: int
    ) -> None:
        first, then = blank(128), blank(128)
        first[90:130, 140:180] = then[90:130, 100:170] = (200, 30, 30)
        then[90:130, 180:220] = (30, 160, 30)
        tracker = Tracker(Rival(column, logit), PLAIN)
        targets, _ = tracker.step(first, tracker.start(first, [BOX]), False, weight)
        moved, result = tracker.step(then, targets)
        assert moved.centre_frame_xy[0] == pytest.approx([160 + 8 * (chosen - 12) * UNIT, 110])
        assert result.scores == pytest.approx([1 if chosen == 20 else 1 / (1 + math.exp(-logit))])

    def chosen_column(
        self,
        stripes: dict[tuple[int, int], tuple[int, int, int]],
        column: int,
        best: float,
        other: float,
    ) -> float:
        """Of a red object, in a frame with these stripes, if column 20 has one logit and `column` another."""
        first, then = blank(128), blank(128)
        first[90:130, 140:180] = (200, 30, 30)
        for (left, right), colour in stripes.items():
            then[90:130, left:right] = colour
        model = Rival(column, other)
        tracker = Tracker(model, PLAIN)
        targets, _ = tracker.step(first, tracker.start(first, [BOX]), False, 0.4)
        locate = model.locate

        def weaker(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
            cls, loc = locate(*given)
            return cls.clamp(max=max(best, other)), loc

        model.locate = weaker  # type: ignore[method-assign]
        moved, _ = tracker.step(then, targets)
        return float(12 + (moved.centre_frame_xy[0, 0] - 160) / UNIT / 8)

    def test_the_mean_share_of_a_place_counts(self) -> None:
        """A red line in the green box is little of it."""
        red, green = (200, 30, 30), (30, 160, 30)
        stripes = {(100, 150): red, (180, 220): green, (198, 200): red}
        assert self.chosen_column(stripes, 4, 30, 2) == pytest.approx(4)

    def test_a_place_needs_a_share_of_the_best_rank(self) -> None:
        """Ranks of 0.5 and 0.2 are near enough to each other, ranks of 0.5 and 0.1 are not."""
        stripes = {(100, 150): (200, 30, 30)}
        for rank, column in ((0.2, 4), (0.1, 20)):
            logit = math.log(rank / (1 - rank))
            assert self.chosen_column(stripes, 4, 0, logit) == pytest.approx(column)

    def test_rank_and_colours_count_together(self) -> None:
        """A place that is wholly red, of half the rank of one that is red but for its edge."""
        red, green = (200, 30, 30), (30, 160, 30)
        stripes = {(100, 150): red, (180, 212): red, (212, 220): green}
        assert self.chosen_column(stripes, 4, 30, 0) == pytest.approx(20)
        assert self.chosen_column(stripes | {(180, 220): green}, 4, 30, 2) == pytest.approx(4)

    def test_boxes_that_overlap_are_at_one_place(self) -> None:
        """Two columns apart, boxes of 64 pixels have an IoU of 0.6, whatever the colours say."""
        stripes = {(165, 180): (200, 30, 30), (180, 220): (30, 160, 30)}
        assert self.chosen_column(stripes, 18, 30, 2) == pytest.approx(20)

    def test_colours_are_those_under_the_mask(self) -> None:
        """The square in the middle is the object, all around it are surroundings."""
        (frame,), model = noise(1), Planted(side=64)
        tracker = Tracker(model, PLAIN)
        targets, _ = tracker.step(frame, tracker.start(frame, [BOX]), False, 0.4)
        crop, mask = model.seen[0][0].permute(1, 2, 0).numpy(), np.zeros((255, 255), bool)
        inside = np.abs(np.arange(255) - 127) < 32
        mask[np.ix_(inside, inside)] = True
        np.testing.assert_allclose(
            targets.shares, [0.4 * colour_shares(colour_histograms(crop, mask))]
        )

    def test_each_object_has_its_own(self) -> None:
        first, then = blank(128), blank(128)
        for frame, right in ((first, 0), (then, 40)):
            frame[20:60, 140 - right : 180 - right] = frame[150:190, 140 + right : 180 + right] = (
                255
            )
        boxes = [(140.0, 20.0, 40.0, 40.0), (140.0, 150.0, 40.0, 40.0)]
        tracker = Tracker(Rival(4, 2.0), PLAIN)
        targets, _ = tracker.step(first, tracker.start(first, boxes), False, 0.4)
        for objects in ([0, 1], [1, 0], [1]):
            moved, _ = tracker.step(then, targets.select(objects))
            columns = 12 + (moved.centre_frame_xy[:, 0] - 160) / UNIT / 8
            assert columns == pytest.approx([[4, 20][each] for each in objects])


class TestSeveralObjects:
    boxes = ((140.0, 90.0, 40.0, 40.0), (20.0, 30.0, 60.0, 25.0), (200.0, 100.0, 30.0, 90.0))

    def test_one_batch_is_as_many_single_runs(self, tiny_model: E3SN) -> None:
        frames, tracker = noise(3), Tracker(tiny_model)
        together = list(tracker.run(frames, self.boxes))
        for number, box in enumerate(self.boxes):
            for one, every in zip(tracker.run(frames, [box]), together, strict=True):
                np.testing.assert_allclose(one.soft_masks[0], every.soft_masks[number], atol=1e-4)
                np.testing.assert_allclose(
                    one.boxes_frame_xyxy[0], every.boxes_frame_xyxy[number], atol=1e-2
                )
                assert one.scores[0] == pytest.approx(every.scores[number], abs=1e-4)
        for result in together:
            assert result.soft_masks.shape == (3, HEIGHT, WIDTH)
            soft = result.soft_masks
            threshold = float(np.median(soft[soft > 0]))
            expected = np.where(soft.max(axis=0) > threshold, soft.argmax(axis=0) + 1, 0)
            assert np.array_equal(result.labels(threshold), expected)
            assert np.unique(expected).tolist() == [0, 1, 2, 3]
            assert np.array_equal(result.ids, result.labels(0.5))

    def test_videos_interleaved_are_as_one_after_the_other(self, tiny_model: E3SN) -> None:
        tracker, videos = Tracker(tiny_model), (noise(3, 1), noise(3, 2))
        apart = [
            list(tracker.run(video, [box])) for video, box in zip(videos, self.boxes, strict=False)
        ]
        runs = [tracker.run(video, [box]) for video, box in zip(videos, self.boxes, strict=False)]
        for results in zip(*apart, strict=True):
            for expected, run in zip(results, runs, strict=True):
                assert np.array_equal(next(run).soft_masks, expected.soft_masks)

    def test_a_step_changes_no_state(self, tiny_model: E3SN) -> None:
        tracker, (first, frame) = Tracker(tiny_model), noise(2)
        targets = tracker.start(first, self.boxes)
        kept = copy.deepcopy(targets)
        moved, result = tracker.step(frame, targets)
        again, repeated = tracker.step(frame, targets)
        assert self.same(targets, kept)
        assert self.same(moved, again)
        assert not np.array_equal(moved.centre_frame_xy, targets.centre_frame_xy)
        assert np.array_equal(result.soft_masks, repeated.soft_masks)

    @staticmethod
    def same(one: Targets, other: Targets) -> bool:
        tensors = [
            (
                *targets.template[:2],
                *targets.template.levels,
                *map(torch.from_numpy, (targets.centre_frame_xy, targets.size_wh)),
            )
            for targets in (one, other)
        ]
        return one.fill == other.fill and all(
            torch.equal(a, b) for a, b in zip(*tensors, strict=True)
        )

    def test_some_of_them_and_other_places(self, tiny_model: E3SN) -> None:
        tracker, (frame,) = Tracker(tiny_model), noise(1)
        targets = tracker.start(frame, self.boxes)
        chosen = targets.select([2, 0])
        assert self.same(chosen.select([1]), targets.select([0]))
        assert chosen.boxes_frame_xyxy().tolist() == [[200, 100, 230, 190], [140, 90, 180, 130]]
        moved = chosen.moved_to([(0, 0, 20, 10), (5, 5, 7, 9)])
        assert moved.boxes_frame_xyxy().tolist() == [[0, 0, 20, 10], [5, 5, 7, 9]]
        assert torch.equal(moved.template.cls, chosen.template.cls)
        assert box_xywh((5, 6, 15, 26)) == (5, 6, 10, 20)

    def test_labels(self) -> None:
        soft = np.array(
            [[[0.9, 0.5, 0.6, 0.2, -1.0, 0.7]], [[0.8, 0.4, 0.8, 0.1, -1.0, 0.7]]], np.float32
        )
        patches = {k: Patch(soft[k - 1], slice(1, 2), slice(2, 8)) for k in (2, 1)}
        for threshold, ids in ((0.5, [1, 0, 2, 0, 0, 1]), (0.15, [1, 1, 2, 1, 0, 1])):
            labels = labels_from_patches(patches, (2, 9), threshold)
            assert labels.tolist() == [[0] * 9, [0, 0, *ids, 0]]
            assert labels.dtype == np.uint8


class TestUse:
    def test_the_network_is_put_into_evaluation_mode(self, tiny_model: E3SN) -> None:
        tiny_model.train()
        assert not Tracker(tiny_model).backend.network.training
        assert not any(module.training for module in tiny_model.modules())

    def test_given_settings_come_before_those_of_the_network(
        self, tiny_model: E3SN, tiny_profile: Callable[..., Profile]
    ) -> None:
        own, other = tiny_profile(), TrackConfig(penalty_k=0.123)
        assert Tracker((tiny_model, own)).config == own.track != other
        assert Tracker((tiny_model, own), other).config == other

    def test_frames_are_read_one_at_a_time(self) -> None:
        read: list[int] = []

        def frames() -> Iterator[NDArray[np.uint8]]:
            for number in range(4):
                read.append(number)
                yield blank()

        run = Tracker(Planted()).run(frames(), [BOX])
        assert read == []
        for number in range(4):
            next(run)
            assert read == list(range(number + 1))

    @pytest.mark.parametrize(
        ("box", "words"),
        [
            ((-1, 0, 20, 20), "reaches outside the frame, which is 320x240"),
            ((0, -0.5, 20, 20), "reaches outside the frame"),
            ((301, 0, 20, 20), "reaches outside the frame"),
            ((0, 221, 20, 20), "reaches outside the frame"),
            ((10, 10, 0, 20), "has no area"),
            ((10, 10, 20, -5), "has no area"),
            ((10, 10, math.nan, 20), "is not four numbers"),
            ((10, 10, math.inf, 20), "is not four numbers"),
            ((10, 10, 20), "is not four numbers"),
        ],
    )
    def test_boxes_that_cannot_be(self, box: tuple[float, ...], words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            next(Tracker(Planted()).run([blank()], [BOX, box]))
        assert str(caught.value).startswith("box 2 (")
        assert "\n" not in str(caught.value)

    def test_the_whole_frame_is_a_box(self) -> None:
        result = next(Tracker(Planted()).run([blank()], [(0, 0, WIDTH, HEIGHT)]))
        assert result.boxes_frame_xyxy.tolist() == [[0, 0, WIDTH, HEIGHT]]

    def test_nothing_to_follow_and_nothing_to_see(self) -> None:
        with pytest.raises(InputError, match="no box is given"):
            next(Tracker(Planted()).run([blank()], []))
        with pytest.raises(InputError, match="the video has no frames"):
            next(Tracker(Planted()).run([], [BOX]))

    @pytest.mark.parametrize(
        "frame",
        [
            blank().astype(np.float32),
            blank().astype(np.int64),
            blank()[..., 0],
            np.dstack([blank(), blank()[..., :1]]),
            None,
        ],
    )
    def test_a_frame_of_another_kind_is_refused(self, frame: Any) -> None:
        tracker = Tracker(Planted())
        with pytest.raises(InputError, match=r"^frame 0 is .*; give RGB, uint8 of \(H, W, 3\)$"):
            next(tracker.run([frame], [BOX]))
        with pytest.raises(InputError, match="give RGB, uint8"):
            tracker.step(frame, tracker.start(blank(), [BOX]))

    @pytest.mark.parametrize("branch", ["locate", "segment"])
    def test_answers_that_are_not_finite_are_refused(
        self, branch: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = Planted()
        answer = getattr(model, branch)

        def broken(*given: Any) -> Any:
            found = answer(*given)
            (found if branch == "segment" else found[1]).fill_(torch.nan)
            return found

        monkeypatch.setattr(model, branch, broken)
        with pytest.raises(InputError, match="not finite"):
            list(Tracker(model, PLAIN).run([blank()], [BOX]))  # type: ignore[arg-type]

    @pytest.mark.parametrize("network", [None, "model.safetensors"])
    def test_what_is_no_network_is_refused(self, network: Any) -> None:
        with pytest.raises(InputError, match="give what load_model or load_export returns"):
            Tracker(network)

    @pytest.mark.parametrize("box", [None, "here", [1, 2, None, 4], [[1, 2], [3, 4]], 5])
    def test_a_box_of_another_kind_is_refused(self, box: Any) -> None:
        with pytest.raises(InputError, match="is not four numbers x,y,width,height"):
            next(Tracker(Planted()).run([blank()], [box]))

    def test_more_objects_than_a_mask_holds(self) -> None:
        with pytest.raises(InputError, match="255 boxes, but a mask holds 254"):
            next(Tracker(Planted()).run([blank()], [BOX] * 255))

    def test_a_frame_of_another_size_is_named(self) -> None:
        run = Tracker(Planted()).run([blank(), blank(), blank()[:-1]], [BOX])
        next(run), next(run)
        with pytest.raises(InputError, match=r"^frame 2 is 320x239, the first one 320x240; all"):
            next(run)
