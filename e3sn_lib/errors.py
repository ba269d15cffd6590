"""What ends a command early: input that cannot be used, Ctrl-C and other requests to end."""

import difflib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

ONE_PRESS = 1.0
"""Seconds. Ctrl-C often comes twice, from the terminal and from a program in between."""


def printable(text: str) -> str:
    """Return a text as one line: characters that do not print, as a line break, become escapes."""
    # bytes of names that are in no encoding, which Python keeps as the characters U+DC80 to U+DCFF
    text = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether memory was short: of Python, of torch, which says it in two ways, or of
    OpenCV."""
    of_gpu = type(error).__name__ == "OutOfMemoryError"
    words = ("allocate memory", "Insufficient memory")
    return isinstance(error, MemoryError) or of_gpu or any(each in str(error) for each in words)


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is a single line: what is wrong, where (file, frame or key), and what to do.
    The command line prints it without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return `` (did you mean 'x'?)`` for the most similar known word, or "" if none is similar."""
    close = difflib.get_close_matches(str(word), [str(each) for each in known], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def end_signals() -> list[signal.Signals]:
    """Return the signals that ask a process to end, without those that it ignores already."""
    asked = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):  # the terminal is closed; `nohup` ignores it
        asked.append(signal.SIGHUP)
    return [each for each in asked if signal.getsignal(each) != signal.SIG_IGN]


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether one of `end_signals` came within the block.

    The first signal has no other effect. More than `ONE_PRESS` seconds after it, Ctrl-C interrupts.
    Outside the main thread, where Python handles no signals, nothing is deferred.
    """
    noted: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(time.monotonic())
        if number == signal.SIGINT and noted[-1] - noted[0] > ONE_PRESS:
            raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in end_signals() if in_main}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
