"""The batches of a stage: each process's part of every step's pairs, prepared by data workers."""

import signal
from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from e3sn_lib.config import Profile
from e3sn_lib.data.pairs import Batch, PairDataset, Source, collate
from e3sn_lib.errors import InputError, end_signals
from e3sn_lib.model.device import best_device
from e3sn_lib.training import processes
from e3sn_lib.training.schedule import StagePlan

LAST_SECONDS = 60
"""How long a worker goes on after SIGTERM. In this time its parent finishes a step and saves."""


class _Batches(Dataset[Batch | InputError]):
    """Batches by the numbers of their pairs. An InputError is returned, not raised: a loader would
    add the worker's traceback to its message."""

    def __init__(self, pairs: PairDataset) -> None:
        self.pairs = pairs

    def __getitem__(self, numbers: range) -> Batch | InputError:
        try:
            return collate([self.pairs[number] for number in numbers])
        except InputError as error:
            return error


def step_batches(
    sources: list[Source], profile: Profile, stage: StagePlan, done: int, pairs_before: int
) -> Iterator[list[Batch]]:
    """Yield this process's part of each step's pairs, in ``train.accumulate`` batches, after the
    first `done` steps of the stage. The pairs are numbered on from the `pairs_before` of earlier
    legs. Raises InputError if no usable pair can be drawn."""
    size, accumulate = profile.train.batch_size, profile.train.accumulate
    share, workers = size // processes.world(), profile.data.workers
    part, offset = share // accumulate, processes.rank() * share
    first = pairs_before + stage.first_step * size
    steps = range(done, stage.steps)
    loader = DataLoader(
        _Batches(PairDataset(sources, profile, stage.config, first)),
        batch_size=None,  # `_Batches` makes the batches
        sampler=(
            range(number, number + part)
            for step in steps
            for number in range(step * size + offset, step * size + offset + share, part)
        ),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=best_device().type == "cuda",
        worker_init_fn=_outlast_end_signals,
    )
    prepared = iter(loader)
    try:
        for _ in steps:
            batches = [next(prepared) for _ in range(accumulate)]
            for batch in batches:
                if isinstance(batch, InputError):
                    raise batch
            yield batches
    finally:
        del prepared  # this ends its workers; the traceback of an error would keep them


def _outlast_end_signals(worker: int) -> None:
    """Ignore `end_signals` in a worker process. All processes of a terminal or a job get them, but
    the parent ends its workers itself, once it has saved.

    SIGTERM ends the worker after `LAST_SECONDS`. When Python exits, it sends SIGTERM to the workers
    that are left, and waits for them.
    """
    for number in end_signals():
        is_term = number == signal.SIGTERM
        later = (lambda *_: signal.alarm(LAST_SECONDS)) if is_term else signal.SIG_IGN
        signal.signal(number, later)
