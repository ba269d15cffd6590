"""Single crops of a perfect and of a blind network: what is measured is known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from planted import Planted
from torch import Tensor

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.data.pairs import Pair, PairDataset
from e3sn_lib.data.sources import open_held_out, open_train_sets
from e3sn_lib.data.types import Track, TrackFrame, TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import anchors_cxcywh, encode_boxes
from e3sn_lib.losses import mask_windows
from e3sn_lib.model.windows import Cells
from e3sn_study.evaluation.diagnosis import crop_quality, look_alikes_taken


class Oracle:
    """Answers with the true mask and box of the pair that it is asked about, both larger by a factor if wanted."""

    device = torch.device("cpu")

    def __init__(self, pairs: list[Pair], growth: float = 1.0) -> None:
        self.pairs, self.growth = pairs, growth

    def encode_template(self, _: Tensor) -> None: ...

    def encode_search(self, image: Tensor) -> Pair:
        return next(
            pair for pair in self.pairs if (pair.search == image[0].permute(1, 2, 0).numpy()).all()
        )

    def segment(self, _: None, pair: Pair, cells: Cells) -> Tensor:
        return 9 * mask_windows(torch.from_numpy(pair.mask).float()[None], cells, 32)

    def locate(self, _: None, pair: Pair) -> tuple[Tensor, Tensor]:
        x1, y1, x2, y2 = pair.box_crop_xyxy.tolist()
        true = torch.tensor(
            [(x1 + x2) / 2, (y1 + y2) / 2, self.growth * (x2 - x1), self.growth * (y2 - y1)]
        )
        offsets = torch.from_numpy(encode_boxes(true.double().numpy(), anchors_cxcywh())).permute(
            3, 0, 1, 2
        )[None]
        cls = torch.zeros(1, 2, 5, 25, 25)
        cls[0, 1, 3, 20, 2] = 5.0
        return cls, torch.where(cls[:, 1:] > 0, offsets, 0.0)


@pytest.mark.parametrize("growth", [1.0, 1.25])
def test_an_oracle_has_perfect_masks_and_boxes_of_known_overlap(
    tiny_profile: Callable[..., Profile], growth: float
) -> None:
    profile = tiny_profile("augment.search_zoom=0.3")
    sources = open_train_sets(profile.data).opened
    stage = replace(next(iter(profile.stages.values())), negative_pairs=0.0)
    dataset = PairDataset(sources, profile, stage, first=profile.train.pairs)
    oracle = Oracle([dataset[number] for number in range(6)], growth)
    rows = crop_quality(oracle, sources, profile, 6)  # type: ignore[arg-type]
    assert set(rows["set"]) == {sources[0][0].name}
    has_positive = [bool((pair.sample_labels == 1).any()) for pair in oracle.pairs]
    assert sum(has_positive) > 0
    assert rows["mask_iou"].notna().tolist() == has_positive
    assert rows["mask_iou"].dropna().to_numpy() == pytest.approx(1)
    assert rows["box_iou"].to_numpy() == pytest.approx(1 / growth**2, abs=1e-5)
    assert (rows["predicted_size"] / rows["size"]).to_numpy() == pytest.approx(growth, abs=1e-5)


def test_a_look_alike_that_is_taken_is_seen(tmp_path: Path) -> None:
    """A network that always answers at one place: on the target, on the neighbour, or on neither."""
    image = tmp_path / "two.png"
    cv2.imwrite(str(image), np.full((300, 400, 3), 90, np.uint8))
    boxes = [
        (140.0, 120.0, 200.0, 180.0),
        (220.0, 120.0, 280.0, 180.0),
    ]  # 60 px squares: 63.5 px in a crop
    frames = [TrackFrame(image, None, boxes[n], (boxes[1 - n],)) for n in range(2)]
    alone = TrackFrame(image, None, boxes[0])
    tracks = TrackSet(
        "two", tuple(Track(str(n), (frame,)) for n, frame in enumerate((*frames, alone)))
    )
    # the neighbour's middle lies 80 frame pixels, 85 crop pixels (10.6 cells), to the right of object 0 and to the left of object 1
    for column, expected in (
        (12, {"0": False, "1": False}),
        (22, {"0": True, "1": False}),
        (2, {"0": False, "1": True}),
    ):
        model = Planted(column=column)
        model.device = torch.device("cpu")
        rows = look_alikes_taken(model, tracks, TrackConfig(window_influence=0.0), scenes=10)  # type: ignore[arg-type]
        assert dict(zip(rows["track"], rows["raw_over"], strict=True)) == expected
        assert rows["penalised_over"].equals(rows["raw_over"])
        assert rows["others"].tolist() == [1, 1]
    with pytest.raises(InputError, match="no image shows two objects of one category"):
        look_alikes_taken(Planted(), replace(tracks, tracks=tracks.tracks[2:]), TrackConfig())  # type: ignore[arg-type]


def test_a_look_alike_has_about_the_size_of_the_target_and_stands_apart(tmp_path: Path) -> None:
    """Of an object thrice as large, one that mostly covers the target, one beside it and one far away, the third counts."""
    image = tmp_path / "five.png"
    cv2.imwrite(str(image), np.full((300, 400, 3), 90, np.uint8))
    box, beside = (140.0, 120.0, 200.0, 180.0), (220.0, 120.0, 280.0, 180.0)
    large, over, far = (
        (150.0, 100.0, 330.0, 280.0),
        (150.0, 125.0, 210.0, 185.0),
        (340.0, 0.0, 400.0, 60.0),
    )

    def others(*alike: tuple[float, ...]) -> list[int]:
        tracks = TrackSet("made", (Track("one", (TrackFrame(image, None, box, alike),)),))
        model = Planted()
        model.device = torch.device("cpu")
        return look_alikes_taken(model, tracks, TrackConfig())["others"].tolist()  # type: ignore[arg-type]

    assert others(large, over, beside, far) == others(beside) == [1]
    for each in (large, over, far):
        with pytest.raises(InputError, match="no image shows two objects"):
            others(each)


def test_the_penalised_score_may_stay_where_the_raw_one_takes_the_look_alike(
    tmp_path: Path,
) -> None:
    """The neighbour has the higher score, but lies far from the middle."""

    class Torn(Planted):
        device = torch.device("cpu")

        def locate(self, *given: Any) -> tuple[Tensor, Tensor]:
            cls, loc = super().locate(*given)
            cls[:, 1, 2, 12, 12] = 3.0
            return cls, loc

    image = tmp_path / "two.png"
    cv2.imwrite(str(image), np.full((300, 400, 3), 90, np.uint8))
    box, beside = (140.0, 120.0, 200.0, 180.0), (220.0, 120.0, 280.0, 180.0)
    tracks = TrackSet("two", (Track("one", (TrackFrame(image, None, box, (beside,)),)),))
    rows = look_alikes_taken(Torn(column=22), tracks, TrackConfig(window_influence=0.4))  # type: ignore[arg-type]
    assert rows[["raw_over", "penalised_over"]].to_numpy().tolist() == [[True, False]]


def test_held_out_tracks_are_the_held_out_sequences(tiny_profile: Callable[..., Profile]) -> None:
    root = Path(tiny_profile().data.root)
    names = (root / "synthetic" / "ImageSets" / "2016" / "train.txt").read_text().split()
    text = (
        f"data.train=[{{kind: synthetic, path: synthetic, split: train, hold_out: [{names[0]}]}}]"
    )
    data = tiny_profile(text).data
    [(videos, config)] = open_held_out(data)
    assert [video.name for video in videos] == [names[0]]
    assert names[0] not in {track.name for track in open_train_sets(data).opened[0][0].tracks}
    assert config.hold_out == (names[0],)
