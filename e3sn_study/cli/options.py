"""Arguments that several commands share. No slow import is made here, nor for any ``--help``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from e3sn_lib.config import Profile
from e3sn_lib.files import read_json
from e3sn_lib.profiles.loading import available_profiles, load_profile
from e3sn_study.checkout import ROOT

if TYPE_CHECKING:
    from e3sn_study.runs import Study

LARGEST_NUMBER = 10**9
"""Of frames, steps and threads."""
DATA_HELP = "folder of the data sets (default: E3SN_DATA, or the profile's own)"


def add_profile(
    command: argparse.ArgumentParser, default: str = "that of the report, else smoke"
) -> None:
    """Add ``--profile``, which is empty if it is not given; `default` says what then counts."""
    choices = f"{', '.join(available_profiles())}, or a YAML file (default: {default})"
    command.add_argument("--profile", default="", help=choices)


def add_data(command: argparse.ArgumentParser, text: str = DATA_HELP) -> None:
    """Add ``--data``; empty: the profile's own folder."""
    command.add_argument("--data", default=os.environ.get("E3SN_DATA", ""), help=text)


def add_settings(command: argparse.ArgumentParser) -> None:
    """Add what `profile_of` needs: ``--profile``, ``--data``, ``--seed`` and ``--set``."""
    add_profile(command)
    add_data(command)
    command.add_argument("--seed", type=int, default=0, help="random seed of the run (default: 0)")
    text = "change a setting, e.g. train.pairs=1000; repeatable"
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_study(command: argparse.ArgumentParser) -> None:
    """Add what `study_of` needs."""
    add_settings(command)
    add = command.add_argument
    add("--runs", default="runs", help="folder of training runs (default: runs)")
    add("--report", default="", help="folder of results (default: reports/PROFILE)")


def profile_name(given: argparse.Namespace) -> str:
    """Return ``--profile``, else the profile that made the report ``--report``, else smoke."""
    manifest = Path(given.report or "", "results", "manifest.json")
    if given.profile or not (given.report and manifest.is_file()):
        return given.profile or "smoke"
    parameters = read_json(manifest, "record of notebooks").get("parameters")
    name = str(parameters.get("profile") or "") if isinstance(parameters, dict) else ""
    is_file = name.endswith((".yaml", ".yml"))  # its path is relative to the repository
    return str(ROOT / name) if is_file else name or "smoke"


def profile_of(given: argparse.Namespace, variant: str = "e3sn") -> Profile:
    """Return the profile of the arguments of `add_settings`."""
    name = profile_name(given)
    return load_profile(name, variant, given.set, seed=given.seed, data_root=given.data)


def study_of(given: argparse.Namespace) -> Study:
    """Return the study of the arguments of `add_study`."""
    from e3sn_study.runs import Study

    name = profile_name(given)
    return Study.open(name, given.data, given.runs, given.report, given.seed, given.set)


def a_path(text: str) -> Path:
    """Read a path, in which ``~`` is the home folder, also where the shell leaves it, as in
    ``--out=~/a``; refuse an empty one, which a shell variable without a value gives."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(os.path.expanduser(text))


def at_least(least: int, most: int = LARGEST_NUMBER) -> Callable[[str], int]:
    """Return a function that reads a whole number from `least` to `most`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
            limits = f"of at least {least} and at most {most:,}"
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number {limits}")
        return int(text)

    return read
