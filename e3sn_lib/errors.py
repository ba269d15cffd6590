"""The one exception that means "the input is wrong, not the code"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is a single line: what is wrong, where (file, frame or key), and what to do.
    The command line prints it without a traceback and exits with status 2.
    """


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return `` (did you mean 'x'?)`` for the most similar known word, or "" if none is similar."""
    close = difflib.get_close_matches(str(word), [str(each) for each in known], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
