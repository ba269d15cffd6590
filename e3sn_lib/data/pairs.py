"""Training pairs: a template and a search crop of one object, with the targets of all losses.

Pair number i of a run depends on the seed and on i only, not on the number of workers or on earlier
pairs. So a resumed or a distributed run sees the same pairs.
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
from e3sn_lib.sampling import (
    anchor_iou,
    anchor_targets,
    distribution_matrix,
    draw_samples,
    negative_pair_targets,
)

Source = tuple[TrackSet, TrainSetConfig]
"""An opened track set and its settings."""
Place = tuple[int, int]
"""Number of a set, and of a track within it."""
ATTEMPTS = 20
"""Draws for one pair before a run stops. So many failures come from the data, not from chance."""
SMALLEST_SIDE = 4
"""Shortest side of a usable object, in frame pixels."""
ALIKE = 0.5
"""Share of pasted second objects that come from the target's own set, and category if known."""
COVERED = 0.4
"""Largest share of the target's mask that a second object may cover. One that would cover more is
pasted behind the target."""


@dataclass(frozen=True)
class Pair:
    """One training example. n is 25 for a search crop of S = 255 pixels."""

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
    """(n, n) from `distribution_matrix`."""
    cells: NDArray[np.int64]
    """(K, 2) rows and columns of the sampled candidate windows."""
    sample_labels: NDArray[np.int8]
    """(K,) +1, -1, or 0 for a window that teaches nothing."""
    box_crop_xyxy: NDArray[np.float32]
    """(4,) box of the target."""
    source: str
    negative: bool
    problems: tuple[str, ...] = ()
    """Messages of files that could not be used; another pair was drawn instead."""
    redrawn: int = 0
    """Earlier draws in which the object was absent or too small."""


