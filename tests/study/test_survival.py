"""A training that is killed, cut off from the disk, doubled or distributed; what is killed or distributed has processes of its own."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from filelock import FileLock
from processes import start
from safetensors.torch import load_file, save_file

from e3sn_lib import files
from e3sn_lib.model.network import build_model
from e3sn_lib.profiles.loading import load_profile
from e3sn_study.cli import main

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "model.channels=16",
    "train.precision=fp32",
    "train.pairs=12",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=1",
    "train.train_layers=[layer3]",
    "data.workers=1",
)
FROZEN_HALF = "train.unfreeze_at=0.5"


def words(runs: Path, data: Path, *settings: str) -> list[str]:
    chosen = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    folders = ["--data", str(data), "--runs", str(runs), "--report", str(runs / "report")]
    return ["train", *folders, *chosen]


def told(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command in this process; return status, output and errors."""
    torch.set_num_threads(1)  # as the processes have; with more, sums differ in the last digit
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        status = main(arguments)
    return status, out.getvalue(), errors.getvalue()


def refused(arguments: list[str]) -> str:
    """The one line of a command that must fail."""
    status, _, errors = told(arguments)
    assert status == 2
    assert len(errors.strip().splitlines()) == 1
    return errors


def train(runs: Path, data: Path, *settings: str, processes: int = 1) -> Path:
    """The folder of a run that ended well."""
    if processes == 1:
        status, out, errors = told(words(runs, data, *settings))
    else:
        launcher = f"-m torch.distributed.run --standalone --nproc-per-node {processes} -m"
        done = subprocess.run(
            [sys.executable, *launcher.split(), "e3sn_study", *words(runs, data, *settings)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        status, out, errors = done.returncode, done.stdout, done.stderr
    assert status == 0, errors
    assert out.count("model: ") == 1, "one process tells where the model is, whatever their number"
    return next(runs.glob("smoke-*"))


@pytest.fixture(scope="module")
def undisturbed(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("undisturbed"), data_root)


@pytest.fixture
def started(data_root: Path, tmp_path: Path) -> Iterator[ForkServerProcess]:
    process = start(words(tmp_path, data_root), tmp_path / "errors.txt")
    yield process
    process.kill()
    process.join()


def wait_for_checkpoint(runs: Path, process: ForkServerProcess) -> None:
    for _ in range(1200):
        if list(runs.glob("smoke-*/checkpoint.pt")):
            return
        assert process.exitcode is None, "it ended before its first checkpoint"
        time.sleep(0.05)
    raise AssertionError("no checkpoint after a minute")


def losses(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "log.csv")[["loss", "cls", "loc", "mask", "mask_iou"]]


def same_weights(first: Path, second: Path) -> bool:
    one, other = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_killed_by_the_system_it_ends_like_an_undisturbed_run(
    undisturbed: Path, started: ForkServerProcess, data_root: Path, tmp_path: Path
) -> None:
    wait_for_checkpoint(tmp_path, started)
    started.kill()
    started.join()
    folder = next(tmp_path.glob("smoke-*"))
    assert not (folder / "model.safetensors").exists()
    half = folder / f".checkpoint.{files._MACHINE}-{started.pid}.tmp.pt"
    half.write_bytes(b"half a checkpoint of a process that was killed while it wrote")
    assert same_weights(train(tmp_path, data_root), undisturbed)
    assert not half.exists()


def test_asked_to_end_it_saves_and_says_how_to_go_on(
    undisturbed: Path, started: ForkServerProcess, data_root: Path, tmp_path: Path
) -> None:
    wait_for_checkpoint(tmp_path, started)
    whole_job = psutil.Process(started.pid)  # a job's end is told to its data workers too
    for process in (*whole_job.children(), whole_job):
        process.send_signal(signal.SIGTERM)
    started.join(60)
    assert started.exitcode == 130
    errors = (tmp_path / "errors.txt").read_text()
    assert "the same command or cell goes on from there" in errors
    assert "Traceback" not in errors
    assert same_weights(train(tmp_path, data_root), undisturbed)


def test_a_full_disk_keeps_the_last_checkpoint(
    undisturbed: Path, data_root: Path, tmp_path: Path
) -> None:
    """The limit on a file's size fails writes as a full disk does; the small log still fits."""
    limit = (undisturbed / "checkpoint.pt").stat().st_size // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        line = refused(words(tmp_path, data_root))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write the checkpoint of step 1" in line
    assert not list(next(tmp_path.glob("smoke-*")).glob("*checkpoint*"))
    assert same_weights(train(tmp_path, data_root), undisturbed)


def test_two_trainings_in_one_folder_are_refused(
    undisturbed: Path, data_root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / undisturbed.name
    folder.mkdir()
    with FileLock(folder / "lock"):
        assert "is in use by another training" in refused(words(tmp_path, data_root))


def test_two_processes_train_like_one(data_root: Path, tmp_path: Path) -> None:
    """The same pairs, losses over both processes' samples, batch statistics of both: only rounding differs.

    SGD and a backbone with statistics of its own, because AdamW and batch-norm on batch-norm make much of rounding.
    """
    weights = tmp_path / "backbone.safetensors"
    torch.manual_seed(0)
    backbone = build_model(load_profile("smoke", overrides=["model.channels=16"]).model).backbone
    save_file({key: value.contiguous() for key, value in backbone.state_dict().items()}, weights)
    settings = [f"train.weights={weights}", "train.optimiser=sgd", "train.average=0.5", FROZEN_HALF]
    one, two = (train(tmp_path / str(n), data_root, *settings, processes=n) for n in (1, 2))
    assert one.name == two.name
    assert len(losses(one)) == 3
    assert losses(one)["loss"].nunique() == 3
    pd.testing.assert_frame_equal(losses(two), losses(one), rtol=1e-5, atol=2e-6)
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for key in first:  # saved in half precision
        torch.testing.assert_close(first[key].float(), second[key].float(), rtol=2e-3, atol=1e-5)


def test_processes_that_accumulate_parts(
    undisturbed: Path, data_root: Path, tmp_path: Path
) -> None:
    """Batch-norm sees other windows together, so the first step's losses agree roughly and later ones are not compared."""
    parts = train(tmp_path, data_root, "train.accumulate=2", processes=2)
    first, other = losses(undisturbed).iloc[0], losses(parts).iloc[0]
    # batch-norm sees 2 images a part instead of 4; untrained offsets follow its statistics most
    for part, tolerance in {"cls": 0.2, "mask": 0.2, "loc": 0.5}.items():
        assert other[part] == pytest.approx(first[part], rel=tolerance), part
    assert losses(parts)["loss"].notna().all()


def test_a_run_that_is_there_is_not_begun_anew(undisturbed: Path, data_root: Path) -> None:
    line = refused([*words(undisturbed.parent, data_root), "--resume", "never"])
    assert "holds such a run already; go on with it (--resume auto), or delete it" in line


def test_a_backup_counts_as_its_run(data_root: Path, tmp_path: Path) -> None:
    settings = (f"train.backup={tmp_path / 'backup'}", "train.pairs=4")
    run = train(tmp_path / "runs", data_root, *settings)
    record = tmp_path / "backup" / run.name / "data.json"
    assert record.read_bytes() == (run / "data.json").read_bytes()
    shutil.rmtree(run)
    again = words(tmp_path / "runs", data_root, *settings)
    assert f"{record.parent} holds such a run already" in refused([*again, "--resume", "never"])
    files = json.loads(record.read_text())["files"]
    record.write_text(json.dumps({"files": dict.fromkeys(files, "of other files")}))
    _, out, _ = told(again)
    assert f"{run.name} was trained on other files; this is another run" in out
    assert "from step 0" in out
