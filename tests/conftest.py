"""What the tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared_path() -> Callable[[str], Path]:
    """Real data that may lie beside the checkout, in ``../shared``; a test that asks for what is absent is skipped."""

    def locate(name: str) -> Path:
        path = CHECKOUT.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"needs ../shared/{name}, which is not there")
        return path

    return locate


@pytest.fixture
def davis_2016() -> Path:
    """The complete DAVIS-2016, if it lies beside the checkout in ``../data/DAVIS``."""
    path = CHECKOUT.parent / "data" / "DAVIS"
    if not path.is_dir():
        pytest.skip("needs the complete DAVIS-2016 in ../data/DAVIS, which is not there")
    return path
