"""Every reader on a tiny tree in the official layout, and on real data where they are there."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from e3sn_lib.config import DataConfig, EvalKind, EvalSetConfig, TrainKind, TrainSetConfig
from e3sn_lib.data import coco
from e3sn_lib.data.box_folder import box_folder_tracks
from e3sn_lib.data.coco import coco_tracks
from e3sn_lib.data.davis import davis_attributes, davis_sequences, davis_tracks
from e3sn_lib.data.imagenet_vid import imagenet_vid_tracks
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.data.mask_folder import mask_folder_tracks
from e3sn_lib.data.sources import open_evaluation, open_train_sets, verify
from e3sn_lib.data.types import PngMask, TrackFrame, TrackSet
from e3sn_lib.data.youtube_vos import youtube_vos_tracks
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_mask
from e3sn_lib.geometry import box_from_mask
from e3sn_lib.profiles.loading import load_profile

SharedPath = Callable[[str], Path]


def rectangle(
    x1: int, y1: int, x2: int, y2: int, value: int = 1, size: tuple[int, int] = (48, 64)
) -> NDArray[np.uint8]:
    ids = np.zeros(size, np.uint8)
    ids[y1:y2, x1:x2] = value
    return ids


def write_image(path: Path, size: tuple[int, int] = (48, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path.with_suffix(".jpg")), np.full((*size, 3), 90, np.uint8))
    path.with_suffix(".jpg").rename(path)


def write_grey(path: Path, values: NDArray[np.uint8], mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).convert(mode).save(path)


def read_mask_of(frame: TrackFrame) -> NDArray[np.bool_]:
    mask = frame.read()[1]
    assert mask is not None
    return mask


# DAVIS


def make_davis(root: Path, year: int, pairs: bool = False) -> Path:
    """Two videos of three frames, each with two objects side by side: 0/255 as in 2016 or ids 1 and 2 as in 2017."""
    stems = [f"{name}/{i:05d}" for name in ("bear", "camel") for i in range(3)]
    for stem in stems:
        write_image(root / "JPEGImages" / "480p" / f"{stem}.jpg")
        i = int(stem[-1])
        ids = rectangle(5 + i, 10, 20 + i, 30) + rectangle(40, 5, 50, 15, 2)
        mask = root / "Annotations" / "480p" / f"{stem}.png"
        if year == 2016:
            write_grey(mask, np.where(ids, 255, 0).astype(np.uint8))
        else:
            write_mask(mask, ids)
    lines = [f"/JPEGImages/480p/{stem}.jpg /Annotations/480p/{stem}.png " for stem in stems]
    path = root / "ImageSets" / ("480p" if pairs else str(year)) / "train.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines if pairs else ["bear", "camel"]) + "\n")
    return root


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_image(tmp_path / "JPEGImages" / "480p" / "own" / f"{number}.jpg")
        write_grey(
            tmp_path / "Annotations" / "480p" / "own" / f"{number}.png",
            rectangle(5, 10, 20, 30, 255),
        )
    (video,) = davis_sequences(tmp_path, 2016, "val", ["own"])
    for paths in (video.frame_paths, video.mask_paths):
        assert [path.stem for path in paths] == ["1", "2", "10"]


def open_davis(
    root: Path, year: Literal[2016, 2017], min_area: float = 0.0, hold_out: tuple[str, ...] = ()
) -> TrackSet:
    config = TrainSetConfig("davis", ("set",), year=year, min_area=min_area, hold_out=hold_out)
    return davis_tracks(root, config)


def test_a_video_without_object_in_its_first_mask_is_counted(tmp_path: Path) -> None:
    make_davis(tmp_path, 2017)
    write_mask(tmp_path / "Annotations/480p/bear/00000.png", np.zeros((48, 64), np.uint8))
    tracks = open_davis(tmp_path, 2017)
    assert [track.name for track in tracks.tracks] == ["camel/1", "camel/2"]
    assert tracks.left_out["video without object in its first mask"] == 1


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("hold_out: a", "hold_out needs sequences; a mask_folder set has none"),
        ("hold_out_share: 0.1", "hold_out_share works for coco sets only"),
    ],
)
def test_what_a_kind_of_set_cannot_hold_out_is_a_wrong_setting(setting: str, reason: str) -> None:
    still = f"data.train=[{{kind: mask_folder, path: still, {setting}}}]"
    with pytest.raises(InputError, match=rf"data.train\[0\].*{reason}"):
        load_profile("smoke", overrides=[still])


def test_davis_2017_masks_are_not_taken_for_those_of_2016(tmp_path: Path) -> None:
    make_davis(tmp_path, 2017)
    (tmp_path / "ImageSets" / "2017").rename(tmp_path / "ImageSets" / "2016")
    reason = r"bear/00000\.png has several objects, as in DAVIS-2017; .*davischallenge\.org"
    with pytest.raises(InputError, match=reason):
        davis_sequences(tmp_path, 2016, "train")


@pytest.mark.parametrize("pairs", [False, True])
def test_davis_2016_reads_both_forms_of_list(tmp_path: Path, pairs: bool) -> None:
    sequences = davis_sequences(make_davis(tmp_path, 2016, pairs=pairs), 2016, "train")
    assert [(sequence.name, len(sequence)) for sequence in sequences] == [("bear", 3), ("camel", 3)]
    assert sequences[0].object_ids() == [1]
    both = rectangle(5, 10, 20, 30) + rectangle(40, 5, 50, 15)
    assert np.array_equal(sequences[0].mask(0), both)
    assert sequences[0].frame(2).shape == (48, 64, 3)


def test_davis_2017_keeps_ids(tmp_path: Path) -> None:
    make_davis(tmp_path, 2017)
    sequence = davis_sequences(tmp_path, 2017, "train", ["camel"])[0]
    assert sequence.object_ids() == [1, 2]
    assert np.array_equal(sequence.mask(1), rectangle(6, 10, 21, 30) + rectangle(40, 5, 50, 15, 2))
    tracks = open_davis(tmp_path, 2017).tracks
    assert [track.name for track in tracks] == ["bear/1", "bear/2", "camel/1", "camel/2"]
    assert box_from_mask(read_mask_of(tracks[2].frames[2])) == (7, 10, 22, 30)


def test_davis_2017_prefers_its_own_annotation_folder(tmp_path: Path) -> None:
    make_davis(tmp_path, 2016)
    (tmp_path / "ImageSets" / "2017").mkdir()
    (tmp_path / "ImageSets" / "2017" / "train.txt").write_text("bear\n")
    reason = r"bear/00000\.png is a DAVIS-2016 mask .*davischallenge\.org"
    with pytest.raises(InputError, match=reason):
        davis_sequences(tmp_path, 2017, "train")
    own = tmp_path / "Annotations_2017" / "480p" / "bear"
    for i in range(3):
        write_mask(own / f"{i:05d}.png", rectangle(1, 1, 9, 9, 3))
    assert davis_sequences(tmp_path, 2017, "train")[0].object_ids() == [1, 2, 3]


@pytest.mark.parametrize("hw", [(48, 64), (480, 854), (2160, 3840)])
def test_empty_masks_of_any_size_are_left_out(tmp_path: Path, hw: tuple[int, int]) -> None:
    masks = make_davis(tmp_path, 2016) / "Annotations" / "480p" / "bear"
    ids = np.zeros((3, *hw), np.uint8)
    ids[0, :9, :9] = 255
    for number, each in enumerate(ids):
        write_mask(masks / f"{number:05d}.png", each)
    tracks = open_davis(tmp_path, 2016, hold_out=("camel",))
    assert len(tracks.tracks[0].frames) == 1


def test_davis_tracks_leave_out_and_count(tmp_path: Path) -> None:
    masks = make_davis(tmp_path, 2016) / "Annotations" / "480p"
    write_grey(masks / "bear" / "00001.png", np.zeros((48, 64), np.uint8))
    tracks = open_davis(tmp_path, 2016, hold_out=("camel",))
    assert [len(track.frames) for track in tracks.tracks] == [2]
    assert tracks.left_out == {"frame without object": 1, "sequence held out": 1}
    assert tracks.tracks[0].frames[0].box_frame_xyxy is None


def test_davis_small_masks_read_as_empty(tmp_path: Path) -> None:
    make_davis(tmp_path, 2017)
    for least, areas in ((101, [300, 0]), (100, [300, 100])):
        tracks = open_davis(tmp_path, 2017, min_area=least).tracks
        assert [read_mask_of(track.frames[0]).sum() for track in tracks[:2]] == areas


@pytest.mark.parametrize(
    "gone", ["JPEGImages/480p/camel/00001.jpg", "Annotations/480p/camel/00001.png"]
)
def test_davis_names_the_first_missing_file(tmp_path: Path, gone: str) -> None:
    make_davis(tmp_path, 2016)
    (tmp_path / gone).unlink()
    with pytest.raises(InputError, match=f"camel.*{gone} is missing"):
        davis_sequences(tmp_path, 2016, "train")


def test_davis_names_absent_sequences_and_lists(tmp_path: Path) -> None:
    make_davis(tmp_path, 2017)
    with pytest.raises(InputError, match=r"no frames of bmx in .*get DAVIS-2017 from https"):
        davis_sequences(tmp_path / "elsewhere", 2017, "val", ["bmx"])
    with pytest.raises(InputError, match=r"no list ImageSets/2016/train\.txt"):
        davis_sequences(tmp_path, 2016, "train")
    with pytest.raises(InputError, match=r"no sequence 'camle'.*did you mean 'camel'"):
        davis_sequences(tmp_path, 2017, "train", ["camle"])
    with pytest.raises(InputError, match="no sequence 'dog'"):
        open_davis(tmp_path, 2017, hold_out=("dog",))


@pytest.mark.parametrize("folder", ["", "Annotations"])
def test_davis_attributes_are_those_of_its_own_list(tmp_path: Path, folder: str) -> None:
    with pytest.raises(InputError, match=r"need db_info\.yml of the DAVIS-2016 tool kit"):
        davis_attributes(tmp_path)
    path = tmp_path / folder / "db_info.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "sequences:\n- {attributes: [FM, AC], name: bear}\n- {attributes: [], name: swan}"
    )
    assert davis_attributes(tmp_path) == {"bear": ["FM", "AC"], "swan": []}
    path.write_text("sequences: &a [*a, *a]")
    with pytest.raises(InputError, match="alias"):
        davis_attributes(tmp_path)
    for broken in (
        "sequences: [bear]",
        "- a",
        "sequences: {bear: 1}",
        "sequences:\n- {name: bear}",
        "sequences:\n- {name: a, attributes: [[FM]]}",
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"db_info\.yml lists no sequences with attributes"):
            davis_attributes(tmp_path)


def test_davis_attributes_of_the_complete_set(davis_2016: Path) -> None:
    if not (davis_2016 / "Annotations" / "db_info.yml").is_file():
        pytest.skip("needs db_info.yml in ../data/DAVIS, which is not there")
    attributes = davis_attributes(davis_2016)
    names = {sequence.name for sequence in davis_sequences(davis_2016, 2016, "val")}
    assert names <= attributes.keys()
    assert attributes["car-roundabout"] == ["ROT", "BC"]


def test_davis_mini_is_complete(shared_path: SharedPath) -> None:
    sequences = davis_sequences(shared_path("data/DAVIS_mini"), 2016, "val")
    lengths = {sequence.name: len(sequence) for sequence in sequences}
    assert lengths == {"blackswan": 50, "car-shadow": 40, "dog": 60, "libby": 49}
    assert set(np.unique(sequences[2].mask(59))) == {0, 1}


def test_davis_2017_masks_of_a_real_sequence(
    shared_path: SharedPath, davis_2016: Path, tmp_path: Path
) -> None:
    (tmp_path / "JPEGImages").symlink_to(davis_2016 / "JPEGImages")
    (tmp_path / "Annotations_2017").symlink_to(shared_path("data/DAVIS_mini") / "Annotations_2017")
    sequence = davis_sequences(tmp_path, 2017, "val", ["bmx-trees"])[0]
    assert (len(sequence), sequence.object_ids()) == (80, [1, 2])
    assert sequence.mask(0).shape == sequence.frame(0).shape[:2]


def test_davis_2016_has_the_official_numbers(davis_2016: Path) -> None:
    val, train = davis_sequences(davis_2016, 2016, "val"), open_davis(davis_2016, 2016)
    assert (len(val), sum(len(sequence) for sequence in val)) == (20, 1376)
    assert train.left_out == {"frame without object": 15}
    assert (len(train.tracks), sum(len(track.frames) for track in train.tracks)) == (30, 2079 - 15)
    bear = next(track for track in train.tracks if track.name == "bear")
    assert read_mask_of(bear.frames[77]).any()
    with pytest.raises(InputError, match="DAVIS-2016 mask"):
        davis_sequences(davis_2016, 2017, "val", ["dog"])


# COCO


SQUARE = {
    "segmentation": [[10, 10, 30, 10, 30, 20, 10, 20]],
    "area": 200,
    "bbox": [10, 10, 20, 10],
    "category_id": 1,
}
RUNS = {"size": [48, 64], "counts": [485, 20, 28, 20, 28, 20, 2471]}
"""Columns 10-12, rows 5-24 of 48 x 64 pixels."""
COMPRESSED = "U?d0l0000[\\2"
"""The same run lengths in COCO's compressed form."""


