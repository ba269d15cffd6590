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
ALIKE = 0.5
"""Share of the pasted second objects that come from the target's own set and, where the set knows it, category."""
COVERED = 0.4
"""Largest share of the target's mask that a second object may cover; what would cover more stands behind the target."""


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
    alike_frame_xyxy: tuple[Box, ...] = ()


@dataclass(frozen=True)
class _View:
    """One crop of one object."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    box_crop_xyxy: Box
    alike_crop_xyxy: tuple[Box, ...] = ()
    """Other objects that the target can be taken for."""


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
        shift, negative = stage.search_shift, stage.negative_pairs
        self.search_shift = profile.augment.search_shift if shift is None else shift
        self.negative_pairs = profile.data.negative_pairs if negative is None else negative

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
        place = self._draw_place(rng)
        track, config = self._track(place), self.sources[place[0]][1]
        negative = bool(rng.random() < self.negative_pairs)
        still = len(track.frames) == 1
        first = int(rng.integers(len(track.frames)))
        flip, grey = bool(rng.random() < self.augment.flip), bool(rng.random() < self.augment.grey)
        shown = _read(track.frames[first])
        template = self._view(shown, rng, flip) if shown else None
        if template is None:
            return None

        alike = negative and self.augment.negative_alike > 0 and bool(rng.random() < self.augment.negative_alike)
        other = track
        if negative:
            other = self._track(self._draw_alike(place, rng) if alike else self._draw_place(rng))
        negative = other.frames[0].image != track.frames[0].image  # by chance it may be the same, or show it too
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
        if not negative and search.mask is not None:
            if still and rng.random() < self.augment.new_background and not search.alike_crop_xyxy:
                search = replace(search, image=self._with_new_background(search, rng))
            if self.augment.distractor > 0 and rng.random() < self.augment.distractor:
                search = self._with_distractor(search, place, rng)

        images = [augment.change_colour(view, self.augment, rng) for view in (template.image, search.image)]
        if grey:
            images = [augment.to_grey(view) for view in images]
        if rng.random() < self.augment.blur:
            images[1] = augment.motion_blur(images[1], rng)
        return self._targets(images[0], images[1], search, negative, alike, track.name, rng)

    def _targets(
        self,
        template: NDArray[np.uint8],
        image: NDArray[np.uint8],
        search: _View,
        negative: bool,
        alike: bool,
        source: str,
        rng: Generator,
    ) -> Pair:
        size, config = self.stage.search_size, self.profile.sampler
        cells = mask_cells(size)
        iou = anchor_iou(search.box_crop_xyxy, cells, centre=size / 2)
        if negative:
            targets = negative_pair_targets(config, rng, cells, iou if alike else None)
        else:
            targets = anchor_targets(iou, search.box_crop_xyxy, config, rng, size / 2, search.alike_crop_xyxy)
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

    def _draw_place(self, rng: Generator) -> tuple[int, int]:
        """Number of a set, and of a track within it."""
        number = int(rng.choice(len(self.sources), p=self.weights))
        return number, int(rng.integers(len(self.sources[number][0].tracks)))

    def _draw_alike(self, place: tuple[int, int], rng: Generator) -> tuple[int, int]:
        """Another place in the same set and, where the set knows it, category; by chance it may be the same."""
        tracks = self.sources[place[0]][0]
        if tracks.categories is None:
            return place[0], int(rng.integers(len(tracks.tracks)))
        return place[0], int(rng.choice(np.flatnonzero(tracks.categories == tracks.categories[place[1]])))

    def _track(self, place: tuple[int, int]) -> Track:
        return self.sources[place[0]][0].tracks[place[1]]

    def _view(self, shown: _Shown, rng: Generator, flip: bool, *, search: bool = False, degrees: float = 0.0) -> _View | None:
        """A random template or search crop of an object; None if a rotation leaves nothing of its mask in the crop."""
        size, shift, scale, zoom = TEMPLATE_SIZE, self.augment.template_shift, self.augment.template_scale, 0.0
        if search:
            size, shift, scale = self.stage.search_size, self.search_shift, self.augment.search_scale
            zoom = self.augment.search_zoom
        crop = augment.random_crop(shown.box_frame_xyxy, size, shift, scale, rng, zoom=zoom, degrees=degrees, flip=flip)
        view = _cut(crop, shown, exact=degrees == 0)
        return view if view is None or self.augment.distractor > 0 else replace(view, alike_crop_xyxy=())

    def _with_new_background(self, search: _View, rng: Generator) -> NDArray[np.uint8]:
        """Synthetic motion: a part of another image, without padding, behind this object."""
        assert search.mask is not None
        other = self._track(self._draw_place(rng))
        image = read_image(other.frames[int(rng.integers(len(other.frames)))].image)
        background = augment.random_square(image, self.stage.search_size, rng)
        return augment.replace_background(search.image, search.mask, background)

    def _with_distractor(self, search: _View, place: tuple[int, int], rng: Generator) -> _View:
        """Paste a second object beside the target or partly in front of it; the pixels that it covers leave the target's mask."""
        other = self._draw_alike(place, rng) if rng.random() < ALIKE else self._draw_place(rng)
        frames = self._track(other).frames
        shown = _read(frames[int(rng.integers(len(frames)))])
        if other == place or shown is None or shown.mask is None or search.mask is None:
            return search
        flip, in_front = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        crop = augment.beside(search.box_crop_xyxy, shown.box_frame_xyxy, self.augment, self.stage.search_size, rng, flip)
        view = _cut(crop, shown, exact=True)
        if view is None or view.mask is None:
            return search
        covered = np.count_nonzero(view.mask & search.mask)
        pasted = view.mask if in_front and covered <= COVERED * search.mask.sum() else view.mask & ~search.mask
        image = augment.replace_background(view.image, pasted, search.image)
        return replace(
            search, image=image, mask=search.mask & ~pasted, alike_crop_xyxy=(*search.alike_crop_xyxy, view.box_crop_xyxy)
        )


def _read(frame: TrackFrame) -> _Shown | None:
    """Image, mask and box of a frame's object; None if the object is absent or too small."""
    image, mask = frame.read()
    box = frame.box_frame_xyxy or (box_from_mask(mask) if mask is not None else None)
    if box is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE:
        return None
    return _Shown(image, mask, box, frame.alike_frame_xyxy)


def _cut(crop: Crop, shown: _Shown, exact: bool) -> _View | None:
    """Apply one crop to image, mask and box; the box of a rotated object is that of its whole rotated outline."""
    fill = tuple(float(value) for value in shown.image[::8, ::8].reshape(-1, 3).mean(axis=0))
    cropped_mask = crop.mask(shown.mask) if shown.mask is not None else None
    box_crop_xyxy: Box | None = crop.box_to_crop(shown.box_frame_xyxy)
    if not exact and shown.mask is not None and cropped_mask is not None:
        box_crop_xyxy = crop.mask_box(shown.mask) if cropped_mask.any() else None
    if box_crop_xyxy is None:
        return None
    alike = tuple(crop.box_to_crop(box) for box in shown.alike_frame_xyxy)
    return _View(crop.image(shown.image, fill), cropped_mask, box_crop_xyxy, alike)
