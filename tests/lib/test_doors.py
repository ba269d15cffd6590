"""Whatever a file holds, the answer is its content or one line: weights, checkpoints, annotations, exports, videos."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import BUDGETS, answer, damaged, places, repeated, replaced, trees
from hypothesis import strategies as st
from safetensors.torch import save

from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.data.coco import coco_tracks
from e3sn_lib.data.davis import read_list
from e3sn_lib.data.imagenet_vid import imagenet_vid_tracks
from e3sn_lib.data.youtube_vos import youtube_vos_tracks
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_mask
from e3sn_lib.model.network import E3SN
from e3sn_lib.model.weights import load_model, read_safetensors
from e3sn_lib.tracking.backends import load_export
from e3sn_lib.tracking.export import export_model
from e3sn_lib.tracking.video import read_frames
from e3sn_lib.training.state import CHECKPOINT, read_checkpoint, write_checkpoint

BOXES = "<annotation><size><width>64</width></size><object><trackid>0</trackid><bndbox><xmax>30</xmax><xmin>3</xmin><ymax>40</ymax><ymin>4</ymin></bndbox></object></annotation>"
META = {
    "videos": {"v": {"objects": {"1": {"category": "a", "frames": ["00000", "00005"]}}}},
}
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": 48, "width": 64}],
    "annotations": [
        {
            "id": 7,
            "image_id": 1,
            "category_id": 3,
            "iscrowd": 0,
            "area": 400.0,
            "bbox": [5, 6, 20, 20],
            "segmentation": [[5, 6, 25, 6, 25, 26, 5, 26]],
        }
    ],
    "categories": [{"id": 3, "name": "a"}],
}


def keys_of(tree: Any) -> list[str]:
    return sorted({part for place in places(tree) for part in place if isinstance(part, str)})


def changed(tree: Any) -> st.SearchStrategy[Any]:
    """The tree with any value in any place."""
    return st.builds(
        lambda place, value: replaced(tree, place, value),
        st.sampled_from([(), *places(tree)]),
        trees(keys_of(tree)),
    )


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


@pytest.mark.parametrize("examples", BUDGETS)
def test_weights(examples: int, tmp_path: Path, tiny_model_file: Path) -> None:
    content = tiny_model_file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    path = tmp_path / "m.safetensors"

    @repeated(examples, head=damaged(content[:end]), whole=st.booleans())
    def check(head: bytes, whole: bool) -> None:
        path.write_bytes(head + content[end:] if whole else head)
        answer(lambda: read_safetensors(path))
        found = answer(lambda: load_model(path, "cpu"))
        assert found is None or all(
            value.isfinite().all() for value in found[0].state_dict().values()
        )

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_settings_within_weights(
    examples: int, tmp_path: Path, tiny_model: E3SN, tiny_profile: Callable[..., Profile]
) -> None:
    """A file of few bytes may order a network of any size; it is refused before memory is taken."""
    path, tree = tmp_path / "m.safetensors", tiny_profile().to_dict()
    model = {"model": tree["model"]}

    @repeated(
        examples,
        settings=changed(tree)
        | changed(model).map(lambda part: {**tree, **part} if isinstance(part, dict) else part),
    )
    def check(settings: Any) -> None:
        metadata = {"format": "e3sn", "profile": json.dumps(settings)}
        path.write_bytes(save({"a": torch.zeros(1)}, metadata))
        assert answer(lambda: load_model(path, "cpu")) is None

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_checkpoints(examples: int, tmp_path: Path, tiny_profile: Callable[..., Profile]) -> None:
    """Each part has a checksum: a changed byte that matters is found."""
    profile, weights = tiny_profile(), torch.arange(32.0)
    written = {"profile": profile.to_dict(), "state": {"seconds": 1.5, "rows": [{"loss": 0.25}]}}
    write_checkpoint(tmp_path, written | {"model": {"a": weights}})
    content = (tmp_path / CHECKPOINT).read_bytes()

    @repeated(examples, content=damaged(content))
    def check(content: bytes) -> None:
        (tmp_path / CHECKPOINT).write_bytes(content)
        found = answer(lambda: read_checkpoint(tmp_path, profile))
        if found is not None:
            assert torch.equal(found["model"]["a"], weights)
            assert found["state"] == written["state"]

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_coco(examples: int, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    path = tmp_path / "instances.json"
    config = TrainSetConfig("coco", ("set",), images=".", annotations=path.name, min_area=0)

    @repeated(examples, content=changed(COCO).map(as_json) | damaged(as_json(COCO)))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        found = answer(lambda: coco_tracks(tmp_path, config))
        for track in found.tracks if found else []:
            frame = track.frames[0]
            assert all(map(math.isfinite, frame.box_frame_xyxy or ()))
            assert frame.mask is None or answer(frame.mask.read).any()

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_boxes_of_imagenet_vid(examples: int, tmp_path: Path) -> None:
    annotations, data = (
        tmp_path / part / "VID" / "train" / "v" for part in ("Annotations", "Data")
    )
    annotations.mkdir(parents=True)
    data.mkdir(parents=True)
    (data / "000000.JPEG").touch()

    @repeated(examples, content=damaged(BOXES.encode()) | st.binary())
    def check(content: bytes) -> None:
        (annotations / "000000.xml").write_bytes(content)
        answer(lambda: imagenet_vid_tracks(tmp_path))

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_objects_of_youtube_vos(examples: int, tmp_path: Path) -> None:
    for kind, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
        (tmp_path / "train" / kind / "v").mkdir(parents=True)
        for name in ("00000", "00005"):
            mask = np.zeros((8, 9), np.uint8)
            mask[2:5, 2:6] = 1
            write_mask((tmp_path / "train" / kind / "v" / name).with_suffix(suffix), mask)

    @repeated(examples, content=changed(META).map(as_json) | damaged(as_json(META)))
    def check(content: bytes) -> None:
        (tmp_path / "train" / "meta.json").write_bytes(content)
        found = answer(lambda: youtube_vos_tracks(tmp_path))
        for frame in (frame for track in (found.tracks if found else []) for frame in track.frames):
            assert tmp_path in Path(frame.image).resolve().parents

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_lists_of_names(examples: int, tmp_path: Path) -> None:
    @repeated(examples, content=st.binary() | st.text().map(str.encode))
    def check(content: bytes) -> None:
        (tmp_path / "val.txt").write_bytes(content)
        answer(lambda: read_list(tmp_path / "val.txt"))

    check()


@pytest.fixture(scope="module")
def exported(
    tiny_model: E3SN, tiny_profile: Callable[..., Profile], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("export") / "fp32"
    export_model(tiny_model, tiny_profile(), folder)
    return folder


@pytest.mark.parametrize("examples", [8, pytest.param(1000, marks=pytest.mark.slow)])
def test_exports(examples: int, tmp_path: Path, exported: Path) -> None:
    """Whatever the manifest says, the folder loads and tracks, or is refused."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    manifest = json.loads((exported / "export.json").read_text())
    frame = np.zeros((40, 50, 3), np.uint8)

    @repeated(examples, content=changed(manifest).map(as_json) | damaged(as_json(manifest)))
    def check(content: bytes) -> None:
        from e3sn_lib.tracking.tracker import Tracker

        (tmp_path / "export.json").write_bytes(content)
        backend = answer(lambda: load_export(tmp_path, threads=1))
        if backend is not None:
            result = answer(lambda: next(Tracker(backend).run([frame], [[5, 6, 20, 20]])))
            assert result is None or np.isfinite(result.boxes_frame_xyxy).all()

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_videos(examples: int, tmp_path: Path) -> None:
    content = (Path(__file__).resolve().parents[2] / "examples" / "cockatoo.mp4").read_bytes()
    path = tmp_path / "clip.mp4"

    def shapes() -> set[tuple[int, ...]]:
        return {frame.shape for frame, _ in zip(read_frames(path), range(8), strict=False)}

    @repeated(examples, content=damaged(content, 4000) | damaged(content) | st.binary(max_size=99))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        answer(shapes)

    check()


def test_metadata_of_a_video_may_be_in_no_encoding(tmp_path: Path) -> None:
    content = (Path(__file__).resolve().parents[2] / "examples" / "cockatoo.mp4").read_bytes()
    assert content.count(b"Lavf") == 1
    path = tmp_path / "clip.mp4"
    path.write_bytes(content.replace(b"Lavf", b"\x80avf"))
    assert next(read_frames(path)).shape == (360, 640, 3)


def test_an_error_is_one_line_whatever_it_names() -> None:
    assert str(InputError("no file a\nb\x1b[2J\udcff ü")) == r"no file a\nb\x1b[2J\xff ü"
