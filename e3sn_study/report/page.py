"""Pieces of an HTML page that needs nothing but itself: tables, figures, sections."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from e3sn_lib.files import as_webp
from e3sn_study.tables.cells import NOT_RUN, numeric_columns

Row = dict[str, Any]
SCALE = 0.74
"""Pixels on the page for each of a figure, so that its letters are about as large as the text."""
LONG = 28
"""Letters of a cell that make its column a wide one."""


def text(content: str) -> str:
    """Plain text as HTML: `code`, a true minus before numbers, no break before %, addresses as links."""
    escaped = re.sub(r"(?<![\w.,)–-])-(?=\d)|(?<= )-(?= )", "−", html.escape(content, quote=False))
    escaped = re.sub(r"(?<=\d) (?=%)", "\u00a0", escaped)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"(https?://[^\s<>;,()]*[^\s<>;,().])", r'<a href="\1">\1</a>', escaped)


def paragraphs(texts: list[str]) -> str:
    return "".join(f"<p>{text(each)}</p>" for each in texts)


def bullets(texts: list[str], ordered: bool = False) -> str:
    tag = "ol" if ordered else "ul"
    return f"<{tag}>{''.join(f'<li>{text(each)}</li>' for each in texts)}</{tag}>"


def table_html(table: pd.DataFrame, row_class: Callable[[Row], str] | None = None) -> str:
    """A table of text; numbers are set to the right, intervals grey."""
    names = [re.sub(r"^([JF])-", r"\1 ", str(name)).replace("Mean", "mean").replace("Recall", "recall") for name in table.columns]
    names = [name.replace("Decay", "decay") for name in names]
    long = [max(len(str(value)) for value in table[name]) > LONG for name in table.columns]
    kinds = ["n" if right else "t long" if wide else "t" for right, wide in zip(numeric_columns(table), long, strict=True)]
    head = "".join(f'<th class="{kind}">{text(name)}</th>' for kind, name in zip(kinds, names, strict=True))
    body = ""
    for row in table.to_dict("records"):
        mark = row_class(row) if row_class else ""
        cells = "".join(f'<td class="{kind}">{cell(str(value))}</td>' for kind, value in zip(kinds, row.values(), strict=True))
        body += f"<tr{f' class={mark}' if mark else ''}>{cells}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(value: str) -> str:
    if value == NOT_RUN:
        return f'<span class="nr">{value}</span>'
    if match := re.fullmatch(r"([+-]?[\d.,]+(?: ± [\d.,]+)?(?: h)?) (\(.*\))", value):
        return f'{text(match[1])} <span class="ci">{text(match[2])}</span>'
    return text(value)


def verdict(value: str) -> str:
    """A verdict with its colour; the words say it too."""
    kinds = {"reproduced": "reproduced", "partly": "partly", "not reproduced": "not"}
    kind = next((name for start, name in kinds.items() if value.startswith(start)), "untested")
    head, _, reason = value.partition(" (")
    return f'<span class="v {kind}">{head}</span>{f"<small>{text(reason[:-1])}</small>" if reason else ""}'


def notes_html(notes: list[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{text(note)}</li>" for note in notes)}</ul>' if notes else ""


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def figure_html(path: Path, caption: str, link: str) -> str:
    """An image embedded as WebP, linked to the file it was made from."""
    with Image.open(path) as image:
        natural = image.width
    content, (width, height) = as_webp(path)
    data = base64.b64encode(content).decode()
    size = f'width="{width}" height="{height}" alt="{html.escape(caption)}" loading="lazy"'
    linked = f'<a href="{html.escape(link)}"><img src="data:image/webp;base64,{data}" {size}></a>'
    return f'<figure style="width:{SCALE * natural:.0f}px">{linked}<figcaption>{text(caption)}</figcaption></figure>'


def clip_html(path: Path, caption: str, link: str) -> str:
    """A short clip, embedded as it is."""
    data = base64.b64encode(path.read_bytes()).decode()
    player = f'<video controls loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
    return f'<figure>{player}<figcaption>{text(caption)} <a href="{html.escape(link)}">File</a></figcaption></figure>'


def page_html(title: str, style: str, header: str, sections: Mapping[str, str], footer: str) -> str:
    """The whole page; `sections` are by heading, in order, and make the list of contents."""
    anchors = {heading: re.sub(r"\W+", "-", heading.lower()).strip("-") for heading in sections}
    contents = " ".join(f'<a href="#{anchor}">{html.escape(heading)}</a>' for heading, anchor in anchors.items())
    body = "".join(
        f'<section id="{anchors[heading]}"><h2>{html.escape(heading)}</h2>{content}</section>\n'
        for heading, content in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header>{header}<nav aria-label="Contents">{contents}</nav></header>\n<main>\n{body}</main>\n'
        f"<footer>{footer}</footer>\n</body>\n</html>\n"
    )
