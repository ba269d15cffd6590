"""Do the parts of a long task side by side: decode, compute, write."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield what another thread takes from `items` while the caller works on earlier ones.

    The thread starts with the first item that is asked for. It ends with the items, or soon after
    the caller has stopped asking (an error, a ``break``, Ctrl-C).

    Args:
        items: such as frames of a video; only the thread uses them.
        depth: how many items may wait, which bounds the memory.

    Raises:
        Exception: what `items` raise, after the items before.
    """
    waiting: Queue[tuple[bool, T | BaseException | None]] = Queue(depth)
    stopped = Event()

    def work() -> None:
        found = iter(items)
        error: BaseException | None = None
        try:
            for item in found:
                waiting.put((True, item))
                if stopped.is_set():
                    break
        except BaseException as raised:  # it is raised again by the caller's thread
            error = raised
        finally:
            if hasattr(found, "close"):
                found.close()
            waiting.put((False, error))

    thread = Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (entry := waiting.get())[0]:
            yield entry[1]  # type: ignore[misc]
        if entry[1] is not None:
            raise entry[1]  # type: ignore[misc]
    finally:
        stopped.set()
        while thread.is_alive():  # it may be waiting for room
            with suppress(Empty):
                waiting.get(timeout=0.01)
