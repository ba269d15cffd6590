"""What the project needs, says it needs, and records about where it ran."""

import ast
import importlib.metadata
import json
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml

import e3sn_lib
from e3sn_lib.model import device
from e3sn_lib.training import provenance

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
STUDY = PROJECT["dependencies"] + EXTRAS["study"]
PROVIDERS = importlib.metadata.packages_distributions()
CONDA_NAMES = {"torch": "pytorch", "opencv-python": "py-opencv"}
PART_OF = {
    "ipython": "ipykernel",
    "markupsafe": "jinja2",
    "opencv-python-headless": "opencv-python",
}  # the kernel is IPython's, HTML that is escaped is Jinja's, OpenCV may be without windows


def names(requirements):
    return {re.split("[<>=]", line)[0].lower() for line in requirements}


def imported_packages(path):
    """(package, whether at module level) of every absolute import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module]
        else:
            continue
        yield from ((module.split(".")[0], node in tree.body) for module in modules)


def test_conda_environment_agrees_with_pyproject():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    wanted = [
        re.sub(r"^[\w-]+", lambda m: CONDA_NAMES.get(m[0], m[0]), line)
        for line in STUDY + EXTRAS["lab"]
    ]
    assert sorted(conda) == sorted([*wanted, f"python{PROJECT['requires-python']}", "pip"])
    assert pip == {"pip": ["-e ."]}


@pytest.mark.parametrize(
    "requirement",
    [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)],
)
def test_requirements_are_lower_bounds(requirement):
    assert re.fullmatch(r"[\w-]+>=\d+(\.\d+)*", requirement)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("e3sn_*/**/*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_are_declared(path):
    runtime, optional = names(STUDY), names(line for extra in EXTRAS.values() for line in extra)
    for package, at_module_level in imported_packages(path):
        if package in sys.stdlib_module_names or package in ("e3sn_lib", "e3sn_study"):
            continue
        providers = {name.lower() for name in PROVIDERS.get(package, [package])}
        providers = {PART_OF.get(name, name) for name in providers}
        assert providers & (runtime if at_module_level else runtime | optional), (
            f"{package} is not declared"
        )


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == e3sn_lib.__version__
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert (
        paper["title"] == "E3SN: Efficient End-to-End Siamese Network for Video Object Segmentation"
    )
    assert [author["family-names"] for author in paper["authors"]] == [
        "Lan",
        "Zhang",
        "Xu",
        "Zhang",
    ]


def test_environment_is_json_and_true():
    environment = json.loads(json.dumps(provenance.environment()))
    assert environment["packages"].keys() == names(STUDY) | {PROJECT["name"]}
    assert environment["packages"]["torch"] == importlib.metadata.version("torch")
    assert environment["python"] == sys.version.split()[0]
    assert environment["threads"] == torch.get_num_threads()
    assert environment["memory"] > 2**28
    assert (environment["gpu"] == "none") == (not torch.cuda.is_available())


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A clean checkout of a project like this one, which provenance takes for its own."""
    root = tmp_path / "checkout"
    for path in ("e3sn_lib/model.py", "reports/table.md"):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text("1\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", root, *arguments], check=True)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def test_commit_of_a_clean_checkout(checkout):
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert provenance._commit() == (head, False)


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("e3sn_lib/model.py", True),
        ("e3sn_lib/new.py", True),
        ("reports/table.md", False),
        ("runs.csv", False),
    ],
)
def test_dirty_means_changed_code(checkout, changed, dirty):
    (checkout / changed).write_text("2\n")
    assert provenance._commit()[1] is dirty


def test_commit_of_a_surrounding_repository_is_not_ours(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", checkout / "e3sn_lib")
    assert provenance._commit() == ("unknown", "unknown")


def test_commit_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance._commit() == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/somewhere/bin/e3sn", "train", "--set", "a=b c"], "e3sn train --set 'a=b c'"),
        (["/somewhere/e3sn_study/__main__.py", "data"], "e3sn data"),
        (["/somewhere/ipykernel_launcher.py", "-f", "/tmp/k.json"], "notebook"),
        (["e3sn", "train", "--runs", "r\udce9"], "e3sn train --runs 'r\\xe9'"),
    ],
)
def test_command_line_is_recorded_as_typed(monkeypatch, argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    assert provenance._command() == command


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("", False),
    ],
)
def test_native_bf16_is_a_cpu_flag(monkeypatch, cpuinfo, native):
    monkeypatch.setattr(device, "_read", lambda path: cpuinfo)
    assert device.has_native_bf16() is native


