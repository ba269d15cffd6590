"""What a browser would fetch when it opens a page."""

import re
from html.parser import HTMLParser

_ADDRESS = r"(?:https?:)?//[^\s\"'()<>]+"


class _RemoteLoads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for key, value in attrs:
            if key in ("src", "poster", "data") or (
                key in ("href", "xlink:href") and tag not in ("a", "area")
            ):
                self.found += re.findall(rf"^\s*({_ADDRESS})", value or "")
            elif key == "srcset":
                self.found += re.findall(rf"(?:^|,\s)\s*({_ADDRESS})", value or "")
            elif key == "style":
                self._style(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self._style(data)
        elif self.inside == "script":
            self.found += re.findall(r"https?://[^\s\"'()<>]+", data)

    def _style(self, css: str) -> None:
        self.found += re.findall(rf"(?:url\(\s*|@import\s+)[\"']?({_ADDRESS})", css)


def remote_loads(html: str) -> list[str]:
    """Return the addresses that a browser would fetch, without links that a reader may follow."""
    finder = _RemoteLoads()
    finder.feed(html)
    finder.close()
    return finder.found
