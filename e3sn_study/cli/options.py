"""Arguments that several commands share. Nothing heavy is imported here, nor for any ``--help``."""

from __future__ import annotations

import argparse
import os

from e3sn_lib.profiles.loading import available_profiles


def add_profile(command: argparse.ArgumentParser, default: str = "smoke") -> None:
    """Add ``--profile``; an empty default leaves the choice to the command."""
    choices = f"{', '.join(available_profiles())}, or a YAML file"
    command.add_argument("--profile", default=default, help=choices)


def add_data(command: argparse.ArgumentParser) -> None:
    """Add ``--data``; read it with `data_root`."""
    text = "folder of the data sets (default: E3SN_DATA, or the profile's own)"
    command.add_argument("--data", default="", help=text)


def add_changes(command: argparse.ArgumentParser) -> None:
    """Add ``--seed`` and ``--set``."""
    command.add_argument("--seed", type=int, default=0)
    text = "change a setting, e.g. train.pairs=1000; repeatable"
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_study(command: argparse.ArgumentParser) -> None:
    """Add what `Study.open` takes: profile, data, changed settings, and the folders of a study."""
    add_profile(command)
    add_data(command)
    add_changes(command)
    add = command.add_argument
    add("--runs", default="runs", help="folder of training runs (default: runs)")
    add("--report", default="", help="folder of results (default: reports/PROFILE)")


def data_root(options: argparse.Namespace) -> str:
    """Return the folder of the data sets: ``--data``, else E3SN_DATA, else "" (the profile's)."""
    return options.data or os.environ.get("E3SN_DATA", "")


def positive(text: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)
