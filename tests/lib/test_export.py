"""Exported graphs: they give what torch gives, run without it, and a wrong folder is named."""

from __future__ import annotations

import copy
import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tomllib
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from test_augment_and_pairs import still

from e3sn_lib import files
from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.data.sources import open_train_sets
from e3sn_lib.data.types import TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask
from e3sn_lib.model.network import E3SN, build_model, fold_batchnorm
from e3sn_lib.model.torch_backend import TorchBackend
from e3sn_lib.model.weights import load_model, save_model
from e3sn_lib.tracking import backends, export, quantise
from e3sn_lib.tracking.backends import load_export
from e3sn_lib.tracking.export import export_model
from e3sn_lib.tracking.session import Session
from e3sn_lib.tracking.tracker import Targets, Tracker
from e3sn_study.cli import main

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BOXES = [[60.0, 40.0, 50.0, 50.0], [100.0, 30.0, 40.0, 60.0], [20.0, 60.0, 90.0, 40.0]]


@pytest.fixture(scope="module")
def lively(tiny_profile: Callable[..., Profile]) -> E3SN:
    """A random network with statistics, and logits that are large enough to differ."""
    torch.manual_seed(3)
    model = build_model(tiny_profile().model).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.nn.init.constant_(model.refine.post2.bias, 0.0)
    return model


