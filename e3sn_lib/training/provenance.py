"""What a run was made with: versions, machine, commit, command; and its seeds."""

import importlib.metadata
import os
import platform
import random
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from e3sn_lib.errors import printable
from e3sn_lib.model.device import machine

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "e3sn-study"
_CODE = ("e3sn_lib", "e3sn_study", "notebooks", "pyproject.toml")


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a run, in JSON's types; see also `machine`.

    What cannot be found out is "unknown". ``dirty`` says whether the code differs from the commit.
    """
    commit, dirty = _commit()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": _versions(),
        **machine(),
        "commit": commit,
        "dirty": dirty,
        "command": _command(),
    }


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices; data workers have generators of their own.

    The same seed gives the same run on a CPU. On a GPU the order of additions still varies.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries may draw from numpy's global generator)
    torch.manual_seed(seed)


def _versions() -> dict[str, str]:
    """Return the installed versions of the packages that the study requires, by its metadata."""
    try:
        required = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        required = []
    needed = (line for line in required if "extra ==" not in line or 'extra == "study"' in line)
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]
    return {name: _version(name) for name in [PACKAGE, *names]}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> tuple[str, bool | str]:
    """Return the commit of this library's checkout, and whether its code differs from it."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT:  # a repository around an installed copy
        return "unknown", "unknown"
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *_CODE)
    return commit or "unknown", "unknown" if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout).strip()


def _command() -> str:
    program = Path(sys.argv[0]).name
    if "ipykernel" in program:
        return "notebook"
    words = ["e3sn" if program == "__main__.py" else program, *sys.argv[1:]]
    return printable(shlex.join(words))
