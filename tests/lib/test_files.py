"""The doors in: images, masks and texts are read whole and by their content, or refused in one line."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from e3sn_lib import files
from e3sn_lib.data.davis import read_list
from e3sn_lib.errors import InputError
from e3sn_lib.files import (
    file_names,
    files_by_stem,
    read_image,
    read_json,
    read_mask,
    read_text,
    temporary_path,
    write_mask,
)
from e3sn_lib.tracking.video import open_video

SharedPath = Callable[[str], Path]
PHOTO = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), (0, 0), 2
)
READERS = (read_image, read_mask, read_list, read_json)


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".jpg", ".tif"])
@pytest.mark.parametrize("called", [".jpg", ".png"])
def test_the_content_decides_not_the_suffix(tmp_path: Path, suffix: str, called: str) -> None:
    path = tmp_path / f"a{called}"
    path.write_bytes(cv2.imencode(suffix, PHOTO[..., ::-1])[1].tobytes())
    seen = np.asarray(Image.open(path).convert("RGB"))
    assert np.abs(read_image(path).astype(int) - seen).max() <= (
        1 if suffix in (".jpg", ".webp") else 0
    )
    if suffix not in (".jpg", ".webp"):
        assert np.array_equal(read_image(path), PHOTO)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_noted_rotation_turns_no_pixels(tmp_path: Path, suffix: str) -> None:
    """Masks and boxes refer to the pixels as stored."""
    pixels, exif, path = np.zeros((20, 30, 3), np.uint8), Image.Exif(), tmp_path / f"a.{suffix}"
    pixels[:10, :10] = 255
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(path, exif=exif)
    assert np.array_equal(read_image(path) > 127, pixels > 127)


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_opened(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        assert "a folder, a pipe or a device" in refusal(read, path)
    assert "No such file" in refusal(read, tmp_path / "absent.png")


def test_what_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(files.LARGEST_FILE + 1)  # a hole, which takes no room on the disk
    for read in (read_image, read_mask):
        assert "268,435,457 bytes; at most 268,435,456 are read" in refusal(read, path)
    Image.fromarray(PHOTO).save(path)
    monkeypatch.setattr(files, "MOST_PIXELS", 48 * 64 - 1)
    assert "too large; at most 3,071 pixels" in refusal(read_image, path)


def test_a_changed_bit_in_the_pixels_of_a_png_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_mask(path, np.tile(np.arange(40, dtype=np.uint8) % 3, (30, 1)))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 16
    path.write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match="damaged"):
            read(path)


def test_a_bomb_of_pixels_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 20_000)).save(path)
    for read in (read_image, read_mask):
        assert "too large" in refusal(read, path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_an_image_that_is_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    whole = cv2.imencode(suffix, PHOTO)[1].tobytes()
    for share in (0, 0.02, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert "copy or download it again" in refusal(read_image, path)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    suffix=st.sampled_from([".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".ppm"]),
)
def test_damaged_bytes_give_an_image_or_one_line(
    tmp_path: Path, data: st.DataObject, suffix: str
) -> None:
    content = bytearray(cv2.imencode(suffix, PHOTO)[1].tobytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, read_mask):
        reason = ""
        try:
            assert read(tmp_path / "a.jpg").dtype == np.uint8
        except InputError as error:
            reason = str(error)
        assert "\n" not in reason


def test_a_wrong_length_in_a_png_costs_no_memory(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(cv2.imencode(".png", PHOTO)[1].tobytes())
    content[content.index(b"IDAT") - 4] = 0x7F  # the chunk claims 2 GB
    (tmp_path / "a.png").write_bytes(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "damaged" in refusal(read_image, tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000  # kB
    assert capfd.readouterr().err == ""


def test_a_mask_may_have_black_anywhere_or_be_grey_in_three_colours(tmp_path: Path) -> None:
    """Programs that reduce a mask to two colours order them as they like."""
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:25] = 255
    for colours in (([0, 0, 0], [255, 255, 255]), ([255, 255, 255], [0, 0, 0])):
        indices = (mask > 0) == (colours[1][0] == 255)
        image = Image.fromarray(indices.astype(np.uint8), "P")
        image.putpalette([*colours[0], *colours[1]])
        image.save(tmp_path / "m.png")
        assert np.array_equal(read_mask(tmp_path / "m.png") > 0, mask > 0)
    Image.fromarray(mask, "L").convert("RGB").save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.save(tmp_path / "m.png")
    assert "black is not colour 0 of its palette" in refusal(read_mask, tmp_path / "m.png")


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    for name in ("b.png", "._b.png", ".c.jpg", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert file_names(tmp_path) == ["a.JPG", "b.png"]
    assert [*files_by_stem(tmp_path, (".png",))] == ["b"]
    for name in ("absent", "a.JPG", 300 * "long", "zero\0byte", "\ud800"):
        assert file_names(tmp_path / name) == []


def test_a_stack_of_pages_is_no_image(tmp_path: Path) -> None:
    page = Image.new("RGB", (64, 48))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    assert "has 3 pages; save each as an image of its own" in refusal(
        read_image, tmp_path / "a.tif"
    )
    assert "has 3 pages" in refusal(open_video, tmp_path / "a.tif")


def test_a_text_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfbear\r\ncamel\r\n")
    assert read_list(path) == ["bear", "camel"]
    path.write_text(" my bear \n\n/Images/camel/0.jpg /Masks/camel/0.png\nmy bear\n")
    assert read_list(path) == ["my bear", "camel"]
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(path) == {}
    path.write_bytes("bär".encode("latin-1"))
    assert "no text in UTF-8" in refusal(read_text, path)
    path.write_text("[" * 100_000)
    assert "damaged or no JSON" in refusal(read_json, path)


def test_a_text_is_written_in_utf_8_whatever_the_system_prefers(tmp_path: Path) -> None:
    code = f"import pathlib as p, e3sn_lib.files as f; f.write_text(p.Path({str(tmp_path / 'a')!r}), chr(0xd7))"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **plain}, check=True)
    assert read_text(tmp_path / "a") == "×"


def test_a_name_in_no_encoding_is_written_as_it_is(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    files.write_text(tmp_path / "a", name)
    assert (tmp_path / "a").read_bytes() == b"caf\xe9"
    files.write_csv(tmp_path / "b", pd.DataFrame({"name": [name]}))
    assert (tmp_path / "b").read_bytes() == b"name\ncaf\xe9\n"


def test_a_full_disk_is_told_of_the_file_that_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, files.atomic_path(tmp_path / "a.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.csv")
    with pytest.raises(OSError) as caught, files.atomic_path(tmp_path / "a.csv"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")
    with pytest.raises(OSError, match="No space left"), files.atomic_path(tmp_path / "a.mp4"):
        raise av.error.OSError(errno.ENOSPC, "No space left on device")  # its name cannot be set
    assert list(tmp_path.iterdir()) == []


def test_a_mask_that_cannot_be_written_whole_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "00000.png"
    write_mask(path, np.eye(8, dtype=np.uint8))

    def full(image: Image.Image, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_mask(path, np.ones((8, 8), np.uint8))
    assert np.array_equal(read_mask(path), np.eye(8))
    assert list(tmp_path.iterdir()) == [path]


def test_a_drive_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.nearest_existing(tmp_path / "a" / "b") == tmp_path
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    with pytest.raises(InputError, match="its drive is not there"):
        files.nearest_existing(tmp_path / "a")


@pytest.mark.parametrize("name", ["..", ".", "a/../x.jpg"])
def test_a_list_names_no_folder_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "val.txt").write_text(f"bear\n{name}\n")
    assert "which is no sequence" in refusal(read_list, tmp_path / "val.txt")


def test_cases_of_images(shared_path: SharedPath) -> None:
    cases = shared_path("cases")
    assert read_image(cases / "jpeg_with_trailer/frames/0.jpg").shape == (64, 96, 3)
    assert [read_image(cases / f"png_named_jpg/frames/{n}.jpg").shape for n in (0, 1)] == [
        (64, 96, 3)
    ] * 2
    assert read_image(cases / "damaged_jpeg/frames/0.jpg").shape == (120, 160, 3)
    assert "is damaged" in refusal(read_image, cases / "damaged_jpeg/frames/1.jpg")
    turned = cases / "coco_exif_orientation/set/images/1.jpg"
    assert np.array_equal(
        read_image(turned), np.asarray(Image.open(turned))
    )  # Pillow leaves pixels as stored


def test_cases_of_names(shared_path: SharedPath) -> None:
    cases = shared_path("cases")
    with pytest.raises(InputError, match=r"has 00000\.jpg and 00000\.png for one frame"):
        files_by_stem(cases / "two_suffixes_one_stem/frames")
    assert file_names(cases / "apple_double/frames") == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert read_list(cases / "list_with_bom/val.txt") == ["s"]


@pytest.mark.parametrize("name", ["results", "model.safetensors", "results.2024-11-29", "a. b"])
def test_what_a_killed_process_left_is_deleted(tmp_path: Path, name: str) -> None:
    code = "import sys, time; from pathlib import Path; from e3sn_lib.files import temporary_path\n"
    code += "with temporary_path(Path(sys.argv[1])) as work: work.mkdir(); print(1, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
    assert len(list(tmp_path.iterdir())) == 1
    with temporary_path(tmp_path / "next"):
        assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_writes_is_not_deleted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        theirs = tmp_path / f".masks.{files._MACHINE}-{other.pid}-0.tmp.png"
        theirs.write_bytes(b"half")
        files.write_text(tmp_path / "mine.txt", "text")
        assert theirs.read_bytes() == b"half"
        other.communicate(b"\n")
