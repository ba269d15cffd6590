"""Inputs of any kind for the readers: trees of values, damaged bytes, and what an answer must be."""

from __future__ import annotations

import datetime
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e3sn_lib.errors import InputError

BUDGETS = [30, pytest.param(5000, marks=pytest.mark.slow)]
"""Examples of a test: always the same few in daily tests, new ones in the long mode."""
MEMORY = 2**31
"""Bytes that one answer may take."""
SECONDS = 20
"""The time that one answer may take."""


def repeated(examples: int, **values: st.SearchStrategy[Any]) -> Callable[..., Any]:
    """Draw this many examples: always the same few in daily tests, new ones in the long mode."""
    few = examples < 1000
    limits = settings(max_examples=examples, derandomize=few, database=None, deadline=None)
    return lambda test: limits(given(**values)(test))


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys and indices that lead to each value in nested dicts and lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def replaced(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return the tree with another value at a place."""
    if not place:
        return value
    changed = dict(tree) if isinstance(tree, dict) else list(tree)
    changed[place[0]] = replaced(tree[place[0]], place[1:], value)
    return changed


def trees(keys: list[str], *scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nested dicts and lists with these keys among others."""
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(keys),
        st.sampled_from([-1, 0, 1, 2, 0.5, 255, 2016, 10**30, 1e300]), *scalars,
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(keys) | st.text(), inner, max_size=4)
        ),
        max_leaves=8,
    )


DATES = st.just(datetime.date(2020, 1, 1))


@st.composite
def damaged(draw: st.DrawFn, content: bytes, within: int | None = None) -> bytes:
    """A file's bytes: some changed, perhaps cut short, perhaps with others behind."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 12))):
        changed[draw(st.integers(0, (within or len(content)) - 1))] = draw(st.integers(0, 255))
    end = draw(st.none() | st.integers(0, len(content)))
    return bytes(changed[:end]) + draw(st.binary(max_size=20))


@contextmanager
def bounds() -> Iterator[None]:
    """Fail where an answer takes more memory or time than it may."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])

    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    alarm = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)
        resource.setrlimit(resource.RLIMIT_AS, before)


def answer(read: Callable[[], Any]) -> Any:
    """Return what is read, or None where it is refused in one line; anything else fails."""
    refused = ""
    with bounds():
        try:
            return read()
        except InputError as error:
            refused = str(error)
    assert refused, "the reason is missing"
    assert refused.isprintable(), refused
    return None