@pytest.mark.parametrize(
    ("native", "faster", "name"), [(1, 1, "bfloat16"), (1, 0, "float32"), (0, 1, "float32")]
)
def test_auto_is_bf16_where_it_is_native_and_faster(monkeypatch, native, faster, name):
    monkeypatch.setattr(device, "has_native_bf16", lambda kind: bool(native))
    monkeypatch.setattr(device, "bf16_is_faster", lambda: bool(faster))
    assert device.precision_of("auto", torch.device("cpu")) == getattr(torch, name)


def test_the_faster_type_is_measured_once_and_not_drawn(monkeypatch):
    """With a clock that gives the turns of one type ten times the seconds of the other."""
    for slow in (torch.float32, torch.bfloat16):
        now = [0.0]

        def convolve(features, kernel, padding, slow=slow, now=now):
            now[0] += 10.0 if features.dtype == slow else 1.0

        monkeypatch.setattr(device.time, "perf_counter", lambda now=now: now[0])
        monkeypatch.setattr(torch.nn.functional, "conv2d", convolve)
        before = torch.get_rng_state()
        device.bf16_is_faster.cache_clear()
        assert device.bf16_is_faster() is (slow == torch.float32)
        assert torch.equal(before, torch.get_rng_state())
    device.bf16_is_faster.cache_clear()


def test_peak_memory_grows_with_what_is_held():
    code = (
        "import numpy; from e3sn_lib.model.device import peak_memory_bytes as peak;"
        "before = peak(); held = numpy.ones(2**25); del held; print(peak() - before)"
    )
    grown = int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert 0.9 * 2**28 < grown < 1.2 * 2**28


def test_seeds_repeat_and_differ():
    draws = []
    for seed in (7, 7, 8, 2**40):
        provenance.seed_everything(seed)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1]
    assert len({value for draw in draws[1:] for value in draw}) == 9


def test_make_passes_settings_on_as_they_are_typed():
    command = [
        "make",
        "-s",
        "-o",
        ".venv/.ready",
        "reproduce",
        "PY=printf '%s|'",
        "SET=train.pairs=7 train.lr=[1e-3,1e-4] a=*",
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.endswith("|--set|train.pairs=7|--set|train.lr=[1e-3,1e-4]|--set|a=*|")
    said = subprocess.run(command[:-1], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.endswith("|--profile|smoke|")


def test_make_alone_says_what_it_can_do():
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^make (\w+)", said, re.MULTILINE)
    assert targets == ["setup", "reproduce", "test", "lab"]
    assert "PYTHON=" in said


def test_git_stores_notebooks_without_outputs_after_setup(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("Makefile", ".gitattributes"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="seen")])
    saved = nbformat.v4.new_notebook(cells=[cell])
    nbformat.write(saved, tmp_path / "notebooks" / "01.ipynb")

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    run("git", "init", "-q")
    run("make", "-o", ".venv/.ready", "setup", f"PY={sys.executable}")
    run("git", "add", ".")
    stored = run("git", "show", ":notebooks/01.ipynb").stdout
    assert "seen" in (tmp_path / "notebooks" / "01.ipynb").read_text()
    assert "seen" not in stored
    assert cell.id in stored


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset a process's peak")
def test_a_second_run_in_a_process_does_not_count_the_memory_of_the_first():
    code = (
        "import numpy; from e3sn_lib.model import device;"
        "held = numpy.ones(2**26); del held; before = device.peak_memory_bytes();"
        "device.reset_peak_memory(); print(before - device.peak_memory_bytes())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.8 * 2**29 < int(ended.stdout) < 1.2 * 2**29


def test_what_a_cpu_computes_is_not_told_of_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert device.machine()["machine"] == device.machine("cuda")["machine"] == "a GPU"
    assert device.machine("cpu")["machine"].startswith(device.machine("cpu")["cpu"])
