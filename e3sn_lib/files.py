"""Reading and writing files: images in RGB, masks as object ids, nothing ever half-written."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from e3sn_lib.errors import InputError


def _davis_palette() -> list[int]:
    """The 256 colours of DAVIS (and PASCAL VOC): bits 0, 1, 2 of the id, repeatedly, from the highest bit of R, G, B down."""
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((np.arange(256) >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return [int(value) for value in colours.ravel()]


DAVIS_PALETTE = _davis_palette()


PAGE_WIDTH = 1600
"""Pixels of an image that is embedded in a page; its file lies beside the report."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_csv(path: Path, table: pd.DataFrame, decimals: int = 6) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{decimals}f")


def as_webp(source: Path | BinaryIO, largest_width: int = PAGE_WIDTH, quality: int = 86) -> tuple[bytes, tuple[int, int]]:
    """Return an image for a page as WebP, on white and no wider than this, with its width and height."""
    with Image.open(source) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image.convert("RGBA"), mask=image.convert("RGBA").getchannel("A"))
    flat.thumbnail((largest_width, 10 * largest_width))
    encoded = io.BytesIO()
    flat.save(encoded, "WEBP", quality=quality, method=4)
    return encoded.getvalue(), flat.size


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image as (H, W, 3) RGB uint8.

    Raises:
        InputError: the file is missing, damaged or cut short.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror}") from error
    if path.suffix.lower() in (".jpg", ".jpeg") and encoded[-4096:].tobytes().rfind(b"\xff\xd9") < 0:
        raise InputError(f"image {path} is cut short (no end-of-image marker); copy or download it again")
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise InputError(f"image {path} is damaged or not an image; copy or download it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask as (H, W) uint8: palette indices (DAVIS-2017, YouTube-VOS) or grey values (DAVIS-2016: 0 and 255).

    Raises:
        InputError: the file is missing or damaged, or its colours are no object ids.
    """
    try:
        with Image.open(path) as image:
            bands = image.getbands()
            if bands not in (("P",), ("L",), ("1",), ("L", "A")):  # DAVIS-2016 has one mask of mode LA
                raise InputError(f"mask {path} has colours ({image.mode}); it must be a palette or grey image of object ids")
            mask = np.array(image.convert("L") if bands == ("1",) else image)  # black and white is 0 and 255
    except UnidentifiedImageError as error:
        raise InputError(f"mask {path} is damaged or not an image; copy or download it again") from error
    except (OSError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or f"damaged ({' '.join(str(error).split())})"
        raise InputError(f"cannot read mask {path}: {reason}") from error
    return np.ascontiguousarray(mask[..., 0] if mask.ndim == 3 else mask, dtype=np.uint8)


def write_mask(path: Path, ids: NDArray[np.uint8]) -> None:
    """Write object ids (H, W) as a palette PNG in DAVIS's colours, which the official evaluator reads."""
    image = Image.fromarray(np.ascontiguousarray(ids, np.uint8), "P")
    image.putpalette(DAVIS_PALETTE)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