@pytest.fixture(scope="module")
def frames(data_root: Path) -> list[NDArray[np.uint8]]:
    folder = sorted((data_root / "synthetic" / "JPEGImages" / "480p").iterdir())[0]
    return [cv2.imread(str(path))[..., ::-1].copy() for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def exported(
    lively: E3SN,
    tiny_profile: Callable[..., Profile],
    frames: list[NDArray[np.uint8]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The graphs in fp32, with a threshold that half of the pixels of a window exceed."""
    folder, profile = tmp_path_factory.mktemp("export") / "fp32", tiny_profile()
    first = next(Tracker(lively, profile.track).run(frames[:1], BOXES[:1]))
    threshold = float(np.median(first.patches[0].soft))
    profile = replace(profile, track=replace(profile.track, mask_threshold=threshold))
    assert max(export_model(lively, profile, folder).values()) < 1e-3
    return folder


@pytest.fixture(scope="module")
def quantised(
    lively: E3SN, tiny_profile: Callable[..., Profile], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder, profile = tmp_path_factory.mktemp("export") / "int8", tiny_profile()
    samples = quantise.calibration_samples(profile, open_train_sets(profile.data).opened)
    assert len(samples) == quantise.COUNT
    export_model(lively, profile, folder, samples[:10], {"file": "a"}, {"J-Mean": 0.5})
    return folder


class TestGraphs:
    def test_folding_batchnorm_changes_nothing(self, lively: E3SN) -> None:
        image = torch.randint(0, 256, (2, 3, 255, 255), generator=torch.Generator().manual_seed(0))
        folded = fold_batchnorm(lively)
        assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in folded.modules())
        with torch.inference_mode():
            ours, theirs = folded.encode_search(image), lively.encode_search(image)
        for one, other in zip(
            (*ours.features, ours.neck), (*theirs.features, theirs.neck), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def test_every_step_is_that_of_torch(
        self, lively: E3SN, exported: Path, frames: list[NDArray[np.uint8]]
    ) -> None:
        """From the same state; a tracker feeds on its own boxes, so differences would grow."""
        ours = Tracker(load_export(exported))
        theirs = Tracker(lively, ours.config)
        states: list[Targets] = [each.start(frames[0], BOXES) for each in (ours, theirs)]
        for frame in frames[1:]:
            (moved, one), (expected, other) = (
                each.step(frame, state) for each, state in zip((ours, theirs), states, strict=True)
            )
            np.testing.assert_allclose(moved.size_wh, expected.size_wh, atol=1e-2)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
            np.testing.assert_allclose(one.soft_masks, other.soft_masks, atol=1e-3)
            assert 200 < (other.ids > 0).sum() < other.ids.size - 200
            assert (one.ids != other.ids).mean() < 0.002

    def test_objects_together_are_objects_alone(
        self, exported: Path, frames: list[NDArray[np.uint8]]
    ) -> None:
        tracker = Tracker(load_export(exported, threads=2))
        together = list(tracker.run(frames, BOXES))
        for number, box in enumerate(BOXES):
            for one, every in zip(tracker.run(frames, [box]), together, strict=True):
                np.testing.assert_array_equal(one.soft_masks[0], every.soft_masks[number])
        targets = tracker.start(frames[0], BOXES)
        chosen, one = targets.select([2, 0]), targets.select([2])
        assert [each["cls_filter"].sum() for each in chosen.template] == [
            targets.template[number]["cls_filter"].sum() for number in (2, 0)
        ]
        assert len(one.template) == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_process_can_go_on_with_it(
        self, exported: Path, frames: list[NDArray[np.uint8]]
    ) -> None:
        tracker = Tracker(load_export(exported, threads=1))
        here = [result.ids for result in tracker.run(frames, BOXES)]

        def there() -> None:
            again = [result.ids for result in tracker.run(frames, BOXES)]
            np.testing.assert_array_equal(again, here)

        child = multiprocessing.get_context("fork").Process(target=there, daemon=True)
        child.start()
        child.join(60)
        assert child.exitcode == 0

    @pytest.mark.parametrize(
        ("size", "step", "first", "side"), [(61, 4, -16, 125), (31, 2, -8, 63), (15, 1, -4, 31)]
    )
    def test_beyond_the_maps_windows_are_zero(
        self, size: int, step: int, first: int, side: int
    ) -> None:
        """Also at the corners, where targets at the edge of the search crop are."""
        maps = np.random.default_rng(0).random((1, 2, side, side), np.float32)
        around = np.pad(maps, ((0, 0), (0, 0), (size, size), (size, size)))
        window = backends.Window(size, step, first)
        for row, column in ((0, 0), (0, 24), (24, 3), (12, 12), (24, 24)):
            top, left = size + first + step * row, size + first + step * column
            expected = around[:, :, top : top + size, left : left + size]
            assert np.array_equal(backends.cut_window(maps, row, column, window), expected)

    def test_one_that_is_no_longer_used_is_gone_at_once(self, exported: Path) -> None:
        """Its memory does not wait for a collection, which would hang in a forked process."""
        backend = load_export(exported, threads=2)
        alive = weakref.ref(backend)
        gc.disable()
        try:
            del backend
            assert alive() is None
        finally:
            gc.enable()

    def test_half_precision_is_cast_once(self, lively: E3SN) -> None:
        backend = TorchBackend(lively, "bf16")
        assert {value.dtype for value in backend.network.parameters()} == {torch.bfloat16}
        assert backend.network.mean.dtype == torch.float32
        assert backend.identity != TorchBackend(lively, "fp32").identity
        other = copy.deepcopy(lively)
        other.config = replace(other.config, level_scale="sum")
        backend = TorchBackend(other)
        assert backend.identity != TorchBackend(lively).identity
        with torch.no_grad():
            next(other.parameters()).mul_(2)  # the backend has its own copy
        assert backend.identity != TorchBackend(other).identity
        assert {value.dtype for value in lively.parameters()} == {torch.float32}

    def test_calibration_sees_crops_as_tracking_does(
        self, tmp_path: Path, tiny_profile: Callable[..., Profile]
    ) -> None:
        """Template and search crop show one object in its own colour, and the cell lies on it."""
        tracks = TrackSet("made", tuple(still(tmp_path, f"{n}", colour=n) for n in (255, 150)))
        profile = tiny_profile("data.negative_pairs=0.5", "augment.search_shift=64")
        sources = [(tracks, TrainSetConfig("davis", ("unused",)))]
        samples = quantise.calibration_samples(profile, sources)
        assert len(samples) == quantise.COUNT
        assert {int(sample.template.max()) for sample in samples} == {150, 255}
        for template, search, (row, column) in samples:
            assert template[63, 63].tolist() == [template.max()] * 3
            assert search.max() == template.max()
            assert search[31 + 8 * row, 31 + 8 * column].min() > 100
            place = np.argwhere(search[..., 0] > 100).mean(axis=0)
            assert np.abs(place - 127).max() < 30

    def test_the_calibrator_gets_every_sample_of_a_range(self) -> None:
        crops = [np.zeros((side, side, 3), np.uint8) for side in (127, 255)]
        samples = [quantise.Sample(*crops, (n, n)) for n in range(10)]
        reader = quantise._Reader(samples, lambda sample: {"number": sample.cell[0]})
        assert len(reader) == 10
        for start in (5, 0):
            reader.set_range(start, start + 5)
            numbers = [{"number": start + n} for n in range(5)]
            assert [reader.get_next() for _ in range(6)] == [*numbers, None]

    def test_int8_is_near_fp32(
        self, lively: E3SN, quantised: Path, frames: list[NDArray[np.uint8]]
    ) -> None:
        ours, theirs = Tracker(load_export(quantised)), Tracker(lively)
        one, other = (
            next(each.run(frames[:1], BOXES[:1])).patches[0].soft for each in (ours, theirs)
        )
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95
        assert not np.array_equal(one, other)

    def test_int8_leaves_the_sensitive_layers_in_float(
        self, quantised: Path, exported: Path
    ) -> None:
        for name, layers in quantise.FLOAT.items():
            model = onnx.load(quantised / name)
            made = {out: node.op_type for node in model.graph.node for out in node.output}
            sizes = {each.name: list(each.dims) for each in model.graph.initializer}
            dequantised = {
                node.output[0]: list(node.input)
                for node in model.graph.node
                if node.op_type == "DequantizeLinear"
            }
            kinds: dict[bool, set[bool]] = {True: set(), False: set()}
            for node in model.graph.node:
                if node.op_type == "Conv":
                    in_float = made.get(node.input[1]) != "DequantizeLinear"
                    kinds[node.name.startswith(layers)].add(in_float)
                    if not in_float:  # weights have a scale for each output channel
                        weight, scale, *_ = dequantised[node.input[1]]
                        assert sizes[scale] == sizes[weight][:1]
            assert kinds == {True: {True}, False: {False}}, name
        small, large = ((folder / "weights.bin").stat().st_size for folder in (quantised, exported))
        assert small < 0.3 * large

    def test_the_manifest_says_what_it_is(self, exported: Path, quantised: Path) -> None:
        fp32, int8 = (
            json.loads((each / "export.json").read_text()) for each in (exported, quantised)
        )
        assert (fp32["precision"], int8["precision"]) == ("fp32", "int8")
        assert (int8["model"]["file"], int8["accuracy"]) == ("a", {"J-Mean": 0.5})
        assert fp32["anchors_wh"][0] == [104, 32]
        assert load_export(quantised).identity != load_export(exported).identity
        assert sorted(path.name for path in exported.iterdir()) == [
            "README.md", "export.json", "mask.onnx", "search.onnx", "template.onnx", "weights.bin"
        ]  # fmt: skip


class TestWithoutTorch:
    def test_the_command_tracks(
        self, exported: Path, frames: list[NDArray[np.uint8]], tmp_path: Path
    ) -> None:
        self.clip(tmp_path / "clip", frames)
        words = "track clip --box 60,40,50,50 --out out --threads 1 --keep-lost --weights"
        ended = self.run([*words.split(), str(exported)], tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        session = Session(Tracker(load_export(exported)))  # of another model none counts as lost
        session.add(BOXES[0])
        for number, seen in enumerate(map(session.step, frames)):
            assert seen.ids.any()
            mask = read_mask(tmp_path / "out" / "masks" / f"{number:05d}.png")
            assert np.array_equal(mask, seen.ids)

    def test_what_needs_torch_says_so_in_one_line(
        self, tmp_path: Path, tiny_model_file: Path
    ) -> None:
        self.clip(tmp_path / "clip", [np.zeros((60, 80, 3), np.uint8)])
        words = "track clip --box 1,2,3,4 --out out --weights"
        for arguments in (["train"], [*words.split(), str(tiny_model_file)]):
            ended = self.run(arguments, tmp_path)
            assert ended.returncode == 2
            assert ended.stderr.endswith('; in the checkout: pip install ".[study]"\n')
            assert ended.stderr.startswith(f"e3sn {arguments[0]}: this needs ")
            assert ended.stderr.count("\n") == 1

    def test_the_example_gives_the_same_masks(
        self, exported: Path, frames: list[NDArray[np.uint8]], tmp_path: Path
    ) -> None:
        self.clip(tmp_path / "clip", frames)
        example = ROOT / "examples" / "onnx_only.py"
        assert len(example.read_text().splitlines()) < 100
        boxes = [",".join(map(str, box)) for box in BOXES[:2]]
        clip = tmp_path / "clip" / "%05d.png"
        other = Path(shutil.copytree(exported, tmp_path / "other"))
        manifest = json.loads((other / "export.json").read_text())
        manifest["track"]["crop"] = "siammask"
        (other / "export.json").write_text(json.dumps(manifest))
        refused = [sys.executable, example, other, clip, tmp_path / "none", *boxes]
        ended = subprocess.run(refused, check=False, capture_output=True, text=True)
        assert (ended.returncode, "see README" in ended.stderr) == (1, True)
        command = [sys.executable, example, exported, clip, tmp_path / "out", *boxes]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
        for number, result in enumerate(Tracker(load_export(exported)).run(frames, BOXES[:2])):
            mask = read_mask(tmp_path / "out" / f"{number:05d}.png")
            assert (mask != result.ids).mean() < 0.01

    @staticmethod
    def clip(folder: Path, frames: list[NDArray[np.uint8]]) -> None:
        folder.mkdir()
        for number, frame in enumerate(frames):
            cv2.imwrite(str(folder / f"{number:05d}.png"), frame[..., ::-1])

    @staticmethod
    def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a command where nothing of the extra `study` can be imported."""
        names = [line.partition(">")[0] for line in PROJECT["optional-dependencies"]["study"]]
        code = (
            f"import sys; sys.modules.update(dict.fromkeys({names}))\n"
            "from e3sn_study.cli import main\nsys.exit(main())"
        )
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True
        )


class TestRefused:
    @pytest.fixture
    def folder(self, exported: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(exported, tmp_path / "copy"))

    def test_no_export(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"is no exported model: it has no export\.json; make"):
            load_export(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"format": 2}, r"has format 2, but this version reads 1; export the model again"),
            ({"format": None}, "has format None"),
            ({"files": 3}, "is not valid: files: "),
            ({"track": {"penalty_k": -1}}, r"export\.json is not valid"),
            ({"track": {"unknown": 1}}, r"export\.json is not valid"),
            ({"windows": {"p0": {"size": 61, "step": -8, "first": 0}}}, r"windows\.p0\.step"),
            ({"windows": {"p0": {"size": 61, "step": 2, "first": 999}}}, r"windows\.p0\.first"),
        ],
    )
    def test_a_manifest_of_another_kind(
        self, folder: Path, changes: dict[str, object], words: str
    ) -> None:
        path = folder / "export.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(InputError, match=words) as caught:
            load_export(folder)
        assert "\n" not in str(caught.value)

    def test_no_manifest_in_it(self, folder: Path) -> None:
        (folder / "export.json").write_text("{")
        with pytest.raises(InputError, match=r"export\.json"):
            load_export(folder)

    @pytest.mark.parametrize("name", ["search.onnx", "weights.bin"])
    def test_files_of_another_export(self, folder: Path, quantised: Path, name: str) -> None:
        shutil.copyfile(quantised / name, folder / name)
        words = rf"{name} does not belong to export\.json; copy the whole"
        with pytest.raises(InputError, match=words):
            load_export(folder)
        (folder / name).unlink()
        with pytest.raises(InputError, match=rf"there is no .*{name}; copy the whole folder"):
            load_export(folder)

    def test_a_file_that_the_manifest_does_not_list(self, folder: Path) -> None:
        path = folder / "export.json"
        content = json.loads(path.read_text())
        del content["files"]["weights.bin"]
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"weights\.bin does not belong to export\.json"):
            load_export(folder)

    def test_where_an_export_is_looked_for(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("E3SN_WEIGHTS", raising=False)
        monkeypatch.setattr(backends, "PACKAGED", tmp_path / "none")
        words = r"none in .*none, and E3SN_WEIGHTS is not set; make one"
        with pytest.raises(InputError, match=words):
            load_export()
        monkeypatch.setattr(backends, "PACKAGED", folder)
        assert load_export().config == load_export(folder).config
        monkeypatch.setenv("E3SN_WEIGHTS", str(tmp_path / "other"))
        with pytest.raises(InputError, match=r"other is no exported model"):
            load_export()


class TestCommand:
    def export(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
        status = main(["export", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.err if status else said.out

    def test_fp32(
        self,
        capsys: pytest.CaptureFixture[str],
        tiny_model_file: Path,
        tiny_model: E3SN,
        tiny_profile: Callable[..., Profile],
        tmp_path: Path,
    ) -> None:
        (tmp_path / "global.csv").write_text("J&F-Mean,J-Mean\n0.5,0.6\n")
        model = tmp_path / "model.safetensors"
        save_model(model, tiny_model, tiny_profile(), run="a-run", commit="0123")
        given = (model, tmp_path / "out", "--accuracy", tmp_path / "global.csv")
        status, said = self.export(capsys, *given)
        assert status == 0
        assert said.startswith(f"fp32 graphs: {tmp_path / 'out'} (")
        manifest = load_export(tmp_path / "out").manifest
        assert manifest.accuracy == {"J&F-Mean": 0.5, "J-Mean": 0.6}
        origin = {"file": "model.safetensors", "run": "a-run", "commit": "0123"}
        assert manifest.model.items() >= origin.items()
        config = load_model(tiny_model_file)[1].track
        assert Tracker(load_export(tmp_path / "out")).config == config

    def test_int8_on_folders_of_images(
        self,
        capsys: pytest.CaptureFixture[str],
        tiny_model_file: Path,
        data_root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(quantise, "COUNT", 5)
        monkeypatch.setattr(export, "quantise", lambda path, samples, inputs: inputs(samples[0]))
        for name, kind in (("images", "JPEGImages"), ("masks", "Annotations")):
            shutil.copytree(
                next((data_root / "synthetic" / kind / "480p").iterdir()), tmp_path / name
            )
        options = ("--precision", "int8", "--calibration", tmp_path)
        given = (tiny_model_file, tmp_path / "out", *options)
        assert self.export(capsys, *given)[0] == 0
        damaged = sorted((tmp_path / "images").iterdir())
        for path in damaged:
            path.write_bytes(path.read_bytes()[:1000])
        status, said = self.export(capsys, *given)
        assert status == 2
        assert str(tmp_path / "images") in said
        assert said.count("\n") == 1

    def test_it_can_be_evaluated(self, exported: Path, data_root: Path, tmp_path: Path) -> None:
        where = ["--model", exported, "--profile", "smoke", "--data", data_root, "--out", tmp_path]
        assert main(["evaluate", *map(str, where)]) == 0
        scores = pd.read_csv(tmp_path / "global_results-val.csv").iloc[0]
        assert 0 <= scores["J-Mean"] <= 1

    def test_other_files_are_not_replaced(
        self, capsys: pytest.CaptureFixture[str], tiny_model_file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "README.md").write_text("mine")
        status, said = self.export(capsys, tiny_model_file, tmp_path)
        assert (status, said.count("\n")) == (2, 1)
        assert f"{tmp_path} holds other files" in said
        assert (tmp_path / "README.md").read_text() == "mine"
        (tmp_path / "export.json").write_text('{"mine": 1}')
        assert f"{tmp_path} holds other files" in self.export(capsys, tiny_model_file, tmp_path)[1]
        for _ in range(2):  # an earlier export may be
            assert self.export(capsys, tiny_model_file, tmp_path / "out")[0] == 0

    def test_what_a_killed_export_left_is_no_obstacle(
        self, capsys: pytest.CaptureFixture[str], tiny_model_file: Path, tmp_path: Path
    ) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        left = tmp_path / "out" / f".export.{files._MACHINE}-{ended.pid}-0.tmp"
        left.mkdir(parents=True)
        (left / "search.onnx").write_text("half")
        assert self.export(capsys, tiny_model_file, tmp_path / "out")[0] == 0
        assert not left.exists()
        for name in ("export.json", "README.md"):  # killed while the files were moved
            (tmp_path / "out" / name).unlink()
        assert self.export(capsys, tiny_model_file, tmp_path / "out")[0] == 0
        assert {each.name for each in (tmp_path / "out").iterdir()} == {*export.EXPORTED}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--precision", "int8"], "no data folder"),
            (["--precision", "int8", "--calibration", "absent"], "absent"),
            (["--calibration", "absent"], "--calibration is for --precision int8"),
            (["--accuracy", "absent"], "absent is no table of scores"),
            (["--accuracy", "commas.csv"], "commas.csv is no table of scores"),
            (["--accuracy", "percent.csv"], "percent.csv has a score outside -1 to 1"),
        ],
    )
    def test_what_it_cannot_do(
        self,
        capsys: pytest.CaptureFixture[str],
        lively: E3SN,
        tiny_profile: Callable[..., Profile],
        tmp_path: Path,
        arguments: list[str],
        words: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delenv("E3SN_DATA", raising=False)
        profile = tiny_profile()
        profile = replace(profile, data=replace(profile.data, root=""))
        save_model(tmp_path / "m.safetensors", lively, profile)
        monkeypatch.chdir(tmp_path)
        Path("commas.csv").write_text("J&F-Mean,J-Mean\n0,61,0,62\n")
        Path("percent.csv").write_text("J&F-Mean,J-Mean\n61,62\n")
        status, said = self.export(capsys, tmp_path / "m.safetensors", tmp_path / "out", *arguments)
        assert status == 2
        assert words in said
        assert not (tmp_path / "out").exists()


def test_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert [backends.thread_count(wanted) for wanted in (1, 8, 100_000)] == [1, 8, 8]
    with pytest.raises(InputError, match="threads is -1; give 0 or more"):
        backends.thread_count(-1)


@pytest.mark.parametrize(
    ("busy", "usable", "expected"),  # of 8 processors; more than 4 help little
    [(0.0, 8, 4), (50.0, 8, 4), (75.0, 8, 2), (100.0, 8, 1), (0.0, 1, 1), (0.0, 3, 3)],
)
def test_as_many_threads_as_processors_are_idle(
    busy: float, usable: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: busy)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)

    def no_limit(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_limit)
    assert backends.thread_count() == expected
    for limit, most in (("150000 100000", 1), ("max 100000", 4)):  # of a container
        monkeypatch.setattr(Path, "read_text", lambda path, limit=limit: limit)
        assert backends.thread_count() == min(expected, most)
