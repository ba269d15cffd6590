"""The packages without their repository, names that are no text, and parameters as papermill gives them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from papermill.inspection import _infer_parameters
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

CHECKOUT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))
BOX = ("--box", "16,18,28,28", "--threads", "1")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages, as pip copies them, and nothing beside them."""
    folder = tmp_path_factory.mktemp("site-packages")
    for package in ("e3sn_lib", "e3sn_study"):
        shutil.copytree(CHECKOUT / package, folder / package)
    return folder


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run Python with the installed packages in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, *map(os.fsencode, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            timeout=120,
        )

    return run


def test_what_needs_the_repository_says_so(python) -> None:
    expected = {
        "reproduce --profile smoke": "no notebooks in",
        "reproduce --profile smoke --only 01": "clone the repository",
        "report --profile cpu": "run the study first",
        "evaluate --model nowhere --data .": "there is no file nowhere",
    }
    code = (
        "import sys\nfrom e3sn_study.cli import main\n"
        "for each in sys.argv[1:]: print(main(each.split()), file=sys.stderr)"
    )
    lines = python("-c", code, *expected).stderr.decode().splitlines()
    assert lines[1::2] == ["2"] * 4
    for line, words in zip(lines[::2], expected.values(), strict=True):
        assert words in line


def test_names_that_are_no_text(python, shared_path: Callable[[str], Path], tmp_path: Path) -> None:
    video, out = "vid\udce9o.mp4", "out\udce9"
    shutil.copyfile(shared_path("cases/name_not_utf8/clip.mp4"), tmp_path / video)
    ended = python("-m", "e3sn_study", "track", video, *BOX, "--out", out)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"out\\xe9/masks" in ended.stdout
    assert sorted(path.name for path in (tmp_path / out).iterdir()) == [
        "masks",
        "overlay.mp4",
        "tracks.csv",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_knows_every_parameter(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its reader looks at lines one by one: an equals sign in a comment would hide a parameter."""
    notebook = load_notebook_node(str(path))
    cell = next(each for each in notebook.cells if "parameters" in each.metadata.get("tags", ()))
    names: dict[str, object] = {}
    exec(cell.source, names)
    given = {name: value for name, value in names.items() if not name.startswith("__")}
    assert {each.name for each in _infer_parameters(notebook)} == given.keys()
    with caplog.at_level(logging.WARNING):
        parameterize_notebook(notebook, given)
    assert caplog.messages == []
