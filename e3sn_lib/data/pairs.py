"""Training pairs: a template and a search crop of the same object, with everything the losses need.

Pair number i of a run is a function of the seed and i alone: it depends neither on the number of workers nor on what was drawn
before, so a resumed or distributed run sees the same pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from e3sn_lib.config import Profile, StageConfig, TrainSetConfig
from e3sn_lib.data import augment
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_image
from e3sn_lib.geometry import TEMPLATE_SIZE, Box, Crop, box_from_mask
from e3sn_lib.model.network import mask_cells
from e3sn_lib.model.windows import Cells
from e3sn_lib.sampling import anchor_iou, anchor_targets, distribution_matrix, draw_samples, negative_pair_targets

ATTEMPTS = 20
"""Draws for one pair until a run stops: by then the data, not chance, are at fault."""
SMALLEST_SIDE = 4
"""Objects with a shorter side, in frame pixels, give no usable crop."""


@dataclass(frozen=True)
class Pair:
    """One training example; n is 25 for a 255 px search crop."""

    template: NDArray[np.uint8]
    """(127, 127, 3) RGB."""
    search: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    mask: NDArray[np.int8]
    """(S, S): +1 object, -1 elsewhere."""
    anchor_labels: NDArray[np.int8]
    """(5, n, n)."""
    offsets: NDArray[np.float32]
    """(4, 5, n, n)."""
    matrix: NDArray[np.int8]
    """(n, n) the sample distribution matrix."""
    cells: NDArray[np.int64]
    """(K, 2) sampled rows and columns in the grid of candidate windows."""
    sample_labels: NDArray[np.int8]
    """(K,) +1, -1, or 0 where nothing is taught."""
    box_crop_xyxy: NDArray[np.float32]
    """(4,) of the target in the search crop."""
    source: str
    negative: bool
    problems: tuple[str, ...] = ()
    """Files that could not be used and were replaced by another draw."""
    redrawn: int = 0
    """Draws before this one whose object was absent or too small."""


@dataclass(frozen=True)
class Batch:
    """B pairs as tensors. Images are (B, 3, S, S) uint8; samples without a label are dropped, unless no other is left."""

    template: Tensor
    search: Tensor
    mask: Tensor
    anchor_labels: Tensor
    offsets: Tensor
    cells: Cells
    sample_labels: Tensor
    problems: tuple[str, ...]
    redrawn: int = 0

    def to(self, device: torch.device) -> Self:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """In memory that a GPU can copy from while it computes; a data loader calls this."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return type(self)(**values | tensors | {"cells": Cells(*map(function, self.cells))})


def collate(pairs: list[Pair]) -> Batch:
    """Stack pairs to a batch."""
    labels = np.stack([pair.sample_labels for pair in pairs])
    taught = labels != 0
    if not taught.any():
        taught[0, 0] = True  # one window with weight zero, so that every batch has the same parts
    image, slot = np.nonzero(taught)
    cells = np.stack([pair.cells for pair in pairs])[image, slot]
    return Batch(
        template=torch.from_numpy(np.stack([pair.template for pair in pairs])).permute(0, 3, 1, 2),
        search=torch.from_numpy(np.stack([pair.search for pair in pairs])).permute(0, 3, 1, 2),
        mask=torch.from_numpy(np.stack([pair.mask for pair in pairs])),
        anchor_labels=torch.from_numpy(np.stack([pair.anchor_labels for pair in pairs])),
        offsets=torch.from_numpy(np.stack([pair.offsets for pair in pairs])),
        cells=Cells(torch.from_numpy(image), torch.from_numpy(cells[:, 0].copy()), torch.from_numpy(cells[:, 1].copy())),
        sample_labels=torch.from_numpy(labels[taught]),
        problems=tuple(text for pair in pairs for text in pair.problems),
        redrawn=sum(pair.redrawn for pair in pairs),
    )


@dataclass(frozen=True)
class _Shown:
    """One object in one image, as read from the disk."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    box_frame_xyxy: Box


@dataclass(frozen=True)
class _View:
    """One crop of one object."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    box_crop_xyxy: Box


