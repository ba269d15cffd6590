"""Names of methods and columns in the tables of record, and their check when they are read."""

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from e3sn_lib.errors import InputError
from e3sn_lib.files import read_text
from e3sn_lib.metrics.scoring import SUMMARY_COLUMNS

MODEL = "mask"
"""The network's masks at the threshold of its settings."""
BOX = "tracker box filled"
BOUND = "mask in true boxes"
STILL_BOX = "first box held still"
STILL = "first mask held still"
TRUE_BOX = "true box filled"
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
"""Mask thresholds whose scores are shown beside those at the network's own threshold."""

SESSIONS = {
    "one step a frame, as the paper": "int8 graphs",
    "and colours, to choose between places": "",
    "and a second look at resized objects": "",
    "and a search for lost ones": "",
    "and edges fitted to colours, as e3sn track --keep-lost": "as e3sn track --keep-lost",
    "and empty masks of lost objects, as e3sn track": "as e3sn track",
}
"""What a session does, one thing more each time, and how other tables call it, if they have it."""


def at_threshold(threshold: float) -> str:
    """Return the name of the network's masks at another threshold than its own."""
    return f"{MODEL}@{threshold:.2f}"


def threshold_of(method: str) -> float | None:
    """Return the threshold that `at_threshold` put into a name, or None."""
    found = re.fullmatch(rf"{MODEL}@([01]\.\d\d)", method)
    return float(found[1]) if found else None


def box_methods(name: str) -> tuple[str, str]:
    """Return the names of both methods of a source of boxes: the box filled, GrabCut within it."""
    return f"{name} box filled", f"{name} box + GrabCut"


@dataclass(frozen=True)
class Schema:
    """The columns that a CSV file of record must have, with spaces between; more are allowed."""

    texts: str
    numbers: str
    """Columns of finite numbers."""
    gaps: str = ""
    """Columns of finite numbers in which cells may be empty, or which may be absent."""
    key: str = ""
    """Columns that no two rows share."""
    may_be_empty: bool = False
    by: str = "e3sn reproduce"
    """What makes the table."""

    @property
    def columns(self) -> list[str]:
        """All columns."""
        return [*self.texts.split(), *self.numbers.split(), *self.gaps.split()]

    def read(self, path: Path) -> pd.DataFrame:
        """Return the table in `path`; columns of texts hold str, without missing values.

        Raises InputError if the file is absent, damaged or cut short, lacks a column, or has a cell
        that does not belong in its column.
        """
        texts, gaps, content = self.texts.split(), self.gaps.split(), read_text(path, "table")
        try:
            table = pd.read_csv(
                io.StringIO(content),
                dtype=dict.fromkeys(texts, str),
                keep_default_na=False,  # a sequence may be called "nan"
                na_values=[""],
            )
        except ValueError as error:  # pandas' own errors are ValueErrors
            raise self.misfit(path, f"is no table ({' '.join(str(error).split())})") from error
        if not content.endswith("\n") or not isinstance(table.index, pd.RangeIndex):
            raise self.misfit(path, "is cut short or damaged")
        table = table.assign(**{name: np.nan for name in gaps if name not in table})
        table = table.fillna(dict.fromkeys(texts, ""))
        if lacking := [name for name in self.columns if name not in table]:
            raise self.misfit(path, f"lacks the column {lacking[0]}")
        if table.empty and not self.may_be_empty:
            raise self.misfit(path, "has no rows")
        if table.duplicated(self.key.split()).any():
            raise self.misfit(path, "has a row twice")
        for name in [*self.numbers.split(), *gaps]:
            values = pd.to_numeric(table[name], errors="coerce")
            low, high = _LIMITS.get(name, (-np.inf, np.inf))
            valid = np.isfinite(values) & values.between(low, high)
            valid |= table[name].isna() & (name in gaps)
            if not valid.all():
                raise self.misfit(path, f"has no valid {name} in row {valid.argmin() + 1}")
            table[name] = values
        if "made" in table:  # with the number of rows, see `write_record`
            stated = {*table["made"].astype(str).str.extract("/(.*)")[0].dropna()}
            if stated - {str(len(table))}:
                raise self.misfit(path, f"has {len(table)} of {' or '.join(stated)} rows")
        return table

    def misfit(self, path: Path, problem: str) -> InputError:
        """Return the error that names a file, what is wrong with it, and what to do."""
        return InputError(f"{path} {problem}; delete it and make it again with {self.by}")


