"""Whatever is given as settings, the answer is a profile or one line that says what is wrong."""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import load_profile, profile_from_dict

BUDGETS = [60, pytest.param(5000, marks=pytest.mark.slow)]
PAPER = load_profile("paper", "siammask").to_dict()


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys and indices that lead to each value in nested dicts and lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


PLACES = list(places(PAPER))
KEYS = sorted({part for place in PLACES for part in place if isinstance(part, str)})
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(KEYS),
    st.sampled_from([-1, 0, 1, 2, 0.5, 255, 2016, 10**30, 1e300, datetime.date(2020, 1, 1)]),
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)
PIECES = st.sampled_from(
    [*"[]{}&*!?|>-:,#%@'\"\\ \n\t.~<=_", "e3", "1", "9" * 400, "\ud800", "\0", "!!int ", *KEYS]
)
YAML = st.text() | st.lists(PIECES, max_size=30).map("".join) | TREES.map(yaml.safe_dump)


def answer(read: Callable[[], Profile]) -> None:
    """Check that the answer is one line, or a profile of finite values that can be written."""
    profile, line = None, ""
    try:
        profile = read()
    except InputError as error:
        line = str(error)
    assert line.isprintable()
    assert bool(line) == (profile is None)
    if profile is not None:
        plain = json.dumps(profile.to_dict(), allow_nan=False)
        assert profile_from_dict(json.loads(plain)) == profile


def repeated(examples: int, **values: st.SearchStrategy[Any]) -> Callable[..., Any]:
    """Draw this many examples: always the same few in daily tests, new ones in the long mode."""
    few = examples < 1000
    limits = settings(max_examples=examples, derandomize=few, database=None, deadline=None)
    return lambda test: limits(given(**values)(test))


@pytest.mark.parametrize("examples", BUDGETS)
def test_any_value_in_any_place(examples: int) -> None:
    @repeated(examples, place=st.sampled_from([(), *PLACES]), value=TREES)
    def check(place: tuple[Any, ...], value: object) -> None:
        tree: Any = {"whole": copy.deepcopy(PAPER)}
        inner = tree
        for part in ("whole", *place)[:-1]:
            inner = inner[part]
        inner[("whole", *place)[-1]] = value
        answer(lambda: profile_from_dict(tree["whole"]))

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_any_override(examples: int) -> None:
    @repeated(
        examples,
        place=st.sampled_from(PLACES).map(lambda place: ".".join(map(str, place))) | st.text(),
        value=YAML,
    )
    def check(place: str, value: str) -> None:
        answer(lambda: load_profile("smoke", "siammask", [f"{place}={value}"]))

    check()


@pytest.mark.parametrize("examples", BUDGETS)
def test_any_file(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"

    @repeated(
        examples, content=YAML.map(lambda text: text.encode(errors="surrogatepass")) | st.binary()
    )
    def check(content: bytes) -> None:
        path.write_bytes(content)
        answer(lambda: load_profile(str(path)))

    check()
