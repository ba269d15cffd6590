"""The templates of the report, and what they show: text as HTML, tables as cells, pictures as data."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from e3sn_lib.files import as_webp
from e3sn_lib.reporting.cells import numeric_columns, plain_markdown

Row = dict[str, Any]
SCALE = 0.74
"""Pixels on the page for each of a figure, so that its letters are about as large as the text."""
LONG = 28
"""Letters of a cell that make its column a wide one."""
_SPECIAL = re.compile(r"(`[^`]+`|https?://[^\s<>\"'`;,()]*[^\s<>\"'`;,().])")
_WITH_INTERVAL = re.compile(r"([+-]?[\d.,]+(?: ± [\d.,]+)?(?: h)?) (\(.*\))")


def prose(value: object) -> Markup:
    """Return plain text as escaped HTML: `code`, links, true minus signs, no break before %.

    What is HTML already stays as it is.
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
    """Return a number and the interval in brackets behind it; other text whole, and ""."""
    found = _WITH_INTERVAL.fullmatch(value)
    return (found[1], found[2]) if found else (value, "")


def view(table: pd.DataFrame, mark: Callable[[Row], str] | None = None) -> dict[str, Any]:
    """Return a table of text as the template ``grid`` shows it.

    Args:
        table: cells of text.
        mark: gives the class of a row.

    Returns:
        ``heads``, pairs of kind and name, and ``rows`` with ``mark`` and ``cells``, pairs of kind and text.
        The kind is "n" for numbers, "t" for text and "t long" for text that is wrapped.
    """
    long = [table[name].astype(str).str.len().max() > LONG for name in table.columns]
    kinds = [
        "n" if right else "t long" if wide else "t"
        for right, wide in zip(numeric_columns(table), long, strict=True)
    ]
    rows = [
        {
            "mark": mark(row) if mark else "",
            "cells": list(zip(kinds, map(str, row.values()), strict=True)),
        }
        for row in table.to_dict("records")
    ]
    return {"heads": list(zip(kinds, map(_head, table.columns), strict=True)), "rows": rows}


def picture(path: Path, caption: str) -> dict[str, Any]:
    """Return a figure or a clip as the template ``picture`` shows it, its bytes included."""
    shown: dict[str, Any] = {"caption": caption, "link": f"figures/{path.name}", "width": 0}
    if path.suffix == ".webm":
        return shown | {"video": True, "source": _data("video/webm", path.read_bytes())}
    with Image.open(path) as image:
        width = round(SCALE * image.width)
    content, pixels = as_webp(path)
    source = _data("image/webp", content)
    return shown | {"video": False, "source": source, "pixels": pixels, "width": width}


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _head(name: str) -> str:
    """``J-Mean`` as ``J mean``."""
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
MARKDOWN = HTML.overlay(autoescape=False, finalize=plain_markdown)
