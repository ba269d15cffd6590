"""Training pairs: a template and a search crop of one object, with the targets of all losses.

Pair number i of a run, counted through all legs, depends on the seed and on i only, not on the
number of workers or on earlier pairs. So a resumed or a distributed run sees the same pairs.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from e3sn_lib import sampling
from e3sn_lib.config import Profile, StageConfig, TrainSetConfig
from e3sn_lib.data import augment
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_image
from e3sn_lib.geometry import TEMPLATE_SIZE, Box, Crop, Image, box_from_mask
from e3sn_lib.model.network import mask_cells
from e3sn_lib.model.windows import Cells
from e3sn_lib.sampling import anchor_iou, anchor_targets, distribution_matrix, draw_samples

Source = tuple[TrackSet, TrainSetConfig]
"""An opened track set and its settings."""
Place = tuple[int, int]
"""Number of a set, and of a track within it."""
ATTEMPTS = 200
"""Draws for one pair before a run stops. If all fail, the cause is the data, not chance."""
SMALLEST_SIDE = 4
"""Shortest side of a usable object, in frame pixels."""
MOVED = 0.2, 1.0
"""How far a moved object lies from its old place, in shares of its size."""
ALIKE = 0.5
"""Share of pasted second objects that come from the target's own set, and category if known."""
COVERED = 0.4
"""Largest share of the target's mask that a second object may cover. One that would cover more is
pasted behind the target."""


@dataclass(frozen=True)
class Pair:
    """One training example. n is 25 for a search crop of S = 255 pixels."""

    template: Image  # (127, 127, 3) RGB
    search: Image  # (S, S, 3) RGB
    mask: NDArray[np.int8]  # (S, S): +1 object, -1 elsewhere
    anchor_labels: NDArray[np.int8]  # (5, n, n)
    offsets: NDArray[np.float32]  # (4, 5, n, n)
    matrix: NDArray[np.int8]  # (n, n) from `distribution_matrix`
    cells: NDArray[np.int64]  # (K, 2) rows and columns of the sampled candidate windows
    sample_labels: NDArray[np.int8]  # (K,) +1, -1, or 0 for a window that teaches nothing
    box_crop_xyxy: NDArray[np.float32]  # (4,) box of the target
    source: str
    negative: bool
    problems: tuple[str, ...] = ()
    """Messages of files that could not be used; another pair was drawn instead."""
    redrawn: int = 0
    """Earlier draws in which the object was absent or too small."""