def make_coco(root: Path) -> tuple[Path, Path]:
    """Objects 100 to 107 of images 1 to 3, of which the third is not on the disk."""
    for number in (1, 2):
        write_image(root / "val2017" / f"{number:012d}.jpg")
    entries = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 64} for i in (1, 2, 3)
    ]
    halves = [[10, 10, 20, 10, 20, 20, 10, 20], [20, 10, 30, 10, 30, 20, 20, 20]]
    strip = {"segmentation": RUNS, "area": 60, "bbox": [10, 5, 3, 20]}
    changes: list[dict[str, object]] = [
        {"image_id": 1},
        {"image_id": 2, "segmentation": halves},
        {"image_id": 2, **strip},
        {"image_id": 1, **strip, "iscrowd": 1},
        {"image_id": 1, "area": 12},
        {"image_id": 3},
        {"image_id": 1, "segmentation": [[10, 10, 30, 10]]},
        {"image_id": 1, **strip, "segmentation": RUNS | {"counts": COMPRESSED}},
    ]
    annotations = [SQUARE | {"id": number} | each for number, each in enumerate(changes, start=100)]
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": entries, "annotations": annotations}))
    return root / "val2017", path


def open_coco(
    images: Path, annotations: Path, min_area: float = 0.0, hold_out: float = 0.0
) -> TrackSet:
    root = images.parent
    names = {"images": images.name, "annotations": str(annotations.relative_to(root))}
    config = TrainSetConfig("coco", ("set",), **names, min_area=min_area, hold_out_share=hold_out)
    return coco_tracks(root, config)


