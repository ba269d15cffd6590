"""Memory and time of a training step against the number of sampled windows.

The paper says (sections 1, 3 and 5) that few samples need less memory, but gives no number. Every
count is measured in a process of its own, because the peak memory of a process never falls.
"""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import pandas as pd
import psutil
import torch

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import CELLS
from e3sn_lib.model.device import machine, peak_memory_bytes
from e3sn_study.bench.steps import Stepper, noise
from e3sn_study.records.schema import SCHEMAS

COUNTS = (1, 4, 16, 64, CELLS**2)
"""Samples per image. The paper has 4; the last is every candidate window."""
MEMORY_SHARE = 0.7
"""Share of the free memory; a count that probably needs more is not run."""
LONG_ENOUGH = 4.0
"""Seconds of steps after which no further step is timed."""


def measure_sampling_cost(
    profile: Profile, counts: Iterable[int] = COUNTS, batch_size: int = 2, steps: int = 2
) -> pd.DataFrame:
    """Train a few steps on random images with each number of samples per image.

    After a step that warms up, `steps` are timed; fewer if they take long. A step has few images,
    `batch_size`, so that all windows of an image fit.

    Return samples_per_image, samples (per step), seconds_per_step (of the fastest), peak_memory_mb
    (MiB, of the whole process), estimated_memory_mb (MiB) and machine. A count that would need too
    much memory is not run: it has only the estimate. Raises InputError if a measurement fails for
    another reason, or if nothing can be measured.
    """
    counts = list(counts)
    if not counts or not all(isinstance(n, int) and 1 <= n <= CELLS**2 for n in counts):
        raise InputError(f"counts are whole numbers from 1 to {CELLS**2}, not {counts}")
    limit = MEMORY_SHARE * free_memory_mib()
    rows: list[dict[str, float]] = []
    for count in sorted({*counts}):
        estimate = _estimate(rows, count * batch_size)
        measured = _in_own_process(profile, count, batch_size, steps) if estimate <= limit else None
        sizes = {"samples_per_image": count, "samples": count * batch_size}
        rows.append(sizes | (measured or {"estimated_memory_mb": estimate}))
    if not any("peak_memory_mb" in row for row in rows):
        reason = "every process ended before its first step; is there enough memory?"
        raise InputError(f"the cost of samples cannot be measured: {reason}")
    table = pd.DataFrame(rows, columns=SCHEMAS["sampling_cost"].columns)
    return table.assign(machine=machine()["machine"])


def _estimate(rows: list[dict[str, float]], samples: float) -> float:
    """Return the peak memory in MiB on the line through the last two measured counts."""
    measured = [(row["samples"], row["peak_memory_mb"]) for row in rows if "peak_memory_mb" in row]
    if len(measured) < 2:
        return 0.0
    (fewer, less), (last, peak) = measured[-2:]
    return peak + max((peak - less) / (last - fewer), 0.0) * (samples - last)


def _in_own_process(
    profile: Profile, count: int, batch_size: int, steps: int
) -> dict[str, float] | None:
    """Measure in a new process; None if the system ended it because memory ran out."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure_here, profile, count, batch_size, steps).result()
        except BrokenProcessPool:
            return None
        except Exception as error:  # whatever torch raises
            reason = " ".join(str(error).split())
            raise InputError(f"measuring {count} samples per image failed: {reason}") from error


def measure_here(profile: Profile, count: int, batch_size: int, steps: int) -> dict[str, float]:
    """Measure in this process: seconds of the fastest step, and the peak memory in MiB."""
    torch.manual_seed(profile.seed)
    stepper = Stepper(profile)
    stepper.train_backbone(True)
    batch = noise(profile, stepper.stage, batch_size, count)
    seconds: list[float] = []
    while len(seconds) <= steps and sum(seconds) < LONG_ENOUGH:
        seconds.append(sum(stepper.step(batch)))
    return {
        "seconds_per_step": min(seconds[1:] or seconds),
        "peak_memory_mb": peak_memory_bytes() / 2**20,
    }


def free_memory_mib() -> float:
    """Return the memory in MiB that a new process can have, on the device that trains."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / 2**20
    return psutil.virtual_memory().available / 2**20
