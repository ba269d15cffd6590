"""The procedural set: a DAVIS of its own, exact, repeatable, whole or not there."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from e3sn_lib.config import DataConfig, EvalSetConfig, TrainSetConfig
from e3sn_lib.data.davis import davis_sequences, davis_tracks
from e3sn_lib.data.sources import open_evaluation, open_train_sets, verify
from e3sn_lib.data.synthetic import (
    HEIGHT,
    MARKER,
    WIDTH,
    Clip,
    draw_clip,
    ensure_synthetic,
    plan_clips,
    synthesise,
)
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import box_from_mask

SMALL: Any = {"train_clips": 6, "val_clips": 6, "frames": (2, 3)}


def content(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "set"
    synthesise(root, **SMALL)
    return root


def test_same_seed_same_bytes_whatever_the_threads(small_set: Path, tmp_path: Path) -> None:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if threads > 1 else 2)
    try:
        synthesise(tmp_path / "again", **SMALL)
    finally:
        cv2.setNumThreads(threads)
    assert content(tmp_path / "again") == content(small_set)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    synthesise(tmp_path / "other", seed=1, train_clips=1, val_clips=0, frames=(2, 3))
    name = plan_clips(1, 1, 0)[0].name
    assert (
        content(tmp_path / "other")[f"JPEGImages/480p/{name}/00000.jpg"]
        not in content(small_set).values()
    )


def test_it_reads_as_davis_of_both_years(small_set: Path) -> None:
    single, mixed = davis_sequences(small_set, 2016, "val"), davis_sequences(small_set, 2017, "val")
    assert [len(sequence.object_ids()) for sequence in single] == [1, 1, 1, 1]
    assert [len(sequence.object_ids()) for sequence in mixed] == [2, 2, 1, 1]
    tracks = davis_tracks(small_set, TrainSetConfig("davis", ("set",), min_area=0))
    assert (len(tracks.tracks), tracks.left_out.total()) == (6, 0)
    assert {sequence.name for sequence in single}.isdisjoint(track.name for track in tracks.tracks)


def test_every_frame_shows_every_object_large_enough() -> None:
    for number, clip in enumerate(plan_clips(0, 24, 6)):
        masks = [ids for _, ids in draw_clip(clip, np.random.default_rng([0, 2, number]), 8)]
        for object_id in range(1, clip.objects + 1):
            areas = [int((ids == object_id).sum()) for ids in masks]
            assert areas[0] > 700, clip.name
            assert min(areas) > 150, clip.name
            boxes = [box_from_mask(ids == object_id) for ids in masks]
            sides = [max(box[2] - box[0], box[3] - box[1]) for box in boxes if box]
            assert 40 <= np.median(sides) <= 130, clip.name


def test_masks_lie_on_what_they_mask() -> None:
    image, ids = next(draw_clip(Clip("x", "val", "balloon"), np.random.default_rng(3), 6))
    assert image.shape == (HEIGHT, WIDTH, 3)
    mask = (ids == 1).astype(np.uint8)
    rings = [cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=n) for n in (2, 4)]
    inside, outside = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0, (rings[1] - rings[0]) > 0
    sky = image[outside].astype(float).mean(axis=0)
    distance = np.abs(image.astype(float) - sky).sum(axis=2)
    assert np.quantile(distance[inside], 0.05) > np.quantile(distance[outside], 0.95)


def test_the_background_moves_too() -> None:
    frames = [
        image for image, _ in draw_clip(Clip("x", "val", "beetle"), np.random.default_rng(0), 6)
    ]
    corners = [frame[:20, :20].astype(float) for frame in frames]
    assert np.abs(corners[0] - corners[3]).mean() > 10


def test_it_is_made_once_and_replaced_when_outdated(small_set: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(small_set, root)
    before = (root / MARKER).stat().st_mtime_ns
    assert ensure_synthetic(root) == root
    assert (root / MARKER).stat().st_mtime_ns == before
    (root / MARKER).write_text('{"version": 0, "seed": 0}')
    (root / "JPEGImages" / "480p" / "relic").mkdir()
    synthesise(root, **SMALL)
    assert content(root) == content(small_set)
    assert not (root / "JPEGImages" / "480p" / "relic").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_set_that_is_not_whole_is_made_anew(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e3sn_lib.data.synthetic.synthesise", partial(synthesise, **SMALL))
    root = tmp_path / "set"
    shutil.copytree(small_set, root)
    image, *_ = root.glob("JPEGImages/480p/*/00000.jpg")
    for change in (Path.unlink, lambda path: path.write_bytes(b"")):
        change(image)
        synthesise(root, **SMALL)
        assert content(root) == content(small_set)
    image.unlink()
    assert not (ensure_synthetic(root) / image.relative_to(root)).exists()
    assert content(ensure_synthetic(root, whole=True)) == content(small_set)


def test_it_spares_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        ensure_synthetic(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_half_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("e3sn_lib.data.synthetic._write_lists", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        synthesise(tmp_path / "set", train_clips=1, val_clips=0, frames=(2, 2))
    assert list(tmp_path.iterdir()) == []


def test_settings_open_it(small_set: Path, tmp_path: Path) -> None:
    train = (TrainSetConfig("synthetic", ("set",), min_area=100),)
    evaluation = tuple(
        EvalSetConfig(f"davis{year}", "synthetic", ("set",), year=year) for year in (2016, 2017)
    )
    data = DataConfig(str(small_set.parent), train, evaluation)
    sets = open_train_sets(data)
    assert [
        (tracks.name, len(tracks.tracks), tracks.tracks[0].frames[0].mask is not None)
        for tracks, _ in sets.opened
    ] == [("synthetic-v2-train", 6, True)]
    assert len(open_evaluation(data, "davis2016")) == 4
    assert list(verify(data)["state"]) == ["present"] * 3
    assert list(verify(data)["tracks"]) == [6, 4, 6]

    elsewhere = DataConfig(str(tmp_path / "new"), train, evaluation)
    assert list(verify(elsewhere)["state"]) == ["absent"] * 3
    assert not (tmp_path / "new").exists()
