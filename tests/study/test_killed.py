"""A command that is killed at any moment goes on when it is given again, and leaves no temporary file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import start

CHECKOUT = Path(__file__).resolve().parents[2]
SHARES = (0.1, 0.5, 0.9)
"""Of the time that the whole command takes: when it is killed."""


def finish(arguments: list[object]) -> float:
    """Run a command to its end; return the seconds it took."""
    begun = time.perf_counter()
    process = start(arguments)
    process.join(600)
    assert process.exitcode == 0
    return time.perf_counter() - begun


def contents(folder: Path) -> dict[str, bytes]:
    """All files with their bytes; what holds measured times, or is a clip, counts by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.suffix in (".png", ".csv") else b""
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".html" and not {"speed.csv", "timing"} & {*path.parts}
    }


@pytest.mark.slow
def test_a_study_goes_on(data_root: Path, tiny_settings: tuple[str, ...], tmp_path: Path) -> None:
    def reproduce(folder: Path) -> list[object]:
        given = ["reproduce", "--only", "02", "--data", data_root, "--runs", folder / "runs"]
        settings = (*tiny_settings, "train.pairs=60", "train.checkpoint_every=2")
        given += [each for setting in settings for each in ("--set", setting)]
        return [*given, "--report", folder / "report"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seconds = finish(reproduce(whole))
    process = start(reproduce(killed))
    deadline = time.monotonic() + 10 * seconds
    while not (begun := [*killed.glob("runs/*/checkpoint.pt")]) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert begun
    assert not [*killed.glob("runs/*/model.safetensors")]
    finish(reproduce(killed))
    assert contents(killed).keys() == contents(whole).keys()
    first, second = ([*each.glob("runs/*/model.safetensors")] for each in (whole, killed))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


Command = Callable[[Path], list[object]]


@pytest.fixture(params=["track", "evaluate", pytest.param("report", marks=pytest.mark.slow)])
def command(request: pytest.FixtureRequest, data_root: Path, tiny_model_file: Path) -> Command:
    """The arguments of a command that writes into the folder it is given."""
    if request.param == "track":
        frames = sorted((data_root / "synthetic" / "JPEGImages" / "480p").iterdir())[0]
        saved = "masks,overlay,table,coco,matte"
        given = ["track", frames, "--box", "60,40,50,50", "--threads", 1, "--save", saved]
        return lambda folder: [*given, "--out", folder / "out"]
    if request.param == "evaluate":
        given = ["evaluate", "--model", tiny_model_file, "--data", data_root]
        return lambda folder: [*given, "--out", folder / "out"]

    def report(folder: Path) -> list[object]:
        if not (folder / "report").exists():
            shutil.copytree(CHECKOUT / "reports" / "cpu" / "results", folder / "report" / "results")
        return ["report", "--profile", "cpu", "--report", folder / "report"]

    return report


def test_killed_at_any_moment_it_goes_on(command: Command, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    start(["--version"]).join()  # the first one waits for imports
    seconds = finish(command(tmp_path / "whole"))
    wanted = contents(tmp_path / "whole")
    assert len(wanted) > 3
    folder = tmp_path / "killed"
    folder.mkdir()
    for share in SHARES:
        process = start(command(folder))
        time.sleep(share * seconds)
        process.kill()
        process.join()
    finish(command(folder))
    assert contents(folder) == wanted
