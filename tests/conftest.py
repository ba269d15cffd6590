"""What the tests share: a procedural set of a few frames, settings and a network of the least size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

from e3sn_lib.config import Profile
from e3sn_lib.data import index
from e3sn_lib.data.synthetic import synthesise
from e3sn_lib.model.network import E3SN, build_model
from e3sn_lib.model.weights import save_model
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.training.loop import Trainer

CHECKOUT = Path(__file__).resolve().parents[1]
TINY = (
    "model.channels=16",
    "train.pairs=16",
    "train.batch_size=2",
    "train.precision=fp32",
    "train.log_every=2",
    "track.penalty_k=0.1",
)
"""Turns the smoke profile into one that trains in seconds."""
LONGEST = ("test_execution", "test_survival", "test_cli", "test_training", "test_killed")
"""Files of tests that begin first, so that no worker is left alone with one of them."""


for name in ("E3SN_DATA", "E3SN_WEIGHTS"):  # the user's own
    os.environ.pop(name, None)

# the same examples everywhere, and as long as they need beside other tests
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":  # the expected numbers are those of a CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices of data sets go to a folder of this session instead of the user's cache."""
    monkeypatch.setattr(index, "cache_folder", lambda: session_cache)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a procedural set of three training clips and three to evaluate on, of five frames each; read only."""
    root = tmp_path_factory.mktemp("data")
    synthesise(root / "synthetic", train_clips=3, val_clips=3, frames=(5, 5))
    return root


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def tiny_profile(data_root: Path) -> Callable[..., Profile]:
    """The smoke profile in the least size, with further ``key=value`` settings."""

    def load(*overrides: str, variant: str = "e3sn", seed: int = 0) -> Profile:
        return load_profile("smoke", variant, [*TINY, *overrides], seed=seed, data_root=data_root)

    return load


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps that compute nothing."""
    monkeypatch.setattr(Trainer, "_step", lambda *_: {"loss": 1.0})


@pytest.fixture(scope="session")
def tiny_model(tiny_profile: Callable[..., Profile]) -> E3SN:
    """A network with random weights."""
    torch.manual_seed(0)
    return build_model(tiny_profile().model).eval()


@pytest.fixture(scope="session")
def tiny_model_file(
    tiny_model: E3SN, tiny_profile: Callable[..., Profile], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same network as a file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, tiny_model, tiny_profile())
    return path


@pytest.fixture(scope="session")
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
