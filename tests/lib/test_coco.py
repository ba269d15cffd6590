"""Annotations of COCO that cannot be used are left out, counted and named; nothing else suffers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as run_lengths
from test_readers import COMPRESSED, RUNS, SQUARE, open_coco, write_image

from e3sn_lib.config import DataConfig, TrainSetConfig
from e3sn_lib.data import coco
from e3sn_lib.data.sources import open_train_sets, verify
from e3sn_lib.data.types import Findings
from e3sn_lib.geometry import box_from_mask

SharedPath = Callable[[str], Path]
ANNOTATION = "(the first: annotation 7"
BROKEN = [
    ({"segmentation": RUNS | {"counts": [485, 10_000_000]}},
     f"with damaged run lengths {ANNOTATION} of 10,000,485 pixels in 64x48)"),
    ({"segmentation": RUNS | {"counts": COMPRESSED[:-1]}},
     f"with damaged run lengths {ANNOTATION} of no known form)"),
    ({"segmentation": RUNS | {"counts": "~~~~"}},
     f"with damaged run lengths {ANNOTATION} of no known form)"),
    ({"segmentation": RUNS | {"size": [64, 48]}},
     f"with run lengths of another size than the image {ANNOTATION} of 48x64 in 64x48)"),
    ({"segmentation": None}, f"without segmentation {ANNOTATION})"),
    ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, f"far outside the image {ANNOTATION} in 64x48)"),
    ({"segmentation": [[0, 0, 60, 0, 60, 40]] * 6000},
     f"damaged annotation {ANNOTATION}, ValueError polygons of 36000 numbers, 1,200,000 pixels"),
    ({"segmentation": [[float("nan"), 0, 1, 0, 1, 1]]},
     f"damaged annotation {ANNOTATION}, ValueError 'nan' is no"),
    ({"bbox": ["1", 2, 3, 4]}, f"damaged annotation {ANNOTATION}, ValueError '1' is no"),
    ({"bbox": [float("inf"), 2, 3, 4]}, f"damaged annotation {ANNOTATION}, ValueError 'inf' is no"),
    ({"bbox": ...}, f"damaged annotation {ANNOTATION}, KeyError 'bbox')"),
    ({"bbox": [30, 20, 20, 20]},
     f"whose box is not that of its mask {ANNOTATION} whose mask has the box 10, 10, 20, 10)"),
    ({"id": ...}, "damaged annotation (the first: annotation None, KeyError 'id')"),
    ({"area": ...}, f"damaged annotation {ANNOTATION}, KeyError 'area')"),
    ({"area": "many"}, f"damaged annotation {ANNOTATION}, ValueError 'many' is no"),
    ({"file_name": "../2.jpg"}, f"of an image outside the folder of images {ANNOTATION} in ../2.jpg)"),
    ({"file_name": "/etc/2.jpg"}, f"of an image outside the folder of images {ANNOTATION} in /etc/2.jpg)"),
    ({"width": 100_000, "height": 100_000},
     f"of an image of impossible size {ANNOTATION} in 2.jpg, 100000x100000)"),
    ({"segmentation": [RUNS]}, f"damaged annotation {ANNOTATION}, ValueError its segmentation is no"),
    ({"height": 48.5}, f"of an image of impossible size {ANNOTATION} in 2.jpg, 64x48.5)"),
    ({"height": None}, f"of an image of impossible size {ANNOTATION} in 2.jpg, 64xNone)"),
]  # fmt: skip
"""Changes of an annotation or of its image, and why it is then left out."""


OF_IMAGE = ("file_name", "height", "width")


def write_coco(root: Path, *changes: dict[str, object]) -> tuple[Path, Path]:
    """A whole annotation 1 of image 1, and an annotation from 7 on of an image from 2 on for each set of changes."""
    entries = [{"id": 1, "file_name": "1.jpg", "height": 48, "width": 64}]
    annotations: list[dict[str, object]] = [SQUARE | {"id": 1, "image_id": 1}]
    for number, change in enumerate(changes, start=2):
        entry = {"id": number, "file_name": f"{number}.jpg", "height": 48, "width": 64}
        entries.append(entry | {key: value for key, value in change.items() if key in OF_IMAGE})
        whole = (
            SQUARE
            | {"id": number + 5, "image_id": number}
            | {key: value for key, value in change.items() if key not in OF_IMAGE}
        )
        annotations.append({key: value for key, value in whole.items() if value is not ...})
    for number in range(1, len(changes) + 2):
        write_image(root / "images" / f"{number}.jpg")
    (root / "a.json").write_text(json.dumps({"images": entries, "annotations": annotations}))
    return root / "images", root / "a.json"


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_an_annotation_that_cannot_be_used_is_left_out_alone(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    tracks = open_coco(*write_coco(tmp_path, change, change))
    assert [track.name for track in tracks.tracks] == ["1/1"]
    assert list(tracks.left_out.values()) == [2]
    kind, _, first = reason.partition(" (")
    assert tracks.reasons().startswith(f"{kind}: 2 ({first}")
    config = TrainSetConfig(
        "coco", (tmp_path.name,), images="images", annotations="a.json", min_area=0
    )
    (row,) = verify(DataConfig(root=str(tmp_path.parent), train=(config,))).itertuples()
    assert (row.state, row.tracks) == ("partial", 1)
    assert row.left_out == tracks.reasons()


def test_coco_as_tools_on_windows_write_it(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, {"file_name": "below\\2.jpg", "width": 64.0})
    write_image(images / "below" / "2.jpg")
    tracks = open_coco(images, annotations)
    assert [track.frames[0].image for track in tracks.tracks][1] == images / "below" / "2.jpg"
    assert tracks.tracks[1].frames[0].read()[1].shape == (48, 64)


def test_coco_images_may_lie_in_folders_below(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path)
    write_image(images / "train" / "deep" / "2.jpg")
    content = json.loads(annotations.read_text())
    content["images"].append({"id": 2, "file_name": "train/deep/2.jpg", "height": 48, "width": 64})
    content["annotations"].append(SQUARE | {"id": 2, "image_id": 2})
    annotations.write_text(json.dumps(content))
    assert [track.frames[0].read()[0].shape for track in open_coco(images, annotations).tracks] == [
        (48, 64, 3)
    ] * 2
    (images / "train" / "deep" / "2.jpg").unlink()
    assert open_coco(images, annotations).missing == ["train/deep/2.jpg"]


def test_an_image_that_comes_later_behind_a_link_is_found(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, {"file_name": "linked/2.jpg"})
    (tmp_path / "disk").mkdir()
    (images / "linked").symlink_to(tmp_path / "disk")
    assert len(open_coco(images, annotations).tracks) == 1
    write_image(tmp_path / "disk" / "2.jpg")
    assert len(open_coco(images, annotations).tracks) == 2


def test_links_in_circles_are_not_followed(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path)
    for name, place in (("here", "."), ("there", "."), ("up", ".."), ("above", "..")):
        (images / name).symlink_to(place)
    assert len(open_coco(images, annotations).tracks) == 1


def test_a_share_of_the_images_is_held_out_whole(shared_path: SharedPath) -> None:
    root = shared_path("data/coco_mini")
    files = root / "images", root / "annotations" / "instances_mini.json"
    everything, trained = open_coco(*files), open_coco(*files, hold_out=0.15)
    images = [{each.frames[0].image for each in found.tracks} for found in (everything, trained)]
    assert len(images[1]) / len(images[0]) == pytest.approx(0.85, abs=0.03)
    kept = [track for track in everything.tracks if track.frames[0].image in images[1]]
    assert list(trained.tracks) == kept
    assert trained.left_out["held out"] == len(everything.tracks) - len(kept)


def test_held_out_images_are_chosen_by_the_hash_of_their_name(tmp_path: Path) -> None:
    """Its first 32 bits as a share. The second time both sets come from indices of their own."""
    write_coco(tmp_path, *[{}] * 39)
    names = {f"{number}.jpg" for number in range(1, 41)}
    config = TrainSetConfig("coco", ("set",), annotations="a.json", min_area=0, hold_out_share=0.3)
    bits = {name: hashlib.sha256(name.encode()).digest()[:4] for name in names}
    away = {name for name in names if int.from_bytes(bits[name], "big") / 2**32 < 0.3}
    assert 5 < len(away) < 20
    for _ in range(2):
        for held_out, expected in ((False, names - away), (True, away)):
            tracks = coco.coco_tracks(tmp_path, config, held_out=held_out).tracks
            assert {track.frames[0].image.name for track in tracks} == expected


@settings(max_examples=200)
@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 12))
def test_run_lengths_are_those_of_pycocotools(pixels: list[bool], width: int) -> None:
    pixels = pixels * width
    mask = np.array(pixels, np.uint8).reshape(-1, width)
    text = run_lengths.encode(np.asfortranarray(mask))["counts"]
    ends = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0)).tolist()
    assert coco._decompressed(text) == np.diff([0, *ends, mask.size]).tolist()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = ("id", "image_id", "category_id", "area", "iscrowd", *OF_IMAGE)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_annotation_gives_a_mask_or_is_left_out(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever one annotation holds, the other is read, and so is every mask that is not left out."""
    numbers = st.integers(-70, 130) | st.floats(-1e12, 1e12) | anything
    polygons = st.lists(st.lists(numbers, max_size=12), max_size=3)
    runs = st.lists(st.integers(0, 4000), max_size=6) | st.text(
        st.characters(min_codepoint=40, max_codepoint=115), max_size=9
    )
    packed = st.fixed_dictionaries(
        {"counts": runs | anything, "size": st.just([48, 64]) | anything}
    )
    values: dict[str, st.SearchStrategy[object]] = dict.fromkeys(KEYS, anything)
    values |= {
        "segmentation": polygons | packed | anything,
        "bbox": st.lists(numbers, min_size=4, max_size=4),
    }
    change = data.draw(st.fixed_dictionaries({}, optional=values))
    images, _ = write_coco(tmp_path, change)
    config = TrainSetConfig("coco", ("set",), annotations="a.json", min_area=0)
    findings = Findings()
    records = [
        json.loads(json.dumps(each)) for each in coco._parse(tmp_path, config, False, findings)
    ]
    masks = [coco._track(images, each).frames[0].mask for each in records]
    is_of_first = change.get("image_id") == 1  # whose size is not changed
    changed = (change.get("height", 48), change.get("width", 64))
    sizes = [(48, 64), (48, 64) if is_of_first else changed]
    assert [mask.read().shape for mask in masks if mask] == sizes[: len(records)]
    assert len(records) + findings.left_out.total() == 2
    assert records[0][:2] == ["1.jpg", 1]


