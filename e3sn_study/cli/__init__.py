"""The command line. Wrong input ends in one line and status 2; nothing is left half-written."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from e3sn_lib import __version__
from e3sn_lib.errors import InputError
from e3sn_study.cli import bench, models, study, track

Run = Callable[[argparse.Namespace], int]
COMMANDS: dict[Run, Callable[[argparse.ArgumentParser], None]] = {
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
    """Run one command and return the exit status; a request to end (SIGTERM) acts like Ctrl-C."""
    words = track.one_word_boxes(sys.argv[1:] if arguments is None else arguments)
    before, command = signal.signal(signal.SIGTERM, signal.default_int_handler), "e3sn"
    try:
        options = _parser().parse_args(words)
        command = f"e3sn {options.command}"
        return int(options.run(options))
    except (InputError, OSError) as error:  # also a folder that may not be written, a full disk
        status, text = 2, f"{command}: {error}"
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("e3sn_lib", "e3sn_study")):
            raise
        status, text = 2, f"{command}: this needs {error.name}; pip install 'e3sn-study[study]'"
    except ImportError as error:
        if ".so" not in error.msg:
            raise
        remedy = "for OpenCV on Debian or Ubuntu: apt install libgl1 libglib2.0-0"
        status, text = 2, f"{command}: {error}; install this library of the system ({remedy})"
    except KeyboardInterrupt as stop:
        status, text = 130, f"\n{command}: {str(stop) or 'interrupted'}"
    finally:
        signal.signal(signal.SIGTERM, before)
    print(text, file=sys.stderr)
    return status


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
    """Argparse's parser, but wrong usage is answered in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")