def test_coco_reads_polygons_and_run_lengths(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracks = open_coco(*make_coco(tmp_path), min_area=50)
    square, strip = (10, 10, 30, 20), (10, 5, 13, 25)
    expected = {"1/100": square, "2/101": square, "2/102": strip, "1/107": strip}
    for track, (name, box) in zip(tracks.tracks, expected.items(), strict=True):
        assert track.name == f"00000000000{name}"
        assert track.frames[0].box_frame_xyxy == box
        assert np.array_equal(read_mask_of(track.frames[0]), rectangle(*box) > 0)
    assert tracks.missing == ["000000000003.jpg"]
    assert tracks.left_out == {
        "crowd": 1, "smaller than 50 px": 1, "image not on disk": 1, "polygon of less than three points": 1,
    }  # fmt: skip
    assert capfd.readouterr() == ("", "")


def test_coco_knows_the_other_objects_of_an_image_and_category(tmp_path: Path) -> None:
    """Small ones and those without a usable mask too, but no crowd and not the object itself."""
    images, annotations = make_coco(tmp_path)
    content = json.loads(annotations.read_text())
    content["annotations"][7]["category_id"] = 2
    annotations.write_text(json.dumps(content))
    tracks = open_coco(images, annotations, min_area=50).tracks
    square, strip = (10, 10, 30, 20), (10, 5, 13, 25)
    found = [(track.name[11:], track.frames[0].alike_frame_xyxy) for track in tracks]
    assert found == [
        ("1/100", (square, square)),  # of 104, which is small, and of 106
        ("2/101", (strip,)),
        ("2/102", (square,)),
        ("1/107", ()),
    ]


def test_coco_keeps_the_nearest_look_alikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, annotations = make_coco(tmp_path)
    content = json.loads(annotations.read_text())
    first = next(each for each in content["annotations"] if each["id"] == 100)
    others = [
        first | {"id": 200 + left, "bbox": [left, 10, 20, 10], "segmentation": None}
        for left in (40, 33, 36)
    ]
    annotations.write_text(json.dumps(content | {"annotations": [first, *others]}))
    monkeypatch.setattr(coco, "MOST_ALIKE", 2)
    (track,) = open_coco(images, annotations).tracks
    assert track.frames[0].alike_frame_xyxy == ((33, 10, 53, 20), (36, 10, 56, 20))


def test_coco_boxes_must_be_those_of_their_masks(tmp_path: Path) -> None:
    images, annotations = make_coco(tmp_path)
    content = json.loads(annotations.read_text())
    for box, count in (((10, 10, 20, 10), 4), ((10, 10, 6, 5), 3), ((0, 0, 60, 40), 3)):
        content["annotations"][0]["bbox"] = box
        annotations.write_text(json.dumps(content))
        tracks = open_coco(images, annotations, min_area=50)
        assert len(tracks.tracks) == count
        assert tracks.left_out["whose box is not that of its mask"] == 4 - count


def test_coco_says_what_is_wrong(tmp_path: Path) -> None:
    images, annotations = make_coco(tmp_path)
    nowhere = open_coco(tmp_path / "elsewhere", annotations)
    assert (len(nowhere.tracks), nowhere.left_out["image not on disk"]) == (0, 7)
    annotations.write_text('{"pictures": []}')
    with pytest.raises(InputError, match="no COCO instances file"):
        open_coco(images, annotations)
    annotations.write_text('{"images": [{"id": 1}, {"id": 1}], "annotations": []}')
    with pytest.raises(InputError, match="2 images have 1 ids; give each image its own"):
        open_coco(images, annotations)


def test_coco_mini_masks_have_their_areas_and_boxes(shared_path: SharedPath) -> None:
    root = shared_path("data/coco_mini")
    path = root / "annotations" / "instances_mini.json"
    everything, large = open_coco(root / "images", path), open_coco(root / "images", path, 1200)
    assert len(everything.tracks) + everything.left_out["crowd"] == 5624
    assert len(large.tracks) + large.left_out.total() == 5624
    annotations = {
        f"{each['image_id']:012d}/{each['id']}": each
        for each in json.loads(path.read_bytes())["annotations"]
    }
    areas, overlaps = [], []
    for track in large.tracks[::40]:
        mask, box = read_mask_of(track.frames[0]), track.frames[0].box_frame_xyxy
        areas.append(mask.sum() / annotations[track.name]["area"])
        overlaps.append(np.abs(np.subtract(box, box_from_mask(mask))).max())
    assert np.median(np.abs(np.array(areas) - 1)) < 0.02
    assert np.median(overlaps) <= 1


# YouTube-VOS


def make_youtube_vos(root: Path) -> Path:
    """Frames 0 to 10 with masks of every fifth; object 2 appears in the second of them."""
    train = root / "train"
    for number in range(11):
        write_image(train / "JPEGImages" / "003234408d" / f"{number:05d}.jpg")
    for stem in ("00000", "00005", "00010"):
        late = rectangle(30, 4, 40, 14, 0 if stem == "00000" else 2)
        write_mask(
            train / "Annotations" / "003234408d" / f"{stem}.png", rectangle(4, 4, 24, 24) + late
        )
    objects = {
        "1": {"category": "penguin", "frames": ["00000", "00005", "00010", "00015"]},
        "2": {"category": "penguin", "frames": ["00005", "00010"]},
        "3": {"category": "penguin", "frames": ["00020"]},
    }
    absent = {"objects": {"1": {"category": "ape", "frames": ["00000"]}}}
    (train / "meta.json").write_text(
        json.dumps({"videos": {"003234408d": {"objects": objects}, "zz": absent}})
    )
    return root


def test_youtube_vos_reads_objects_and_their_frames(tmp_path: Path) -> None:
    tracks = youtube_vos_tracks(make_youtube_vos(tmp_path), min_area=150)
    stems = {track.name: [frame.image.stem for frame in track.frames] for track in tracks.tracks}
    assert stems == {
        "003234408d/1": ["00000", "00005", "00010"],
        "003234408d/2": ["00005", "00010"],
    }
    assert box_from_mask(read_mask_of(tracks.tracks[0].frames[1])) == (4, 4, 24, 24)
    assert not read_mask_of(tracks.tracks[1].frames[0]).any()
    late = youtube_vos_tracks(tmp_path).tracks[1].frames
    assert [box_from_mask(read_mask_of(frame)) for frame in late] == [(30, 4, 40, 14)] * 2
    assert tracks.left_out == {
        "frame or mask not on disk": 2,
        "object without frames": 1,
        "video not on disk": 1,
    }
    assert tracks.missing == ["003234408d/00015", "003234408d/00020", "zz"]


def test_youtube_vos_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*meta\.json"):
        youtube_vos_tracks(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "meta.json").write_text("{}")
    with pytest.raises(InputError, match=r"no YouTube-VOS meta\.json"):
        youtube_vos_tracks(tmp_path)


@pytest.mark.parametrize("video", ["../other", "/etc", "..", "a/b", ""])
def test_youtube_vos_reads_no_video_outside_its_folder(tmp_path: Path, video: str) -> None:
    meta = make_youtube_vos(tmp_path) / "train" / "meta.json"
    videos = json.loads(meta.read_text())["videos"]
    meta.write_text(json.dumps({"videos": videos | {video: videos["003234408d"]}}))
    with pytest.raises(InputError, match=f"has a video '{video}', which is no name of a folder"):
        youtube_vos_tracks(tmp_path)


# ImageNet-VID

OBJECT = """<object><trackid>{}</trackid><name>n02691156</name><bndbox><xmax>{}</xmax><xmin>{}</xmin><ymax>{}</ymax>
<ymin>{}</ymin></bndbox><occluded>{}</occluded><generated>{}</generated></object>"""


def make_imagenet_vid(root: Path, split: str = "train/ILSVRC2015_VID_train_0000") -> Path:
    snippet = f"{split}/ILSVRC2015_train_00000000"
    annotations = root / "Annotations" / "VID" / snippet
    annotations.mkdir(parents=True)
    things = [
        [(0, 19, 10, 29, 5, 0, 0)],
        [(0, 20, 11, 29, 5, 1, 1), (1, 63, 40, 47, 30, 0, 1)],
        [],
        [(1, 60, 40, 47, 30, 0, 0)],
    ]
    for i, boxes in enumerate(things):
        body = "".join(OBJECT.format(*box) for box in boxes)
        head = "<folder>a</folder><size><width>64</width><height>48</height></size>"
        (annotations / f"{i:06d}.xml").write_text(f"<annotation>{head}{body}</annotation>")
        if i < 3:
            write_image(root / "Data" / "VID" / snippet / f"{i:06d}.JPEG")
    return root


@pytest.mark.parametrize("split", ["train/ILSVRC2015_VID_train_0000", "val"])
def test_imagenet_vid_reads_tracks_without_masks(tmp_path: Path, split: str) -> None:
    tracks = imagenet_vid_tracks(make_imagenet_vid(tmp_path, split), split.split("/")[0])
    assert [[frame.box_frame_xyxy for frame in track.frames] for track in tracks.tracks] == [
        [(10, 5, 20, 30), (11, 5, 21, 30)],
        [(40, 30, 64, 48)],
    ]
    assert tracks.tracks[0].name.endswith("ILSVRC2015_train_00000000/0")
    assert tracks.tracks[0].frames[1].image.name == "000001.JPEG"
    assert all(frame.mask is None for track in tracks.tracks for frame in track.frames)
    assert tracks.left_out == {"frame without object": 1, "frame not on disk": 1}
    assert tracks.missing == ["ILSVRC2015_train_00000000/000003.JPEG"]


def test_imagenet_vid_may_lie_behind_links(tmp_path: Path) -> None:
    make_imagenet_vid(tmp_path / "disk")
    for part in ("Annotations", "Data"):
        (tmp_path / part / "VID" / "train").mkdir(parents=True)
        linked = "VID/train/ILSVRC2015_VID_train_0000"
        (tmp_path / part / linked).symlink_to(tmp_path / "disk" / part / linked)
    assert len(imagenet_vid_tracks(tmp_path).tracks) == 2


def test_imagenet_vid_does_not_follow_links_in_circles(tmp_path: Path) -> None:
    make_imagenet_vid(tmp_path)
    for part in ("Annotations", "Data"):
        folder = tmp_path / part / "VID" / "train"
        for name, place in (("here", "."), ("there", "."), ("up", ".."), ("above", "..")):
            (folder / name).symlink_to(place)
    assert len(imagenet_vid_tracks(tmp_path).tracks) == 2


def test_imagenet_vid_of_an_unknown_encoding_is_damaged(tmp_path: Path) -> None:
    path = next((make_imagenet_vid(tmp_path) / "Annotations").rglob("000001.xml"))
    path.write_text('<?xml version="1.0" encoding="utf8mb4"?>' + path.read_text())
    with pytest.raises(InputError, match=r"000001\.xml is damaged or no ImageNet-VID annotation"):
        imagenet_vid_tracks(tmp_path)


def test_imagenet_vid_leaves_out_boxes_without_end(tmp_path: Path) -> None:
    path = next((make_imagenet_vid(tmp_path) / "Annotations").rglob("000001.xml"))
    whole = path.read_text()
    for value in ("inf", "nan", "1e999"):
        path.write_text(whole.replace("<xmax>63</xmax>", f"<xmax>{value}</xmax>"))
        os.utime(path, (1, int.from_bytes(value.encode())))  # another time than the index knows
        assert imagenet_vid_tracks(tmp_path).left_out["box without area"] == 1


def test_imagenet_vid_says_what_is_wrong(tmp_path: Path) -> None:
    make_imagenet_vid(tmp_path)
    damaged = next((tmp_path / "Annotations").rglob("000001.xml"))
    damaged.write_text("<annotation><object>")
    with pytest.raises(InputError, match=r"000001\.xml is damaged"):
        imagenet_vid_tracks(tmp_path)


def test_imagenet_vid_without_track_ids_is_refused(tmp_path: Path) -> None:
    make_imagenet_vid(tmp_path)
    file = next((tmp_path / "Annotations").rglob("000001.xml"))
    file.write_text(re.sub("<trackid>.*?</trackid>", "", file.read_text()))
    with pytest.raises(InputError, match=r"000001\.xml .*an object has no trackid"):
        imagenet_vid_tracks(tmp_path)


# Videos with boxes


def make_box_folder(root: Path) -> Path:
    """Four frames with boxes for three of them, and a set in a deeper folder with turned boxes."""
    for i in range(1, 5):
        write_image(root / "car" / f"{i:08d}.jpg")
        write_image(root / "toys" / "toy-1" / "img" / f"{i:04d}.png")
    (root / "car" / "groundtruth.txt").write_text(
        "10,5,20,30\n0,0,0,0\n11.5\t5\t20\t30\r\n9,9,9,9\n\n"
    )
    turned = "30,10,40,20,30,30,20,20\n" * 2 + "10,10,30,10,30,20,10,20\n" * 2
    (root / "toys" / "toy-1" / "groundtruth_rect.1.txt").write_text(turned)
    return root


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scandir = make_box_folder(tmp_path), os.scandir

    def denied(folder: str) -> object:
        if Path(folder).name == "toys":
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)  # root may list any folder
    with pytest.raises(InputError, match=r"cannot list the files of .*toys: Permission denied"):
        box_folder_tracks(root)


