"""Whatever is given as settings, the answer is a profile or one line that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import BUDGETS, DATES, answer, places, repeated, replaced, trees
from hypothesis import strategies as st

from e3sn_lib.config import Profile
from e3sn_lib.profiles.loading import load_profile, profile_from_dict

PAPER = load_profile("paper", "siammask").to_dict()
PLACES = list(places(PAPER))
KEYS = sorted({part for place in PLACES for part in place if isinstance(part, str)})
TREES = trees(KEYS, DATES)
PIECES = st.sampled_from(
    [*"[]{}&*!?|>-:,#%@'\"\\ \n\t.~<=_", "e3", "1", "9" * 400, "\ud800", "\0", "!!int ", *KEYS]
)
YAML = st.text() | st.lists(PIECES, max_size=30).map("".join) | TREES.map(yaml.safe_dump)


def check_profile(read: Callable[[], Profile]) -> None:
    """Check that the answer is one line, or a profile of finite values that can be written."""
    profile = answer(read)
    if profile is not None:
        plain = json.dumps(profile.to_dict(), allow_nan=False)
        assert profile_from_dict(json.loads(plain)) == profile


@pytest.mark.parametrize("examples", BUDGETS)
def test_any_value_in_any_place(examples: int) -> None:
    @repeated(examples, place=st.sampled_from([(), *PLACES]), value=TREES)
    def check(place: tuple[Any, ...], value: object) -> None:
        check_profile(lambda: profile_from_dict(replaced(PAPER, place, value)))

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_any_override(examples: int) -> None:
    @repeated(
        examples,
        place=st.sampled_from(PLACES).map(lambda place: ".".join(map(str, place))) | st.text(),
        value=YAML,
    )
    def check(place: str, value: str) -> None:
        check_profile(lambda: load_profile("smoke", "siammask", [f"{place}={value}"]))

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_any_file(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"

    @repeated(
        examples, content=YAML.map(lambda text: text.encode(errors="surrogatepass")) | st.binary()
    )
    def check(content: bytes) -> None:
        path.write_bytes(content)
        check_profile(lambda: load_profile(str(path)))

    check()
