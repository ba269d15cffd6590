"""What a training says of itself while it runs: counts, rows of its log, and who watches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from e3sn_lib.errors import InputError
from e3sn_lib.provenance import peak_memory_bytes

Watch = Callable[[pd.DataFrame], None]
"""Gets the log so far whenever a row is added."""
MEASURED = ("loss", "cls", "loc", "mask", "mask_iou", "grad_backbone", "grad_location", "grad_mask", "grad_fusion")
"""What a row averages over its steps; NaN for what a stage does not train."""


@dataclass
class RunState:
    """What a checkpoint holds beside weights and optimiser."""

    step: int = 0
    seconds: float = 0.0
    replaced: int = 0
    redrawn: int = 0
    skipped: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add_row(
        self,
        stage: str,
        batch_size: int,
        rate: float,
        steps: Mapping[str, Sequence[float]],
        elapsed: float,
        fusion: dict[str, float],
    ) -> None:
        """Sum up the steps since the last row.

        Args:
            stage: its name.
            batch_size: pairs per step.
            rate: of learning, at the last step.
            steps: `MEASURED`, and ``compute``, seconds without the wait for pairs; a value per step. Values that are not finite
                are left out of the means.
            elapsed: seconds of these steps with everything around them.
            fusion: weights of the levels, by column name.
        """
        row: dict[str, Any] = {"step": self.step, "stage": stage, "pairs": self.step * batch_size, "lr": rate}
        for key in MEASURED:
            finite = [value for value in steps.get(key, []) if math.isfinite(value)]
            row[key] = float(np.mean(finite)) if finite else math.nan
        self.seconds += elapsed
        self.rows.append(
            row
            | fusion
            | {
                "pairs_per_second": len(steps["loss"]) * batch_size / elapsed,
                "data_share": 1 - sum(steps["compute"]) / elapsed,
                "peak_memory_mb": peak_memory_bytes() / 2**20,
                "seconds": self.seconds,
            }
        )


def tensorboard_writer(folder: Path) -> Watch:
    """Writes the last row of a log for TensorBoard.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("train.tensorboard needs TensorBoard; pip install tensorboard, or leave it off") from error
    writer = SummaryWriter(folder / "tensorboard")

    def write(log: pd.DataFrame) -> None:
        for key, value in log.iloc[-1].drop(["step", "stage"]).items():
            writer.add_scalar(str(key), float(value), int(log["step"].iloc[-1]))
        writer.flush()

    return write
