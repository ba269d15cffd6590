"""Ctrl-C and SIGTERM that wait until what is under way can be left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Within the block, Ctrl-C and SIGTERM only make the yielded function true; a second Ctrl-C interrupts at once.

    Outside the main thread, where Python knows no signals, nothing is deferred.
    """
    noted: set[int] = set()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in noted:
            raise KeyboardInterrupt
        noted.add(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts(worker: int = 0) -> None:
    """For worker processes: Ctrl-C reaches them too, but their parent decides when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
