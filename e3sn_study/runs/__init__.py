"""Runs by configuration: trained once, found again by name, recorded beside the report.

`run_name` and `run_folder` say what a name depends on.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any, Self

import pandas as pd

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.data.pairs import Pair, PairDataset
from e3sn_lib.data.sources import TrainSets, open_evaluation, open_held_out, open_train_sets
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path, check_writable, read_text, write_csv, write_json, write_text
from e3sn_lib.model.network import E3SN
from e3sn_lib.model.weights import load_model, load_profile_of, read_metadata
from e3sn_lib.profiles.identity import content_hash, run_name, training_settings
from e3sn_lib.profiles.loading import available_profiles, load_profile, profile_from_dict
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.training import processes
from e3sn_lib.training.loop import Trainer
from e3sn_lib.training.state import CHECKPOINT, FINAL, Watch
from e3sn_study.checkout import SHIPPED, from_checkout
from e3sn_study.notebooks import as_list
from e3sn_study.records import Records, entries, without_folders
from e3sn_study.records.schema import SCHEMAS
from e3sn_study.records.store import digest


@dataclass(frozen=True)
class Run:
    """A training run, whether it is finished or not."""

    folder: Path
    profile: Profile
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def model(self) -> Path:
        """The file of the trained network."""
        return self.folder / FINAL

    def log(self) -> pd.DataFrame:
        """Return losses, rates, fusion weights, speed and memory over time."""
        return SCHEMAS["runs"].read(self.folder / "log.csv")

    def stages(self) -> pd.DataFrame:
        """Return one row per training stage: stage, pairs, seconds, pairs_per_second, and
        peak_memory_mb (MiB) until its end."""
        ends = self.log().groupby("stage", sort=False, as_index=False).last()
        own = ends[["pairs", "seconds"]].diff().fillna(ends)
        own["pairs_per_second"] = own["pairs"] / own["seconds"]
        return pd.concat([ends["stage"], own, ends["peak_memory_mb"]], axis=1)

    def summary(self) -> dict[str, Any]:
        """Return what the training says of itself at its end."""
        return entries.Summary.read(self.folder / "summary.json").model_dump()

    def is_finished(self) -> bool:
        """Return whether the network and its files of record are there. What is damaged, or lost by
        a kill at the end, is made anew; raises InputError if the checkpoint is lost too."""
        if not self.model.is_file():
            return False
        try:
            load_profile_of(self.model)
            entries.Record.read(self.folder / "env.json")
            return self.log()["pairs"].iloc[-1] == self.summary()["pairs"]
        except InputError as error:
            if not (self.folder / CHECKPOINT).is_file():
                raise
            print(f"made anew: {error}")
            return False

    def network(self) -> E3SN:
        """Return the trained network."""
        return load_model(self.model)[0]

    def tracker(self) -> Tracker:
        """Return a tracker with the network and the profile's settings."""
        return Tracker(self.network(), self.profile.track)


