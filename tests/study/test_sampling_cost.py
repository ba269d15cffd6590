"""Memory and time by samples per image: measured where they fit, estimated on a line where they do not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.model.device import machine
from e3sn_study.bench import sampling_cost
from e3sn_study.bench.sampling_cost import measure_here, measure_sampling_cost
from e3sn_study.records.store import write_record
from e3sn_study.runs import Study, measurements


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each window of a step takes 2 MiB beside 500 MiB for the rest; returns the counts that were run."""
    counts: list[int] = []

    def measure(profile: Profile, count: int, batch_size: int, steps: int) -> dict[str, float]:
        counts.append(count)
        return {"seconds_per_step": 0.1 * count, "peak_memory_mb": 500.0 + 2 * count * batch_size}

    monkeypatch.setattr(sampling_cost, "_in_own_process", measure)
    return counts


def test_what_would_not_fit_is_estimated_on_the_line(
    tiny_profile: Callable[..., Profile], linear: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_cost, "free_memory_mib", lambda: 1200)
    cost = measure_sampling_cost(tiny_profile(), (625, 4, 1, 64)).set_index("samples_per_image")
    assert linear == [1, 4, 64]
    assert list(cost["samples"]) == [2, 8, 128, 1250]
    assert cost["peak_memory_mb"].tolist() == pytest.approx([504, 516, 756, np.nan], nan_ok=True)
    assert cost["estimated_memory_mb"].tolist() == pytest.approx(
        [np.nan, np.nan, np.nan, 3000], nan_ok=True
    )
    assert pd.isna(cost.loc[625, "seconds_per_step"])


def test_a_count_that_is_given_twice_is_run_once(
    tiny_profile: Callable[..., Profile], linear: list[int]
) -> None:
    cost = measure_sampling_cost(tiny_profile(), (4, 4, 16))
    assert linear == cost["samples_per_image"].tolist() == [4, 16]


def test_a_table_without_any_measurement_is_refused(
    tiny_profile: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_cost, "_in_own_process", lambda *_: None)
    with pytest.raises(InputError, match="every process ended before its first step"):
        measure_sampling_cost(tiny_profile(), (1, 4))


@pytest.mark.parametrize("counts", [[], [4.5], ["4"], [0], [626]])
def test_counts_that_cannot_be(
    tiny_profile: Callable[..., Profile], linear: list[int], counts: list[int]
) -> None:
    with pytest.raises(InputError, match="counts are whole numbers from 1 to 625, not"):
        measure_sampling_cost(tiny_profile(), counts)
    assert linear == []


def test_more_windows_take_more_memory_in_processes_of_their_own(
    tiny_profile: Callable[..., Profile],
) -> None:
    cost = measure_sampling_cost(tiny_profile(), (1, 150), batch_size=1, steps=0)
    assert cost["peak_memory_mb"][1] > cost["peak_memory_mb"][0] + 50
    assert (cost["seconds_per_step"] > 0).all()
    assert cost["machine"].tolist() == 2 * [machine()["machine"]]


def test_a_step_can_be_measured_for_every_variant(tiny_profile: Callable[..., Profile]) -> None:
    for variant in ("e3sn", "e3sn-s", "siammask"):
        measured = measure_here(tiny_profile(variant=variant), count=2, batch_size=2, steps=0)
        assert measured["seconds_per_step"] > 0
        assert measured["peak_memory_mb"] > 100


def test_a_failed_measurement_is_one_line(
    tiny_profile: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = lambda *_, **__: ThreadPoolExecutor(1)  # noqa: E731
    monkeypatch.setattr(sampling_cost, "ProcessPoolExecutor", pool)
    with pytest.raises(InputError, match=r"^measuring 1 samples per image failed: \S.*$"):
        measure_sampling_cost(tiny_profile(), (1,), batch_size=0, steps=0)


def test_a_study_from_records_measures_nothing(tmp_path: Path, linear: list[int]) -> None:
    study = Study.open("cpu", report=tmp_path, overrides=["study.recorded=true"])
    cost = {"samples_per_image": [4], "samples": [32], "peak_memory_mb": [900.0]}
    write_record(study.results / "sampling_cost.csv", pd.DataFrame(cost))
    assert measurements.sampling_cost(study)["peak_memory_mb"].tolist() == [900]
    assert linear == []
