"""Reading and writing files: images in RGB, masks as object ids, nothing ever half-written."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import platform
import re
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from e3sn_lib.errors import InputError, is_lack_of_memory

if TYPE_CHECKING:
    import pandas as pd

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `MOST_PIXELS` is stricter
_BITS = np.arange(256)[:, None, None] >> np.arange(24).reshape(8, 3) & 1
DAVIS_PALETTE = (_BITS << np.arange(7, -1, -1)[:, None]).sum(axis=1).ravel().tolist()
"""The 256 colours of DAVIS (and PASCAL VOC), RGB. Bits 0, 1, 2 of an id are the highest bits of R,
G, B; bits 3, 4, 5 are the next ones, and so on."""
JPEG = b"\xff\xd8"
"""The first bytes of a JPEG."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Kinds of image that are read; the content decides, not the suffix."""
LARGEST_FILE = 2**28
"""Bytes of the largest image, mask or list that is read."""
LARGEST_JSON = 2**32
"""Bytes; the annotations of LVIS have 1.1 GB."""
MOST_PIXELS = 2**26
"""Pixels of the largest image or mask that is read, 8192 x 8192."""

SHORT_STEM = 30
"""Characters of a file's name that its temporary name keeps; with all, it could be too long."""
_MACHINE = platform.node()
with suppress(OSError):  # in a container the same number may be of another process
    _MACHINE += f"-{os.stat('/proc/self/ns/pid').st_ino}"
_TEMPORARY = re.compile(rf"\..*\.{re.escape(_MACHINE)}-(\d{{1,9}})(-\d+)?\.tmp(\.[^.]+)?")
_numbers = itertools.count()
_cleared: set[Path] = set()
"""Folders in which this process has looked for what others left."""


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` for a temporary file or folder; delete it at the end.

    Also delete what killed processes of this machine left beside `path`. An OSError about what is
    written there names `path`.
    """
    import psutil  # imported here: --help need not wait for it

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _cleared:
        _cleared.add(path.parent)
        for each in path.parent.iterdir():
            found = _TEMPORARY.fullmatch(each.name)
            if found and not psutil.pid_exists(int(found[1])):
                with suppress(OSError):  # it may be another user's
                    _delete(each)
    unique = f"{_MACHINE}-{os.getpid()}-{next(_numbers)}"
    temporary = path.with_name(f".{path.stem[:SHORT_STEM]}.{unique}.tmp{path.suffix}")
    try:
        yield temporary
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            with suppress(AttributeError):  # PyAV's errors have a name that cannot be set
                error.filename = str(path)
        raise
    finally:
        _delete(temporary)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`, which is renamed to it on success and deleted on failure."""
    with temporary_path(path) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a file; raises InputError, with `busy` first, if another process has it."""
    from filelock import FileLock, Timeout  # of the extra `study`

    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"{busy}; wait for its end, or choose another folder") from error


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that is there. Raises InputError if there is
    none, as on a drive that is not connected."""
    for each in (path, *path.absolute().parents):
        if os.path.exists(each):
            return each
    raise InputError(f"{path} cannot be made: its drive is not there")


def check_writable(folder: Path) -> None:
    """Raise InputError if a folder cannot be made, or nothing can be written to it."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        problem = f"{nearest} is a file, so {folder} cannot be a folder"
        raise InputError(f"{problem}; give another")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{nearest} may not be changed; give another folder")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; raises OSError if the disk is full. Names of
    files that are in no encoding are written as they are."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8", errors="surrogateescape", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as `write_text`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index, six digits after the point, as `write_text`."""
    write_text(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


def as_webp(
    source: Path | BinaryIO, largest_width: int = 1600, quality: int = 86
) -> tuple[bytes, tuple[int, int]]:
    """Return an image as WebP on white, at most `largest_width` pixels wide; and its width and
    height in pixels."""
    with Image.open(source) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image.convert("RGBA"), mask=image.convert("RGBA").getchannel("A"))
    flat.thumbnail((largest_width, 10 * largest_width))
    encoded = io.BytesIO()
    flat.save(encoded, "WEBP", quality=quality, method=4)
    return encoded.getvalue(), flat.size


def file_names(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Return the names of a folder's files with one of these suffixes, in order; an absent folder
    has none. Raises InputError if the folder is there but cannot be listed.

    Names that begin with a dot are no data: macOS puts ``._NAME`` beside NAME on foreign disks.
    """
    if not os.path.isdir(folder):
        return []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise _not_listed(error) from error
    return [each for each in names if not each.startswith(".") and each.lower().endswith(suffixes)]


