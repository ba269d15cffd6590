"""What ends a command early: input that cannot be used, Ctrl-C and SIGTERM."""

import difflib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is a single line: what is wrong, where (file, frame or key), and what to do.
    Characters that do not print, such as a line break in a file's name, are written as escapes.
    The command line prints it without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
        )


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return `` (did you mean 'x'?)`` for the most similar known word, or "" if none is similar."""
    close = difflib.get_close_matches(str(word), [str(each) for each in known], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C or SIGTERM came within the block.

    The first one does nothing else; a second Ctrl-C interrupts at once. Outside the main thread,
    where Python knows no signals, nothing is deferred.
    """
    noted: set[int] = set()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in noted:
            raise KeyboardInterrupt
        noted.add(number)

    in_main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
