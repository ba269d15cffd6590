"""The packages without their repository, names that are no text, and parameters as papermill gives them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
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
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    for package, data in project["tool"]["setuptools"]["package-data"].items():
        root = CHECKOUT / package
        for path in chain(root.rglob("*.py"), *map(root.glob, data)):
            copy = folder / path.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
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


def test_the_data_of_the_packages_go_along(python, tmp_path: Path) -> None:
    """The shipped model, settings, texts and templates."""
    (tmp_path / "frames").mkdir()
    for number in range(2):
        image = np.full((80, 100, 3), 40, np.uint8)
        image[18:46, 16:44] = 200
        cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), image)
    ended = python("-m", "e3sn_study", "track", "frames", *BOX, "--out", "out")
    assert (ended.returncode, ended.stderr) == (0, b"")
    code = (
        "from e3sn_lib.profiles.loading import load_profile\n"
        "from e3sn_study.records import reference\n"
        "from e3sn_study.report.page import HTML, MARKDOWN\n"
        "print(load_profile('paper').train.pairs, len(reference('claims')['claims']))\n"
        "HTML.get_template('page.html.j2'), MARKDOWN.get_template('card.md.j2')"
    )
    assert python("-c", code).stdout.split() == [b"12000000", b"10"]