def test_box_folder_reads_upright_and_turned_boxes(tmp_path: Path) -> None:
    tracks = box_folder_tracks(make_box_folder(tmp_path / "videos"))
    assert (tracks.name, tracks.categories) == ("videos", [])
    car, toy = tracks.tracks
    assert (car.name, toy.name) == ("car/groundtruth", "toys/toy-1/groundtruth_rect.1")
    assert [int(frame.image.stem) for frame in car.frames] == [1, 3, 4]
    seen = [frame.box_frame_xyxy for frame in car.frames]
    assert seen == [(10, 5, 30, 35), (11.5, 5, 31.5, 35), (9, 9, 18, 18)]
    assert [frame.image.parent.name for frame in toy.frames] == ["img"] * 4
    # a square on its tip has half the area of its bounding box, and keeps its area
    side = 200**0.5
    expected = (30 - side / 2, 20 - side / 2, 30 + side / 2, 20 + side / 2)
    assert toy.frames[0].box_frame_xyxy == pytest.approx(expected)
    assert toy.frames[3].box_frame_xyxy == pytest.approx((10, 10, 30, 20))
    assert tracks.left_out == {"box without area": 1}


@pytest.mark.parametrize("count", [3, 5])
def test_boxes_of_unknown_frames_are_left_out(tmp_path: Path, count: int) -> None:
    """OTB's David has boxes for its last 471 of 770 frames: line 1 is not of frame 1."""
    root = make_box_folder(tmp_path / "videos")
    (root / "car" / "groundtruth.txt").write_text("10,5,20,30\n" * count)
    tracks = box_folder_tracks(root)
    assert [track.name for track in tracks.tracks] == ["toys/toy-1/groundtruth_rect.1"]
    assert tracks.left_out == {"track whose boxes belong to unknown frames": 1}
    assert f"car/groundtruth.txt with {count} boxes for 4 frames" in tracks.reasons()
    (row,) = verify(
        DataConfig(root=str(tmp_path), train=(TrainSetConfig("box_folder", ("videos",)),))
    ).itertuples()
    assert row.state == "partial"


