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
import torch
from recipe import Reference, find_references
from torch import Tensor

from e3sn_lib.files import atomic_path
from e3sn_lib.model.convert import convert_siammask, siammask_profile
from e3sn_lib.model.network import E3SN, build_model

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / os.environ.get("E3SN_GOLDEN", "../shared/golden")
COLUMNS = ["check", "source", "largest", "tolerance", "cases"]
ROWS = pytest.StashKey[list[tuple[str, str, float, float, int]]]()

RecordDeviation = Callable[[str, str, float, float, int], None]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of references."""
    if not FOLDER.is_dir():
        pytest.skip(f"no reference numbers at {FOLDER}; E3SN_GOLDEN names their folder")
    return FOLDER.resolve()


@pytest.fixture(
    scope="session",
    params=find_references(FOLDER) or [None],
    ids=lambda found: found.folder.name if found else "none",
)
def reference(request: pytest.FixtureRequest) -> Reference:
    """Each set of numbers of the public SiamMask code in turn."""
    if request.param is None:
        pytest.skip(
            f"no siammask_seed* at {FOLDER}; E3SN_GOLDEN names the folder of reference numbers"
        )
    return request.param


@pytest.fixture(scope="session")
def public_weights(reference: Reference) -> dict[str, Tensor]:
    """The set's weights under the public code's keys."""
    return reference.weights()


@pytest.fixture(scope="session")
def siammask(public_weights: dict[str, Tensor]) -> E3SN:
    """Our network with the set's weights."""
    torch.set_num_threads(1)
    model = build_model(siammask_profile().model)
    model.load_state_dict(convert_siammask(public_weights))
    return model.eval()


@pytest.fixture
def record_deviation(pytestconfig: pytest.Config) -> RecordDeviation:
    """Note a check's largest deviation from its source, the tolerance and the number of cases, before asserting anything."""

    def record(check: str, source: str, largest: float, tolerance: float, cases: int) -> None:
        pytestconfig.stash.setdefault(ROWS, []).append(
            (check, source, float(largest), float(tolerance), int(cases))
        )

    return record


def pytest_sessionfinish(session: pytest.Session) -> None:
    rows, path = session.config.stash.get(ROWS, []), os.environ.get("E3SN_RECORD")
    if rows and path:
        with atomic_path(Path(path)) as temporary:
            pd.DataFrame(sorted(rows), columns=COLUMNS).to_csv(
                temporary, index=False, float_format="%.3g"
            )
