"""Where the reference numbers are, and the file of record of how closely they are met.

``E3SN_GOLDEN`` names the folder of references (default ``../shared/golden`` beside the checkout); tests skip without it.
``E3SN_RECORD`` names a CSV file that a run of these tests leaves behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from e3sn_lib.files import atomic_path

ROOT = Path(__file__).parents[2]
COLUMNS = ["check", "source", "largest", "tolerance", "cases"]
ROWS = pytest.StashKey[list[tuple[str, str, float, float, int]]]()

RecordDeviation = Callable[[str, str, float, float, int], None]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of references."""
    folder = ROOT / os.environ.get("E3SN_GOLDEN", "../shared/golden")
    if not folder.is_dir():
        pytest.skip(f"no reference numbers at {folder}; E3SN_GOLDEN names their folder")
    return folder.resolve()


@pytest.fixture
def record_deviation(pytestconfig: pytest.Config) -> RecordDeviation:
    """Note a check's largest deviation from its source, the tolerance and the number of cases, before asserting anything."""

    def record(check: str, source: str, largest: float, tolerance: float, cases: int) -> None:
        pytestconfig.stash.setdefault(ROWS, []).append((check, source, float(largest), float(tolerance), int(cases)))

    return record


def pytest_sessionfinish(session: pytest.Session) -> None:
    rows, path = session.config.stash.get(ROWS, []), os.environ.get("E3SN_RECORD")
    if rows and path:
        with atomic_path(Path(path)) as temporary:
            pd.DataFrame(sorted(rows), columns=COLUMNS).to_csv(temporary, index=False, float_format="%.3g")
