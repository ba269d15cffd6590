"""One tracking step, from two frames to a pasted soft mask, equals the public SiamMask code's; one case lies across the border."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recipe import Reference, crc32, frames, largest_deviation
from torch import Tensor

from e3sn_lib.geometry import TEMPLATE_SIZE, SiamMaskCrop, context_side
from e3sn_lib.model.convert import DAVIS_SETTINGS
from e3sn_lib.model.network import E3SN
from e3sn_lib.model.windows import Cells
from e3sn_lib.tracking.tracker import SEARCH_SIZE, Choice, FrameResult, Targets, Tracker, choose

PASTED = 1e-3 if int(cv2.__version__.partition(".")[0]) >= 5 else 0.03
"""OpenCV 4 rounds the positions of a warp to 1/32 pixel."""


@dataclass
class Step:
    """What the tracker does in one case, and what the set says; images are RGB."""

    expected: dict[str, NDArray[Any]]
    frames: list[NDArray[np.uint8]]
    template_image: NDArray[np.uint8]
    search_image: NDArray[np.uint8]
    search_crop: SiamMaskCrop
    cls: Tensor
    loc: Tensor
    choice: Choice
    window_mask: Tensor
    targets: Targets
    result: FrameResult


def crop_around(
    centre: NDArray[np.float64], size_wh: NDArray[np.float64], pixels: int
) -> SiamMaskCrop:
    return SiamMaskCrop(
        tuple(centre.tolist()), context_side(size_wh) * pixels / TEMPLATE_SIZE, pixels
    )


@torch.inference_mode()
def take_step(
    expected: dict[str, NDArray[Any]], pair: list[NDArray[np.uint8]], model: E3SN
) -> Step:
    first, second = pair
    fill = tuple(first.reshape(-1, 3).mean(axis=0).tolist())
    template_image = crop_around(
        expected["template_pos"], expected["template_sz"], TEMPLATE_SIZE
    ).image(first, fill)
    template = model.encode_template(torch.from_numpy(template_image).permute(2, 0, 1)[None])
    tracker = Tracker(model, DAVIS_SETTINGS)
    kept = tracker.backend.encode_template(template_image[None])
    place = expected["state_pos"][None], expected["state_sz"][None]
    colours = np.zeros((1, 256)), np.zeros((1, 4096))
    before = Targets(kept, *place, fill, first.shape[:2], *colours)
    crop = crop_around(expected["state_pos"], expected["state_sz"], SEARCH_SIZE)
    search_image = crop.image(second, fill)
    search = model.encode_search(torch.from_numpy(search_image).permute(2, 0, 1)[None])
    cls, loc = model.locate(template, search)
    choice = choose(cls, loc, before.size_wh, DAVIS_SETTINGS)
    row, column = torch.from_numpy(choice.cells).T
    window_mask = model.segment(
        template, search, Cells(torch.zeros_like(row), row, column)
    ).sigmoid()[0]
    targets, result = tracker.step(second, before)
    return Step(
        expected,
        pair,
        template_image,
        search_image,
        crop,
        cls[0],
        loc[0],
        choice,
        window_mask,
        targets,
        result,
    )


@pytest.fixture(scope="module")
def steps(reference: Reference, siammask: E3SN) -> list[Step]:
    stored, taken = reference.arrays("step"), []
    for case in range(sum(name.endswith("_best_index") for name in stored)):
        expected = {
            name.partition("_")[2]: values
            for name, values in stored.items()
            if name.startswith(f"case{case}_")
        }
        pair = frames(
            reference.seed, case, tuple(expected["semi_axes"].tolist()), expected["centres"]
        )
        taken.append(take_step(expected, [frame[..., ::-1].copy() for frame in pair], siammask))
    return taken


def worst(steps: list[Step], name: str, ours: list[Any]) -> float:
    return max(
        largest_deviation(found, step.expected[name])
        for step, found in zip(steps, ours, strict=True)
    )


def test_frames(steps) -> None:
    for step in steps:
        bgr = [frame[..., ::-1] for frame in step.frames]
        assert [crc32(frame) for frame in bgr] == step.expected["frame_crc32"].tolist()
        assert bgr[0].reshape(-1, 3).mean(axis=0) == pytest.approx(
            step.expected["avg_chans"], abs=1e-9
        )


def test_crops(steps, reference, record_deviation) -> None:
    ours = {
        "z_crop_sum": [
            step.template_image[..., ::-1].sum(axis=(0, 1), dtype=np.int64) for step in steps
        ],
        "x_crop_sum": [
            step.search_image[..., ::-1].sum(axis=(0, 1), dtype=np.int64) for step in steps
        ],
        "z_crop_pixels": [step.template_image[::6, ::6, ::-1] for step in steps],
        "x_crop_pixels": [step.search_image[::6, ::6, ::-1] for step in steps],
    }
    largest = max(worst(steps, name, found) for name, found in ours.items())
    record_deviation("step: crops, grey levels", reference.source, largest, 0, 2 * len(steps))
    assert largest == 0


def test_maps(steps, reference, record_deviation) -> None:
    ours = {
        "cls": [step.cls.flatten(0, 1) for step in steps],
        "loc": [step.loc.flatten(0, 1) for step in steps],
    }
    largest = max(worst(steps, name, found) for name, found in ours.items())
    record_deviation("step: class and box maps", reference.source, largest, 1e-4, len(steps))
    assert largest <= 1e-4


def test_best_position_and_scores(steps, reference, record_deviation) -> None:
    best = [step.choice.best[0] for step in steps]
    largest = max(
        worst(steps, "pscore", [step.choice.ranked[0] for step in steps]),
        worst(steps, "best_pscore", [step.choice.ranked[0].max() for step in steps]),
        worst(steps, "best_score", [step.result.scores[0] for step in steps]),
    )
    record_deviation(
        "step: ranking score of every anchor", reference.source, largest, 1e-5, 3125 * len(steps)
    )
    wrong = sum(
        index != step.expected["best_index"] for index, step in zip(best, steps, strict=True)
    )
    record_deviation("step: best anchor", reference.source, wrong, 0, len(steps))
    assert wrong == 0
    assert all(
        step.choice.cells[0].tolist() == step.expected["best_anchor_row_col"][1:].tolist()
        for step in steps
    )
    assert largest <= 1e-5


def test_new_position_and_size(steps, reference, record_deviation) -> None:
    largest = max(
        worst(steps, "new_pos", [step.targets.centre_frame_xy[0] for step in steps]),
        worst(steps, "new_sz", [step.targets.size_wh[0] for step in steps]),
    )
    record_deviation(
        "step: new centre and size, pixels", reference.source, largest, 2e-3, 4 * len(steps)
    )
    assert largest <= 2e-3


def test_mask_of_the_window(steps, reference, record_deviation) -> None:
    largest = worst(steps, "mask127", [step.window_mask for step in steps])
    record_deviation(
        "step: soft mask of the window", reference.source, largest, 5e-4, 127**2 * len(steps)
    )
    assert largest <= 5e-4


def test_where_the_mask_is_pasted(steps) -> None:
    for step in steps:
        row, column = step.choice.cells[0].tolist()
        matrix = step.search_crop.window_to_frame((8.0 * column - 32, 8.0 * row - 32), (360, 480))
        assert largest_deviation(matrix, step.expected["paste_matrix"]) <= 1e-9


def test_soft_mask_in_the_frame(steps, reference, record_deviation) -> None:
    masks = [step.result.soft_masks[0] for step in steps]
    largest = worst(steps, "mask_grid", [mask[::8, ::8] for mask in masks])
    record_deviation(
        "step: soft mask in the frame", reference.source, largest, PASTED, 45 * 60 * len(steps)
    )
    assert largest <= PASTED
    for step, mask in zip(steps, masks, strict=True):
        binary = np.unpackbits(step.expected["mask_bits"]).reshape(360, 480).astype(bool)
        overlap = ((mask > 0.35) & binary).sum() / ((mask > 0.35) | binary).sum()
        assert overlap >= 0.993
        assert np.array_equal(step.result.ids > 0, mask > DAVIS_SETTINGS.mask_threshold)


def test_the_tracker_starts_with_the_same_template(steps, siammask) -> None:
    tracker, started = Tracker(siammask, DAVIS_SETTINGS), 0
    for step in steps:
        corner = step.expected["template_pos"] - step.expected["template_sz"] / 2
        if (corner < 0).any() or (corner + step.expected["template_sz"] > (480, 360)).any():
            continue  # a first box must lie in the frame
        targets = tracker.start(step.frames[0], [[*corner, *step.expected["template_sz"]]])
        moved = replace(
            targets,
            centre_frame_xy=step.expected["state_pos"][None],
            size_wh=step.expected["state_sz"][None],
        )
        again, result = tracker.step(step.frames[1], moved)
        assert np.array_equal(again.centre_frame_xy, step.targets.centre_frame_xy)
        assert np.array_equal(result.soft_masks, step.result.soft_masks)
        started += 1
    assert started