@pytest.mark.parametrize(
    ("name", "objects", "reason"),
    [
        (
            "coco_rle_broken",
            0,
            "with damaged run lengths: 1 (the first: annotation 1 of 10,000,100 pixels in 96x64)",
        ),
        (
            "coco_rle_of_another_size",
            0,
            "with run lengths of another size than the image: 1 (the first: annotation 1 of 64x48 in 96x64)",
        ),
        ("coco_one_without_mask", 1, "without segmentation: 1 (the first: annotation 2)"),
        ("coco_folder_in_file_name", 1, ""),
        ("coco_exif_orientation", 1, ""),
    ],
)
def test_cases(shared_path: SharedPath, name: str, objects: int, reason: str) -> None:
    root = shared_path(f"cases/{name}")
    config = TrainSetConfig("coco", ("set",), annotations="a.json", min_area=0)
    for look in (verify, partial(verify, prepare=True)):
        (row,) = look(DataConfig(root=str(root), train=(config,))).itertuples()
        assert (row.state, row.tracks) == ("partial" if reason else "present", objects)
        assert row.left_out.endswith(reason)
    if objects:
        ((tracks, _),) = open_train_sets(DataConfig(root=str(root), train=(config,))).opened
        image, mask = tracks.tracks[0].frames[0].read()
        assert mask is not None
        assert box_from_mask(mask) == (10, 10, 60, 50)
        assert np.array_equal(image, np.asarray(Image.open(tracks.tracks[0].frames[0].image)))
