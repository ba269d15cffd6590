"""Items that a thread computes ahead: in order, few at a time, with an end whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from e3sn_lib.tracking.own_video import prefetch


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("prefetch")]


def test_items_come_in_order_from_another_thread() -> None:
    assert list(prefetch((threading.current_thread().name, n) for n in range(20))) == [
        ("prefetch_0", n) for n in range(20)
    ]
    assert list(prefetch([])) == []
    assert threads() == []


def test_no_more_than_the_depth_is_ahead() -> None:
    made: list[int] = []
    with closing(prefetch((made.append(n) or n for n in range(100)), depth=3)) as items:
        assert next(items) == 0
        for _ in range(100):
            if len(made) < 4:
                time.sleep(0.1)
        time.sleep(0.05)
        assert len(made) == 4  # one given, three waiting


def test_an_error_comes_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield from (1, 2)
        raise KeyError("frame 3")

    items = prefetch(broken())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="frame 3"):
        next(items)
    assert threads() == []


def test_who_stops_asking_ends_the_thread_and_the_source() -> None:
    ended: list[str] = []

    def endless() -> Iterator[int]:
        try:
            yield from iter(int, 1)
        finally:
            ended.append("source")

    with closing(prefetch(endless())) as items:
        next(items)
        assert threads() == ["prefetch_0"]
    assert threads() == []
    assert ended == ["source"]
