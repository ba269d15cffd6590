"""The study's memory: runs are trained once, evaluated once, and their files of record copied beside the report.

A run is named by everything that determines it, so the notebooks can ask for what they need in any order: what exists is reused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import Profile, TrackConfig, config_hash, load_profile, training_settings
from e3sn_lib.data.sources import TrainSets, open_evaluation, open_train_sets
from e3sn_lib.data.types import Sequence
from e3sn_lib.errors import InputError
from e3sn_lib.evaluation import evaluate_baselines, evaluate_tracker
from e3sn_lib.files import write_csv, write_json, write_text
from e3sn_lib.model.weights import load_model
from e3sn_lib.tracking import Tracker
from e3sn_lib.training import FINAL, Trainer


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

        Args:
            profile: ``smoke``, ``cpu``, ``paper``, or a YAML file.
            data: folder that holds the data sets; empty: the profile's own.
            runs: where training runs are kept.
            report: where results, figures and notebooks go; empty: ``reports/PROFILE``.
            seed: of the first run of each kind.
            overrides: ``key=value`` settings for every run.
        """
        study = cls(profile, data, Path(runs), Path(report or f"reports/{Path(profile).stem}"), seed, tuple(overrides))
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
        return open_train_sets(self.load().data)

    def sequences(self, benchmark: str) -> list[Sequence]:
        return open_evaluation(self.load().data, benchmark)

    def train(self, variant: str = "e3sn", overrides: Iterable[str] = (), seed: int | None = None) -> Run:
        """The run of these settings: reused if it is finished, resumed if it was interrupted, else trained."""
        overrides = tuple(overrides)
        profile = self.load(variant, overrides, seed)
        sets = open_train_sets(profile.data)
        run = Run(self.runs / run_name(profile, sets), profile, overrides)
        if not run.model.is_file():
            for absent in sets.absent:
                print(f"left out: {absent.notice}")
            Trainer(profile, sets.opened, run.folder, data_root=Path(profile.data.root)).run()
        self._keep(run, sets)
        return run

    def evaluate(self, run: Run, benchmark: str, extras: bool = True) -> pd.DataFrame:
        """Scores per object of a run on a benchmark, kept as files of record; done once for these settings."""
        sequences = self.sequences(benchmark)
        names = [sequence.name for sequence in sequences]
        settings = {"track": run.profile.to_dict()["track"], "sequences": names, "extras": extras}
        folder = run.folder / f"{benchmark}-{config_hash(settings)}"
        if not (folder / "scores.csv").is_file():
            scores, speed = evaluate_tracker(self.tracker(run), sequences, folder, extras=extras)
            write_csv(folder / "speed.csv", self._labelled(speed, run, benchmark))
            write_csv(folder / "scores.csv", self._labelled(scores, run, benchmark))
        out = self.results / benchmark
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "speed.csv", out / f"{run.name}_speed.csv")
        shutil.copyfile(folder / "scores.csv", out / f"{run.name}.csv")
        return pd.read_csv(out / f"{run.name}.csv")

    def masks(self, run: Run, benchmark: str, method: str = "mask") -> Path:
        """Folder of the PNG masks that `evaluate` wrote."""
        found = sorted(run.folder.glob(f"{benchmark}-*/{method}"))
        if not found:
            raise InputError(f"run {run.name} has no masks of {benchmark} yet; evaluate it first")
        return found[-1]

    def baselines(self, benchmark: str) -> pd.DataFrame:
        """Scores per object of what needs no network."""
        scores = evaluate_baselines(self.sequences(benchmark))
        for column, value in {"run": "", "seed": "", "variant": "", "benchmark": benchmark}.items():
            scores.insert(0, column, value)
        write_csv(self.results / benchmark / "baselines.csv", scores)
        return scores

    def has(self, benchmark: str) -> bool:
        """Whether a benchmark's data are there; if not, the reason goes on record and is printed."""
        try:
            self.sequences(benchmark)
        except InputError as error:
            write_text(self.results / benchmark / "not_run.txt", f"{error}\n")
            print(f"not run: {error}")
            return False
        (self.results / benchmark / "not_run.txt").unlink(missing_ok=True)
        return True

    def tracker(self, run: Run, **settings: Any) -> Tracker:
        """A tracker with a run's network; `settings` replace those of its profile's ``track``."""
        model, profile = load_model(run.model)
        track: TrackConfig = replace(profile.track, **settings)
        return Tracker(model, track)

    def _labelled(self, table: pd.DataFrame, run: Run, benchmark: str) -> pd.DataFrame:
        for column, value in {
            "run": run.name,
            "seed": run.profile.seed,
            "variant": run.profile.variant,
            "benchmark": benchmark,
        }.items():
            table.insert(0, column, value)
        return table

    def _keep(self, run: Run, sets: TrainSets) -> None:
        """Copy a run's files of record beside the report."""
        made = json.loads((run.folder / "env.json").read_text())
        data = [{"name": tracks.name, "tracks": len(tracks.tracks), "weight": config.weight} for tracks, config in sets.opened]
        record = run.summary() | {
            "title": run.profile.title,
            "overrides": list(run.overrides),
            "data": data,
            "absent": [absent.notice for absent in sets.absent],
            "environment": made,
        }
        write_json(self.results / "runs" / f"{run.name}.json", record)
        write_csv(self.results / "runs" / f"{run.name}_log.csv", run.log())


def run_name(profile: Profile, sets: TrainSets) -> str:
    """``PROFILE-VARIANT-seedN-HASH``; the hash is of all settings that training depends on, and of the sets that are there."""
    opened = [[tracks.name, len(tracks.tracks), config.weight, config.frame_range] for tracks, config in sets.opened]
    digest = config_hash({"settings": training_settings(profile), "sets": opened})
    return f"{profile.name}-{profile.variant}-seed{profile.seed}-{digest}"