class PairDataset(Dataset[Pair]):
    """Pairs of one training stage.

    Args:
        sources: track sets with their settings; a pair comes from each in proportion to its weight, or the stage's for its kind.
        profile: augmentation, sampling and seed.
        stage: search size and what is taught.
        pairs: how many.
        first: number of the first pair within the run.

    Raises:
        InputError: on reading, when twenty draws in a row could not be used.
    """

    def __init__(
        self, sources: list[tuple[TrackSet, TrainSetConfig]], profile: Profile, stage: StageConfig, pairs: int, first: int = 0
    ) -> None:
        weighed = [(source, stage.sets.get(source[1].kind, source[1].weight)) for source in sources]
        usable = [(source, weight) for source, weight in weighed if source[0].tracks and weight > 0]
        if not usable:
            raise InputError("no training data: every set is empty or has weight 0")
        self.sources = [source for source, _ in usable]
        weights = np.array([weight for _, weight in usable])
        self.weights = weights / weights.sum()
        self.profile, self.stage, self.pairs, self.first = profile, stage, pairs, first
        self.augment = profile.augment
        self.search_shift = stage.search_shift if stage.search_shift >= 0 else profile.augment.search_shift
        self.negative_pairs = stage.negative_pairs if stage.negative_pairs >= 0 else profile.data.negative_pairs

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, index: int) -> Pair:
        problems: list[str] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.profile.seed, self.first + index, attempt])
            try:
                pair = self._draw(rng)
            except InputError as error:
                problems.append(str(error))
                continue
            if pair is not None:
                return replace(pair, problems=tuple(problems), redrawn=attempt - len(problems))
        reason = f"; the last reason: {problems[-1]}" if problems else " (objects absent or too small)"
        raise InputError(f"no usable training pair in {ATTEMPTS} draws from {', '.join(t.name for t, _ in self.sources)}{reason}")

    def _draw(self, rng: Generator) -> Pair | None:
        track, config = self._draw_track(rng)
        negative = bool(rng.random() < self.negative_pairs)
        still = len(track.frames) == 1
        first = int(rng.integers(len(track.frames)))
        flip, grey = bool(rng.random() < self.augment.flip), bool(rng.random() < self.augment.grey)
        shown = _read(track.frames[first])
        template = self._view(shown, rng, flip) if shown else None
        if template is None:
            return None

        other = self._draw_track(rng)[0] if negative else track
        negative = other != track  # by chance it may be the same
        if negative:
            frame = other.frames[int(rng.integers(len(other.frames)))]
        else:
            reach = config.frame_range
            frame = track.frames[int(rng.integers(max(first - reach, 0), min(first + reach + 1, len(track.frames))))]
        degrees = rng.uniform(-1, 1) * self.augment.rotation if still else 0.0
        sought = shown if frame is track.frames[first] else _read(frame)
        search = self._view(sought, rng, flip, search=True, degrees=degrees) if sought else None
        if search is None:
            return None
        image = search.image
        if still and not negative and search.mask is not None and rng.random() < self.augment.new_background:
            image = self._with_new_background(search, rng)

        images = [augment.change_colour(view, self.augment, rng) for view in (template.image, image)]
        if grey:
            images = [augment.to_grey(view) for view in images]
        if rng.random() < self.augment.blur:
            images[1] = augment.motion_blur(images[1], rng)
        return self._targets(images[0], images[1], search, negative, track.name, rng)

    def _targets(
        self,
        template: NDArray[np.uint8],
        image: NDArray[np.uint8],
        search: _View,
        negative: bool,
        source: str,
        rng: Generator,
    ) -> Pair:
        size, config = self.stage.search_size, self.profile.sampler
        cells = mask_cells(size)
        iou = anchor_iou(search.box_crop_xyxy, cells, centre=size / 2)
        if negative:
            targets = negative_pair_targets(config, rng, cells)
        else:
            targets = anchor_targets(iou, search.box_crop_xyxy, config, rng, centre=size / 2)
        matrix = distribution_matrix(iou, config.high, config.low)
        has_mask = search.mask is not None and not negative
        samples = draw_samples(matrix, targets.labels, has_mask, config, rng)
        mask = np.full((size, size), -1, np.int8)
        if search.mask is not None and not negative:
            mask[search.mask] = 1
        return Pair(
            template, image, mask, targets.labels, targets.offsets, matrix, samples.cells, samples.labels,
            np.array(search.box_crop_xyxy, np.float32), source, negative,
        )  # fmt: skip

    def _draw_track(self, rng: Generator) -> tuple[Track, TrainSetConfig]:
        tracks, config = self.sources[int(rng.choice(len(self.sources), p=self.weights))]
        return tracks.tracks[int(rng.integers(len(tracks.tracks)))], config

    def _view(self, shown: _Shown, rng: Generator, flip: bool, *, search: bool = False, degrees: float = 0.0) -> _View | None:
        """A random template or search crop of an object; None if a rotation leaves nothing of its mask in the crop."""
        size, shift, scale, zoom = TEMPLATE_SIZE, self.augment.template_shift, self.augment.template_scale, 0.0
        if search:
            size, shift, scale = self.stage.search_size, self.search_shift, self.augment.search_scale
            zoom = self.augment.search_zoom
        crop = augment.random_crop(shown.box_frame_xyxy, size, shift, scale, rng, zoom=zoom, degrees=degrees, flip=flip)
        return _cut(crop, shown, exact=degrees == 0)

    def _with_new_background(self, search: _View, rng: Generator) -> NDArray[np.uint8]:
        """Synthetic motion: a part of another image, without padding, behind this object."""
        assert search.mask is not None
        other, _ = self._draw_track(rng)
        image = read_image(other.frames[int(rng.integers(len(other.frames)))].image)
        background = augment.random_square(image, self.stage.search_size, rng)
        return augment.replace_background(search.image, search.mask, background)


def _read(frame: TrackFrame) -> _Shown | None:
    """Image, mask and box of a frame's object; None if the object is absent or too small."""
    image, mask = frame.read()
    box = frame.box_frame_xyxy or (box_from_mask(mask) if mask is not None else None)
    if box is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE:
        return None
    return _Shown(image, mask, box)


def _cut(crop: Crop, shown: _Shown, exact: bool) -> _View | None:
    """Apply one crop to image, mask and box; a rotated object's box is taken from its mask."""
    fill = tuple(float(value) for value in shown.image[::8, ::8].reshape(-1, 3).mean(axis=0))
    cropped_mask = crop.mask(shown.mask) if shown.mask is not None else None
    box_crop_xyxy: Box | None = crop.box_to_crop(shown.box_frame_xyxy)
    if not exact and cropped_mask is not None:
        box_crop_xyxy = box_from_mask(cropped_mask)
    if box_crop_xyxy is None:
        return None
    return _View(crop.image(shown.image, fill), cropped_mask, box_crop_xyxy)