def test_box_folder_counts_frames(tmp_path: Path) -> None:
    for i in range(1, 13):
        write_image(tmp_path / "disk" / "img" / f"{i}.jpg")  # 10.jpg comes after 9.jpg
    boxes = "".join(f"{i},5,20,30\n" for i in range(1, 13))
    (tmp_path / "disk" / "groundtruth.txt").write_text(boxes)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "disk")
    tracks = box_folder_tracks(tmp_path / "set")
    (track,) = tracks.tracks
    assert [frame.box_frame_xyxy[0] for frame in track.frames if frame.box_frame_xyxy] == [
        int(frame.image.stem) for frame in track.frames
    ]
    assert tracks.left_out == {}


def test_a_box_outside_its_image_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    TrackFrame(tmp_path / "a.jpg", box_frame_xyxy=(63, 47, 90, 90)).read()
    for box in ((64, 5, 90, 30), (5, 48, 20, 60), (-20, 5, 0, 30)):
        with pytest.raises(InputError, match=r"a\.jpg lies outside its 64x48 pixels"):
            TrackFrame(tmp_path / "a.jpg", box_frame_xyxy=box).read()


@pytest.mark.parametrize("line", ["1,2,3", "a b c d", "1,2,3,4,5,6,7,8,9", " "])
def test_box_folder_says_what_is_wrong(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"no groundtruth\*\.txt in any of its folders"):
        box_folder_tracks(tmp_path)
    file = make_box_folder(tmp_path) / "car" / "groundtruth.txt"
    file.write_text(f"1,2,3,4\n{line}\n1,2,3,4\n")
    with pytest.raises(InputError, match=r"groundtruth\.txt: line 2 has neither"):
        box_folder_tracks(tmp_path)


