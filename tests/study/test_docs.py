"""README and docs: Python runs as printed, commands are understood, links lead somewhere."""

from __future__ import annotations

import ast
import csv
import re
import shlex
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from e3sn_lib.data import pairs
from e3sn_lib.model import network
from e3sn_lib.tracking.clip import write_clip
from e3sn_lib.tracking.video import read_frames
from e3sn_study.cli import _parser, main, track

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "examples").glob("*.md"),
    ROOT / "notebooks" / "README.md",
    ROOT / "models" / "e3sn.md",
]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED = {"x,y,w,h": "1,2,3,4"}
"""What stands for something in a printed command, with something that it may stand for."""


def pages(pattern: re.Pattern[str]) -> list[object]:
    found = [page for page in PAGES if pattern.search(page.read_text())]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


def commands(page: Path) -> list[str]:
    """The arguments of each `e3sn` in a page: lines of blocks, and what the text has with --out."""
    text = page.read_text()
    blocks = "\n".join(FENCED.findall(text)).replace("\\\n", " ")
    lines = r"^(?:\.venv/bin/)?(?:e3sn|torchrun .* -m e3sn_study) (.*)"
    inline = r"(?<!`)`e3sn ([^`\n]* --out [^`\n]*)`"
    return re.findall(lines, blocks, re.MULTILINE) + re.findall(inline, text)


@pytest.mark.parametrize("page", pages(PYTHON))
def test_python_runs_as_printed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first frames of the clip that comes with the study."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "examples").mkdir()
    frames = read_frames(ROOT / "examples" / "cockatoo.mp4")
    write_clip(tmp_path / "examples" / "cockatoo.mp4", islice(frames, 10))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pairs, "draw_samples", pairs.draw_samples)  # put back what a page replaces
    monkeypatch.setattr(network, "LevelFusion", network.LevelFusion)
    names: dict[str, object] = {}
    for block in PYTHON.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", pages(FENCED))
def test_commands_are_understood(page: Path) -> None:
    for command in commands(page):
        words = [NAMED.get(word, word) for word in shlex.split(command, comments=True)]
        _parser().parse_args(track.one_word_boxes(words))


def test_commands_are_found() -> None:
    assert len(commands(ROOT / "README.md")) == 2
    assert len(commands(ROOT / "docs" / "training.md")) == 17


@pytest.mark.parametrize("page", pages(re.compile(r"\]\(")))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [each for each in links if "://" not in each and not (page.parent / each).exists()]
    assert missing == []


def test_functions_and_folders_stay_as_small_as_contributors_are_told() -> None:
    long = []
    for module in [
        path for top in ("e3sn_lib", "e3sn_study") for path in (ROOT / top).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[bool(ast.get_docstring(node)) :] or node.body
                if (body[-1].end_lineno or 0) - body[0].lineno >= 50:
                    long.append(f"{module}: {node.name}")
        beside = {path for path in module.parent.iterdir() if path.name != "__pycache__"}
        assert len(beside) <= 14, module.parent
    assert long == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_what_is_said_to_cost_most_does_on_record() -> None:
    with (ROOT / "reports" / "cpu" / "tables" / "attributes.csv").open() as file:
        rows = list(csv.DictReader(file))
    lost = {row["Attribute"].split(": ")[1]: float(row["J difference"]) for row in rows}
    named = {"dynamic background", "heterogeneous object", "appearance change", "fast motion"}
    assert set(sorted(lost, key=lost.__getitem__)[:4]) == named
    assert lost["motion blur"] < sorted(lost.values())[len(lost) // 2]


def test_own_images_can_be_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The profile of docs/own_data.md, with a network of the least size."""
    page = (ROOT / "docs" / "own_data.md").read_text()
    profile = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    assert len(profile.splitlines()) == 11
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(profile)
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "DIR" / "mine" / folder).mkdir(parents=True)
    for number in range(3):
        image, mask = rng.integers(0, 256, (120, 160, 3), np.uint8), np.zeros((120, 160), np.uint8)
        mask[30:90, 40:110] = 255
        cv2.imwrite(f"DIR/mine/images/{number}.jpg", image)
        cv2.imwrite(f"DIR/mine/masks/{number}.png", mask)
    least = [
        'train.init_weights=""',
        "train.weights=none",
        "model.backbone=resnet18",
        "model.channels=16",
    ]
    least += ["train.pairs=4", "train.batch_size=2", "data.workers=0", "train.log_every=1"]
    assert main(["data", "verify", "--profile", "mine.yaml", "--data", "DIR"]) == 0
    settings = [f"--set={each}" for each in least]
    assert main(["train", "--profile", "mine.yaml", "--data", "DIR", *settings]) == 0
    model = capfd.readouterr().out.rsplit("model: ", 1)[1].strip()
    command = ["track", str(ROOT / "examples" / "cockatoo.mp4"), "--box=222,24,418,336", "--to=3"]
    assert main([*command, "--weights", model, "--out", "out"]) == 0
    assert len(list(Path("out/masks").iterdir())) == 4
    assert yaml.safe_load(profile)["data"]["train"] == [{"kind": "mask_folder", "path": "mine"}]