def files_by_stem(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Return the files of a folder by name without suffix, in order; an absent folder has none.
    Raises InputError if two files differ in their suffix alone."""
    found: dict[str, Path] = {}
    for path in (folder / name for name in file_names(folder, suffixes)):
        other = found.setdefault(path.stem, path)
        if other != path:
            raise InputError(f"{folder} has {other.name} and {path.name} for one frame; keep one")
    return found


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield `root` and every folder in it, in order, with the names of its files.

    Links to folders are followed. A link to a folder that contains it would never end, so there
    the search stops. An absent root has no folders; raises InputError if one cannot be listed.
    """
    real = functools.cache(os.path.realpath)
    for folder, subfolders, names in os.walk(root, onerror=_refuse, followlinks=True):
        if real(folder) in {real(str(each)) for each in Path(folder).parents}:
            subfolders.clear()
        else:
            subfolders.sort()
            yield Path(folder), sorted(names)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise _not_listed(error) from error


def _not_listed(error: OSError) -> InputError:
    return InputError(f"cannot list the files of {error.filename}: {error.strerror}")


def by_number(path: Path) -> str:
    """Return a key that sorts 2.jpg before 10.jpg, whatever their suffixes. Times of a clock have
    fractions: 1700000000.25 is before 1700000000.5."""
    stem = re.sub(
        r"(?<!\d)(\d{10}\.)(\d+)", lambda time: time[1] + time[2].ljust(20, "0"), path.stem
    )
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), stem)


def read_bytes(path: Path, what: str = "file", largest: int = LARGEST_FILE) -> bytes:
    """Return what a regular file holds; messages call it `what`, such as "image".

    Raises InputError if it is missing, unreadable, or larger than `largest` bytes. A pipe or a
    device is refused too, because reading it may never end.
    """
    try:
        status = path.stat()
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is a folder, a pipe or a device, no file")
        if size > largest:
            raise InputError(f"{what} {path} has {size:,} bytes; at most {largest:,} are read")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {what} {path}: {reason}") from error


