"""The study's memory: runs are trained once, evaluated once, and their files of record copied beside the report.

A run is named by everything that determines it, so the notebooks can ask for what they need in any order: what exists is reused.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pandas as pd

from e3sn_lib.config import DataConfig, Profile, TrackConfig
from e3sn_lib.data.pairs import Pair, PairDataset
from e3sn_lib.data.sources import TrainSets, open_attributes, open_evaluation, open_held_out, open_held_out_tracks, open_train_sets
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_csv, write_json, write_text
from e3sn_lib.geometry import box_xywh
from e3sn_lib.model.weights import load_model
from e3sn_lib.profiles.identity import config_hash, run_name, training_settings
from e3sn_lib.profiles.loading import available_variants, load_profile
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.tracking.video import Image
from e3sn_lib.training import processes
from e3sn_lib.training.loop import Trainer
from e3sn_lib.training.state import CHECKPOINT, FINAL, Watch
from e3sn_study.bench.sampling_cost import COUNTS, measure_sampling_cost
from e3sn_study.bench.variant_costs import variant_costs
from e3sn_study.checkout import from_checkout
from e3sn_study.evaluation.baselines import boxes_of
from e3sn_study.evaluation.benchmark import evaluate_baselines, evaluate_tracker
from e3sn_study.evaluation.choices import GRID, overrides_of, sweep
from e3sn_study.evaluation.diagnosis import crop_quality
from e3sn_study.evaluation.opencv_baselines import SETTINGS, UNREPEATABLE, box_methods, opencv_trackers
from e3sn_study.records import VARIANT_COSTS, read_variant_costs, without_folders

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Run:
    """One finished training."""

    folder: Path
    profile: Profile
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def model(self) -> Path:
        return self.folder / FINAL

    def log(self) -> pd.DataFrame:
        """Losses, rates, fusion weights, speed and memory over time."""
        return pd.read_csv(self.folder / "log.csv")

    def stages(self) -> pd.DataFrame:
        """One row per training stage: ``stage``, ``pairs``, ``seconds``, ``pairs_per_second``, ``peak_memory_mb`` until its end."""
        table = self.log().groupby("stage", sort=False)[["pairs", "seconds", "peak_memory_mb"]].last()
        table[["pairs", "seconds"]] = table[["pairs", "seconds"]].diff().fillna(table[["pairs", "seconds"]])
        table.insert(2, "pairs_per_second", table["pairs"] / table["seconds"])
        return table.reset_index()

    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())


@dataclass(frozen=True)
class Study:
    """A profile with its folders; what the notebooks talk to."""

    profile: str
    data: str
    runs: Path
    report: Path
    seed: int
    overrides: tuple[str, ...]

    @classmethod
    def open(
        cls,
        profile: str = "smoke",
        data: str = "",
        runs: str | Path = "runs",
        report: str | Path = "",
        seed: int = 0,
        overrides: Iterable[str] = (),
    ) -> Study:
        """Check the profile and name the folders.

        Relative folders are relative to the working directory; from ``notebooks/``, where a notebook starts, to the repository.

        Args:
            profile: ``smoke``, ``cpu``, ``paper``, or a YAML file.
            data: folder that holds the data sets; empty: that of the environment variable E3SN_DATA, else the profile's own.
            runs: where training runs are kept.
            report: where results, figures and notebooks go; empty: ``reports/PROFILE``.
            seed: of the first run of each kind.
            overrides: ``key=value`` settings for every run.
        """
        profile = str(from_checkout(profile)) if profile.endswith((".yaml", ".yml")) else profile
        overrides = tuple(overrides)
        root = data or os.environ.get("E3SN_DATA", "") or load_profile(profile, overrides=overrides).data.root
        data = str(from_checkout(Path(root).expanduser())) if root else ""
        report = from_checkout(report or f"reports/{Path(profile).stem}")
        study = cls(profile, data, from_checkout(runs), report, seed, overrides)
        study.load()
        return study

    def load(self, variant: str = "e3sn", overrides: Iterable[str] = (), seed: int | None = None) -> Profile:
        """The settings of one run."""
        chosen = self.seed if seed is None else seed
        return load_profile(self.profile, variant, [*self.overrides, *overrides], seed=chosen, data_root=self.data)

    @property
    def results(self) -> Path:
        return self.report / "results"

    @property
    def figures(self) -> Path:
        return self.report / "figures"

    def train_sets(self) -> TrainSets:
        return self._open(self.load().data)

    def sequences(self, benchmark: str) -> list[Video]:
        return open_evaluation(self.load().data, benchmark)

    def pairs(self, count: int, variant: str = "e3sn") -> list[Pair]:
        """The first training pairs of a run's first stage, as they come out of augmentation and sampling."""
        profile = self.load(variant)
        dataset = PairDataset(self.train_sets().opened, profile, next(iter(profile.stages.values())), count)
        return [dataset[index] for index in range(count)]

    def train(
        self,
        variant: str = "e3sn",
        overrides: Iterable[str] = (),
        seed: int | None = None,
        *,
        resume: bool = True,
        watch: Watch | None = None,
    ) -> Run:
        """The run of these settings: reused if it is finished, resumed if it was interrupted, else trained.

        `watch` gets the log so far whenever a row is added to it.

        Raises:
            InputError: there is such a run, finished or not, and `resume` is false.
        """
        run, sets = self._run(variant, overrides, seed)
        if not resume and any((run.folder / name).is_file() for name in (CHECKPOINT, FINAL)):
            raise InputError(f"{run.folder} holds such a run already; go on with it (--resume auto), or delete it")
        if not run.model.is_file():
            for absent in sets.absent:
                print(f"left out: {without_folders(absent.notice)}")
            Trainer(run.profile, sets.opened, run.folder, data_root=Path(run.profile.data.root)).run(watch=watch)
        if processes.is_first():
            self._keep(run, sets)
        return run

    def set_aside_outdated(self) -> list[str]:
        """Move the records of runs that today's settings and data would not give to ``results/earlier``, and name those runs.

        Tables are made of all records that are there; those of an earlier state must not stand in for new ones.
        """
        outdated = []
        for path in sorted((self.results / "runs").glob("*.json")):
            record = json.loads(path.read_text())
            try:
                name = self._run(record["variant"], record["overrides"], record["seed"])[0].name
            except InputError:  # a setting that no longer exists
                name = ""
            if name != path.stem:
                outdated.append(path.stem)
        for run in outdated:
            found = [*self.results.glob(f"*/{run}.*"), *self.results.glob(f"*/{run}_*")]
            for path in found:
                target = self.results / "earlier" / path.relative_to(self.results)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
        return outdated

    def compared(self, variant: str) -> list[Run]:
        """The runs of a variant that are held against those of others: `StudyConfig.comparison`, one per seed."""
        config = self.load().study
        return [self.train(variant, config.comparison, self.seed + number) for number in range(config.seeds)]

    def ablate(self, variant: str, changes: Iterable[str]) -> Run | None:
        """Train a short run with changed settings on `StudyConfig.ablation`, and score it; None where the profile asks for none."""
        base = self.load().study.ablation
        if not base:
            return None
        run = self.train(variant, [*base, *changes])
        self.evaluate(run, "davis2016", extras=False)
        return run

    def evaluate(self, run: Run, benchmark: str, extras: bool = True) -> pd.DataFrame:
        """Scores per object of a run on a benchmark, kept as files of record; done once for these settings.

        `extras` are other thresholds and bounds, see `evaluate_tracker`; an evaluation that has them serves without them too.
        """
        sequences = self.sequences(benchmark)
        full, plain = self._evaluations(run, benchmark, sequences)
        folder = full if extras or (full / "scores.csv").is_file() else plain
        if not (folder / "scores.csv").is_file():
            scores, speed = evaluate_tracker(self.tracker(run), sequences, folder, extras=extras)
            write_csv(folder / "speed.csv", _labelled(speed, benchmark, run))
            write_csv(folder / "scores.csv", _labelled(scores, benchmark, run))
        out = self.results / benchmark
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "speed.csv", out / f"{run.name}_speed.csv")
        shutil.copyfile(folder / "scores.csv", out / f"{run.name}.csv")
        return pd.read_csv(out / f"{run.name}.csv")

    def masks(self, run: Run, benchmark: str, method: str = "mask") -> Path:
        """Folder of the PNG masks that `evaluate` wrote with the run's settings of inference."""
        for folder in self._evaluations(run, benchmark, self.sequences(benchmark)):
            if (folder / "scores.csv").is_file() and (folder / method).is_dir():
                return folder / method
        raise InputError(f"run {run.name} has no masks of {benchmark} with these settings yet; evaluate it first")

    def _evaluations(self, run: Run, benchmark: str, sequences: list[Video]) -> tuple[Path, Path]:
        """Folders of the evaluation with extras and of that without."""
        settings = {"track": run.profile.to_dict()["track"], "sequences": [sequence.name for sequence in sequences]}
        full, plain = (run.folder / f"{benchmark}-{config_hash(settings | {'extras': value})}" for value in (True, False))
        return full, plain

    def baselines(self, benchmark: str) -> pd.DataFrame:
        """Scores per object of what needs no network of this study, kept as a file of record; done once for these settings.

        What cannot be had here goes on record with what it needs.
        """
        sequences = self.sequences(benchmark)
        trackers, lacking = opencv_trackers(Path(self.data))
        for name in UNREPEATABLE & set(trackers) if self._mark else ():
            del trackers[name]
            lacking[name] = "draws at random and cannot be seeded, and synthetic results are to repeat to the last digit"
        about = [SETTINGS, list(trackers), [[sequence.name, len(sequence)] for sequence in sequences]]
        made = f"opencv-{cv2.__version__}-{config_hash({'about': about})}"
        path = self.results / benchmark / "baselines.csv"
        kept = pd.read_csv(path) if path.is_file() else pd.DataFrame()
        if set(kept.get("made", [])) != {made}:
            scores = evaluate_baselines(sequences, trackers, self.runs / f"{benchmark}-baselines-{made}")
            write_csv(path, _labelled(scores, benchmark).assign(made=made))
        rows = [{"method": method, "reason": reason} for name, reason in lacking.items() for method in box_methods(name)]
        for row in rows:
            print(f"not run: {row['method']}: {row['reason']}")
        write_csv(path.with_stem("baselines_not_run"), pd.DataFrame(rows, columns=["method", "reason"]))
        return pd.read_csv(path)

    def held_out(self) -> list[Video]:
        """The training sequences that choices are made on; if there are none, the reason is printed."""
        try:
            return open_held_out(self.load().data)
        except InputError as error:
            print(f"not run: {without_folders(str(error))}")
            return []

    def choose(self, run: Run, grid: Mapping[str, tuple[float, ...]] = GRID) -> pd.DataFrame:
        """Score settings of inference on the held-out training sequences, see `choices.sweep`, kept as a file of record.

        Nothing is changed by it: the best settings are printed, to be given to ``--set`` or written into the profile.
        """
        scores = sweep(self.tracker(run), open_held_out(self.load().data), run.folder / "choices", grid)
        write_csv(self.results / "choices" / f"{run.name}.csv", scores)
        print("best: " + " ".join(f"--set {each}" for each in overrides_of(scores)))
        return scores

    def crop_quality(self, run: Run, pairs: int = 100) -> pd.DataFrame:
        """Single crops, seen in training and held out, see `diagnosis.crop_quality`, kept as a file of record."""
        path = run.folder / f"crops-{pairs}.csv"
        if not path.is_file():
            data = self.load().data
            held_out = open_held_out_tracks(data) if self.held_out() else []
            write_csv(path, crop_quality(load_model(run.model)[0], [*self.train_sets().opened, *held_out], run.profile, pairs))
        write_csv(self.results / "crops" / f"{run.name}.csv", pd.read_csv(path))
        return pd.read_csv(path)

    def attributes(self, benchmark: str = "davis2016") -> None:
        """Keep the attributes of a benchmark's sequences as a file of record, from the data set's own list, where that is there."""
        try:
            found = open_attributes(self.load().data, benchmark)
        except InputError as error:
            print(f"not run: {without_folders(str(error))}")
            return
        names = [sequence.name for sequence in self.sequences(benchmark)]
        if unknown := [name for name in names if name not in found]:
            print(f"without attributes in db_info.yml: {', '.join(unknown)}")
        table = pd.DataFrame([{"sequence": name, "attributes": " ".join(found[name])} for name in names if name in found])
        write_csv(self.results / benchmark / "attributes.csv", table)

    def has(self, benchmark: str) -> bool:
        """Whether a benchmark's data are there; if not, the reason goes on record and is printed."""
        try:
            self.sequences(benchmark)
        except InputError as error:
            write_text(self.results / benchmark / "not_run.txt", f"{without_folders(str(error))}\n")
            print(f"not run: {without_folders(str(error))}")
            return False
        (self.results / benchmark / "not_run.txt").unlink(missing_ok=True)
        return True

    def tracker(self, run: Run, **settings: Any) -> Tracker:
        """A tracker with a run's network; `settings` replace those of its profile's ``track``."""
        model, _ = load_model(run.model)
        track: TrackConfig = replace(run.profile.track, **settings)
        return Tracker(model, track)

    def sampling_cost(self, counts: Iterable[int] = COUNTS, variant: str = "e3sn-s") -> pd.DataFrame:
        """Memory and time of a training step by samples per image, kept as a file of record; measured once for these settings."""
        profile, counts = self.load(variant), list(counts)
        settings = {key: profile.to_dict()[key] for key in ("model", "loss")} | {
            "precision": profile.train.precision,
            "counts": counts,
        }
        path = self.runs / f"sampling_cost-{config_hash(settings)}.csv"
        if not path.is_file():
            write_csv(path, measure_sampling_cost(profile, counts))
        write_csv(self.results / "sampling_cost.csv", pd.read_csv(path))
        return pd.read_csv(path)

    def variant_costs(self, frames: int = 25) -> pd.DataFrame:
        """What training and tracking cost each variant, taking turns, kept as a file of record; measured once for its settings."""
        profiles = {variant: self.load(variant) for variant in available_variants()}
        settings = {variant: training_settings(profile) for variant, profile in profiles.items()}
        path = self.runs / f"variant_costs-{config_hash(settings | {'frames': frames})}.csv"
        if not path.is_file():
            trackers = {variant: self.tracker(self.compared(variant)[0]) for variant in profiles}
            video = self.sequences("davis2016")[0]
            box = next(box for box in boxes_of(video.mask(0), video.object_ids()).values() if box)
            shown = (video.frame(index) for index in range(min(frames, len(video))))
            write_csv(path, variant_costs(profiles, self.train_sets().opened, trackers, shown, box_xywh(box)))
        write_csv(self.results / VARIANT_COSTS, pd.read_csv(path, keep_default_na=False))
        return read_variant_costs(self.results)

    def show(self, figure: Figure, name: str) -> Any:
        """Keep a figure in the report and show it; one of synthetic data says so in its file name and on the page."""
        from e3sn_study.display import show_figure

        return show_figure(figure, self.figures / f"{name}{self._mark}.png", "synthetic data" if self._mark else "")

    def clip(self, frames: Iterable[Image], name: str) -> Any:
        """Keep a short clip in the report and show it."""
        from e3sn_study.display import show_clip

        return show_clip(frames, self.figures / f"{name}{self._mark}.mp4")

    @property
    def _mark(self) -> str:
        data = self.load().data
        kinds = [each.kind for each in data.train] + [each.kind for each in data.evaluation]
        return "_synthetic" if "synthetic" in kinds else ""

    @cached_property
    def _opened(self) -> dict[object, TrainSets]:
        return {}

    def _open(self, data: DataConfig) -> TrainSets:
        """Sets are opened once for all runs of this study."""
        key = (data.root, data.train)
        if key not in self._opened:
            self._opened[key] = open_train_sets(data)
        return self._opened[key]

    def _run(self, variant: str, overrides: Iterable[str] = (), seed: int | None = None) -> tuple[Run, TrainSets]:
        overrides = tuple(overrides)
        profile = self.load(variant, overrides, seed)
        sets = self._open(profile.data)
        return Run(self.runs / run_name(profile, sets), profile, overrides), sets

    def _keep(self, run: Run, sets: TrainSets) -> None:
        """Copy a run's files of record beside the report."""
        made = json.loads((run.folder / "env.json").read_text())
        data = [{"name": tracks.name, "tracks": len(tracks.tracks), "weight": config.weight} for tracks, config in sets.opened]
        record = run.summary() | {
            "title": run.profile.title,
            "overrides": list(run.overrides),
            "track": run.profile.to_dict()["track"],
            "data": data,
            "absent": [without_folders(absent.notice) for absent in sets.absent],
            "environment": made,
        }
        write_json(self.results / "runs" / f"{run.name}.json", record)
        write_csv(self.results / "runs" / f"{run.name}_log.csv", run.log())


def _labelled(table: pd.DataFrame, benchmark: str, run: Run | None = None) -> pd.DataFrame:
    """A table of record says what it is about; a baseline belongs to no run."""
    of_run = (run.name, run.profile.seed, run.profile.variant) if run else ("", "", "")
    for column, value in zip(("run", "seed", "variant", "benchmark"), (*of_run, benchmark), strict=True):
        table.insert(0, column, value)
    return table
