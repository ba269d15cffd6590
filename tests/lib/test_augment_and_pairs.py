"""Training pairs: registered through every change, a function of seed and number alone, honest about files that are bad."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from itertools import islice, permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from e3sn_lib.config import Profile, StageConfig, TrainSetConfig
from e3sn_lib.data import augment
from e3sn_lib.data.davis import davis_tracks
from e3sn_lib.data.mask_folder import mask_folder_tracks
from e3sn_lib.data.pairs import Batch, Pair, PairDataset, collate
from e3sn_lib.data.types import PngMask, Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_mask
from e3sn_lib.geometry import Box, anchors_xyxy, box_from_mask, context_side
from e3sn_lib.sampling import anchor_iou

Load = Callable[..., Profile]
SIDE = 200
PLAIN = ("augment.colour=0", "augment.blur=0", "augment.grey=0", "data.negative_pairs=0")
"""Settings without which the colours of a pair are those of its files."""


def shape(box: Box, side: int = SIDE) -> NDArray[np.bool_]:
    """A rectangle with a corner cut off, so that no flip or turn maps it to itself."""
    x1, y1, x2, y2 = box
    y, x = np.mgrid[:side, :side] + 0.5
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    return inside & ((x - x1) / (x2 - x1) + (y - y1) / (y2 - y1) > 0.4)


def write_frame(
    path: Path, shown: Box | NDArray[np.bool_], background: int = 0, colour: int = 255
) -> TrackFrame:
    mask = shape(shown) if isinstance(shown, tuple) else shown
    image = np.where(mask, colour, background).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.repeat(image[..., None], 3, axis=2))
    write_mask(path.with_name(f"{path.stem}-mask.png"), mask.astype(np.uint8))
    return TrackFrame(path, PngMask(path.with_name(f"{path.stem}-mask.png")))


def still(folder: Path, name: str, box: Box = (80, 70, 120, 130), colour: int = 255) -> Track:
    return Track(name, (write_frame(folder / f"{name}.png", box, colour=colour),))


def dataset(
    profile: Profile,
    tracks: TrackSet | list[TrackSet],
    first: int = 0,
    stage: StageConfig | None = None,
    **settings,
) -> PairDataset:
    sets = tracks if isinstance(tracks, list) else [tracks]
    sources = [(each, TrainSetConfig("davis", ("unused",), **settings)) for each in sets]
    return PairDataset(sources, profile, stage or next(iter(profile.stages.values())), first)


def bright(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return image[..., 0] > 127


def same(one: Pair, other: Pair) -> bool:
    values = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(Pair))
    return all(np.array_equal(a, b) for a, b in values)


class TestGeometry:
    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("degrees", [0.0, 20.0, -13.0])
    def test_shape_mask_and_box_stay_within_a_pixel(self, flip: bool, degrees: float) -> None:
        box = (83.0, 71.0, 117.0, 129.0)
        mask = shape(box)
        frame = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
        for seed in range(25):
            crop = augment.random_crop(
                box, 255, 64, 0.18, np.random.default_rng(seed), degrees=degrees, flip=flip
            )
            seen, cut = bright(crop.image(frame, 0)), crop.mask(mask)
            assert np.array_equal(seen, cut)
            expected = crop.matrix @ (*np.argwhere(mask).mean(axis=0)[::-1] + 0.5, 1.0)
            assert np.argwhere(cut).mean(axis=0)[::-1] + 0.5 == pytest.approx(expected, abs=0.5)
            if degrees == 0:
                assert box_from_mask(cut) == pytest.approx(crop.box_to_crop(box), abs=1)

    def test_shift_and_scale_keep_to_their_ranges_and_fill_them(self) -> None:
        box, rng = (80.0, 80.0, 120.0, 120.0), np.random.default_rng(0)
        boxes = np.array(
            [augment.random_crop(box, 255, 64, 0.18, rng).box_to_crop(box) for _ in range(400)]
        )
        moves = (boxes[:, :2] + boxes[:, 2:]) / 2 - 127.5
        sizes = (boxes[:, 2:] - boxes[:, :2]) / 63.5
        for values, low, high in ((moves, -64, 64), (sizes, 0.82, 1.18)):
            span = high - low
            assert (values >= low).all()
            assert (values <= high).all()
            assert (values.min(axis=0) < low + 0.05 * span).all()
            assert (values.max(axis=0) > high - 0.05 * span).all()
            assert abs(np.corrcoef(values.T)[0, 1]) < 0.15  # x and y are drawn apart

    def test_a_zoom_is_of_both_sides_and_of_the_search_alone(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        """From 1 / 1.5 to 1.5, as often larger as smaller."""
        box, rng = (80.0, 70.0, 120.0, 130.0), np.random.default_rng(0)
        crops = [augment.random_crop(box, 255, 0, 0, rng, zoom=0.5) for _ in range(400)]
        boxes = np.array([crop.box_to_crop(box) for crop in crops])
        sizes = boxes[:, 2:] - boxes[:, :2]
        assert sizes[:, 0] / sizes[:, 1] == pytest.approx(40 / 60)
        zoom = np.log(sizes[:, 0] / (127 / context_side((40, 60)) * 40)) / np.log(1.5)
        assert (zoom.min(), zoom.max(), zoom.mean()) == pytest.approx((-1, 1, 0), abs=0.1)
        assert np.abs(zoom).max() <= 1
        profile = tiny_profile(*PLAIN, "augment.template_scale=0", "augment.search_zoom=0.5")
        pairs = list(islice(dataset(profile, TrackSet("made", (still(tmp_path, "one"),))), 20))
        template, search = (
            np.array([bright(image).any(axis=0).sum() for image in images])
            for images in ([pair.template for pair in pairs], [pair.search for pair in pairs])
        )
        assert np.ptp(template) <= 2
        assert search.max() > 1.5 * search.min()

    @pytest.mark.parametrize(
        "stage", [StageConfig(), StageConfig(search_size=143, search_shift=8.0)]
    )
    @pytest.mark.parametrize("rotation", [0, 20])
    def test_of_whole_pairs(
        self, tmp_path: Path, tiny_profile: Load, stage: StageConfig, rotation: int
    ) -> None:
        tracks = TrackSet(
            "made", (still(tmp_path, "one"), still(tmp_path, "two", (60, 90, 150, 125)))
        )
        profile = tiny_profile(*PLAIN, f"augment.rotation={rotation}")
        for pair in islice(dataset(profile, tracks, stage=stage), 20):
            size = stage.search_size
            assert (pair.template.shape, pair.search.shape) == ((127, 127, 3), (size, size, 3))
            assert np.array_equal(bright(pair.search), pair.mask == 1)
            assert set(np.unique(pair.mask)) == {-1, 1}
            seen = box_from_mask(pair.mask == 1)
            assert pair.box_crop_xyxy.tolist() == pytest.approx(seen, abs=1)
            template = box_from_mask(bright(pair.template))
            assert template is not None
            middle = (template[0] + template[2]) / 2
            assert middle == pytest.approx(63.5, abs=5)  # shift 4, and half a pixel at either edge

    def test_only_a_still_is_turned_or_gets_another_background(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        """A bar of 180 x 20 pixels in a video stays as high as its scale says, and the background
        of its template is that of its search crop."""
        mask = np.zeros((SIDE, SIDE), bool)
        mask[90:110, 10:190] = True
        frames = [
            write_frame(tmp_path / f"{number}.png", mask, background=background)
            for number, background in enumerate((40, 40, 80, 80))
        ]
        settings = ("augment.search_scale=0", "augment.rotation=20", "augment.new_background=1")
        scale = 127 / context_side((180, 20))
        for tracks, turned in (
            ((Track("dark", tuple(frames[:2])), Track("light", tuple(frames[2:]))), False),
            (tuple(Track(str(n), (each,)) for n, each in enumerate(frames)), True),
        ):
            drawn = dataset(tiny_profile(*PLAIN, *settings), TrackSet("made", tracks))
            pairs = list(islice(drawn, 8))
            shown = [
                [
                    max((40, 80), key=lambda each: np.count_nonzero(image == each))
                    for image in images
                ]
                for images in ((pair.template, pair.search) for pair in pairs)
            ]
            assert any(one != other for one, other in shown) == turned
            heights = [float(np.ptp(pair.box_crop_xyxy[1::2])) / scale for pair in pairs]
            assert (max(heights) > 21) == turned

    def test_beyond_the_frame_is_its_mean_colour(self, tmp_path: Path, tiny_profile: Load) -> None:
        frame = write_frame(tmp_path / "edge.png", (0, 0, 90, 60), background=50)
        mean = cv2.imread(str(frame.image))[::8, ::8].mean()
        tracks = TrackSet("made", (Track("edge", (frame,)),))
        fixed = ("augment.search_shift=0", "augment.search_scale=0", "augment.template_shift=0")
        pair = dataset(tiny_profile(*PLAIN, *fixed, "augment.flip=0"), tracks)[0]
        for image in (pair.template, pair.search):
            assert image[:5, :5].reshape(-1, 3) == pytest.approx(mean, abs=1)

    def test_a_rotated_box_reaches_beyond_the_crop_like_its_object(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        """A rectangle w x h that turns by t is w cos t + h sin t wide, wherever the crop ends."""
        mask = np.zeros((SIDE, SIDE), bool)
        mask[90:110, 10:190] = True
        tracks = TrackSet("made", (Track("bar", (write_frame(tmp_path / "bar.png", mask),)),))
        fixed = ("augment.search_scale=0", "augment.search_shift=100", "augment.rotation=20")
        scale = 127 / context_side((180, 20))
        beyond = 0
        for pair in islice(dataset(tiny_profile(*PLAIN, *fixed), tracks), 30):
            x1, y1, x2, y2 = pair.box_crop_xyxy.astype(float) / scale
            sine = (y2 - y1 - 20) / 180  # to first order in the angle; solved below
            for _ in range(50):
                sine = (y2 - y1 - 20 * np.sqrt(1 - sine**2)) / 180
            assert 0 <= sine <= np.sin(np.radians(20)) + 1e-6
            assert x2 - x1 == pytest.approx(180 * np.sqrt(1 - sine**2) + 20 * sine, rel=1e-5)
            beyond += x1 < 0 or x2 * scale > 255
        assert beyond > 5

    def test_the_thresholds_of_the_settings_make_the_matrix(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        tracks = TrackSet("made", (still(tmp_path, "one"),))
        profile = tiny_profile(*PLAIN, "sampler.high=0.75", "sampler.low=0.15")
        pair = dataset(profile, tracks)[0]
        best = anchor_iou(tuple(pair.box_crop_xyxy.astype(float).tolist())).max(axis=0)
        expected = np.where(best > 0.75, 1, np.where(best < 0.15, -1, 0))
        assert np.array_equal(pair.matrix, expected)
        assert set(np.unique(expected)) >= {-1, 0}

    def test_targets_of_the_second_stage_belong_to_its_grid(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        """The 3 x 3 cells of a crop of 143 pixels lie around 71.5."""
        tracks = TrackSet("made", (still(tmp_path, "one"),))
        stage = StageConfig(search_size=143, search_shift=8.0)
        pair = dataset(tiny_profile(*PLAIN), tracks, stage=stage)[0]
        x1, y1, x2, y2 = pair.box_crop_xyxy.astype(float)
        for row, column in ((0, 0), (1, 2), (2, 1)):
            dx, dy = pair.offsets[:2, 2, row, column]
            middle = 63.5 + 8 * column + 64 * dx, 63.5 + 8 * row + 64 * dy
            assert middle == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=1e-3)

    def test_a_flip_is_of_both_images(self, tmp_path: Path, tiny_profile: Load) -> None:
        """The cut-off corner is on the same side of template and search."""

        def corner_is_left(image: NDArray[np.uint8]) -> bool:
            x1, y1, x2, _ = (int(value) for value in box_from_mask(bright(image)))
            top = bright(image)[y1 + 2, x1:x2]
            return bool(top[: len(top) // 2].sum() < top[len(top) // 2 :].sum())

        tracks = TrackSet("made", (still(tmp_path, "one"),))
        pairs = list(islice(dataset(tiny_profile(*PLAIN, "augment.flip=0.5"), tracks), 40))
        sides = [corner_is_left(pair.template) for pair in pairs]
        assert sides == [corner_is_left(pair.search) for pair in pairs]
        assert 8 < sum(sides) < 32

    def test_targets_belong_to_the_box(self, tmp_path: Path, tiny_profile: Load) -> None:
        pair = dataset(tiny_profile(*PLAIN), TrackSet("made", (still(tmp_path, "one"),)))[0]
        x1, y1, x2, y2 = pair.box_crop_xyxy.astype(float)
        anchors = anchors_xyxy()
        positives = np.argwhere(pair.anchor_labels == 1)
        assert 0 < len(positives) <= 16
        assert (pair.anchor_labels >= 0).sum() == 64
        for index in positives:
            ax1, ay1, ax2, ay2 = anchors[tuple(index)]
            dx, dy, dw, dh = pair.offsets[(slice(None), *index)]
            assert dx * (ax2 - ax1) == pytest.approx((x1 + x2) / 2 - (ax1 + ax2) / 2, abs=1e-3)
            assert dy * (ay2 - ay1) == pytest.approx((y1 + y2) / 2 - (ay1 + ay2) / 2, abs=1e-3)
            assert (np.exp(dw) * (ax2 - ax1), np.exp(dh) * (ay2 - ay1)) == pytest.approx(
                (x2 - x1, y2 - y1), rel=1e-4
            )


class TestColours:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)

    def test_grey_is_luma_in_all_channels(self) -> None:
        grey = augment.to_grey(self.noise)
        assert (grey[..., 0] == grey[..., 1]).all()
        assert (grey[..., 0] == grey[..., 2]).all()
        assert np.abs(grey[..., 0] - self.noise @ [0.299, 0.587, 0.114]).max() < 0.6

    def test_no_strength_is_no_change(self) -> None:
        rng = np.random.default_rng(0)
        nearly = augment.change_colour(self.noise, 1e-9, rng)
        assert np.array_equal(nearly, self.noise)
        assert augment.change_colour(self.noise, 0.0, rng) is self.noise

    def test_brightness_keeps_grey_pixels_nearly_grey_and_saturates(self) -> None:
        white = np.full((4, 4, 3), 255, np.uint8)
        rng = np.random.default_rng(0)
        changed = np.stack([augment.change_colour(white, 0.4, rng) for _ in range(50)])
        assert changed.max() == 255
        assert changed.min() > 80  # no wrap-around
        assert np.ptp(changed.mean(axis=(1, 2, 3))) > 50

    def test_saturation_spreads_the_channels_as_contrast_does(self) -> None:
        """Both scale what a colour differs from its grey; brightness leaves that alone."""
        image, spreads = np.array([[[160, 100, 60]]], np.uint8), []
        for seed in range(300):
            saturation, contrast = np.random.default_rng(seed).uniform(0.6, 1.4, 2)
            changed = augment.change_colour(image, 0.4, np.random.default_rng(seed))
            spreads.append((np.ptp(changed.astype(float)), saturation * contrast))
        assert np.corrcoef(*np.transpose(spreads))[0, 1] > 0.9

    def test_contrast_turns_about_the_middle_grey(self) -> None:
        """Of grey 128, brightness moves 0.2 x 128, and the tint at most 1.2 x 0.05 x 128."""
        grey, rng = np.full((2, 2, 3), 128, np.uint8), np.random.default_rng(0)
        changed = np.stack([augment.change_colour(grey, 0.2, rng) for _ in range(200)])
        assert np.abs(changed.astype(int) - 128).max() <= 0.2 * 128 + 1.2 * 0.05 * 128 + 1

    def test_blur_has_any_direction(self) -> None:
        """A dot becomes a line, which rises as often as it falls."""
        dot, rng = np.zeros((101, 101, 3), np.uint8), np.random.default_rng(0)
        dot[50, 50] = 255
        slopes = []
        for _ in range(60):
            rows, columns = np.nonzero(augment.motion_blur(dot, rng)[..., 0])
            slopes.append(float(((rows - 50) * (columns - 50)).sum()))
        assert 10 < np.sum(np.array(slopes) > 0) < 50
        assert 10 < np.sum(np.array(slopes) < 0) < 50

    def test_a_square_lies_within_its_image_and_anywhere_in_it(self) -> None:
        wide = np.repeat(np.linspace(50, 250, 300).astype(np.uint8)[None, :, None], 3, axis=2)
        wide, rng = np.repeat(wide, 100, axis=0), np.random.default_rng(0)
        for image, axis in ((wide, 1), (np.ascontiguousarray(wide.transpose(1, 0, 2)), 0)):
            cut = np.stack([augment.random_square(image, 64, rng) for _ in range(60)])
            assert cut.min() >= 50
            assert cut.min() < 70
            assert cut.max() > 230
            span = np.ptp(cut[..., 0].astype(int), axis=axis + 1).mean(axis=1)  # 200 / 300 a pixel
            assert (span.min(), span.max()) == pytest.approx((33, 67), abs=5)

    def test_both_crops_lose_their_colours_or_get_others(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        tracks = TrackSet("made", (still(tmp_path, "one"),))
        path = tracks.tracks[0].frames[0].image
        painted = cv2.imread(str(path))
        painted[:] = (30, 90, 160)
        cv2.imwrite(str(path), painted)
        plain = dataset(tiny_profile(*PLAIN), tracks)[0]
        grey = dataset(tiny_profile(*PLAIN, "augment.grey=1"), tracks)[0]
        other = dataset(tiny_profile(*PLAIN[1:], "augment.colour=0.4"), tracks)[0]
        changes = []
        for name in ("template", "search"):
            assert plain.__dict__[name][60, 60].tolist() == [160, 90, 30]
            assert len(set(grey.__dict__[name][60, 60].tolist())) == 1
            changes.append(other.__dict__[name][60, 60].astype(int) - (160, 90, 30))
            assert np.abs(changes[-1]).max() > 3
        assert not np.array_equal(*changes)  # each has its own change

    def test_blur_and_grey_come_as_often_as_asked_and_blur_to_the_search_alone(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        tracks = TrackSet("made", (still(tmp_path, "one"),))
        path = tracks.tracks[0].frames[0].image
        painted = cv2.imread(str(path))
        painted[..., 0] //= 2
        cv2.imwrite(str(path), painted)
        settings = (PLAIN[0], PLAIN[3], "augment.grey=0.3")
        sharp, mixed = (
            list(islice(dataset(tiny_profile(*settings, f"augment.blur={blur}"), tracks), 60))
            for blur in (0, 0.3)
        )
        pairs = list(zip(sharp, mixed, strict=True))
        assert all(np.array_equal(one.template, other.template) for one, other in pairs)
        blurred = [not np.array_equal(one.search, other.search) for one, other in pairs]
        grey, searched_grey = (
            [(np.ptp(image, axis=2) == 0).all() for image in images]
            for images in ([pair.template for pair in sharp], [pair.search for pair in sharp])
        )
        assert grey == searched_grey
        assert 9 < sum(blurred) < 27
        assert 9 < sum(grey) < 27

    def test_blur_keeps_the_mean_and_smooths(self) -> None:
        rng = np.random.default_rng(3)
        flat = np.full((255, 255, 3), 77, np.uint8)
        assert (augment.motion_blur(flat, rng) == 77).all()
        noise = rng.integers(0, 256, (255, 255, 3), dtype=np.uint8)
        for _ in range(10):
            blurred = augment.motion_blur(noise, rng)
            assert blurred.mean() == pytest.approx(noise.mean(), abs=2)
            assert blurred.std() < 0.8 * noise.std()

    def test_a_new_background_keeps_the_object(self) -> None:
        mask = shape((60, 60, 140, 140))
        image, background = (np.full((SIDE, SIDE, 3), grey, np.uint8) for grey in (200, 10))
        mixed = augment.replace_background(image, mask, background)
        inside = cv2.erode(mask.astype(np.uint8), np.ones((7, 7))).astype(bool)
        outside = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) == 0
        assert mixed[inside].min() >= 199
        assert mixed[outside].max() <= 11

    def test_synthetic_motion_moves_no_mask(self, tmp_path: Path, tiny_profile: Load) -> None:
        """The pair with a new background differs from the one without in the background alone."""
        dark = TrackSet("made", tuple(still(tmp_path, f"dark{n}") for n in range(2)))
        settings = (*PLAIN, "augment.rotation=10")
        for number in range(5):
            plain = dataset(tiny_profile(*settings), dark)[number]
            moved = dataset(tiny_profile(*settings, "augment.new_background=1"), dark)[number]
            assert np.array_equal(plain.mask, moved.mask)
            assert np.array_equal(plain.box_crop_xyxy, moved.box_crop_xyxy)
            inside = cv2.erode((plain.mask == 1).astype(np.uint8), np.ones((7, 7))).astype(bool)
            assert moved.search[inside].min() >= 254

    def test_an_object_is_not_put_in_front_of_its_own_image(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        tracks = TrackSet("made", (still(tmp_path, "one"),))
        plain = dataset(tiny_profile(*PLAIN), tracks)
        alone = dataset(tiny_profile(*PLAIN, "augment.new_background=1"), tracks)
        for number in range(3):
            assert np.array_equal(alone[number].search, plain[number].search)


class TestMovedObjects:
    """In a still image the background moves with the object, unless the object is moved over it."""

    FIXED = (*PLAIN, "augment.search_shift=0", "augment.search_scale=0", "augment.flip=0")

    def test_only_the_object_moves_and_its_old_place_shows_the_background(self) -> None:
        columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
        ramp = np.stack([columns, rows, (columns + rows) // 2], axis=-1).astype(np.uint8)
        mask = shape((80, 70, 110, 130))
        image = np.where(mask[..., None], 255, ramp).astype(np.uint8)
        moved, its_mask = augment.move_object(image, mask, np.array([40.2, -20.4]))
        assert np.array_equal(its_mask, np.roll(mask, (-20, 40), axis=(0, 1)))
        inside = cv2.erode(its_mask.astype(np.uint8), np.ones((7, 7))) > 0
        assert moved[inside].min() >= 254
        near = cv2.dilate((mask | its_mask).astype(np.uint8), np.ones((15, 15))) > 0
        assert np.abs(moved[~near].astype(int) - ramp[~near]).max() <= 1
        old = mask & ~(cv2.dilate(its_mask.astype(np.uint8), np.ones((7, 7))) > 0)
        assert np.abs(moved[old].astype(int) - ramp[old]).max() < 25  # the object: at least 125

    def test_the_target_leaves_its_place_which_teaches_negatives(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        """A grey mark on the background shows where this place is in the search crop."""
        frame = write_frame(tmp_path / "one.png", (80, 70, 120, 130))
        image = cv2.imread(str(frame.image))
        image[20:32, 94:106] = 128
        cv2.imwrite(str(frame.image), image)
        tracks, negatives = TrackSet("made", (Track("one", (frame,)),)), 0

        def mark(pair: Pair) -> NDArray[np.int64]:
            grey = np.abs(pair.search[..., 0].astype(int) - 128) < 3
            return np.argwhere(cv2.erode(grey.astype(np.uint8), np.ones((5, 5))))[:, ::-1]

        profile = tiny_profile(*self.FIXED, "augment.moved=1")
        for number in range(20):
            plain = dataset(tiny_profile(*self.FIXED), tracks)[number]
            pair, box = dataset(profile, tracks)[number], plain.box_crop_xyxy
            assert np.array_equal(pair.template, plain.template)
            assert pair.search[pair.mask == 1].mean() > 240
            assert np.abs(pair.box_crop_xyxy - box).max() < 1.5  # the crop follows the object
            if len(mark(pair)) < 0.9 * len(mark(plain)):
                continue  # the object hides the mark, or it is outside the crop
            back = mark(pair).mean(axis=0) - mark(plain).mean(axis=0)
            assert 0.17 < np.linalg.norm(back / (box[2:] - box[:2])) < 1.03
            was = box + np.tile(back, 2)
            on_it = anchor_iou(tuple(was.tolist())) > profile.sampler.high
            on_it &= anchor_iou(tuple(pair.box_crop_xyxy.tolist())) < profile.sampler.low
            taught = np.count_nonzero(pair.anchor_labels[on_it] == 0)
            assert taught >= 0.6 * min(16, np.count_nonzero(on_it))
            negatives += taught
        assert negatives > 40

    def test_an_object_that_the_image_cuts_stays(self, tmp_path: Path, tiny_profile: Load) -> None:
        cut = TrackSet("made", (still(tmp_path, "cut", (0, 70, 40, 130)),))
        plain, moved = (
            dataset(tiny_profile(*self.FIXED, f"augment.moved={share}"), cut)[0] for share in (0, 1)
        )
        assert np.array_equal(moved.search, plain.search)

    def test_a_moved_object_keeps_its_background(self, tmp_path: Path, tiny_profile: Load) -> None:
        tracks = TrackSet("made", tuple(still(tmp_path, f"{number}") for number in range(2)))
        alone, both = (
            dataset(
                tiny_profile(*self.FIXED, "augment.moved=1", f"augment.new_background={share}"),
                tracks,
            )
            for share in (0, 1)
        )
        for number in range(5):
            assert np.array_equal(alone[number].search, both[number].search)

    def test_an_object_stays_in_the_image_by_half(self, tmp_path: Path, tiny_profile: Load) -> None:
        """A square at the left edge loses width only; the crop is of what is left of it."""
        edge = TrackSet("made", (still(tmp_path, "edge", (2, 70, 62, 130)),))
        pairs = islice(dataset(tiny_profile(*self.FIXED, "augment.moved=1"), edge), 60)
        sides = np.array([pair.box_crop_xyxy[2:] - pair.box_crop_xyxy[:2] for pair in pairs])
        shapes = sides[:, 0] / sides[:, 1]
        assert shapes.max() == pytest.approx(1, abs=0.05)
        assert 0.4 < shapes.min() < 0.8


class TestLookAlikes:
    BRIGHT = (255, 220, 190)

    @pytest.fixture
    def tracks(self, tmp_path: Path) -> TrackSet:
        """Of two categories: bright ones and one dim one."""
        bright_ones = [still(tmp_path, f"bright{n}", colour=n) for n in self.BRIGHT]
        return TrackSet(
            "made",
            (*bright_ones, still(tmp_path, "dim", colour=150)),
            categories=[1, 1, 1, 2],
        )

    def test_a_second_object_is_seen_and_not_taught(
        self, tracks: TrackSet, tiny_profile: Load
    ) -> None:
        covered, seen = [], 0
        for number in range(60):
            plain = dataset(tiny_profile(*PLAIN), tracks)[number]
            pair = dataset(tiny_profile(*PLAIN, "augment.distractor=1"), tracks)[number]
            assert np.array_equal(pair.box_crop_xyxy, plain.box_crop_xyxy)
            target, left = plain.mask == 1, pair.mask == 1
            assert not (left & ~target).any()
            inside = cv2.erode(left.astype(np.uint8), np.ones((7, 7))).astype(bool)
            assert (
                np.abs(pair.search[inside].astype(int) - plain.search[inside]).max(initial=0) <= 1
            )
            covered.append(1 - left.sum() / target.sum())
            seen += np.count_nonzero((pair.search[..., 0] > 127) & ~target) > 200
        assert seen > 20
        assert 0 < max(covered) <= 0.4 + 1e-9
        assert np.mean(np.array(covered) == 0) > 0.3

    def test_the_target_is_no_look_alike_of_itself(
        self, tracks: TrackSet, tiny_profile: Load
    ) -> None:
        alone = replace(tracks, tracks=tracks.tracks[:1], categories=[1])
        for number in range(10):
            plain = dataset(tiny_profile(*PLAIN), alone)[number]
            pair = dataset(tiny_profile(*PLAIN, "augment.distractor=1"), alone)[number]
            assert np.array_equal(pair.search, plain.search)
            assert np.array_equal(pair.mask, plain.mask)

    def test_it_hides_at_most_half_and_stands_at_most_a_third_away(self) -> None:
        """Of half the sum of both sizes, the middles are 0.5 to 1.33 apart along the axis that separates them."""
        target, other = (90.0, 100.0, 190.0, 130.0), (10.0, 20.0, 40.0, 80.0)
        scale, rng = 127 / context_side((30, 60)), np.random.default_rng(0)
        half = np.array([100 + 30 * scale, 30 + 60 * scale]) / 2
        crop = augment.random_crop(other, 255, 0.0, 0.0, rng)
        apart = []
        for _ in range(300):
            moved = augment.beside(target, crop.box_to_crop(other), crop, rng)
            x1, y1, x2, y2 = moved.box_to_crop(other)
            away = np.array([(x1 + x2) / 2 - 140, (y1 + y2) / 2 - 115])
            apart.append((np.abs(away) / half).max())
        assert (min(apart), max(apart)) == pytest.approx((0.5, 1.33), abs=0.02)
        assert min(apart) >= 0.5
        assert max(apart) <= 1.33

    def test_real_ones_are_negatives_of_a_pair(self, tracks: TrackSet, tiny_profile: Load) -> None:
        """Those that the data set knows, brought to the search crop."""
        first = tracks.tracks[0]
        frame = replace(first.frames[0], alike_frame_xyxy=((130.0, 70.0, 170.0, 130.0),))
        real = replace(tracks, tracks=(replace(first, frames=(frame,)),), categories=[])
        fixed = ("augment.search_shift=0", "augment.search_scale=0", "augment.flip=0")
        profile = tiny_profile(*PLAIN, *fixed, "augment.distractor=1e-9")
        pair = dataset(profile, real)[0]
        x1, y1, x2, y2 = pair.box_crop_xyxy.tolist()
        beside = (x1 + (x2 - x1) * 5 / 4, y1, x2 + (x2 - x1) * 5 / 4, y2)
        on_it = anchor_iou(beside) > profile.sampler.high
        assert (pair.anchor_labels[on_it] == 0).sum() == min(16, on_it.sum()) > 3

    def test_negative_pairs_of_one_category(self, tracks: TrackSet, tiny_profile: Load) -> None:
        profile = tiny_profile(*PLAIN, "data.negative_pairs=1", "augment.negative_alike=1")
        pairs = list(islice(dataset(profile, tracks), 60))
        dim = {pair.negative for pair in pairs if pair.source == "dim"}
        assert dim == {False}  # it is the only one of its kind
        others = [pair for pair in pairs if pair.negative]
        shown = {(int(pair.template.max()), int(pair.search.max())) for pair in others}
        assert shown == set(permutations(self.BRIGHT, 2))
        for pair in others:
            on_it = anchor_iou(tuple(pair.box_crop_xyxy.tolist())) > profile.sampler.high
            assert (pair.anchor_labels[on_it] == 0).sum() >= min(8, on_it.sum())
            assert ((pair.anchor_labels == 0).sum(), (pair.anchor_labels == 1).sum()) == (16, 0)

    def test_an_image_with_real_ones_keeps_its_background(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        alone = TrackSet("made", tuple(still(tmp_path, f"{number}") for number in range(2)))
        alike = ((130.0, 70.0, 170.0, 130.0),)
        beside_others = [
            replace(track, frames=(replace(track.frames[0], alike_frame_xyxy=alike),))
            for track in alone.tracks
        ]
        settings = (*PLAIN, "augment.distractor=1e-9", "augment.new_background=1")
        for tracks, is_kept in (
            (replace(alone, tracks=tuple(beside_others)), True),
            (alone, False),
        ):
            pairs, plain = (
                [dataset(tiny_profile(*each), tracks)[number].search for number in range(4)]
                for each in (settings, PLAIN)
            )
            assert all(map(np.array_equal, pairs, plain)) == is_kept


class TestOnlySeedAndNumber:
    @pytest.fixture
    def source(self, data_root: Path) -> tuple[TrackSet, TrainSetConfig]:
        config = TrainSetConfig("synthetic", ("synthetic",), frame_range=3, min_area=0)
        return davis_tracks(data_root / "synthetic", config), config

    def make(self, source, profile: Profile, first: int = 0) -> PairDataset:
        return PairDataset([source], profile, next(iter(profile.stages.values())), first)

    def test_drawn_twice_or_out_of_order(self, source, tiny_profile: Load) -> None:
        one, other = self.make(source, tiny_profile()), self.make(source, tiny_profile())
        drawn = [one[index] for index in range(6)]
        assert all(same(other[index], drawn[index]) for index in (5, 0, 3))
        assert not same(drawn[0], drawn[1])
        assert same(self.make(source, tiny_profile(), first=4)[1], drawn[5])
        assert not same(self.make(source, tiny_profile(seed=1))[0], drawn[0])

    def test_any_number_of_workers(self, source, tiny_profile: Load) -> None:
        def batches(workers: int) -> list[Batch]:
            pairs, options = self.make(source, tiny_profile()), {"collate_fn": collate}
            return list(DataLoader(pairs, 2, sampler=range(8), num_workers=workers, **options))

        alone, several = batches(0), batches(2)
        assert len(alone) == len(several) == 4
        for one, other in zip(alone, several, strict=True):
            torch.testing.assert_close(one._asdict(), other._asdict(), rtol=0, atol=0)


class TestChoice:
    def test_search_frames_keep_to_their_range(self, tmp_path: Path, tiny_profile: Load) -> None:
        frames = tuple(
            write_frame(tmp_path / f"{n:02d}.png", (80, 80, 120, 120), background=10 * n)
            for n in range(12)
        )
        profile = tiny_profile(*PLAIN, "augment.search_shift=0", "augment.search_scale=0")
        pairs = dataset(profile, TrackSet("video", (Track("video", frames),)), frame_range=2)
        steps = [
            (int(pair.search[0, 0, 0]) - int(pair.template[0, 0, 0])) // 10
            for pair in islice(pairs, 80)
        ]
        assert set(steps) == {-2, -1, 0, 1, 2}

    def test_sets_share_the_pairs_by_weight(self, tmp_path: Path, tiny_profile: Load) -> None:
        sets = [TrackSet(name, (still(tmp_path, name),)) for name in ("often", "rarely", "never")]
        configs = [TrainSetConfig("davis", ("unused",), weight=each) for each in (3.0, 1.0, 0.0)]
        sources = list(zip(sets, configs, strict=True))
        pairs = PairDataset(sources, tiny_profile(*PLAIN), StageConfig())
        names = [pair.source for pair in islice(pairs, 200)]
        assert set(names) == {"often", "rarely"}
        assert names.count("often") / 200 == pytest.approx(0.75, abs=0.1)

    def test_a_stage_may_weigh_sets_by_kind(self, tmp_path: Path, tiny_profile: Load) -> None:
        sets = [TrackSet(name, (still(tmp_path, name),)) for name in ("still", "video")]
        configs = [TrainSetConfig("coco", ("unused",)), TrainSetConfig("davis", ("unused",))]
        stage = StageConfig(sets={"coco": 0.0})
        pairs = PairDataset(list(zip(sets, configs, strict=True)), tiny_profile(*PLAIN), stage)
        assert {pair.source for pair in islice(pairs, 20)} == {"video"}

    def test_no_data_at_all(self, tiny_profile: Load) -> None:
        with pytest.raises(InputError, match="no training data"):
            dataset(tiny_profile(), TrackSet("empty", ()))


class TestNegativePairs:
    def test_teach_not_here_and_nothing_else(self, tmp_path: Path, tiny_profile: Load) -> None:
        tracks = TrackSet("made", (still(tmp_path, "bright"), still(tmp_path, "dim", colour=190)))
        pairs = list(islice(dataset(tiny_profile(*PLAIN, "data.negative_pairs=0.2"), tracks), 200))
        negative = [pair for pair in pairs if pair.negative]
        # of a fifth, half draw the same object by chance
        assert 0.05 < len(negative) / len(pairs) < 0.17
        for pair in negative:
            assert pair.search.max() != pair.template.max()  # another object
            assert pair.sample_labels.tolist() == [0, 0, 0, 0]
            assert (pair.mask == -1).all()
            labels = pair.anchor_labels.copy()
            assert (labels[:, 9:16, 9:16] == 0).sum() == 16
            labels[:, 9:16, 9:16] = -1
            assert (labels == -1).all()
        for pair in pairs:
            if not pair.negative:
                assert pair.search.max() == pair.template.max()
                assert 1 in pair.sample_labels

    def test_one_object_has_no_other(self, tmp_path: Path, tiny_profile: Load) -> None:
        tracks = TrackSet("made", (still(tmp_path, "one"),))
        pairs = dataset(tiny_profile(*PLAIN, "data.negative_pairs=1"), tracks)
        assert not any(pair.negative for pair in islice(pairs, 10))

    def test_a_stage_may_do_without(self, tmp_path: Path, tiny_profile: Load) -> None:
        tracks = TrackSet("made", (still(tmp_path, "one"), still(tmp_path, "two")))
        stage = StageConfig(negative_pairs=0.0)
        pairs = dataset(tiny_profile("data.negative_pairs=1"), tracks, stage=stage)
        assert not any(pair.negative for pair in islice(pairs, 10))


class TestWithoutMasks:
    def test_boxes_teach_location_only(self, tmp_path: Path, tiny_profile: Load) -> None:
        box = (80.0, 70.0, 120.0, 130.0)
        frame = replace(write_frame(tmp_path / "a.png", box), mask=None, box_frame_xyxy=box)
        tracks = TrackSet("boxes", (Track("a", (frame,)),))
        pairs = list(islice(dataset(tiny_profile(*PLAIN), tracks), 10))
        for pair in pairs:
            assert pair.sample_labels.tolist() == [0, 0, 0, 0]
            assert (pair.anchor_labels == 1).any()
            assert (pair.mask == -1).all()
            assert (pair.matrix == 1).any()
        assert collate(pairs).sample_labels.tolist() == [0]
        turning = tiny_profile(*PLAIN, "augment.rotation=45", "augment.search_scale=0")
        for pair in islice(dataset(turning, tracks), 10):  # the box of a turned object is unknown
            x1, y1, x2, y2 = pair.box_crop_xyxy
            assert (y2 - y1) / (x2 - x1) == pytest.approx(60 / 40)

    def test_an_object_that_is_absent_or_tiny_is_drawn_again(
        self, tmp_path: Path, tiny_profile: Load
    ) -> None:
        empty = write_frame(tmp_path / "empty.png", (500, 500, 510, 510))
        speck = write_frame(tmp_path / "speck.png", (50, 50, 53, 90))
        good = [write_frame(tmp_path / f"good{n}.png", (80, 70, 120, 130)) for n in range(3)]
        tracks = TrackSet("made", (Track("video", (empty, speck, *good)),))
        pairs = list(islice(dataset(tiny_profile(*PLAIN), tracks, frame_range=5), 10))
        for pair in pairs:
            assert pair.search.max() == 255
            assert pair.problems == ()
        # 3 of 5 frames are good, as template and as search: 1 / 0.36 - 1 = 1.8 draws in vain for each pair
        assert 5 <= sum(pair.redrawn for pair in pairs) <= 45
        assert collate(pairs).redrawn == sum(pair.redrawn for pair in pairs)
        with pytest.raises(InputError, match="objects absent or smaller than min_area"):
            dataset(tiny_profile(), TrackSet("made", (Track("video", (empty, speck)),)))[0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shrink(path: Path) -> None:
    write_mask(path, np.ones((SIDE, SIDE // 2), np.uint8))


class TestBadFiles:
    def one_bad_of_three(self, root: Path, spoilt: str, spoil: Callable[[Path], None]) -> TrackSet:
        mask = shape((80, 70, 120, 130)).astype(np.uint8)
        (root / "images").mkdir()
        (root / "masks").mkdir()
        for name in ("a", "b", "bad"):
            grey = np.repeat(255 * mask[..., None], 3, axis=2)
            cv2.imwrite(str(root / "images" / f"{name}.jpg"), grey)
            write_mask(root / "masks" / f"{name}.png", mask)
        spoil(root / spoilt)
        return mask_folder_tracks(root, TrainSetConfig("mask_folder", ("set",), min_area=0))

    @pytest.mark.parametrize(
        ("spoilt", "spoil", "words"),
        [
            ("images/bad.jpg", cut, ["bad.jpg", "cut short"]),
            ("masks/bad.png", shrink, ["bad.jpg", "100x200", "200x200"]),
            ("masks/bad.png", cut, ["bad.png"]),
        ],
    )
    def test_are_replaced_and_named(
        self, tmp_path: Path, tiny_profile: Load, spoilt: str, spoil, words: list[str]
    ) -> None:
        tracks = self.one_bad_of_three(tmp_path, spoilt, spoil)
        pairs = list(islice(dataset(tiny_profile(*PLAIN), tracks), 30))
        problems = [text for pair in pairs for text in pair.problems]
        assert 3 <= len(problems) <= 30
        for text in problems:
            assert all(word in text for word in words)
            assert "\n" not in text
        assert {pair.source for pair in pairs} == {"a", "b"}
        assert not any(pair.redrawn for pair in pairs)
        assert collate(pairs).problems == tuple(problems)

    def test_that_are_all_there_is_stop_the_run(self, tmp_path: Path, tiny_profile: Load) -> None:
        tracks = self.one_bad_of_three(tmp_path, "images/bad.jpg", cut)
        bad = replace(tracks, tracks=tuple(track for track in tracks.tracks if track.name == "bad"))
        with pytest.raises(InputError, match=r"200 draws .*bad\.jpg") as caught:
            dataset(tiny_profile(), bad)[0]
        assert "\n" not in str(caught.value)


class TestBatches:
    def pairs(self, labels: Iterable[tuple[int, ...]]) -> list[Pair]:
        cells = np.arange(8).reshape(4, 2)
        return [
            Pair(
                np.full((127, 127, 3), n, np.uint8),
                np.full((255, 255, 3), n, np.uint8),
                np.full((255, 255), -1, np.int8),
                np.zeros((5, 25, 25), np.int8),
                np.zeros((4, 5, 25, 25), np.float32),
                np.zeros((25, 25), np.int8),
                cells + 10 * n,
                np.array(each, np.int8),
                np.zeros(4, np.float32),
                f"pair {n}",
                False,
                (f"problem {n}",),
            )
            for n, each in enumerate(labels)
        ]

    def test_samples_that_teach_nothing_are_dropped(self) -> None:
        batch = collate(self.pairs([(1, 1, 1, -1), (0, 0, 0, 0), (1, -1, 0, 0)]))
        assert (batch.template.shape, batch.search.shape) == ((3, 3, 127, 127), (3, 3, 255, 255))
        assert batch.search[2].unique().tolist() == [2]
        assert batch.sample_labels.tolist() == [1, 1, 1, -1, 1, -1]
        assert batch.cells.image.tolist() == [0, 0, 0, 0, 2, 2]
        assert batch.cells.row.tolist() == [0, 2, 4, 6, 20, 22]
        assert batch.cells.column.tolist() == [1, 3, 5, 7, 21, 23]
        assert batch.problems == ("problem 0", "problem 1", "problem 2")

    def test_one_of_weight_zero_is_kept_where_there_is_no_other(self) -> None:
        batch = collate(self.pairs([(0, 0, 0, 0), (0, 0, 0, 0)]))
        assert batch.sample_labels.tolist() == [0]
        assert [index.tolist() for index in batch.cells] == [[0], [0], [1]]

    def test_moving_keeps_every_part(self) -> None:
        batch = collate(self.pairs([(1, 1, 1, -1)]))
        moved = batch.to(torch.device("meta"))
        parts = [*moved.cells, *moved]
        devices = [each.device.type for each in parts if isinstance(each, torch.Tensor)]
        assert devices == ["meta"] * 9
        assert (moved.problems, moved.redrawn) == (batch.problems, batch.redrawn)
