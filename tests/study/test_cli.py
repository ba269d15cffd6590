"""The command line: what it does, and that bad input ends in one line, status 2 and nothing written."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from safetensors.torch import save_file

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask, write_mask
from e3sn_lib.model.network import build_model, count_parameters
from e3sn_lib.model.torch_backend import TorchBackend
from e3sn_lib.model.weights import save_model
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.tracking import backends, confidence, own_video, tracker
from e3sn_lib.tracking.video import read_frames
from e3sn_study import checkout
from e3sn_study.bench import tracking_speed
from e3sn_study.bench.tracking_speed import OBJECTS
from e3sn_study.checkout import REPORTS
from e3sn_study.cli import COMMANDS, main, models, study, track
from e3sn_study.records.schema import SCHEMAS
from e3sn_study.report import report

BOX = "60,40,50,50"


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Call a command, given as texts of words and as paths, in an empty working directory."""
    monkeypatch.delenv("E3SN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        words: list[str] = []
        for each in arguments:
            words += each.split() if isinstance(each, str) else [str(each)]
        try:
            status = main(words)
        except SystemExit as end:  # from argparse
            status = int(end.code or 0)
        return Ended(status, *capfd.readouterr())

    return call


@pytest.fixture
def refused(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Call a command that must refuse its input; gives its one line."""

    def content() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def call(*arguments: str | Path) -> str:
        before = content()
        ended = run(*arguments)
        assert (ended.status, ended.out) == (2, ""), ended
        assert re.fullmatch("e3sn.*\n", ended.err)
        assert content() == before
        return ended.err

    return call


@pytest.fixture
def frames(data_root: Path, tmp_path: Path) -> Path:
    """A folder with the five frames of one clip, ``00000.jpg`` and so on."""
    clip = next((data_root / "synthetic" / "JPEGImages" / "480p").iterdir())
    return Path(shutil.copytree(clip, tmp_path / "frames"))


@pytest.fixture
def settings(tiny_settings: tuple[str, ...]) -> str:
    """The options of a training in the least size."""
    return " ".join(f"--set {each}" for each in tiny_settings)


@pytest.fixture
def own_data(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the data folder, to be spoilt."""
    return Path(shutil.copytree(data_root, tmp_path / "own"))


def annotations(root: Path) -> Path:
    return root / "synthetic" / "Annotations" / "480p"


def val_names(root: Path) -> list[str]:
    return (root / "synthetic" / "ImageSets" / "2016" / "val.txt").read_text().split()


def merged(source: Path, target: Path) -> Path:
    """Write masks in which all objects are one."""
    for path in source.rglob("*.png"):
        write_mask(target / path.relative_to(source), (read_mask(path) > 0).astype(np.uint8))
    return target


def read_mask_size(frames: Path) -> tuple[int, ...]:
    return cv2.imread(str(frames / "00000.jpg")).shape[:2]


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.fixture
def tracking(frames: Path, tiny_model_file: Path) -> list[str | Path]:
    """Arguments of ``e3sn track`` that suffice, except a box."""
    return ["track", frames, "--weights", tiny_model_file, "--out", "out"]


def trackers_opened_by(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[object, ...]]:
    """A list that gets the arguments with which a module opens trackers."""
    opened: list[tuple[object, ...]] = []

    def noted(*arguments: object) -> object:
        opened.append(arguments)
        return checkout.open_tracker(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "open_tracker", noted)
    return opened


class TestTrack:
    def test_a_folder_of_frames_becomes_masks_and_an_overlay(
        self, run: Run, frames: Path, tracking: list[str], tmp_path: Path
    ) -> None:
        ended = run(*tracking, "--box", BOX, "--box", "10,10,30,40", "--out", "out/deep")
        assert (ended.status, ended.err) == (0, "")
        assert "5 frames, 2 objects" in ended.out
        out = tmp_path / "out" / "deep"
        assert sorted(path.name for path in out.iterdir()) == ["masks", "overlay.mp4", "tracks.csv"]
        masks = {path.name: read_mask(path) for path in (out / "masks").iterdir()}
        assert sorted(masks) == [f"{number:05d}.png" for number in range(5)]
        shape = cv2.imread(str(frames / "00000.jpg")).shape
        assert all(mask.shape == shape[:2] and mask.max() <= 2 for mask in masks.values())
        assert [frame.shape for frame in read_frames(out / "overlay.mp4")] == [shape] * 5
        assert leftovers(tmp_path) == []

    def test_frames_of_a_video_file_have_numbers_and_other_results_stay(
        self, run: Run, tracking: list[str], tmp_path: Path
    ) -> None:
        run(*tracking, "--box", BOX)
        (tmp_path / "second" / "masks").mkdir(parents=True)
        (tmp_path / "second" / "masks" / "00117.png").write_text("of a longer video")
        (tmp_path / "second" / "notes.txt").write_text("mine")
        ended = run("track", "out/overlay.mp4", *tracking[2:], "--box", BOX, "--out", "second")
        assert ended.status == 0
        other = "second/masks/00117.png"
        assert f"older files are still there: 1, such as {other}" in ended.out
        assert len(list((tmp_path / "second" / "masks").iterdir())) == 6
        assert (tmp_path / "second" / "notes.txt").read_text() == "mine"
        assert leftovers(tmp_path) == []

    def test_every_option_at_once(
        self, run: Run, frames: Path, tracking: list[str], tmp_path: Path
    ) -> None:
        ids = np.zeros(read_mask_size(frames), np.uint8)
        ids[20:60, 30:80] = 4
        write_mask(tmp_path / "first.png", ids)
        write_mask(tmp_path / "other.png", np.roll(ids // 4 * 9, 30, axis=1))
        boxes = "--mask first.png --mask other.png --box 2:10,10,30,40 --box 3:4=60,40,50,50 --box 10 60 30 40"
        options = "--from 1 --to 3 --backward --clean --threads 1 --precision fp32"
        kinds = "--save masks,table --save coco,matte,cutout,cutout-png"
        ended = run(*tracking, *f"{boxes} {options} {kinds}".split())
        assert (ended.status, ended.err) == (0, "")
        assert "3 frames, 4 objects" in ended.out
        assert all((tmp_path / "out" / name).exists() for name in ("masks", "coco.json"))
        rows = pd.read_csv(tmp_path / "out" / "tracks.csv")
        assert rows[["frame", "object"]].to_numpy().tolist() == [
            [frame, each] for frame in (1, 2, 3) for each in (4, 9, 10, 11)
        ]
        assert rows.loc[8, ["x", "y", "width", "height"]].tolist() == [60, 40, 50, 50]

    def test_masks_are_evaluated_as_they_are(
        self, run: Run, data_root: Path, tracking: list[str], tmp_path: Path
    ) -> None:
        clip = next((data_root / "synthetic" / "JPEGImages" / "480p").iterdir()).name
        truth = merged(annotations(data_root) / clip, tmp_path / "truth")
        (tmp_path / "names.txt").write_text("truth\n")
        run(*tracking, "--box", BOX)
        ended = run("evaluate", "--masks", "out/masks", "--annotations", truth, "--out", "scores")
        assert (ended.status, ended.err) == (0, "")
        shutil.copytree(tmp_path / "out" / "masks", tmp_path / "all" / "truth")
        shutil.copytree(truth, tmp_path / "truths" / "truth")
        folders = ("--masks", "all", "--annotations", "truths")
        again = run("evaluate", *folders, "--sequences", "names.txt", "--out", "2")
        assert again.out.splitlines()[:-1] == ended.out.splitlines()[:-1]

    @pytest.mark.parametrize("box", ["335 59 170 372", "-5,57,128,157", "-5 57 128 157"])
    def test_wordings_of_a_box(self, refused, tracking: list[str], box: str) -> None:
        line = refused(*tracking, "--box", *box.split())
        assert f"box 1 ({box.replace(' ', ',')}) reaches outside the frame" in line

    def test_a_box_that_is_outside_by_rounding_alone(self, run: Run, tracking: list[str]) -> None:
        box = f"{0.21 * 320!r},10,{0.79 * 320 + 1e-9!r},20"
        assert run(*tracking, "--box", box, "--to", "1").status == 0

    def test_outputs_on_an_input(
        self, refused, frames: Path, tracking: list[str], tmp_path: Path
    ) -> None:
        first = tmp_path / "out" / "masks" / "first.png"
        write_mask(first, np.ones(read_mask_size(frames), np.uint8))
        line = refused("track", "out/masks", *tracking[2:], "--box", BOX)
        assert "out/masks would lie on or in out/masks" in line
        line = refused(*tracking, "--mask", "out/masks/first.png", "--box", BOX)
        assert "out/masks would lie on or in out/masks/first.png" in line

    def test_drawing_needs_a_screen(
        self, refused, tracking: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        for screen in ("", ":77"):  # none, and one that is gone
            monkeypatch.setenv("DISPLAY", screen)
            line = refused(*tracking, "--draw")
            assert (
                line == "e3sn track: --draw needs a screen; give --box x,y,width,height instead\n"
            )

    def test_what_is_drawn_is_followed(
        self,
        run: Run,
        refused,
        tracking: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        drawn = np.array([[30, 20, 25, 25], [5, 5, 15, 20]])
        monkeypatch.setattr(track, "TRY_WINDOW", "")
        monkeypatch.setattr(track, "WINDOW_SIDE", 160)  # half the width of the frames
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
        monkeypatch.setattr(cv2, "selectROIs", lambda *_, **__: drawn)  # as it is by then
        assert run(*tracking, "--draw").status == 0
        rows = pd.read_csv(tmp_path / "out" / "tracks.csv")
        boxes = rows.loc[:1, ["x", "y", "width", "height"]].to_numpy()
        assert np.array_equal(boxes, 2 * drawn)
        line = refused(*tracking, "--draw-in 3 --stride 2")
        assert line == "e3sn track: --draw-in 3: this frame is not among those to track\n"
        line = refused(*tracking, "--draw", "--draw-in", "2:1")
        assert line == "e3sn track: 2 boxes were drawn to correct object 1; draw one\n"
        drawn = drawn[:1]
        assert run(*tracking, "--draw --draw-in 2 --draw-in 4:1").status == 0
        rows = pd.read_csv(tmp_path / "out" / "tracks.csv")
        assert rows.groupby("frame")["object"].apply(list).tolist() == 2 * [[1]] + 3 * [[1, 2]]
        given = rows[(rows["frame"] == 0) | (rows["frame"] == 4) & (rows["object"] == 1)]
        assert np.array_equal(given[["x", "y", "width", "height"]], 2 * np.repeat(drawn, 2, axis=0))

    def test_a_box_may_be_drawn_to_the_edge(
        self, run: Run, frames: Path, tracking: list[str], tmp_path: Path, monkeypatch
    ) -> None:
        """The picture in the window is rounded: 100 x 56 pixels of 320 x 180, not 100 x 56.25."""
        shown: list[tuple[int, ...]] = []

        def select(_: str, picture: np.ndarray, **__: object) -> np.ndarray:
            shown.append(picture.shape)
            height, width = picture.shape[:2]
            return np.array([[width - 30, height - 20, 30, 20]])

        monkeypatch.setattr(track, "TRY_WINDOW", "")
        monkeypatch.setattr(track, "WINDOW_SIDE", 99)
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
        monkeypatch.setattr(cv2, "selectROIs", select)
        assert run(*tracking, "--draw").status == 0
        box = pd.read_csv(tmp_path / "out" / "tracks.csv").loc[0]
        height, width = read_mask_size(frames)
        assert shown == [(56, 99, 3)]
        assert box["x"] + box["width"] == pytest.approx(width, abs=0.01)
        assert box["y"] + box["height"] == pytest.approx(height, abs=0.01)

    def test_progress_is_lines_where_no_terminal_is(
        self, run: Run, tracking: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(track, "SECONDS_PER_LINE", 1e-9)
        ended = run(*tracking, "--box", BOX)
        lines = ended.err.splitlines()
        counts = [line.split(", ")[0] for line in lines[:4]]
        assert counts == [f"{number} of 5 frames" for number in (1, 2, 3, 4)]
        assert all("frames/s, " in line and line.endswith(" left") for line in lines)
        assert "\r" not in ended.err

    def test_progress_that_cannot_be_written_costs_no_result(
        self, run: Run, tracking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(track, "SECONDS_PER_LINE", 1e-9)

        def full(text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(sys.stderr, "write", full)
        assert run(*tracking, "--box", BOX).status == 0
        assert len(list((tmp_path / "out" / "masks").iterdir())) == 5

    def test_progress_without_the_number_of_frames(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = track._Lines()
        lines.write("11 of ? frames, 1.06 frames/s, 00:00 left")
        assert capsys.readouterr().err == "11 frames, 1.06 frames/s\n"

    def test_a_truncated_frame(
        self, run: Run, refused, frames: Path, tracking: list[str], tmp_path: Path
    ) -> None:
        path, tracking = frames / "00003.jpg", [*tracking, "--box", BOX, "--out", "out/deep"]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        problem = "is cut short (no end-of-image marker); copy or download it again"
        assert f"e3sn track: image {path} {problem}\n" == refused(*tracking, "--from", "3")
        (tmp_path / "out" / "deep" / "masks").mkdir(parents=True)
        for kept in ("out/deep-stopped", "out/deep-stopped-2"):
            ended = run(*tracking)
            what = f"what was done before, 3 frames, is in {kept}"
            assert ended == (2, "", f"e3sn track: image {path} {problem}; {what}\n")
            assert len(list((tmp_path / kept / "masks").iterdir())) == 3
            assert len(list(read_frames(tmp_path / kept / "overlay.mp4"))) == 3
        assert not list((tmp_path / "out" / "deep" / "masks").iterdir())

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ("--box=5,5,0,9", "box 1 (5,5,0,9) has no area"),
            (f"--box {BOX} --from 3 --to 2", "--to 2 lies before --from 3"),
            (
                f"--box {BOX} --stride 0",
                "argument --stride: '0' is not a whole number of at least 1",
            ),
            (f"--box {BOX} --save gif", "cannot save 'gif'; choose from masks"),
            (f"--box {BOX} --lost-below 2", "'2' is not a number from 0 to 1"),
            (f"--box {BOX} --lost-below x", "'x' is not a number from 0 to 1"),
            ("--mask absent.png", "cannot read mask absent.png"),
            (f"--box {BOX} --threads -1", "not a whole number"),
            (f"--box {BOX} --save masks --save gif", "cannot save 'gif'"),
            (f"--box {BOX} --to 9223372036854775807", "at most 1,000,000,000"),
        ],
    )
    def test_options_that_cannot_be(
        self, refused, tracking: list[str], options: str, words: str
    ) -> None:
        assert words in refused(*tracking, *options.split())

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("notes.mp4", "no video that"),
            ("empty", "has no images"),
            ("absent", "there is no video"),
        ],
    )
    def test_what_is_no_video(
        self, refused, tracking: list[str], tmp_path: Path, name: str, words: str
    ) -> None:
        (tmp_path / "notes.mp4").write_text("no video")
        (tmp_path / "empty").mkdir()
        assert words in refused("track", name, *tracking[2:], "--box", BOX)

    def test_a_model_of_another_kind(
        self,
        refused,
        tracking: list[str],
        tmp_path: Path,
        tiny_profile: Callable[..., Profile],
    ) -> None:
        (tmp_path / "text.safetensors").write_text("no model")
        torch.save({"model": {}}, tmp_path / "checkpoint.pt")
        save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
        narrow, wide = tiny_profile(), tiny_profile("model.channels=32")
        save_model(tmp_path / "misfit.safetensors", build_model(narrow.model), wide)
        for name, words in {
            "absent.safetensors": "there is no file",
            "text.safetensors": "no safetensors file",
            "checkpoint.pt": "no safetensors file",
            "foreign.safetensors": "not a model of this project",
            "misfit.safetensors": "does not fit this network",
        }.items():
            line = refused(*tracking, "--box", BOX, "--weights", name)
            assert name in line
            assert words in line

    def test_results_cannot_go_into_a_file(
        self, refused, tracking: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_text("mine")
        assert "--out out is a file" in refused(*tracking, "--box", BOX)

    @pytest.mark.parametrize(
        ("number", "is_closed"),
        [
            (signal.SIGINT, False),
            (signal.SIGINT, True),
            (signal.SIGTERM, False),
            (signal.SIGHUP, False),
        ],
    )
    def test_interrupted_it_keeps_the_frames_that_are_done(
        self,
        run: Run,
        tracking: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        is_closed: bool,
    ) -> None:
        def closed(text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        if is_closed:  # Ctrl-C also ends a program that shows the messages, such as tee
            monkeypatch.setattr(sys.stderr, "write", closed)
        step, taken = tracker.Tracker.step, []

        def interrupt_at_third(*arguments: object, **settings: bool) -> object:
            taken.append(1)
            if len(taken) == 3:
                for each in (number, signal.SIGINT):  # programs in between pass Ctrl-C on again
                    os.kill(os.getpid(), each)
                    time.sleep(0.2)  # this thread is not the main one, which has to notice
            return step(*arguments, **settings)  # type: ignore[arg-type]

        monkeypatch.setattr(tracker.Tracker, "step", interrupt_at_third)
        ended = run(*tracking, "--box", BOX)
        count = len(list((tmp_path / "out" / "masks").iterdir()))
        assert (ended.status, count in (1, 2, 3)) == (130, True)
        told = "completing the results; Ctrl-C again would discard them\n"
        last = f"\ne3sn track: stopped after {count} frames; what is there is complete\n"
        assert ended.err == ("" if is_closed else told + last)
        assert len(list(read_frames(tmp_path / "out" / "overlay.mp4"))) == count
        assert leftovers(tmp_path) == []

    def test_a_full_disk(
        self, refused, tracking: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: Path, ids: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("e3sn_lib.tracking.outputs.write_mask", fail)
        fault = "cannot write the results to out: No space left on device; nothing of them is kept"
        assert refused(*tracking, "--box", BOX) == f"e3sn track: {fault}\n"

    def test_every_option_reaches_what_tracks(
        self,
        run: Run,
        frames: Path,
        tiny_model_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        given: dict[str, object] = {}

        def tracked(*arguments: object, **settings: object) -> own_video.Tracked:
            given.update(settings, video=arguments[1], out=arguments[3])
            return own_video.Tracked(1, 1, (), False, (), {})

        monkeypatch.setattr(own_video, "track_video", tracked)
        opened = trackers_opened_by(track, monkeypatch)
        plain = {"first": 0, "last": None, "stride": 1}
        plain |= dict.fromkeys(("backward", "clean", "keep_lost"), False)
        plain |= {"save": list(track.DEFAULT_SAVE), "out": Path("out"), "video": frames}
        for weights, limit in ((tiny_model_file, 0.0), (backends.PACKAGED, 0.4)):
            ended = run("track", frames, "--box", BOX, "--out out --weights", weights)
            assert given.items() >= (plain | {"lost_below": limit}).items()
            assert ("that needs --lost-below" in ended.out) == (limit == 0)
            assert opened.pop() == (weights, "auto", "auto", None)
        options = "--from 1 --to 4 --stride 2 --backward --clean --keep-lost --lost-below 0.7"
        others = "--backend torch --precision fp32 --threads 1 --save masks --save table --out out"
        words = (options, others, f"--box 1:{BOX} --weights")
        assert "--lost-below" not in run("track", frames, *words, tiny_model_file).out
        wanted = {"first": 1, "last": 4, "stride": 2, "save": ["masks", "table"]}
        wanted |= dict.fromkeys(("backward", "clean", "keep_lost"), True)
        assert given.items() >= (wanted | {"lost_below": 0.7}).items()
        assert opened == [(tiny_model_file, "torch", "fp32", 1)]

    def test_interrupted_twice_it_leaves_nothing(
        self, run: Run, tracking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("e3sn_lib.errors.ONE_PRESS", 0.0)

        def interrupt_twice(*arguments: object, **settings: bool) -> object:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
            raise AssertionError

        monkeypatch.setattr(tracker.Tracker, "step", interrupt_twice)
        ended = run(*tracking, "--box", BOX)
        assert (ended.status, ended.err) == (130, "\ne3sn track: interrupted\n")
        assert [path.name for path in tmp_path.iterdir()] == ["frames"]

    def test_the_shipped_model_is_the_default(
        self,
        run: Run,
        refused,
        frames: Path,
        tiny_model_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(checkout, "SHIPPED", tmp_path / "models" / "e3sn.safetensors")
        monkeypatch.setattr(backends, "PACKAGED", tmp_path / "none")
        command = ("track", frames, "--box", BOX, "--out", "out")
        advice = "give --weights FILE, or train one: e3sn train"
        assert f"there is no models/e3sn.safetensors; {advice}" in refused(*command)
        (tmp_path / "models").mkdir()
        shutil.copyfile(tiny_model_file, checkout.SHIPPED)
        assert run(*command).status == 0
        assert len(list((tmp_path / "out" / "masks").iterdir())) == 5


class TestTrain:
    def test_a_run_is_trained_once(
        self, run: Run, data_root: Path, settings: str, tmp_path: Path
    ) -> None:
        command = f"train {settings} --set train.pairs=4 --variant e3sn-s --seed 3 --data"
        first = run(command, data_root)
        assert first.status == 0
        (folder,) = (tmp_path / "runs").iterdir()
        assert folder.name.startswith("smoke-e3sn-s-seed3-")
        model = folder / "model.safetensors"
        assert first.out.splitlines()[-1] == f"model: {model.relative_to(tmp_path)}"
        written = model.stat().st_mtime_ns
        second = run(command, data_root)
        assert second.status == 0
        assert second.out.splitlines() == first.out.splitlines()[-1:]
        third = run(command.replace("--data", "--set"), f"data.root={data_root}")
        assert third.out == second.out
        assert not (tmp_path / "data").exists()  # the profile's own folder
        assert model.stat().st_mtime_ns == written
        record = tmp_path / "reports" / "smoke" / "results" / "runs" / f"{folder.name}.json"
        kept = json.loads(record.read_text())
        assert (kept["pairs"], kept["seed"], kept["variant"]) == (4, 3, "e3sn-s")
        assert "train.pairs=4" in kept["overrides"]
        assert not any("data.root" in each for each in kept["overrides"])
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("--profile cpu --data absent", ["data folder absent does not exist", "--data"]),
            ("--profile cpu", ["no data folder", "--data", "E3SN_DATA"]),
            (
                "--profile smok",
                ["unknown profile or .yaml file 'smok'", "did you mean 'smoke'", "cpu"],
            ),
            ("--profile mine.yaml", ["mine.yaml"]),
            (
                "--set train.weights=absent.safetensors",
                ["backbone weights absent.safetensors", "train.weights=torchvision"],
            ),
            (
                "--set train.weights=torchvision --set model.block_layout=v1",
                ["of another block layout", "--set model.block_layout=v1.5"],
            ),
            ("--seed one", ["argument --seed"]),
        ],
    )
    def test_settings_that_cannot_be(
        self, refused, data_root: Path, arguments: str, words: list[str]
    ) -> None:
        data = "" if "cpu" in arguments else f"--data {data_root}"
        line = refused("train", data, arguments)
        assert all(word in line for word in words), line

    def test_a_folder_without_any_of_the_sets(self, refused, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        line = refused("train --profile cpu --data empty")
        assert "no training data" in line
        assert "get it from https://cocodataset.org" in line


class TestStart:
    @pytest.mark.parametrize("words", ["--help", "train --help", "track --help"])
    def test_help_imports_nothing_heavy(self, words: str) -> None:
        code = "import sys\nfrom e3sn_study.cli import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules, file=sys.stderr)"
        ended = subprocess.run(
            [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True
        )
        heavy = {"torch", "pandas", "matplotlib", "papermill", "onnxruntime", "cv2"}
        assert heavy.isdisjoint(ended.stderr.split())

    @pytest.mark.parametrize(
        ("redirect", "settings"),
        [("", {"PYTHONIOENCODING": "ascii"}), ("2>&-", {}), (">&- 2>&-", {})],
    )
    def test_whatever_becomes_of_what_it_says(
        self, frames: Path, tmp_path: Path, redirect: str, settings: dict[str, str]
    ) -> None:
        """A name that the output's encoding lacks, or an output that is closed, loses nothing."""
        words = ["track", str(frames), "--box", BOX, "--to", "1", "--out", "öut ☃"]
        command = shlex.join([sys.executable, "-m", "e3sn_study", *words])
        ended = subprocess.run(
            f"{command} {redirect}",
            shell=True,
            cwd=tmp_path,
            env=os.environ | settings,
            check=False,
        )
        assert ended.returncode == 0
        assert len(list((tmp_path / "öut ☃").iterdir())) == 3

    def test_a_line_break_in_what_was_typed(self, run: Run) -> None:
        ended = run("track", "v.mp4", "a\nb", "--out", "o")
        assert (ended.status, ended.err.count("\n")) == (2, 1)

    @pytest.mark.parametrize("words", [["", "--out", "o"], ["v.mp4", "--out", ""]])
    def test_an_empty_path_is_refused(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["track", *words, "--box", BOX])
        assert ended.value.code == 2
        assert "the path is empty" in capsys.readouterr().err

    def test_the_variable_is_not_ignored(
        self, refused, frames: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("E3SN_WEIGHTS", "nowhere")
        for precision in ("auto", "fp32"):
            words = ("--box", BOX, "--out", "o", "--precision", precision)
            assert "nowhere" in refused("track", frames, *words)

    def test_a_gpu_is_not_used_without_a_model_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after ``pip install .``, which brings the exported model alone."""
        monkeypatch.setattr(checkout, "_has_gpu", lambda: True)
        assert isinstance(checkout.open_tracker().backend, TorchBackend)
        monkeypatch.setattr(checkout, "SHIPPED", tmp_path / "e3sn.safetensors")
        assert isinstance(checkout.open_tracker().backend, backends.OnnxBackend)

    def test_a_model_and_a_backend_that_do_not_fit(self, tiny_model_file: Path) -> None:
        for given, fault in (
            ((tiny_model_file, "onnx"), "is no exported folder; make one: e3sn export"),
            ((backends.PACKAGED, "torch"), "is an exported folder, which torch cannot use"),
            ((backends.PACKAGED, "onnx", "fp32"), "exported graphs have their own"),
        ):
            with pytest.raises(InputError, match=fault):
                checkout.open_tracker(*given)

    def test_lost_objects_are_told_for_the_model_that_this_was_fitted_for(
        self, tiny_model_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fitted = confidence.shipped_table()["lost_below"]
        assert fitted > 0
        for same in (None, backends.PACKAGED, checkout.SHIPPED):
            assert checkout.lost_limit(same) == fitted
        assert checkout.lost_limit(tiny_model_file) == 0
        monkeypatch.setenv("HOME", str(tiny_model_file.parent))
        for name in (str(tiny_model_file), f"~/{tiny_model_file.name}"):
            monkeypatch.setenv("E3SN_WEIGHTS", name)
            assert checkout.lost_limit() == 0
            assert isinstance(checkout.open_tracker().backend, TorchBackend)

    def test_a_backend_that_is_none(self) -> None:
        with pytest.raises(InputError, match="no backend 'pytorch'; choose from auto, torch, onnx"):
            checkout.open_tracker(backend="pytorch")

    def test_a_model_that_is_not_there_is_not_taken_for_one_of_torch(
        self, refused, frames: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        line = refused("track", frames, "--box", BOX, "--out", "o", "--weights", "exportd")
        assert "there is no file exportd" in line

    def test_a_library_that_the_system_lacks(self, tmp_path: Path) -> None:
        """As on servers and in small containers, where OpenCV cannot be imported."""
        missing = "libGL.so.1: cannot open shared object file: No such file or directory"
        (tmp_path / "cv2.py").write_text(f"raise ImportError({missing!r})")
        words = ["track", "v.mp4", "--box=1,1,9,9", "--out=out"]
        ended = subprocess.run(
            [sys.executable, "-m", "e3sn_study", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert re.fullmatch(f"e3sn: {missing}; install .* libgl1 .*\n", ended.stderr)

    def test_an_interrupt_while_a_module_in_c_is_imported(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def imported(*_: object) -> None:
            raise ImportError("initialization failed") from KeyboardInterrupt()

        monkeypatch.setattr(study, "_build_report", imported)
        (tmp_path / "results").mkdir()
        ended = run("report --report", tmp_path)
        assert (ended.status, ended.err) == (130, "e3sn report: interrupted\n")

    def test_a_request_to_end_is_an_interrupt(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def build(*_: object) -> None:
            signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(study, "_build_report", build)
        (tmp_path / "results").mkdir()
        before = signal.getsignal(signal.SIGTERM)
        ended = run("report --report", tmp_path)
        assert (ended.status, ended.err) == (130, "\ne3sn report: interrupted\n")
        assert signal.getsignal(signal.SIGTERM) is before

    @pytest.mark.parametrize("of_a_gpu", [False, True])
    def test_too_little_memory_is_one_line(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, of_a_gpu: bool
    ) -> None:
        def build(*_: object) -> None:
            if of_a_gpu:
                raise torch.OutOfMemoryError("CUDA out of memory.\nOf the allocated memory")
            np.empty(2**50)

        monkeypatch.setattr(study, "_build_report", build)
        (tmp_path / "results").mkdir()
        ended = run("report --report", tmp_path)
        assert ended.status == 2
        assert re.fullmatch("e3sn report: there is not enough memory .*\n", ended.err)

    def test_an_error_that_cannot_be_printed_keeps_its_status(self, tmp_path: Path) -> None:
        words = [sys.executable, "-m", "e3sn_study", "report", "--report", str(tmp_path / "none")]
        with open("/dev/full", "w") as full:
            assert subprocess.run(words, stderr=full, check=False).returncode == 2


class TestDryRun:
    def test_prints_the_plan_and_writes_nothing(
        self, run: Run, data_root: Path, settings: str, tmp_path: Path
    ) -> None:
        settings += " --set train.train_layers=[]"
        ended = run("train --dry-run", settings, "--data", data_root)
        assert (ended.status, ended.err) == (0, "")
        shown = ("synthetic", "end_to_end", "GB needed", "s/step", "first rate", "parameters")
        assert all(words in ended.out for words in (*shown, "this machine: "))
        assert f"runs{os.sep}smoke-e3sn-seed0-" in ended.out
        assert list(tmp_path.iterdir()) == []

    def test_names_what_is_absent_after_the_rest(
        self, run: Run, data_root: Path, settings: str, tmp_path: Path
    ) -> None:
        more = "--profile long --set model.backbone=resnet18 --set train.train_layers=[] --data"
        ended = run("train --dry-run", settings, more, data_root)
        assert ended.status == 2
        assert "this machine: " in ended.out
        assert [line.split(":")[1].split(" (")[0] for line in ended.err.splitlines()[:7]] == [
            " training set coco", *[" training set mask_folder"] * 4,
            " training set box_folder", " training set davis"
        ]  # fmt: skip
        assert "backbone weights" in ended.err.splitlines()[7]
        assert list(tmp_path.iterdir()) == []


class TestBench:
    def test_training(self, run: Run, data_root: Path, settings: str, tmp_path: Path) -> None:
        settings += " --set train.train_layers=[layer3]"
        given = "--batch 2 --steps 1 --out bench.csv --report report --data"
        ended = run("bench train", settings, given, data_root)
        assert (ended.status, ended.err) == (0, "")
        assert "1.00x" in ended.out
        assert len(pd.read_csv(tmp_path / "bench.csv")) == 6
        kept = SCHEMAS["training_speed"].read(
            tmp_path / "report" / "results" / "training_speed.csv"
        )
        assert set(kept["batch"]) == {2}

    def test_precisions_learn_the_same_pairs(
        self, run: Run, data_root: Path, settings: str, tmp_path: Path
    ) -> None:
        settings += " --set train.train_layers=[]"  # bf16 may be emulated, which is slow
        ended = run("bench precision", settings, "--batch 1 --steps 2 --out out --data", data_root)
        assert ended.status == 0
        assert "minutes" in ended.out.splitlines()[0]
        assert (tmp_path / "out" / "precision.png").stat().st_size > 5000
        logs = [pd.read_csv(tmp_path / "out" / name / "log.csv") for name in ("fp32", "bf16")]
        assert [log["pairs"].tolist() for log in logs] == [[1, 2]] * 2
        first, other = (log["loss"][0] for log in logs)
        assert other == pytest.approx(first, rel=0.02)
        assert other != first

    @pytest.mark.parametrize("what", ["track", "exports", "sessions", "confidence"])
    def test_what_is_measured_is_shown_and_kept(
        self, run: Run, own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        """The measurements have tests of their own."""
        (own_data / "synthetic").rename(own_data / "DAVIS")  # it has the same layout
        graphs = {"contender": "ONNX int8", "machine": "a processor", "threads": 1}
        scored = graphs | {"run": "a", "sequences": 3, "J-Mean": 0.6, "F-Mean": 0.5, "fps": 20.5}
        step = {"width": 854, "height": 480, "step_ms": 25.5, "frames_per_second": 39.2}
        step |= {"ratio": 7.2, "share": 0.5, "peak": 100.0}
        frame = {"sequence": "a", "object": 1, "frame": 1, "j": 0.5}
        made: dict[str, object] = {
            "track": pd.DataFrame([graphs | step | {"objects": each} for each in OBJECTS]),
            "exports": pd.DataFrame([scored]),
            "sessions": pd.DataFrame([scored | {"steps": 1.25}]),
            "confidence": (
                pd.DataFrame([frame | {"split": "val", "predicted_j": 0.61234}]),
                {"lost_below": 0.3, "weights": [1.0]},
                {"val": {"absolute_error": 0.125}},
            ),
        }
        asked: list[tuple[object, ...]] = []
        for name in ("bench_tracking", "bench_exports", "bench_sessions"):
            monkeypatch.setattr(tracking_speed, name, lambda *a: asked.append(a) or made[what])
        fit = lambda *a: asked.append(a) or made[what]  # noqa: E731
        monkeypatch.setattr("e3sn_study.evaluation.confidence.fit_and_test", fit)
        names = {"track": "tracking_speed"}
        given = f"bench {what} --profile cpu --threads 1 --out kept --report report --data"
        ended = run(given, own_data)
        assert (ended.status, ended.err, len(asked)) == (0, "", 1)
        name = names.get(what, what)
        kept = SCHEMAS[name].read(tmp_path / "report" / "results" / f"{name}.csv")
        if what == "confidence":
            assert json.loads((tmp_path / "kept").read_text()) == made[what][1]  # type: ignore[index]
            assert "an object is lost below 0.3, chosen on train" in ended.out
            assert kept["predicted_j"].tolist() == [0.6123]
            assert [len(each) for each in asked[0][1:]] == [3, 2]  # type: ignore[arg-type]
            return
        assert asked[0][-1 if what != "track" else 3] == 1  # thread
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "kept"), made[what])  # type: ignore[arg-type]
        assert len(kept) == len(made[what])  # type: ignore[arg-type]
        assert "ONNX int8" in ended.out

    def test_wrong_numbers(self, refused) -> None:
        assert "whole number of at least 1" in refused("bench train --batch 0")
        assert "at most 65,536" in refused("bench precision --batch 70000")

    def test_results_cannot_replace_a_folder_or_the_model(
        self, refused, tiny_model_file: Path, tmp_path: Path
    ) -> None:
        assert "--out . is a folder; give a file" in refused("bench exports --out .")
        model = Path(shutil.copyfile(tiny_model_file, tmp_path / "m.safetensors"))
        command = f"bench exports --out {model} --model"
        assert "is a file that is read; give another one" in refused(command, model)

    def test_where_nothing_can_be_written_nothing_is_measured(
        self, refused, tmp_path: Path
    ) -> None:
        (tmp_path / "a").touch()
        for option in ("--out a/table.csv", "--report a"):
            assert "a is a file, so a" in refused(f"bench exports {option}")

    def test_settings_that_it_would_not_use(self, refused) -> None:
        given = "--set track.mask_threshold=0.4"
        assert f"leave out {given}" in refused(f"bench sessions {given}")

    def test_a_report_keeps_its_profile(
        self, run: Run, data_root: Path, settings: str, tmp_path: Path
    ) -> None:
        """Else results of made-up clips would come into a report on real ones."""
        (tmp_path / "report" / "results").mkdir(parents=True)
        manifest = tmp_path / "report" / "results" / "manifest.json"
        manifest.write_text('{"parameters": {"profile": "cpu"}}')
        ended = run("bench sessions --report report --data", data_root)
        assert (ended.status, ended.out) == (2, "")
        assert "benchmark davis2016 is absent: no " in ended.err
        assert f"{data_root / 'DAVIS'}" in ended.err


class TestEvaluate:
    def test_a_model_on_a_benchmark(
        self,
        run: Run,
        data_root: Path,
        tiny_model_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        opened = trackers_opened_by(models, monkeypatch)
        ended = run(f"evaluate --model {tiny_model_file} --data {data_root} --out scores")
        assert (ended.status, ended.err) == (0, "")
        table = pd.read_csv(tmp_path / "scores" / "per-sequence_results-val.csv")
        names = val_names(data_root)
        assert table["Sequence"].tolist() == [f"{name}_1" for name in names]
        overall = pd.read_csv(tmp_path / "scores" / "global_results-val.csv")
        assert overall["J-Mean"].tolist() == pytest.approx([table["J-Mean"].mean()], abs=1e-6)
        assert f"J-Mean {table['J-Mean'].mean():.3f}" in ended.out
        assert re.search(r"6 object frames .* scored in \d+\.\d s; tables in scores\n", ended.out)
        assert (pd.read_csv(tmp_path / "scores" / "speed.csv")["frames"] == 5).all()
        assert len(list((tmp_path / "scores" / "mask" / names[0]).iterdir())) == 5
        assert leftovers(tmp_path) == []
        assert opened == [(tiny_model_file, "auto", "fp32", None)]  # the same on any processor

    def test_a_run_and_its_own_masks_score_the_same(
        self, run: Run, data_root: Path, tiny_model_file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        shutil.copyfile(tiny_model_file, tmp_path / "run" / "model.safetensors")
        made = run("evaluate --run run --out scores --data", data_root)
        assert (made.status, made.err) == (0, "")
        (tmp_path / "names.txt").write_text("\n".join(val_names(data_root)))
        truth = merged(annotations(data_root), tmp_path / "truth")
        given = f"--annotations {truth} --sequences names.txt --out again"
        assert run("evaluate --masks scores/mask", given).status == 0
        for name in ("global_results-val.csv", "per-sequence_results-val.csv"):
            one, other = (pd.read_csv(tmp_path / each / name) for each in ("again", "scores"))
            pd.testing.assert_frame_equal(one, other)

    def test_masks_of_one_model_are_not_taken_for_another_s(
        self, run: Run, data_root: Path, tiny_profile: Callable[..., Profile], tmp_path: Path
    ) -> None:
        areas = []
        for bias in (1e4, -1e4):  # one sees the object everywhere, the other nowhere
            model = build_model(tiny_profile().model)
            torch.nn.init.constant_(model.refine.post2.bias, bias)
            save_model(tmp_path / "model.safetensors", model, tiny_profile())
            command = "evaluate --model model.safetensors --out scores --data"
            assert run(command, data_root).status == 0
            masks = (tmp_path / "scores" / "mask").rglob("*.png")
            areas.append(sum(np.count_nonzero(read_mask(path)) for path in masks))
        assert areas[1] < areas[0] / 2

    def test_anyone_s_masks(self, run: Run, data_root: Path, tmp_path: Path) -> None:
        truth = annotations(data_root)
        names = sorted(path.name for path in truth.iterdir())[:2]
        (tmp_path / "names.txt").write_text("\n".join(names))
        given = f"--masks {truth} --annotations {truth} --sequences names.txt --out scores"
        ended = run("evaluate --name test", given)
        assert ended.status == 0
        assert "J-Mean 1.000" in ended.out
        assert "F-Mean 1.000" in ended.out
        written = sorted(path.name for path in (tmp_path / "scores").iterdir())
        assert written == ["global_results-test.csv", "per-sequence_results-test.csv"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("", "one of the arguments --run --model --masks is required"),
            ("--run absent", "there is no file absent/model.safetensors"),
            ("--run a --model b", "--model: not allowed with argument --run"),
            ("--run a --masks b", "--masks: not allowed with argument --run"),
            ("--masks absent", "--masks needs --annotations"),
            ("--masks absent --annotations absent --name ../x", "is no name for a file"),
            ("--masks absent --annotations absent", "there is no folder of masks at absent"),
            ("--model absent.safetensors", "there is no file absent.safetensors"),
            ("--model a --annotations b", "--annotations and --sequences belong to --masks"),
            ("--masks a --annotations b --benchmark davis2017", "--benchmark belongs to --run and"),
            (
                "--masks a --annotations b --threads 2",
                "--threads belongs to --run and --model, not",
            ),
            (
                "--masks . --annotations . --sequences absent.txt --out ../o",
                "cannot read the list of sequences absent.txt",
            ),
        ],
    )
    def test_incomplete_questions(self, refused, arguments: str, words: str) -> None:
        assert words in refused("evaluate", arguments)

    def test_an_unknown_benchmark_or_absent_data(
        self, refused, tiny_model_file: Path, data_root: Path
    ) -> None:
        command = f"evaluate --model {tiny_model_file} --data {data_root}"
        line = refused(command, "--benchmark davis2018")
        assert "no benchmark 'davis2018'" in line
        assert "davis2016" in line
        line = refused(command, "--profile cpu")
        assert "benchmark davis2016 is absent" in line
        assert "https://davischallenge.org" in line


class TestData:
    def test_what_is_there(
        self, run: Run, data_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("E3SN_DATA", str(data_root))
        for command in ("data", "data verify"):
            ended = run(command)
            assert (ended.status, ended.err) == (0, "")
            assert "3 of 3 sets are complete" in ended.out
        (data_root.parent / "nothing yet").mkdir(exist_ok=True)
        ended = run("data --data", data_root.parent / "nothing yet")
        assert "absent: train set synthetic, no " in ended.out
        assert "; it is made on the spot at first use, in " in ended.out

    def test_a_profile_without_sets(self, run: Run, data_root: Path, tmp_path: Path) -> None:
        (tmp_path / "empty.yaml").write_text("title: none")
        assert "0 of 0 sets" in run("data --profile empty.yaml --data", data_root).out

    def test_a_set_of_which_no_frame_can_be_used(self, run: Run, tmp_path: Path) -> None:
        for folder in ("images", "masks"):
            (tmp_path / "own" / folder).mkdir(parents=True)
        for name in ("a", "b"):
            cv2.imwrite(str(tmp_path / "own" / "images" / f"{name}.png"), np.zeros((40, 40, 3)))
            cv2.imwrite(str(tmp_path / "own" / "masks" / f"{name}.png"), np.ones((30, 40)))
        sets = "{kind: mask_folder, path: own, mask_kind: ids, min_area: 1}"
        (tmp_path / "own.yaml").write_text(f"data:\n  train: [{sets}]\ntrain: {{weights: none}}")
        ended = run("data prepare --profile own.yaml --data", tmp_path)
        assert "2 of 2 frames that were opened cannot be used" in ended.out
        assert ended.status == 1

    def test_what_is_missing_is_named_with_its_origin(self, run: Run, data_root: Path) -> None:
        ended = run("data verify --profile long --data", data_root)
        assert ended.status == 1
        assert "0 of 9 sets are complete" in ended.out
        lines = [line for line in ended.out.splitlines() if line.startswith("absent:")]
        assert len(lines) == 9
        assert all("get it from" in line and "put it in" in line for line in lines)
        advice = "put them there, or use torchvision's weights, which need two settings: --set"
        assert advice in ended.out

    def test_the_procedural_set_is_made_once(self, run: Run, data_root: Path) -> None:
        made = (data_root / "synthetic" / "synthetic.json").stat().st_mtime_ns
        ended = run("data synthesize --data", data_root)
        assert (ended.status, ended.out) == (0, f"{(data_root / 'synthetic').resolve()}\n")
        assert (data_root / "synthetic" / "synthetic.json").stat().st_mtime_ns == made

    def test_preparing_makes_what_can_be_made(self, run: Run, own_data: Path) -> None:
        images = own_data / "synthetic" / "JPEGImages" / "480p"
        shutil.rmtree(images / val_names(own_data)[0])
        ended = run("data prepare --data", own_data)
        assert ended.status == 1
        assert "1 of 3 sets are complete" in ended.out
        assert "partial: evaluation set davis2016, no frames of" in ended.out
        ended = run("data prepare --profile long --data", own_data)
        assert (ended.status, ended.out.count("absent:")) == (1, 9)

    def test_a_folder_that_is_none(self, refused) -> None:
        line = refused("data verify --profile cpu --data absent")
        assert "data folder absent does not exist" in line
        assert "no data folder" in refused("data synthesize --profile cpu")


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("", "required: COMMAND"),
            ("trian", "invalid choice: 'trian'"),
            ("track frames --weights w --out o", "required: --box"),
            (
                "track frames --box 1,2,x,4 --weights w --out o",
                "'1,2,x,4' is not x,y,width,height",
            ),
            ("train --epochs 3", "unrecognized arguments: --epochs 3"),
            ("reproduce --profile cpu --data absent", "data folder absent does not exist"),
            (
                "report --profile cpu --report absent",
                "absent holds no results; run the study first",
            ),
        ],
    )
    def test_wrong_use_is_one_line(self, refused, arguments: str, words: str) -> None:
        assert words in refused(arguments)

    @pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
    def test_every_command_explains_itself(self, run: Run, command: str) -> None:
        ended = run(command, "--help")
        assert ended.status == 0
        assert f"usage: e3sn {command}" in ended.out
        assert command in run("--help").out


def test_a_report_comes_from_its_files_of_record_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of the report on record are those that its results give, and all figures can be drawn of them."""
    monkeypatch.setattr(report, "save_figure", lambda *_: None)
    committed = REPORTS / "cpu"
    shutil.copytree(committed / "results", tmp_path / "cpu" / "results")
    ended = run("report --report cpu")  # with the profile that made it
    assert ended.out == "report: cpu/index.html\n"
    made = {path.name: path.read_text() for path in (tmp_path / "cpu" / "tables").iterdir()}
    assert made == {path.name: path.read_text() for path in (committed / "tables").iterdir()}


def test_notebooks_are_run_and_become_pages(
    run: Run, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    names = ("profile", "data", "runs", "report", "seed", "overrides")
    for name, code in (("01_good", "print(overrides)"), ("02_bad", "1 / 0")):
        cells = [
            new_code_cell("\n".join(f"{each} = 0" for each in names)),
            new_code_cell(code),
        ]
        cells[0].metadata.tags = ["parameters"]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    command = "reproduce --report report --runs runs --set model.channels=16 --data"
    assert "there is no notebook 03; there are 01_good, 02_bad" in (
        run(command, data_root, "--only 03").err
    )
    assert run(command, data_root, "--only 01").status == 0
    ended = run(command, data_root)
    assert ended.status == 1
    assert "ZeroDivisionError" in ended.out
    results, pages = tmp_path / "report" / "results", tmp_path / "report" / "notebooks"
    manifest = json.loads((results / "manifest.json").read_text())
    assert manifest["parameters"]["overrides"] == ["model.channels=16"]
    assert manifest["parameters"]["runs"] == os.path.relpath(tmp_path / "runs", checkout.ROOT)
    assert [each["status"] for each in manifest["notebooks"]] == ["passed", "failed"]
    assert "model.channels=16" in (pages / "01_good.html").read_text()
    assert (tmp_path / "report" / "index.html").is_file()
    networks = pd.read_csv(results / "networks.csv").set_index("variant")["parameters"]
    assert set(networks.index) == {"e3sn", "e3sn-s", "siammask"}
    for variant, parameters in networks.items():  # the settings are those of every variant
        small = load_profile("smoke", str(variant), ["model.channels=16"]).model
        assert parameters == count_parameters(build_model(small))


@pytest.mark.parametrize(("given", "spins"), [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, None)])
def test_waiting_threads_spin_briefly_unless_the_user_says_how(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what it was comes back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit):
        main(["--version"])

    assert os.environ.get("GOMP_SPINCOUNT") == spins
