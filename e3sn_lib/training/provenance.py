"""What a run was made with: versions, machine, commit; and the seeds and peak memory of this process."""

from __future__ import annotations

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

from e3sn_lib.model.device import cpuinfo, has_native_bf16

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "e3sn-study"
_CODE = ("e3sn_lib", "e3sn_study", "notebooks", "pyproject.toml")


def environment() -> dict[str, Any]:
    """Everything a reader needs to judge or repeat a run, in JSON's types; what cannot be found out is "unknown".

    Memory is in bytes. ``machine`` names what computes. ``dirty`` speaks of code only: results that the run itself writes do not
    count.
    """
    commit, dirty = _commit()
    cpu, gpu = cpuinfo("model name") or platform.processor() or "unknown", None
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": _versions(),
        "machine": gpu or cpu,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu or "none",
        "gpus": torch.cuda.device_count(),
        "bf16": has_native_bf16("cuda" if torch.cuda.is_available() else "cpu"),
        "memory": _memory_bytes(),
        "commit": commit,
        "dirty": dirty,
        "command": _command(),
    }


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices.

    On a CPU the same seed then gives the same run; on a GPU, atomic additions in backward passes remain unordered.
    Processes that prepare data have generators of their own.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries may still draw from numpy's global generator)
    torch.manual_seed(seed)


def _versions() -> dict[str, str]:
    """Installed versions of the runtime dependencies, which the package's own metadata name."""
    try:
        required = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        required = []
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]
    return {name: _version(name) for name in [PACKAGE, *names]}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> tuple[str, bool | str]:
    """Commit of the checkout this library lies in, and whether its code differs from it."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT:  # installed elsewhere: a repository around it is not ours
        return "unknown", "unknown"
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *_CODE)
    return commit or "unknown", "unknown" if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _command() -> str:
    program = Path(sys.argv[0]).name
    if "ipykernel" in program:
        return "notebook"
    return shlex.join(["e3sn" if program == "__main__.py" else program, *sys.argv[1:]])


def _memory_bytes() -> int | str:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return "unknown"