# Folders of images and masks


def make_mask_folder(root: Path) -> Path:
    for stem in ("a", "b", "c", "d"):
        write_image(root / "images" / f"{stem}.jpg")
    grey = rectangle(8, 8, 28, 28, 255) + rectangle(28, 8, 40, 28, 127)
    write_grey(root / "masks" / "a.png", grey)
    write_grey(root / "masks" / "b.png", grey, mode="1")
    write_grey(root / "masks" / "c.png", rectangle(8, 8, 28, 28))
    write_grey(root / "masks" / "z.png", grey)
    return root


def test_mask_folder_thresholds_and_counts(tmp_path: Path) -> None:
    write_image(make_mask_folder(tmp_path) / "images" / "._a.jpg")
    write_image(tmp_path / "images" / "more" / "e.jpg")
    config = TrainSetConfig("mask_folder", ("set",), min_area=0)
    tracks = mask_folder_tracks(tmp_path, config)
    masks = {track.name: read_mask_of(track.frames[0]) for track in tracks.tracks}
    assert [*masks] == ["a", "b", "c"]
    for name in ("a", "c"):
        assert np.array_equal(masks[name], rectangle(8, 8, 28, 28) > 0)
    assert masks["b"][8:28, 8:28].all()
    assert tracks.left_out == {
        "image without mask": 1,
        "mask without image": 1,
        "folder inside images or masks": 1,
    }
    with pytest.raises(InputError, match="none of 0 images"):
        mask_folder_tracks(tmp_path / "elsewhere", config)


def test_mask_folder_of_instance_ids_has_a_track_for_each(tmp_path: Path) -> None:
    write_image(tmp_path / "PNGImages" / "a.png")
    write_mask(
        tmp_path / "PedMasks" / "a_mask.png", rectangle(8, 8, 28, 28) + rectangle(40, 8, 50, 28, 3)
    )
    folders = {"images": "PNGImages", "masks": "PedMasks", "mask_suffix": "_mask"}
    config = TrainSetConfig("mask_folder", ("set",), **folders, mask_kind="ids", min_area=0)
    tracks = mask_folder_tracks(tmp_path, config)
    assert [track.name for track in tracks.tracks] == ["a/1", "a/3"]
    assert np.array_equal(read_mask_of(tracks.tracks[1].frames[0]), rectangle(40, 8, 50, 28) > 0)
    assert tracks.left_out.total() == 0


def test_mask_folder_of_ids_takes_255_for_void_beside_other_ids(tmp_path: Path) -> None:
    for stem, values in (("a", (1, 255)), ("b", (255, 255))):
        write_image(tmp_path / "images" / f"{stem}.png")
        ids = rectangle(8, 8, 28, 28, values[0]) + rectangle(40, 8, 50, 28, values[1])
        write_mask(tmp_path / "masks" / f"{stem}.png", ids)
    config = TrainSetConfig("mask_folder", ("set",), mask_kind="ids", min_area=0)
    tracks = mask_folder_tracks(tmp_path, config).tracks
    assert [track.name for track in tracks] == ["a/1", "b/255"]