_SHARES = (
    "J-Mean J-Recall F-Mean F-Recall j predicted_j mask_iou box_iou raw_over penalised_over "
    "mask_threshold J_bound F_bound"
)
_COUNTS = "frames objects sequences steps threads width height batch cases samples_per_image"
_ABOVE_ZERO = (
    "seconds seconds_tracking seconds_per_step peak_memory_mb size predicted_size "
    "step_ms frames_per_second fps ratio"
)
_LIMITS = {
    **dict.fromkeys(_SHARES.split(), (0.0, 1.0)),
    **dict.fromkeys(("J-Decay", "F-Decay"), (-1.0, 1.0)),
    **dict.fromkeys(_COUNTS.split(), (1.0, np.inf)),
    **dict.fromkeys(("seconds_reading", "share", "estimated_memory_mb"), (0.0, np.inf)),
    **dict.fromkeys(_ABOVE_ZERO.split(), (1e-9, np.inf)),
}
"""Limits of the numbers of a column, the same in every table."""
SETTINGS = ("size_lr", "window_influence", "penalty_k", "mask_threshold")
"""Settings of inference that are chosen on held-out training sequences."""
_SETTINGS, _SCORES = " ".join(SETTINGS), " ".join(SUMMARY_COLUMNS)
_MEASURED = "seconds_per_step peak_memory_mb estimated_memory_mb"
_PHASE = "variant part stage backbone"
TRAINING, WHOLE_MAPS, TRACKING = "training", "training with whole maps", "tracking"
"""Parts of the costs of a variant."""
SCORES = Schema("method sequence", f"object {_SCORES} frames", key="method sequence object")
SCORES_OF_RECORD = replace(
    SCORES, texts=f"benchmark variant run {SCORES.texts}", gaps="seed mask_threshold"
)
TIMING = Schema("sequence", "frames objects seconds_reading seconds_tracking", key="sequence")
SPEED = replace(TIMING, texts="run sequence")
_GRAPHS = Schema("contender run machine", "sequences J-Mean F-Mean fps threads", key="contender")
SCHEMAS = {
    "attributes": Schema("sequence attributes", "", key="sequence", may_be_empty=True),
    "baselines_not_run": Schema("method reason", "", key="method", may_be_empty=True),
    "choices": Schema(
        "sequence", f"{_SETTINGS} object J-Mean F-Mean", key=f"{_SETTINGS} sequence object"
    ),
    "crops": Schema("set", "pair box_iou size predicted_size", "mask_iou", "set pair"),
    "held_out": Schema(
        "model run",
        "pairs J-Mean F-Mean scenes raw_over penalised_over",
        key="model",
        by="e3sn bench held-out",
    ),
    "confidence": Schema(
        "split sequence",
        "object frame j predicted_j",
        key="split sequence object frame",
        by="e3sn bench confidence",
    ),
    "networks": Schema("variant backbone levels stages", "parameters multiply_adds", key="variant"),
    "variant_costs": Schema(f"{_PHASE} machine", "share seconds batch", key=_PHASE),
    "sampling_cost": Schema("", "samples_per_image samples", _MEASURED, "samples_per_image"),
    "training_speed": Schema(
        "phase contender machine",
        "pairs_per_second ratio forward backward update batch",
        "data",
        "phase contender",
        by="e3sn bench train",
    ),
    "tracking_speed": Schema(
        "contender machine",
        "width height objects step_ms frames_per_second ratio share threads",
        key="width objects contender",
        by="e3sn bench track",
    ),
    "exports": replace(_GRAPHS, gaps="J_bound F_bound", by="e3sn bench exports"),
    "sessions": replace(
        _GRAPHS, numbers="sequences J-Mean F-Mean fps steps threads", by="e3sn bench sessions"
    ),
    "checks": Schema("check source", "largest tolerance cases", key="check", by="the golden tests"),
    "runs": Schema(
        "stage",
        "pairs seconds peak_memory_mb pairs_per_second data_share",
        "cls loc mask mask_iou w2 w3 w4",
        key="pairs",
    ),
}
"""By the name of the table, or of the folder that holds one for each run."""
