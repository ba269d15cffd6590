"""Indices of data sets: as good as parsing, made anew whenever in doubt, and nobody's business but the cache folder's."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_readers import make_coco, make_imagenet_vid, make_youtube_vos, open_coco

from e3sn_lib.data import imagenet_vid, index, youtube_vos
from e3sn_lib.data.index import cache_folder
from e3sn_lib.data.types import Findings, TrackSet
from e3sn_lib.errors import InputError

Open = Callable[[], TrackSet]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(params=["coco", "youtube_vos", "imagenet_vid"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened(kind: str, tmp_path: Path) -> Open:
    """Opens a set in its official layout below ``data``."""
    root = tmp_path / "data"
    if kind == "coco":
        images, annotations = make_coco(root)
        return lambda: open_coco(images, annotations, 50)
    if kind == "youtube_vos":
        make_youtube_vos(root)
        return lambda: youtube_vos.youtube_vos_tracks(root, min_area=150)
    make_imagenet_vid(root)
    return lambda: imagenet_vid.imagenet_vid_tracks(root)


def contents(tracks: TrackSet) -> tuple[object, ...]:
    return tracks.name, list(tracks.tracks), tracks.left_out, tracks.missing


def parsed_file(root: Path) -> Path:
    return sorted(path for path in root.rglob("*") if path.suffix in (".json", ".xml"))[0]


def test_a_set_opened_again_is_the_same_and_not_parsed(opened: Open, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("data/**"))
    first = contents(opened())
    path = parsed_file(tmp_path / "data")
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert contents(opened()) == first
    assert sorted(tmp_path.rglob("data/**")) == before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    with pytest.raises(InputError, match=path.name):
        opened()


def test_another_frame_on_the_disk_is_seen(opened: Open, kind: str, tmp_path: Path) -> None:
    first = opened()
    assert sum(count for reason, count in first.left_out.items() if "not on disk" in reason)
    assert first.missing
    time.sleep(0.02)  # a folder's time is as coarse as the system's clock tick
    there = next((tmp_path / "data").rglob("*.JPEG" if kind == "imagenet_vid" else "*.jpg"))
    stem = {"coco": "000000000003", "youtube_vos": "00015", "imagenet_vid": "000003"}[kind]
    there.with_stem(stem).write_bytes(there.read_bytes())
    if kind == "youtube_vos":
        mask = next((tmp_path / "data").rglob("*.png"))
        mask.with_name("00015.png").write_bytes(mask.read_bytes())
    second = opened()
    assert second.left_out.total() < first.left_out.total()
    counts = [sum(len(track.frames) for track in each.tracks) for each in (first, second)]
    assert counts[1] == counts[0] + 1


def test_settings_have_indices_of_their_own(tmp_path: Path) -> None:
    images, annotations = make_coco(tmp_path / "data")
    for least, count in ((0, 5), (50, 4), (100, 2), (0, 5), (50, 4)):
        assert len(open_coco(images, annotations, least).tracks) == count
    root = make_youtube_vos(tmp_path / "videos")
    for least, shown in ((0, True), (150, False), (0, True)):
        frame = youtube_vos.youtube_vos_tracks(root, min_area=least).tracks[1].frames[0]
        mask = frame.read()[1]
        assert mask is not None
        assert mask.any() == shown


def is_parsed(root: Path, *sources: Path) -> bool:
    """Whether a set of these files is parsed when it is opened."""
    parsed: list[Findings] = []

    def parse(findings: Findings) -> Iterator[object]:
        parsed.append(findings)
        yield ["a", "", []]

    index.indexed_tracks("made", (), sources, parse, partial(index.track_of_boxes, root))
    return bool(parsed)


def test_an_index_of_another_version_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, expected in ((7, True), (7, False), (8, True), (8, False)):
        monkeypatch.setattr(index, "VERSION", version)
        assert is_parsed(tmp_path) == expected


def test_a_changed_size_is_seen_whatever_the_time(tmp_path: Path) -> None:
    """As where an archive or a copy brings its own times."""
    source = tmp_path / "list.txt"
    for text, expected in (("one", True), ("one", False), ("three", True)):
        source.write_text(text)
        os.utime(source, ns=(10**18, 10**18))
        assert is_parsed(tmp_path, source) == expected


def test_a_damaged_index_is_made_anew(opened: Open, cache: Path) -> None:
    first = contents(opened())
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:cut])
        assert contents(opened()) == first
    for place in range(0, len(whole), max(len(whole) // 150, 1)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert contents(opened()) == first
    assert list(cache.iterdir()) == [path]


class Trap:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_foreign_file_is_replaced_and_never_unpickled(
    opened: Open, cache: Path, tmp_path: Path
) -> None:
    first = contents(opened())
    (path,) = cache.iterdir()
    own = path.read_bytes()
    trap = Trap(tmp_path / "sprung")

    def write_array(content: object) -> None:
        with path.open("wb") as file:
            np.save(file, np.array(content, dtype=object if isinstance(content, list) else None))

    for foreign in (
        lambda: path.write_text("no archive"),
        lambda: path.write_bytes(pickle.dumps(trap)),
        lambda: write_array([trap]),
        lambda: write_array(3.0),
        lambda: np.savez(path, header=np.array([trap], dtype=object)),
        lambda: np.savez(path, header=np.frombuffer(b"[1, 2]", np.uint8)),
        lambda: np.savez(path, other=np.zeros(3)),
    ):
        foreign()
        assert path.read_bytes() != own
        assert contents(opened()) == first
        assert path.stat().st_size == len(own)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("is_file", [True, False])
def test_without_a_place_to_keep_it_a_set_opens_all_the_same(
    opened: Open,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_file: bool,
) -> None:
    if is_file:
        cache.write_text("a file where the folder should be")
    else:
        cache = cache.with_name("n" * 300)  # as a folder that may not be entered, for root too
        monkeypatch.setattr(index, "cache_folder", lambda: cache)
    first = contents(opened())
    assert contents(opened()) == first
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("note: no index of ")
    assert str(cache) in lines[0]


def test_what_cannot_be_read_leaves_no_index(opened: Open, cache: Path, tmp_path: Path) -> None:
    parsed_file(tmp_path / "data").write_text("<")
    with pytest.raises(InputError):
        opened()
    assert not cache.exists()


def test_tracks_can_be_sliced_and_sent_to_another_process(opened: Open) -> None:
    tracks = opened().tracks
    everything = list(tracks)
    assert tracks[-1] == everything[-1]
    assert tracks[::2] == tuple(everything[::2])
    assert tracks[np.int64(1)] == everything[1]
    with pytest.raises(IndexError):
        tracks[len(tracks)]
    assert list(pickle.loads(pickle.dumps(tracks))) == everything


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("/caches", "/caches/e3sn"),
        ("", "/home/me/.cache/e3sn"),
        ("relative", "/home/me/.cache/e3sn"),
    ],
)
def test_indices_are_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert str(cache_folder()) == expected