@dataclass(frozen=True)
class Batch:
    """B pairs as tensors.

    Images are (B, 3, S, S) uint8. Windows that teach nothing are left out, except one if there is
    no other.
    """

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
        """Return the batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in memory that a GPU can copy from; a data loader calls this."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors = {
            name: function(value) for name, value in values.items() if isinstance(value, Tensor)
        }
        return type(self)(**values | tensors | {"cells": Cells(*map(function, self.cells))})


def collate(pairs: list[Pair]) -> Batch:
    """Stack pairs to a batch."""

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(pair, name) for pair in pairs]))

    labels, cells = stacked("sample_labels"), stacked("cells")
    taught = labels != 0
    if not taught.any():
        taught[0, 0] = True  # one window of weight 0: every batch then has the same losses
    image, slot = taught.nonzero(as_tuple=True)
    row, column = cells[image, slot].T.contiguous()
    return Batch(
        template=stacked("template").permute(0, 3, 1, 2),
        search=stacked("search").permute(0, 3, 1, 2),
        mask=stacked("mask"),
        anchor_labels=stacked("anchor_labels"),
        offsets=stacked("offsets"),
        cells=Cells(image, row, column),
        sample_labels=labels[taught],
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
    """Other objects that look like the target."""


class PairDataset(Dataset[Pair]):
    """The pairs of one training stage.

    Args:
        sources: track sets with their settings. A set's share of the pairs is given by its weight,
            or by the stage's weight for its kind.
        profile: augmentation, sampling and seed.
        stage: search size and what is taught.
        pairs: how many.
        first: number of the first pair within the run.

    Raises:
        InputError: there is no training data. When a pair is read: twenty draws failed.
    """

    def __init__(
        self,
        sources: list[Source],
        profile: Profile,
        stage: StageConfig,
        pairs: int,
        first: int = 0,
    ) -> None:
        usable = []
        for tracks, config in sources:
            weight = stage.sets.get(config.kind, config.weight)
            if tracks.tracks and weight > 0:
                usable.append(((tracks, config), weight))
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
        names = ", ".join(tracks.name for tracks, _ in self.sources)
        reason = (
            "; the last reason: " + problems[-1] if problems else " (objects absent or too small)"
        )
        raise InputError(f"no usable training pair in {ATTEMPTS} draws from {names}{reason}")

    def _draw(self, rng: Generator) -> Pair | None:
        # choose a track, a frame for the template, and what holds for the whole pair
        place = self._draw_place(rng)
        track = self._track(place)
        negative = bool(rng.random() < self.negative_pairs)
        number = int(rng.integers(len(track.frames)))
        flip = bool(rng.random() < self.augment.flip)
        grey = bool(rng.random() < self.augment.grey)
        shown = _read(track.frames[number])
        template = self._view(shown, rng, flip) if shown else None
        if template is None:
            return None

        # choose the frame of the search crop
        alike = bool(
            negative
            and self.augment.negative_alike > 0
            and rng.random() < self.augment.negative_alike
        )
        other = track
        if negative:
            other = self._track(self._draw_alike(place, rng) if alike else self._draw_place(rng))
        negative = other.frames[0].image != track.frames[0].image  # it may be the same by chance
        if negative:
            frame = self._draw_frame(other, rng)
        else:
            reach = self.sources[place[0]][1].frame_range
            low, high = max(number - reach, 0), min(number + reach + 1, len(track.frames))
            frame = track.frames[int(rng.integers(low, high))]

        # crop it; a still moves only by augmentation
        still = len(track.frames) == 1
        degrees = rng.uniform(-1, 1) * self.augment.rotation if still else 0.0
        sought = shown if frame is track.frames[number] else _read(frame)
        search = self._view(sought, rng, flip, search=True, degrees=degrees) if sought else None
        if search is None:
            return None
        if not negative:
            search = self._with_other_surroundings(search, still, place, rng)

        # change the colours
        images = [
            augment.change_colour(view.image, self.augment, rng) for view in (template, search)
        ]
        if grey:
            images = [augment.to_grey(image) for image in images]
        if rng.random() < self.augment.blur:
            images[1] = augment.motion_blur(images[1], rng)
        return self._targets(images[0], images[1], search, negative, alike, track.name, rng)

    def _with_other_surroundings(
        self, search: _View, still: bool, place: Place, rng: Generator
    ) -> _View:
        """Change what is around the target: another background for a still, or a second object."""
        if search.mask is None:
            return search
        new_background = still and rng.random() < self.augment.new_background
        if new_background and not search.alike_crop_xyxy:
            search = replace(search, image=self._with_new_background(search, rng))
        if self.augment.distractor > 0 and rng.random() < self.augment.distractor:
            search = self._with_distractor(search, place, rng)
        return search

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
            targets = anchor_targets(
                iou, search.box_crop_xyxy, config, rng, size / 2, search.alike_crop_xyxy
            )
        matrix = distribution_matrix(iou, config.high, config.low)
        has_mask = search.mask is not None and not negative
        samples = draw_samples(matrix, targets.labels, has_mask, config, rng)
        mask = np.full((size, size), -1, np.int8)
        if search.mask is not None and not negative:
            mask[search.mask] = 1
        return Pair(
            template=template,
            search=image,
            mask=mask,
            anchor_labels=targets.labels,
            offsets=targets.offsets,
            matrix=matrix,
            cells=samples.cells,
            sample_labels=samples.labels,
            box_crop_xyxy=np.array(search.box_crop_xyxy, np.float32),
            source=source,
            negative=negative,
        )

    def _draw_place(self, rng: Generator) -> Place:
        number = int(rng.choice(len(self.sources), p=self.weights))
        return number, int(rng.integers(len(self.sources[number][0].tracks)))

    def _draw_alike(self, place: Place, rng: Generator) -> Place:
        """Draw from the same set, and category if known. It may be the same place by chance."""
        tracks = self.sources[place[0]][0]
        if tracks.categories is None:
            return place[0], int(rng.integers(len(tracks.tracks)))
        same = tracks.categories == tracks.categories[place[1]]
        return place[0], int(rng.choice(np.flatnonzero(same)))

    def _track(self, place: Place) -> Track:
        return self.sources[place[0]][0].tracks[place[1]]

    def _draw_frame(self, track: Track, rng: Generator) -> TrackFrame:
        return track.frames[int(rng.integers(len(track.frames)))]

    def _view(
        self,
        shown: _Shown,
        rng: Generator,
        flip: bool,
        *,
        search: bool = False,
        degrees: float = 0.0,
    ) -> _View | None:
        """Cut a random template or search crop; None if a rotated mask has left the crop."""
        size: int = TEMPLATE_SIZE
        shift, scale, zoom = self.augment.template_shift, self.augment.template_scale, 0.0
        if search:
            size, shift = self.stage.search_size, self.search_shift
            scale, zoom = self.augment.search_scale, self.augment.search_zoom
        crop = augment.random_crop(
            shown.box_frame_xyxy, size, shift, scale, rng, zoom=zoom, degrees=degrees, flip=flip
        )
        view = _cut(crop, shown, exact=degrees == 0)
        return (
            view
            if view is None or self.augment.distractor > 0
            else replace(view, alike_crop_xyxy=())
        )

    def _with_new_background(self, search: _View, rng: Generator) -> NDArray[np.uint8]:
        """Show this object in front of a part of another image, which looks like motion."""
        assert search.mask is not None
        image = read_image(self._draw_frame(self._track(self._draw_place(rng)), rng).image)
        background = augment.random_square(image, self.stage.search_size, rng)
        return augment.replace_background(search.image, search.mask, background)

    def _with_distractor(self, search: _View, place: Place, rng: Generator) -> _View:
        """Paste a second object beside the target or partly in front of it.

        Pixels of the target that it covers leave the target's mask.
        """
        other = self._draw_alike(place, rng) if rng.random() < ALIKE else self._draw_place(rng)
        shown = _read(self._draw_frame(self._track(other), rng))
        if other == place or shown is None or shown.mask is None or search.mask is None:
            return search
        flip, in_front = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        crop = augment.beside(
            search.box_crop_xyxy,
            shown.box_frame_xyxy,
            self.augment,
            self.stage.search_size,
            rng,
            flip,
        )
        view = _cut(crop, shown, exact=True)
        if view is None or view.mask is None:
            return search
        covered = np.count_nonzero(view.mask & search.mask)
        pasted = view.mask
        if not in_front or covered > COVERED * search.mask.sum():
            pasted = pasted & ~search.mask
        return replace(
            search,
            image=augment.replace_background(view.image, pasted, search.image),
            mask=search.mask & ~pasted,
            alike_crop_xyxy=(*search.alike_crop_xyxy, view.box_crop_xyxy),
        )


def _read(frame: TrackFrame) -> _Shown | None:
    """Read image, mask and box of a frame's object; None if it is absent or too small."""
    image, mask = frame.read()
    box = frame.box_frame_xyxy or (box_from_mask(mask) if mask is not None else None)
    if box is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE:
        return None
    return _Shown(image, mask, box, frame.alike_frame_xyxy)


def _cut(crop: Crop, shown: _Shown, exact: bool) -> _View | None:
    """Apply one crop to image, mask and box.

    With `exact` the crop is not rotated, and the box is mapped as it is. The box of a rotated
    object is that of its whole rotated mask; None if nothing of this mask is in the crop.
    """
    mean_colour = shown.image[::8, ::8].reshape(-1, 3).mean(axis=0)
    fill = tuple(float(value) for value in mean_colour)
    cropped_mask = crop.mask(shown.mask) if shown.mask is not None else None
    box_crop_xyxy: Box | None = crop.box_to_crop(shown.box_frame_xyxy)
    if not exact and shown.mask is not None and cropped_mask is not None:
        box_crop_xyxy = crop.mask_box(shown.mask) if cropped_mask.any() else None
    if box_crop_xyxy is None:
        return None
    alike = tuple(crop.box_to_crop(box) for box in shown.alike_frame_xyxy)
    return _View(crop.image(shown.image, fill), cropped_mask, box_crop_xyxy, alike)