def read_text(path: Path, what: str = "file") -> str:
    """Return the text of a file in UTF-8, without the byte order mark of Windows editors; raises
    InputError as `read_bytes`, or if it is no UTF-8."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {what} {path}: it is no text in UTF-8 ({error})") from error


def read_json(path: Path, what: str = "annotations") -> dict[str, Any]:
    """Return the object in a JSON file; raises InputError if it cannot be read or has no object."""
    try:
        content = json.loads(read_bytes(path, what, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise _damaged(what, path, f"damaged or no JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; copy or download it again")
    return content


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) RGB uint8, whatever its suffix says it is.

    Pixels are as stored: a rotation that the camera noted (EXIF) is ignored, since masks, boxes and
    annotations refer to the stored pixels. Raises InputError if the file cannot be read, is no
    image, too large, damaged or cut short.
    """
    import cv2  # imported here: without libGL it fails, and e.g. --help should still work

    encoded, image = _opened(path, "image")
    try:
        if image.format in ("JPEG", "MPO"):
            return simplejpeg.decode_jpeg(encoded, "RGB")  # strict, where OpenCV fills up with grey
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except (OSError, SyntaxError, ValueError, cv2.error) as error:
        if is_lack_of_memory(error):
            raise MemoryError(_one_line(error)) from error
        cut = "Premature end" in str(error)
        how = "cut short (no end-of-image marker)" if cut else f"damaged ({_one_line(error)})"
        raise _damaged("image", path, how) from error
    if pixels is None:
        raise _damaged("image", path, "cut short, damaged or of an unusual kind of pixels")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Return a mask as (H, W) uint8.

    It holds palette indices (DAVIS-2017, YouTube-VOS) or grey values (DAVIS-2016: 0 and 255), which
    may be stored as colours of three equal numbers (three masks of DUTS-TR). Raises InputError if
    the file cannot be read, is no image, too large or damaged, or its colours are no object ids.
    """
    _, image = _opened(path, "mask")
    try:
        # "L" makes 0 and 255 of black and white, and keeps the grey of LA (one mask of DAVIS-2016)
        ids = np.array(image.convert("L") if image.mode in ("1", "LA") else image)
    except Exception as error:  # on damaged bytes Pillow's decoders raise many kinds of error
        raise _damaged("mask", path, f"damaged ({_one_line(error)})") from error
    if image.mode == "RGB" and (ids == ids[..., :1]).all():
        return ids[..., 0]
    if image.mode.startswith("I"):  # 16 or 32 bits a pixel
        if not 0 <= ids.min(initial=0) <= ids.max(initial=0) <= 255:
            remedy = "save it as an 8-bit grey PNG"
            raise InputError(f"mask {path} has values up to {ids.max()}, not 255; {remedy}")
        return ids.astype(np.uint8)
    if image.mode not in ("P", "L", "1", "LA"):
        remedy = "save it as a grey PNG without alpha, or with a palette of object ids"
        raise InputError(f"mask {path} has colours ({image.mode}); {remedy}")
    return _with_black_as_0(ids, image, path) if image.mode == "P" else ids


def _with_black_as_0(ids: NDArray[np.uint8], image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Return ids with the background as 0, whatever the order of the palette's colours."""
    palette = image.getpalette() or []
    if not any(palette[:3]):
        return ids
    colours = np.reshape(palette, (-1, 3)).tolist()
    used = {number: colours[number] for number in np.unique(ids).tolist() if number < len(colours)}
    if [0, 0, 0] not in used.values():
        return ids
    if any(colour not in ([0, 0, 0], [255, 255, 255]) for colour in used.values()):
        fault = "black is not colour 0 of its palette"
        raise InputError(f"mask {path}: {fault}; save object ids as grey")
    white = [number for number, colour in used.items() if colour == [255, 255, 255]]
    return np.where(np.isin(ids, white), 255, 0).astype(np.uint8)


def _opened(path: Path, what: str) -> tuple[bytes, Image.Image]:
    """Return a file's bytes and the image in them, of which only the header has been read."""
    encoded = read_bytes(path, what)
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        too_large = image.width * image.height > MOST_PIXELS
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        if image.format == "PNG":
            # OpenCV believes the lengths in a damaged file and takes up to 4 GB; Pillow reads on
            # where checksums of pixels do not fit
            image.verify()
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError:
        too_large, pages = True, 1
    except Exception as error:  # on damaged bytes Pillow's decoders raise many kinds of error
        is_jpeg = encoded.startswith(JPEG)
        how = "cut short or damaged" if is_jpeg else f"damaged or no image ({', '.join(FORMATS)})"
        raise _damaged(what, path, how) from error
    if pages > 1:
        raise InputError(f"{what} {path} has {pages} pages; save each as an image of its own")
    if too_large:
        raise InputError(f"{what} {path} is too large; at most {MOST_PIXELS:,} pixels are read")
    return encoded, image


def _damaged(what: str, path: Path, how: str) -> InputError:
    return InputError(f"{what} {path} is {how}; copy or download it again")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def write_mask(path: Path, ids: NDArray[np.uint8]) -> None:
    """Write object ids (H, W) as a palette PNG in DAVIS's colours, whole or not at all; raises
    OSError if the disk is full."""
    image = Image.fromarray(np.ascontiguousarray(ids, np.uint8), "P")
    image.putpalette(DAVIS_PALETTE)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