class Batch(NamedTuple):
    """B pairs as tensors.

    template is (B, 3, 127, 127) and search (B, 3, S, S), both uint8; mask (B, S, S); anchor_labels
    (B, 5, n, n); offsets (B, 4, 5, n, n); sample_labels (N,), for N windows at cells. Windows with
    label 0 are left out, except for one if there is no other.
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
        moved: Any = {
            name: each.to(device, non_blocking=True)
            for name, each in self._asdict().items()
            if isinstance(each, Tensor)
        }
        cells = Cells(*(each.to(device, non_blocking=True) for each in self.cells))
        return self._replace(**moved, cells=cells)


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
class _View:
    """One object in a frame or in a crop; boxes are in pixels of this image."""

    image: Image
    mask: NDArray[np.bool_] | None
    box_xyxy: Box
    alike_xyxy: tuple[Box, ...]
    """Other objects that look like the target, if `augment.distractor` is set; and
    the place that the target left, if it was moved."""


class PairDataset(Dataset[Pair]):
    """The pairs of one training stage, from number `first` on, counted through all legs.

    The weight of a set, or that of the stage for its kind, is its share of the pairs. Raises
    InputError if there is no training data, or, for a pair, if all `ATTEMPTS` to draw it failed.
    """

    def __init__(
        self, sources: list[Source], profile: Profile, stage: StageConfig, first: int = 0
    ) -> None:
        def weight(config: TrainSetConfig) -> float:
            return stage.sets.get(config.kind, config.weight)

        self.sources = [each for each in sources if each[0].tracks and weight(each[1]) > 0]
        if not self.sources:
            raise InputError("no training data: every set is empty or has weight 0")
        weights = [weight(config) for _, config in self.sources]
        self.weights = np.array(weights) / np.sum(weights)
        self.categories = [np.array(tracks.categories) for tracks, _ in self.sources]
        self.profile, self.stage, self.first = profile, stage, first
        self.augment = profile.augment
        shift, negative = stage.search_shift, stage.negative_pairs
        self.search_shift = profile.augment.search_shift if shift is None else shift
        self.negative_pairs = profile.data.negative_pairs if negative is None else negative

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
        small = "objects absent or smaller than min_area; see e3sn data prepare"
        reason = f"the last reason: {problems[-1]}" if problems else small
        raise InputError(f"no usable training pair in {ATTEMPTS} draws from {names}; {reason}")

    def _draw(self, rng: Generator) -> Pair | None:
        """Draw a pair; None if its object is absent or too small in one of the frames."""
        # choose a track, a frame for the template, and what holds for the whole pair
        place = self._draw_place(rng)
        track = self._track(place)
        asked = bool(rng.random() < self.negative_pairs)  # for a negative pair
        number = int(rng.integers(len(track.frames)))
        flip = bool(rng.random() < self.augment.flip)
        grey = bool(rng.random() < self.augment.grey)
        shown = self._read(track.frames[number])
        if shown is None:
            return None
        shift, scale = self.augment.template_shift, self.augment.template_scale
        crop = augment.random_crop(shown.box_xyxy, TEMPLATE_SIZE, shift, scale, rng, flip=flip)
        template = _cut(crop, shown.image)

        # choose the frame of the search crop
        share = self.augment.negative_alike
        alike = asked and share > 0 and rng.random() < share
        other = track
        if asked:
            other = self._track(self._draw_alike(place, rng) if alike else self._draw_place(rng))
        negative = other.frames[0].image != track.frames[0].image  # it may be the same by chance
        if negative:
            frame = _draw_frame(other, rng)
        else:
            reach = self.sources[place[0]][1].frame_range
            low, high = max(number - reach, 0), min(number + reach + 1, len(track.frames))
            frame = track.frames[int(rng.integers(low, high))]

        # crop it; a still moves only by augmentation
        still = len(track.frames) == 1
        degrees = rng.uniform(-1, 1) * self.augment.rotation if still else 0.0
        sought = shown if frame is track.frames[number] else self._read(frame)
        if sought and not negative and self.augment.moved > 0:
            sought = self._moved(sought, rng)
        search = self._cut_view(sought, rng, flip, degrees) if sought else None
        if search is None:
            return None
        if negative:
            search = replace(search, mask=None)
        search = self._new_surroundings(search, still, place, rng)

        template = augment.change_colour(template, self.augment.colour, rng)
        image = augment.change_colour(search.image, self.augment.colour, rng)
        if grey:
            template, image = augment.to_grey(template), augment.to_grey(image)
        if rng.random() < self.augment.blur:
            image = augment.motion_blur(image, rng)
        search = replace(search, image=image)
        return self._targets(template, search, negative, alike, track.name, rng)

    def _moved(self, shown: _View, rng: Generator) -> _View:
        """Move a target within its frame, if it is wholly in it; its old place is a look-alike."""
        if shown.mask is None or rng.random() >= self.augment.moved:
            return shown
        height, width = shown.mask.shape
        x1, y1, x2, y2 = shown.box_xyxy
        if min(x1, y1, width - x2, height - y2) < 1:
            return shown
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*MOVED)
        shift_xy = distance * np.array([(x2 - x1) * np.cos(angle), (y2 - y1) * np.sin(angle)])
        image, mask = augment.move_object(shown.image, shown.mask, shift_xy)
        box = box_from_mask(mask)
        if box is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE:
            return shown
        if np.count_nonzero(mask) < np.count_nonzero(shown.mask) / 2:  # the rest left the frame
            return shown
        return _View(image, mask, box, (*shown.alike_xyxy, shown.box_xyxy))

    def _new_surroundings(self, search: _View, still: bool, place: Place, rng: Generator) -> _View:
        """Show a target with a mask in front of another background, or with a second object."""
        if search.mask is None:
            return search
        if still and rng.random() < self.augment.new_background and not search.alike_xyxy:
            # a part of another image behind the object looks like motion
            other = _draw_frame(self._track(self._draw_place(rng)), rng).image
            if other != self._track(place).frames[0].image:  # its own would show the object twice
                background = augment.random_square(read_image(other), self.stage.search_size, rng)
                image = augment.replace_background(search.image, search.mask, background)
                search = replace(search, image=image)
        if self.augment.distractor > 0 and rng.random() < self.augment.distractor:
            search = self._with_distractor(search, place, rng)
        return search

    def _targets(
        self, template: Image, search: _View, negative: bool, alike: bool, name: str, rng: Generator
    ) -> Pair:
        size, config = self.stage.search_size, self.profile.sampler
        cells = mask_cells(size)
        iou = anchor_iou(search.box_xyxy, cells, centre=size / 2)
        if negative:
            targets = sampling.negative_pair_targets(config, rng, cells, iou if alike else None)
        else:
            targets = anchor_targets(iou, search.box_xyxy, config, rng, size / 2, search.alike_xyxy)
        matrix = distribution_matrix(iou, config.high, config.low)
        samples = draw_samples(matrix, targets.labels, search.mask is not None, config, rng)
        mask = np.full((size, size), -1, np.int8)
        if search.mask is not None:
            mask[search.mask] = 1
        return Pair(
            template=template,
            search=search.image,
            mask=mask,
            anchor_labels=targets.labels,
            offsets=targets.offsets,
            matrix=matrix,
            cells=samples.cells,
            sample_labels=samples.labels,
            box_crop_xyxy=np.array(search.box_xyxy, np.float32),
            source=name,
            negative=negative,
        )

    def _draw_place(self, rng: Generator) -> Place:
        number = int(rng.choice(len(self.sources), p=self.weights))
        return number, int(rng.integers(len(self.sources[number][0].tracks)))

    def _draw_alike(self, place: Place, rng: Generator) -> Place:
        """Draw from the same set, and category if known. It may be the same place by chance."""
        categories = self.categories[place[0]]
        if not categories.size:
            return place[0], int(rng.integers(len(self.sources[place[0]][0].tracks)))
        return place[0], int(rng.choice(np.flatnonzero(categories == categories[place[1]])))

    def _track(self, place: Place) -> Track:
        return self.sources[place[0]][0].tracks[place[1]]

    def _read(self, frame: TrackFrame) -> _View | None:
        """Read a frame and its object's mask and box; None if it is absent or too small."""
        image, mask = frame.read()
        box = frame.box_frame_xyxy or (box_from_mask(mask) if mask is not None else None)
        if box is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE:
            return None
        alike = frame.alike_frame_xyxy if self.augment.distractor > 0 else ()
        return _View(image, mask, box, alike)

    def _cut_view(self, shown: _View, rng: Generator, flip: bool, degrees: float) -> _View | None:
        """Cut a random search crop; return None if no part of a rotated mask is in it."""
        size, shift = self.stage.search_size, self.search_shift
        scale, zoom = self.augment.search_scale, self.augment.search_zoom
        degrees = degrees if shown.mask is not None else 0.0  # a turned box would be too large
        crop = augment.random_crop(
            shown.box_xyxy, size, shift, scale, rng, zoom=zoom, degrees=degrees, flip=flip
        )
        mask = crop.mask(shown.mask) if shown.mask is not None else None
        box: Box | None = crop.box_to_crop(shown.box_xyxy)
        if degrees != 0 and shown.mask is not None and mask is not None:
            # the box of a rotated object is that of its whole rotated mask
            box = crop.mask_box(shown.mask) if mask.any() else None
        if box is None:
            return None
        alike = tuple(crop.box_to_crop(each) for each in shown.alike_xyxy)
        return _View(_cut(crop, shown.image), mask, box, alike)

    def _with_distractor(self, search: _View, place: Place, rng: Generator) -> _View:
        """Paste a second object beside the target or partly in front of it; pixels of the target
        that it covers leave the target's mask."""
        other = self._draw_alike(place, rng) if rng.random() < ALIKE else self._draw_place(rng)
        shown = self._read(_draw_frame(self._track(other), rng))
        if other == place or shown is None or shown.mask is None or search.mask is None:
            return search
        flip, in_front = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        size = self.stage.search_size
        scale, zoom = self.augment.search_scale, self.augment.search_zoom
        crop = augment.random_crop(shown.box_xyxy, size, 0.0, scale, rng, zoom=zoom, flip=flip)
        crop = augment.beside(search.box_xyxy, crop.box_to_crop(shown.box_xyxy), crop, rng)
        pasted = crop.mask(shown.mask)
        covered = np.count_nonzero(pasted & search.mask)
        if not in_front or covered > COVERED * search.mask.sum():
            pasted &= ~search.mask
        return replace(
            search,
            image=augment.replace_background(_cut(crop, shown.image), pasted, search.image),
            mask=search.mask & ~pasted,
            alike_xyxy=(*search.alike_xyxy, crop.box_to_crop(shown.box_xyxy)),
        )


def _draw_frame(track: Track, rng: Generator) -> TrackFrame:
    return track.frames[int(rng.integers(len(track.frames)))]


def _cut(crop: Crop, image: Image) -> Image:
    """Crop an image; outside it, fill with its mean colour, computed from every 8th pixel."""
    return crop.image(image, tuple(image[::8, ::8].reshape(-1, 3).mean(axis=0).tolist()))