def test_mask_folder_of_ids_that_are_not_called_so_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    write_mask(tmp_path / "masks" / "a.png", rectangle(8, 8, 28, 28) + rectangle(40, 8, 50, 28, 2))
    tracks = mask_folder_tracks(tmp_path, TrainSetConfig("mask_folder", ("set",))).tracks
    with pytest.raises(InputError, match=r"a\.png has values up to 2, .*; its mask_kind is ids or"):
        tracks[0].frames[0].read()


def test_mask_folder_of_ids_is_no_folder_of_jpegs(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    write_image(tmp_path / "masks" / "a.jpg")
    masks = TrainSetConfig("mask_folder", ("set",), mask_kind="ids")
    for name in ("a.jpg", "a.png"):  # whatever it is called
        (tmp_path / "masks" / "a.jpg").rename(tmp_path / "masks" / name)
        with pytest.raises(InputError, match=rf"{name} is a JPEG, whose noise"):
            mask_folder_tracks(tmp_path, masks)
        (tmp_path / "masks" / name).rename(tmp_path / "masks" / "a.jpg")
    (tmp_path / "masks" / "a.jpg").unlink()
    soft = np.tile(np.arange(40, dtype=np.uint8), (40, 1))
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), soft)
    with pytest.raises(InputError, match=r"a\.png has 39 values, as soft edges give; at most 32"):
        mask_folder_tracks(tmp_path, masks)


