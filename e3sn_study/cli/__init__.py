"""The command line. Wrong input gives one line and status 2; no file is left half-written."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from typing import Any, NoReturn, TextIO, cast

from e3sn_lib import __version__
from e3sn_lib.errors import InputError, end_signals, is_lack_of_memory, printable
from e3sn_study.cli import bench, models, study, track

COMMANDS = {
    study.reproduce: study.add_reproduce,
    study.report: study.add_report,
    study.data: study.add_data_action,
    study.train: study.add_train,
    bench.bench: bench.add_arguments,
    models.evaluate: models.add_evaluate,
    track.track: track.add_arguments,
    models.ship: models.add_ship,
    models.export: models.add_export,
    models.convert: models.add_convert,
}
"""What runs a command, and what adds its arguments. Name and help come from the function."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; `end_signals` act like Ctrl-C."""
    _make_printable()
    _spin_briefly()
    with redirect_stderr(cast(TextIO, _Unfailing(sys.stderr))):  # results matter more than messages
        return _main(track.one_word_boxes(sys.argv[1:] if arguments is None else arguments))


def _main(words: list[str]) -> int:
    command, interrupt = "e3sn", signal.default_int_handler
    before = {number: signal.signal(number, interrupt) for number in end_signals()}
    try:
        options = _parser().parse_args(words)
        command = f"e3sn {options.command}"
        return options.run(options) or 0
    except InputError as error:
        status, text = 2, f"{command}: {error}"
    except OSError as error:  # a folder that may not be written, a full disk
        status, text = 2, f"{command}: {error.filename or 'output'}: {error.strerror or error}"
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("e3sn_lib", "e3sn_study")):
            raise
        remedy = 'in the checkout: pip install ".[study]"'
        status, text = 2, f"{command}: this needs {error.name}; {remedy}"
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # a module in C was being imported
            status, text = 130, f"{command}: interrupted"
        elif ".so" in error.msg or "DLL load failed" in error.msg:
            remedy = "for OpenCV on Debian or Ubuntu: apt install libgl1 libglib2.0-0"
            if sys.platform == "win32":
                remedy = "the Visual C++ Redistributable; on Windows N also the Media Feature Pack"
            status, text = 2, f"{command}: {error}; install this library of the system ({remedy})"
        else:
            raise
    except Exception as error:
        if not is_lack_of_memory(error):
            raise
        remedy = "close other programs, give smaller or fewer images, or lower train.batch_size"
        status, text = 2, f"{command}: there is not enough memory ({error}); {remedy}"
    except KeyboardInterrupt as stop:
        print(file=sys.stderr)  # the terminal shows ^C where the cursor is
        status, text = 130, f"{command}: {str(stop) or 'interrupted'}"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(printable(text), file=sys.stderr)
    return status


class _Unfailing:
    """An output that ignores its errors: of a closed terminal, a pipe that ended, a full disk."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _make_printable() -> None:
    """Let any text be printed, whatever the encoding, and also where an output is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 it stays open
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _spin_briefly() -> None:
    """Let PyTorch's waiting threads spin only briefly. This must be set before it is imported.

    A thread that spins keeps others from its core. Two trainings side by side are twice as fast
    with this limit as without it; one alone is as fast as before.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _parser() -> argparse.ArgumentParser:
    text = "E3SN: video object segmentation from one box, as a reproducible study."
    parser = _Parser(prog="e3sn", description=text)
    parser.add_argument("--version", action="version", version=f"e3sn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run, add_arguments in COMMANDS.items():
        text = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.set_defaults(run=run)
        add_arguments(command)
    return parser


class _Parser(argparse.ArgumentParser):
    """Argparse's parser, but it answers wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{printable(f'{self.prog}: {message}; see {self.prog} --help')}\n")
