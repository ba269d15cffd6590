"""The templates of the report, and what they show: text as HTML, tables as cells, pictures."""

import base64
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from e3sn_lib.files import as_webp
from e3sn_lib.tracking.video import read_frames
from e3sn_study.tables.cells import NOT_RUN, numeric_columns, plain_markdown

Row = dict[str, Any]
SCALE = 0.74
"""Pixels on the page for each of a figure, so that its letters are about as large as the text."""
LONG = 28
"""Letters of a cell from which on its column is wrapped."""
WIDE = 700
"""Pixels on the page from which on a figure scrolls sideways on a narrow screen."""
QUALITY = 75
"""Of pictures within the page; the file beside it is whole."""
LARGEST_CLIP = 500_000
"""Bytes of a clip that the page carries; of a larger one it shows the first frame."""
_SPECIAL = re.compile(r"(`[^`]+`|https?://[^\s<>\"'`;,()]*[^\s<>\"'`;,().])")
_WITH_INTERVAL = re.compile(r"([+-]?[\d.,]+(?: ± [\d.,]+)?(?: h)?) (\(.*)")


def prose(value: object) -> Markup:
    """Return plain text as escaped HTML: `code`, links, true minus signs, no break before %.

    What is HTML already (`Markup`) stays as it is.
    """
    if isinstance(value, Markup):
        return value
    html = Markup()
    for place, part in enumerate(_SPECIAL.split(str(value))):
        if place % 2 == 0:
            minus = re.sub(r"(?<![\w.,)–-])-(?=\d)|(?<= )-(?= )", "−", part)
            html += escape(re.sub(r"(?<=\d) (?=%)", "\u00a0", minus))
        elif part.startswith("`"):
            html += Markup("<code>{}</code>").format(part[1:-1])
        else:
            html += Markup('<a href="{0}">{0}</a>').format(part)
    return html


def parts(value: str) -> tuple[str, str]:
    """Return a number and what stands in brackets behind it; other text whole, and ""."""
    found = _WITH_INTERVAL.fullmatch(value)
    return (found[1], found[2]) if found else (value, "")


def view(table: pd.DataFrame, mark: Callable[[Row], str] = lambda row: "") -> dict[str, Any]:
    """Return a table of text, or of `Markup`, as the templates show it.

    It has ``heads``, pairs of kind and name; and ``rows`` and ``not_run``. These have ``mark``, the
    class of a row, and ``cells``, pairs of kind and text. The kind is "n" for numbers, "t" for text
    and "t long" for text that is wrapped. A row is in ``not_run`` if at least two thirds of its
    cells are "not run".
    """
    right = numeric_columns(table)
    wide = [table[name].astype(str).str.len().max() > LONG for name in table.columns]
    kinds = ["n" if n else "t long" if w else "t" for n, w in zip(right, wide, strict=True)]
    shown: dict[str, Any] = {"heads": list(zip(kinds, map(_head, table.columns), strict=True))}
    shown |= {"rows": [], "not_run": []}
    for row in table.to_dict("records"):
        cells = list(row.values())
        group = "not_run" if 3 * cells.count(NOT_RUN) >= 2 * len(cells) else "rows"
        shown[group].append({"mark": mark(row), "cells": list(zip(kinds, cells, strict=True))})
    return shown


def picture(path: Path, caption: str) -> dict[str, Any]:
    """Return a figure or a clip as the templates show it, its bytes included; raises InputError if
    a clip cannot be read."""
    drawing = path.with_suffix(".svg")
    link = f"figures/{drawing.name if drawing.is_file() else path.name}"
    shown: dict[str, Any] = {"caption": caption, "link": link, "clip": ""}
    shown |= {"pixels": None, "width": 640, "wide": False}
    source: Path | BytesIO = path
    if path.suffix == ".mp4":
        content = path.read_bytes()
        shown["clip"] = f"Clip, {len(content) / 1e6:.1f} MB"
        if len(content) <= LARGEST_CLIP:
            return shown | {"source": _data("video/mp4", content)}
        source = BytesIO()
        Image.fromarray(next(read_frames(path))).save(source, "PNG")
    with Image.open(source) as image:
        width = image.width if shown["clip"] else round(SCALE * image.width)
    content, pixels = as_webp(source, quality=QUALITY)
    shown |= {"pixels": pixels, "width": width, "wide": width > WIDE}
    return shown | {"source": _data("image/webp", content)}


def _data(kind: str, content: bytes) -> str:
    """Return bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _head(name: str) -> str:
    """Return ``J-Mean`` as ``J mean``, other names as they are."""
    found = re.fullmatch(r"([JF])-(\w+)", name)
    return f"{found[1]} {found[2].lower()}" if found else name


HTML = Environment(
    loader=PackageLoader(__package__),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
HTML.filters |= {"prose": prose, "parts": parts}
MARKDOWN = HTML.overlay(autoescape=False, finalize=plain_markdown, keep_trailing_newline=True)
