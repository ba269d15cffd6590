"""Commands in processes of their own, forked from one that has imported everything: imports take seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from multiprocessing import get_context, set_start_method
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from e3sn_study.cli import main

FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(["e3sn_study.runs", "e3sn_lib.tracking.own_video"])


def _run(words: list[str], errors: Path | None) -> None:
    set_start_method(None, force=True)  # that of a program, for the processes of its own
    torch.set_num_threads(1)
    if errors:
        os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
    sys.exit(main(words))


def start(arguments: Iterable[object], errors: Path | None = None) -> ForkServerProcess:
    """Begin a command, with one thread. The file `errors` gets what it prints as errors."""
    process = FORKSERVER.Process(target=_run, args=([*map(str, arguments)], errors))
    process.start()
    return process