def test_a_photo_with_a_noted_rotation_is_told(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", (64, 48))
    write_mask(tmp_path / "a.png", rectangle(5, 10, 20, 30))
    frame = TrackFrame(tmp_path / "a.jpg", PngMask(tmp_path / "a.png"))
    with pytest.raises(InputError, match=r"is 64x48, its image 48x64; is it a photo .*EXIF"):
        frame.read()


def test_mask_folder_with_a_misspelt_folder_takes_no_other(tmp_path: Path) -> None:
    root = make_mask_folder(tmp_path / "mine")
    config = TrainSetConfig("mask_folder", ("mine",), masks="msaks")
    with pytest.raises(InputError, match="none of 4 images has a mask"):
        mask_folder_tracks(root, config)
    copied = TrainSetConfig("mask_folder", ("elsewhere", "mine"), masks="msaks")
    assert len(mask_folder_tracks(root, copied).tracks) == 3


def test_mask_folder_halves_the_border_of_a_trimap(tmp_path: Path) -> None:
    """A border of six columns on either side of a band: three go to it."""
    trimap = np.full((48, 64), 2, np.uint8)
    trimap[:, 14:40], trimap[:, 20:34] = 3, 1
    write_image(tmp_path / "images" / "a.jpg")
    write_mask(tmp_path / "trimaps" / "a.png", trimap)
    config = TrainSetConfig(
        "mask_folder", ("set",), masks="trimaps", mask_kind="trimap", min_area=0
    )
    tracks = mask_folder_tracks(tmp_path, config)
    assert np.array_equal(read_mask_of(tracks.tracks[0].frames[0]), rectangle(17, 0, 37, 48) > 0)


@pytest.mark.parametrize(("name", "count"), [("saliency_ecssd", 1000), ("saliency_duts", 499)])
def test_saliency_folders_show_objects(shared_path: SharedPath, name: str, count: int) -> None:
    tracks = mask_folder_tracks(shared_path(f"data/{name}"), TrainSetConfig("mask_folder", ("x",)))
    assert (len(tracks.tracks), tracks.left_out.total()) == (count, 0)
    shares = [read_mask_of(track.frames[0]).mean() for track in tracks.tracks[::50]]
    assert min(shares) > 0
    assert max(shares) < 0.9


# From settings to sets


def test_the_registry_has_the_kinds_that_settings_allow() -> None:
    assert set(get_args(TrainKind)) == set(KINDS)
    assert set(get_args(EvalKind)) == {name for name, kind in KINDS.items() if kind.has_videos}


STATES = ["partial"] * 3 + ["present", "present", "present", "absent", "present", "absent"]
"""Of the sets of `make_everything`."""


def make_everything(root: Path) -> DataConfig:
    make_davis(root / "DAVIS", 2017)
    make_coco(root / "coco")
    make_youtube_vos(root / "YouTubeVOS")
    make_imagenet_vid(root / "ILSVRC2015")
    make_mask_folder(root / "folder")
    make_box_folder(root / "videos")
    coco = {"images": "val2017", "annotations": "annotations/instances_val2017.json"}
    train = (
        TrainSetConfig("coco", ("coco",), **coco, min_area=50),
        TrainSetConfig("youtube_vos", ("YouTubeVOS",), weight=2.0),
        TrainSetConfig("imagenet_vid", ("ILSVRC2015",)),
        TrainSetConfig("mask_folder", ("nowhere", "folder"), min_area=1),
        TrainSetConfig("box_folder", ("videos",)),
        TrainSetConfig("davis", ("DAVIS-2017", "DAVIS"), year=2017),
        TrainSetConfig("davis", ("DAVIS-2016", "DAVIS"), year=2016),
    )
    only = {"split": "train", "sequences": ("camel",)}
    evaluation = (
        EvalSetConfig("davis2017", "davis", ("DAVIS",), year=2017, **only),
        EvalSetConfig("davis2016", "davis", ("DAVIS",)),
    )
    return DataConfig(root=str(root), train=train, evaluation=evaluation)


def test_open_train_sets_opens_what_is_there_and_tells_the_rest(tmp_path: Path) -> None:
    sets = open_train_sets(make_everything(tmp_path))
    assert [(config.kind, config.weight, len(tracks.tracks)) for tracks, config in sets.opened] == [
        ("coco", 1, 4), ("youtube_vos", 2, 2), ("imagenet_vid", 1, 2), ("mask_folder", 1, 3),
        ("box_folder", 1, 2), ("davis", 1, 4),
    ]  # fmt: skip
    assert len(sets.absent) == 1
    notice = sets.absent[0][0]
    assert "davis2016/code.html" in notice
    assert str(tmp_path / "DAVIS" / "ImageSets" / "2016" / "train.txt") in notice


def test_a_video_that_a_benchmark_scores_is_not_trained_on(tmp_path: Path) -> None:
    data, lists = make_everything(tmp_path), tmp_path / "DAVIS" / "ImageSets" / "2017"
    shutil.copy(lists / "train.txt", lists / "val.txt")
    scored = dataclasses.replace(data.evaluation[0], split="val")
    data = dataclasses.replace(data, train=data.train[5:6], evaluation=(scored,))
    with pytest.raises(InputError, match=r"\(DAVIS-2017\) has camel, which is scored in davis2017"):
        open_train_sets(data)
    held_out = dataclasses.replace(data.train[0], hold_out=("camel",))
    open_train_sets(dataclasses.replace(data, train=(held_out,)))

    shutil.copytree(tmp_path / "DAVIS", tmp_path / "other")
    write_image(tmp_path / "other/JPEGImages/480p/camel/00000.jpg", (50, 64))
    of_that_name = dataclasses.replace(scored, path=("other",))
    open_train_sets(dataclasses.replace(data, evaluation=(of_that_name,)))


def test_open_evaluation_opens_or_says_where_to_get_it(tmp_path: Path) -> None:
    data = make_everything(tmp_path)
    assert [sequence.name for sequence in open_evaluation(data, "davis2017")] == ["camel"]
    absent = r"benchmark davis2016 is absent.*davischallenge\.org.*put it in"
    for name, reason in (("davis2016", absent), ("davis", "there are: davis2017, davis2016")):
        with pytest.raises(InputError, match=reason):
            open_evaluation(data, name)


def test_verify_counts_every_set(tmp_path: Path) -> None:
    data = make_everything(tmp_path)
    (tmp_path / "YouTubeVOS" / "train" / "meta.json").write_text("{")
    table = verify(data)
    assert list(table["state"]) == STATES
    assert list(table["tracks"]) == [4, 0, 2, 3, 2, 4, 0, 2, 0]
    assert list(table["images"]) == [2, 0, 2, 3, 7, 6, 0, 3, 0]
    assert list(table["with_masks"]) == [4, 0, 0, 3, 0, 4, 0, 2, 0]
    assert table["left_out"][0].count(": 1") == 4
    assert "missing: 000000000003.jpg" in table["left_out"][0]
    assert "damaged" in table["left_out"][1]
    assert table["remedy"].str.contains("http|docs/data.md").all()


def test_prepare_opens_frames_and_names_those_that_cannot_be_used(tmp_path: Path) -> None:
    data = make_everything(tmp_path)
    assert list(verify(data, prepare=True)["state"]) == STATES
    for spoilt in ("coco/val2017/000000000002.jpg", "DAVIS/JPEGImages/480p/camel/00001.jpg"):
        path = tmp_path / spoilt
        path.write_bytes(path.read_bytes()[:-100])
    write_mask(tmp_path / "folder" / "masks" / "c.png", rectangle(1, 1, 9, 9, size=(20, 20)))
    assert list(verify(data)["state"]) == STATES
    table = verify(data, prepare=True)
    assert [n for n in range(9) if table["state"][n] != STATES[n]] == [3, 5, 7]
    assert "2 of 4 frames that were opened cannot be used, the first: image" in table["left_out"][0]
    assert "mask of" in table["left_out"][3]
    assert "1 of 3 frames" in table["left_out"][7]


def test_prepare_counts_objects_that_are_too_small(tmp_path: Path) -> None:
    make_mask_folder(tmp_path / "mine")
    counted = "show less of their object than min_area, the first: "
    for min_area, tracks in ((1, 3), (500, 3), (9000, 0)):
        config = TrainSetConfig("mask_folder", ("mine",), min_area=min_area)
        table = verify(DataConfig(root=str(tmp_path), train=(config,)), prepare=True)
        assert table["tracks"].tolist() == [tracks]
        assert (counted in table["left_out"][0]) == (min_area > 1)


@pytest.mark.parametrize(
    "read", [open_train_sets, verify, lambda data: open_evaluation(data, "davis2017")]
)
def test_a_missing_data_root_says_how_to_give_one(
    tmp_path: Path, read: Callable[[DataConfig], object]
) -> None:
    data = make_everything(tmp_path)
    for root in ("", str(tmp_path / "elsewhere")):
        with pytest.raises(InputError, match=r"--data DIR or.*E3SN_DATA"):
            read(dataclasses.replace(data, root=root))


def test_no_set_at_all_is_an_error(tmp_path: Path) -> None:
    data = make_everything(tmp_path / "full")
    with pytest.raises(InputError, match=r"no training data: .*coco.*youtube_vos.*davis"):
        open_train_sets(dataclasses.replace(data, root=str(tmp_path)))
    nothing_large = dataclasses.replace(data.train[0], min_area=1e6)
    with pytest.raises(InputError, match=r"has no usable object: .*smaller than 1e\+06 px"):
        open_train_sets(dataclasses.replace(data, train=(nothing_large,)))


def test_sets_without_masks_alone_are_an_error(tmp_path: Path) -> None:
    make_box_folder(tmp_path / "videos")
    data = DataConfig(root=str(tmp_path), train=(TrainSetConfig("box_folder", ("videos",)),))
    with pytest.raises(InputError, match="no training set has masks, which a network needs"):
        open_train_sets(data)


def test_the_long_profile_opens_the_shared_sets(shared_path: SharedPath) -> None:
    data = load_profile("long", data_root=shared_path("data")).data
    sets = open_train_sets(data)
    assert [tracks.name for tracks, _ in sets.opened] == ["coco", "saliency_duts", "saliency_ecssd"]
    absent = [config.path[0] for _, config in sets.absent]
    assert absent == ["PennFudanPed", "oxford_pets", "box_videos", "DAVIS"]
    assert len(open_evaluation(data, "davis2016")) == 4
    with pytest.raises(InputError, match="benchmark davis2017 is absent"):
        open_evaluation(data, "davis2017")