@dataclass(frozen=True)
class Study:
    """A profile with its folders; notebooks do all their work through it."""

    profile: str
    data: str
    runs: Path
    report: Path
    seed: int
    overrides: tuple[str, ...]
    _opened: dict[Any, Any] = field(init=False, default_factory=dict, compare=False)

    @classmethod
    def open(
        cls,
        profile: str = "smoke",
        data: str = "",
        runs: str | Path = "runs",
        report: str | Path = "",
        seed: int = 0,
        overrides: Iterable[str] | str = (),
    ) -> Self:
        """Check the profile and name the folders, see `from_checkout`; raises InputError if there
        is no such profile or setting, or a folder cannot be one.

        The arguments are the parameters of the notebooks. The profile is a name or a YAML file.
        Without `data` the folder is that of E3SN_DATA, else the profile's own; without `report` it
        is ``reports/PROFILE``. `seed` is that of the first run of each kind.
        """
        given = {"profile": profile, "data": data, "runs": runs, "report": report}
        for name, value in given.items():  # from a file of parameters
            if not isinstance(value, str | Path):
                raise InputError(f"{name} is {value!r}; give text")
        if profile.endswith((".yaml", ".yml")):
            profile = str(from_checkout(profile))
        overrides = tuple(as_list(overrides))
        if wrong := [each for each in overrides if not isinstance(each, str)]:
            raise InputError(f"overrides has {wrong[0]!r}; give text such as 'train.pairs=8'")
        own = load_profile(profile, overrides=overrides, seed=seed)
        if own.name in available_profiles() and own.name != profile:
            fault = f"{profile} has the name of a profile that comes with this"
            raise InputError(f"{fault}, so their results would be mixed; give it another name")
        asked = own.study
        kinds = (asked.comparison, asked.seeds), (asked.ablation, asked.ablation_seeds)
        for more, seeds in kinds:  # the settings of the last run of each kind, checked now
            load_profile(profile, overrides=[*overrides, *more], seed=seed + seeds - 1)
        root = data or os.environ.get("E3SN_DATA", "") or own.data.root
        data = str(from_checkout(root)) if root else ""
        report = from_checkout(report or f"reports/{Path(profile).stem}")
        runs = from_checkout(runs)
        for folder in (runs, report):  # asked now, not after hours of training
            check_writable(folder)
        return cls(profile, data, runs, report, seed, overrides)

    def load(
        self, variant: str = "e3sn", overrides: Iterable[str] = (), seed: int | None = None
    ) -> Profile:
        """Return the settings of one run; its files and folders are those of `from_checkout`."""
        seed = self.seed if seed is None else seed
        overrides = [*self.overrides, *overrides]
        profile = load_profile(self.profile, variant, overrides, seed=seed, data_root=self.data)
        first, backup = (
            str(from_checkout(each)) if each else ""
            for each in (profile.train.init_weights, profile.train.backup)
        )
        return replace(profile, train=replace(profile.train, init_weights=first, backup=backup))

    @property
    def results(self) -> Path:
        """The folder of the files of record."""
        return self.report / "results"

    @property
    def records(self) -> Records:
        """The files of record as they are now."""
        return Records(self.results)

    @property
    def is_synthetic(self) -> bool:
        """Whether any training set or benchmark is procedural."""
        return self.load().data.is_synthetic

    def figure(self, name: str) -> Path:
        """Return the file of a figure or clip, without suffix; a synthetic one says so."""
        return self.report / "figures" / f"{name}{'_synthetic' * self.is_synthetic}"

    def train_sets(self) -> TrainSets:
        """Return the training sets, which are opened once for all runs."""
        return self._open(self.load())[0]

    def sequences(self, benchmark: str) -> list[Video]:
        """Return the sequences of a benchmark; raises InputError where it is absent."""
        return open_evaluation(self.load().data, benchmark)

    def has(self, benchmark: str) -> bool:
        """Return whether a benchmark is there; if not, print the reason and put it on record."""
        note = self.results / benchmark / "not_run.txt"
        try:
            self.sequences(benchmark)
        except InputError as error:
            reason = without_folders(str(error))
            write_text(note, f"{reason}\n")
            print(f"not run: {reason}")
            return False
        note.unlink(missing_ok=True)
        return True

    def held_out(self) -> list[Video]:
        """Return the training sequences that choices are made on; without any, print the reason."""
        try:
            return [video for videos, _ in open_held_out(self.load().data) for video in videos]
        except InputError as error:
            print(f"not run: {without_folders(str(error))}")
            return []

    def pairs(self, count: int, variant: str = "e3sn") -> list[Pair]:
        """Return the first training pairs of a run, after augmentation and sampling."""
        profile = self.load(variant)
        stage = next(iter(profile.stages.values()))
        dataset = PairDataset(self.train_sets().opened, profile, stage)
        return [dataset[index] for index in range(count)]

    def run(self, variant: str, overrides: Iterable[str] = (), seed: int | None = None) -> Run:
        """Return the run of these settings and data, whether it is finished, begun or neither."""
        overrides = tuple(overrides)
        profile = self.load(variant, overrides, seed)
        if (train := profile.train).init_weights and not train.init_sha256:  # the record needs it
            train = replace(train, init_sha256=content_hash(Path(train.init_weights)))
            profile = replace(profile, train=train)
        folder = entries.run_folder(self.runs, profile, *self._open(profile))
        return Run(folder, profile, overrides)

    def train(
        self,
        variant: str = "e3sn",
        overrides: Iterable[str] = (),
        seed: int | None = None,
        *,
        resume: bool = True,
        watch: Watch | None = None,
    ) -> Run:
        """Return the finished run of these settings: reused, resumed or trained.

        The seed is by default the study's. `watch` gets the log so far whenever a row is added.
        Raises the errors of `Trainer` and `Trainer.run`. Without `resume`, it also raises
        InputError if the run exists already, finished or not.
        """
        if known := self._on_record(variant, overrides, seed):
            return known
        run = self.run(variant, overrides, seed)
        for folder in entries.places(run.folder, run.profile):
            if not resume and any((folder / name).is_file() for name in (CHECKPOINT, FINAL)):
                remedy = "go on with it (--resume auto), or delete it"
                raise InputError(f"{folder} holds such a run already; {remedy}")
        if not run.is_finished():
            sets, _ = self._open(run.profile)
            for absent, _ in sets.absent:
                print(f"left out: {without_folders(absent)}")
            if run.name != (plain := run_name(run.profile, sets)):
                print(f"{plain} was trained on other files; this is another run, {run.name}")
            root = Path(run.profile.data.root)
            trainer = Trainer(run.profile, sets.opened, run.folder, data_root=root)
            self._bind(run)
            trainer.run(watch=watch)
        self._bind(run)
        if processes.is_first():
            self._keep(run)
        return run

    def main(self, watch: Watch | None = None) -> Run:
        """Return the main run: what ``study.main`` names, or else E3SN, trained.

        With ``study.recorded`` it is, by default, the run of the shipped model. Raises InputError
        if the folder holds no finished run, or the model's run is not on record; or see `train`.
        """
        config = self.load().study
        if not config.main and not config.recorded:
            return self.train("e3sn", watch=watch)
        source = from_checkout(config.main) if config.main else SHIPPED
        if source.is_dir():
            run = self._finished(source)
            self._keep(run)
            return run
        folder = self.runs / Path(read_metadata(source).get("run", "")).name  # never outside
        self._unpack(folder)
        with atomic_path(folder / FINAL) as temporary:
            shutil.copyfile(source, temporary)
        return self._finished(folder)

    def _finished(self, folder: Path) -> Run:
        profile = load_profile_of(folder / FINAL)
        profile = replace(profile, data=replace(profile.data, root=self.data))
        if any(each.startswith("track.") for each in self.overrides):
            profile = replace(profile, track=self.load().track)
        return Run(folder, profile, ())

    def _on_record(self, variant: str, overrides: Iterable[str], seed: int | None) -> Run | None:
        """Return a run of these settings from the files of record, without its network."""
        profile = self.load(variant, overrides, seed)
        if not profile.study.recorded:
            return None
        runs, others = self.records.runs, list[str]()
        alike = (runs["variant"] == variant) & (runs["seed"] == profile.seed)
        alike &= runs["settings"] == entries.settings_text(overrides)
        for row in runs[alike].to_dict("records"):
            # older records do not tell all settings: they are of the profile as it is
            plain = load_profile(self.profile, variant, overrides, seed=profile.seed).to_dict()
            track = row["track"] or plain["track"]
            known = profile_from_dict((row["config"] or plain) | {"track": track})
            if _told(known) == _told(profile):
                self._unpack(self.runs / row["run"])
                return Run(self.runs / row["run"], profile, tuple(overrides))
            others.append(row["run"])
        if others:
            fault = f"the record of {' and '.join(others)} is of other settings"
            raise InputError(f"{fault}; leave out the overrides, or study.recorded")
        return None

    def _unpack(self, folder: Path) -> None:
        record = self.results / "runs" / f"{folder.name}.json"
        content = entries.RunRecord.read(record).model_dump()
        write_json(folder / "summary.json", content)
        write_json(folder / "env.json", content.get("environment", {}))
        log = read_text(record.with_name(f"{folder.name}_log.csv"), "table")
        write_text(folder / "log.csv", log)

    def compared(self, variant: str) -> list[Run]:
        """Train a variant's runs with the settings of ``study.comparison``, one per seed."""
        config = self.load().study
        return self._by_seed(variant, config.comparison, config.seeds)

    def on_top(self) -> list[Run]:
        """Train SiamMask with its second stage on top of the compared pairs, one run per seed; none
        without ``study.on_top``."""
        config = self.load().study
        if not config.on_top:
            return []
        profile = self.load("siammask", config.comparison)
        first, batch = next(iter(profile.stages.values())).share, profile.train.batch_size
        pairs = round(profile.train.pairs / first / batch) * batch
        others = [each for each in config.comparison if not each.startswith("train.pairs=")]
        return self._by_seed("siammask", [*others, f"train.pairs={pairs}"], config.seeds)

    def _by_seed(self, variant: str, overrides: Iterable[str], seeds: int) -> list[Run]:
        """Train one run per seed; with ``study.recorded``, those on record are enough."""
        overrides, numbers = [*overrides], range(self.seed, self.seed + seeds)
        found = (self._on_record(variant, overrides, number) for number in numbers)
        if (kept := [run for run in found if run]) and len(kept) < seeds:
            print(f"{variant}: {len(kept)} of {seeds} seeds are on record")
        return kept or [self.train(variant, overrides, number) for number in numbers]

    def set_aside_outdated(self) -> list[str]:
        """Move outdated records to ``results/earlier`` and return the names of their runs.

        Tables use all records in the folder. A record is outdated if the settings or data of its
        run differ from the present ones, also those of inference, unless ``study.main`` names this
        run or one that goes on from it; or if the files of its benchmark differ. With
        ``study.recorded`` no record is moved.
        """
        if self.load().study.recorded:
            return []
        outdated, main = [], from_checkout(self.load().study.main)
        named = read_metadata(main).get("run", "") if main.is_file() else main.name
        spared = {named}
        with suppress(InputError):  # a record is damaged
            spared |= {leg["run"] for leg in self.records.legs(named)}
        for path in sorted((self.results / "runs").glob("*.json")):
            if path.stem in spared:
                continue
            name = ""
            with suppress(InputError):  # the record is damaged, or a setting no longer exists
                record = entries.RunRecord.read(path)
                changes = entries.with_digest(record.overrides, record.config)
                run = self.run(record.variant, changes, record.seed)
                if not record.track or TrackConfig(**record.track) == run.profile.track:
                    name = run.name
            if name != path.stem:
                outdated.append(path.stem)
                self._set_aside(self._files_of(path.stem))
        for config in self.load().data.evaluation:
            with suppress(InputError):  # the benchmark is absent
                files = digest(self.sequences(config.name))
                for path in sorted((self.results / config.name).glob("*.csv")):
                    with suppress(ValueError):  # the table is damaged
                        if {*pd.read_csv(path, dtype=str).get("data", [files])} != {files}:
                            self._set_aside([path])
        return outdated

    def _files_of(self, run: str) -> Iterable[Path]:
        return self.results.glob(f"*/{escape(run)}[._]*")

    def _set_aside(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            target = self.results / "earlier" / path.relative_to(self.results)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    def _open(self, profile: Profile) -> tuple[TrainSets, entries.Files]:
        """Return the training sets and what their files are; looked at once for all runs."""
        key = (profile.data.root, profile.data.train, profile.train.weights)
        if key not in self._opened:
            sets = open_train_sets(profile.data)
            self._opened[key] = sets, entries.files_of(profile, sets)
        return self._opened[key]

    def _bind(self, run: Run) -> None:
        """Record the data that a run is trained on, unless they are recorded already."""
        for folder in entries.places(run.folder, run.profile) if processes.is_first() else ():
            if not (folder / entries.DATA).is_file():
                write_json(folder / entries.DATA, {"files": self._open(run.profile)[1]})

    def _keep(self, run: Run) -> None:
        """Write a run's files of record beside the report."""
        config, (sets, _) = run.profile.train, self._open(run.profile)
        environment = entries.Record.read(run.folder / "env.json").model_dump()
        environment["command"] = without_folders(str(environment.get("command", "")))
        record = run.summary() | {
            "title": run.profile.title,
            "overrides": entries.told(run.overrides),
            "config": entries.without_places(run.profile).to_dict(),
            "track": run.profile.to_dict()["track"],
            "data": [
                {"name": tracks.name, "tracks": len(tracks.tracks), "weight": each.weight}
                for tracks, each in sets.opened
            ],
            "absent": [without_folders(absent) for absent, _ in sets.absent],
            "synthetic": self.is_synthetic,
            "frozen": config.unfreeze_at >= 1 or not config.train_layers,
            "environment": environment,
        }
        write_json(self.results / "runs" / f"{run.name}.json", record)
        write_csv(self.results / "runs" / f"{run.name}_log.csv", run.log())
        with suppress(InputError):  # a damaged record is told where tables are made
            for other in self.records.replaced_by(run.name):
                self._set_aside(self._files_of(other))
                print(f"{other} is another run; its records are now in results/earlier")


def _told(profile: Profile) -> dict[str, Any]:
    """Return the settings that decide weights and masks, as far as records tell them."""
    train = replace(profile.train, init_weights="", init_sha256="")
    told = training_settings(replace(profile, train=train))
    return told | {"track": profile.to_dict()["track"]}
