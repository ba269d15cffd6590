"""The command line. Wrong input ends in one line and exit status 2; nothing is left half-written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import available_profiles, available_variants
from e3sn_study.cli import bench, export, models, study, track

DATA_ACTIONS = (
    "verify: only look; status 1 unless every set is present. prepare: make what can be made, the indices too, and open some "
    "frames of each set; status 1 if a set that is there cannot be used, or if none can be trained on. "
    "synthesize: make the procedural set in DATA/synthetic. Wrong settings or no data folder: status 2"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(track.one_word_boxes(sys.argv[1:] if arguments is None else arguments))
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (InputError, OSError) as error:  # also a folder that may not be written, a full disk
        print(f"e3sn {options.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("e3sn_lib", "e3sn_study")):
            raise
        print(f"e3sn {options.command}: this needs {error.name}; pip install 'e3sn-study[study]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\ne3sn {options.command}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="e3sn", description="E3SN: video object segmentation from one box, as a reproducible study.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    def add_profile(command: argparse.ArgumentParser) -> None:
        command.add_argument("--profile", default="smoke", help=f"{', '.join(available_profiles())}, or a YAML file")
        command.add_argument(
            "--data", default="", help="folder that holds the data sets (default: E3SN_DATA, or the profile's own)"
        )

    def add_study(command: argparse.ArgumentParser) -> None:
        add_profile(command)
        command.add_argument("--runs", default="runs", help="folder of training runs (default: runs)")
        command.add_argument("--report", default="", help="folder of results (default: reports/PROFILE)")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. train.pairs=1000"
        )

    command = add("reproduce", study.reproduce)
    add_study(command)
    command.add_argument("--only", default="", help="only these notebooks, by number: 04 or 01,04")
    command = add("report", study.report)
    command.add_argument("--profile", default="smoke", help=f"{', '.join(available_profiles())}, or a YAML file")
    command.add_argument("--report", type=Path, help="folder of the report (default: reports/PROFILE of this checkout)")
    command = add("data", study.data)
    command.add_argument("action", choices=["verify", "prepare", "synthesize"], nargs="?", default="verify", help=DATA_ACTIONS)
    add_profile(command)
    command = add("train", study.train)
    add_study(command)
    command.add_argument("--variant", default="e3sn", help=", ".join(available_variants()))
    command.add_argument(
        "--resume", choices=["auto", "never"], default="auto", help="go on with the run if there is one (default), or refuse to"
    )
    command.add_argument("--dry-run", action="store_true", help="check data, model and memory, time a step, print the plan")
    command = add("bench", bench.bench)
    command.add_argument("what", choices=["train", "track", "precision"])
    add_profile(command)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    command.add_argument("--batch", type=_positive, default=8, help="pairs per step (default: 8)")
    command.add_argument("--steps", type=_positive, help="per contender (train: 4, track: 5) or per run (precision: 300)")
    command.add_argument("--model", type=Path, help="track: a trained model (default: the shipped)")
    command.add_argument("--export", type=Path, help="track: its int8 export (default: the shipped)")
    command.add_argument("--threads", type=_positive, help="track: of the processor (default: as many as are idle)")
    command.add_argument("--out", type=Path, help="train, track: a CSV file; precision: a folder (default: precision)")
    command.add_argument("--report", type=Path, help="a report, such as reports/cpu, that the results are to be kept in")
    command = add("evaluate", models.evaluate)
    add_profile(command)
    command.set_defaults(profile="")  # a model's own
    command.add_argument("--run", dest="run_folder", type=Path, metavar="RUN", help="folder of a finished run")
    command.add_argument("--model", type=Path, help="a trained model (model.safetensors), or an exported folder")
    track.add_backend(command)
    command.add_argument("--benchmark", default="davis2016")
    command.add_argument("--masks", type=Path, help="PNG masks to score: DIR/SEQUENCE/FRAME.png")
    command.add_argument("--annotations", type=Path, help="true masks: DIR/SEQUENCE/FRAME.png")
    command.add_argument("--sequences", type=Path, help="list of sequences, one name a line or as DAVIS lists them")
    command.add_argument("--name", default="val", help="set name in the output files' names")
    command.add_argument("--out", type=Path, help="folder for the tables")
    track.add_arguments(add("track", track.track))
    command = add("ship", models.ship)
    command.add_argument("--run", dest="run_folder", type=Path, required=True, metavar="RUN", help="folder of a finished run")
    command.add_argument("--report", default="", help="folder of the results that it is on record in (default: reports/PROFILE)")
    command.add_argument("--out", type=Path, default=Path("models"), help="folder for model and card (default: models)")
    export.add_arguments(add("export", export.export))
    command = add("convert", models.convert)
    command.add_argument("layout", choices=["siammask"])
    command.add_argument("checkpoint", type=Path)
    command.add_argument("out", type=Path)
    return parser


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)
