"""The files of record of a study, read once and checked."""

import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from e3sn_lib.errors import InputError
from e3sn_lib.files import read_text
from e3sn_lib.metrics.scoring import SUMMARY_COLUMNS
from e3sn_study.records.averages import Measured
from e3sn_study.records.entries import Manifest, RunRecord, Slider
from e3sn_study.records.schema import (
    MODEL,
    SCHEMAS,
    SCORES_OF_RECORD,
    SESSIONS,
    SPEED,
    Schema,
    threshold_of,
)

REFERENCE = Path(__file__).parent.parent / "reference"
"""What others published, and the report's own texts."""
STATISTICS = SUMMARY_COLUMNS
MEANS = ("J-Mean", "F-Mean")
VARIANTS = {"siammask": "SiamMask", "e3sn-s": "E3SN only S", "e3sn": "E3SN"}
"""Variants by the paper's names, in the order of its tables."""
STAGES = {"base": "first stage", "sharp": "second stage", "end_to_end": "end to end"}
BENCHMARKS = {"davis2016": "DAVIS-2016", "davis2017": "DAVIS-2017"}
NO_SCORES = ("attributes", "baselines_not_run", "_speed")
"""How the names of files beside those of scores end."""
SAME = ["profile", "variant", "seed", "settings", "pairs_before", "first_weights"]
"""Columns of runs in which a run equals the one that it replaces."""
PAPER_THRESHOLD = 0.5
"""Mask threshold of the paper, and of records that do not tell theirs."""


class Records:
    """The files of record in one folder ``results/``, read and checked once; a missing file means:
    not run. Every method raises InputError if a file is damaged or does not fit the others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, pd.DataFrame] = {}

    def table(self, name: str, schema: Schema | None = None) -> pd.DataFrame:
        """Return a copy of the table ``NAME.csv``, without rows where there is none."""
        schema = schema or _schema(name)
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            return pd.DataFrame(columns=schema.columns)
        if name not in self._tables:
            self._tables[name] = schema.read(path)
        return self._tables[name].copy()

    def required(self, name: str) -> pd.DataFrame:
        """Return the table ``NAME.csv``, which must be there."""
        table = self.table(name)
        if table.empty:
            raise InputError(f"results/{name}.csv is missing; make it with {_schema(name).by}")
        return table

    def tables(self, folder: str) -> dict[str, pd.DataFrame]:
        """Return the tables ``FOLDER/RUN.csv`` by run."""
        paths = sorted((self.folder / folder).glob("[!.]*.csv"))
        return {path.stem: self.table(f"{folder}/{path.stem}") for path in paths}

    @cached_property
    def _all_runs(self) -> pd.DataFrame:
        rows = []
        for path in sorted((self.folder / "runs").glob("[!.]*.json")):
            record = RunRecord.read(path)
            if record.run != path.stem:
                raise record.misfit(path, f"it is of {record.run}")
            rows.append(record.model_dump())
        table = pd.DataFrame(rows, columns=None if rows else [*RunRecord.model_fields])
        table = table.assign(own_pairs=table["pairs"], pairs=table["pairs"] + table["pairs_before"])
        table = table.sort_values(["date", "run"])
        return table.assign(repeated=table.duplicated(SAME, keep="last"))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per training run: the entries of `RunRecord` and all others on record.

        pairs are all that the model has seen, with those of the models before it; own_pairs are
        those of the run alone. If a variant was trained twice with the same seed and settings,
        only the later run has a row, unless it continues the earlier one.
        """
        places = {name: place for place, name in enumerate(VARIANTS)}
        table = self._all_runs[~self._all_runs["repeated"]]
        table = table.assign(place=table["variant"].map(places))
        return table.sort_values(["settings", "place", "seed"], ignore_index=True)

    def history(self, run: str) -> pd.DataFrame:
        """Return the log of a run after those of the runs that it goes on from. The column pairs
        counts the pairs of all. The stages of each have names of their own."""
        logs = []
        for leg in self.legs(run) or [{"run": run, "pairs_before": 0}]:
            log, first = self.required(f"runs/{leg['run']}_log"), leg["pairs_before"]
            if first:
                log["pairs"] += first
                log["stage"] += f" from {first:,}"
            logs.append(log)
        return pd.concat(logs, ignore_index=True)

    def legs(self, run: str) -> list[dict[str, Any]]:
        """Return a run after the runs that it goes on from, as far as they are on record. Their
        settings of training may differ."""
        runs, found = self._all_runs, list[dict[str, Any]]()
        settings = runs["settings"].str.replace(r"\btrain\.\S+ ?", "", regex=True).str.strip()
        wanted = runs["run"] == run
        while rows := runs[wanted].to_dict("records"):
            own = rows[-1]
            found.insert(0, own)
            wanted = (runs["variant"] == own["variant"]) & (runs["seed"] == own["seed"])
            wanted &= settings.isin(["", settings[runs["run"] == own["run"]].iloc[0]])
            wanted &= (runs["pairs"] == own["pairs_before"]) & (own["pairs_before"] > 0)
        return found

    def replaced_by(self, run: str) -> list[str]:
        """Return the names of the other runs of the same seed and settings."""
        own = self._all_runs.loc[self._all_runs["run"] == run, SAME]
        return sorted({*self._all_runs.merge(own, on=SAME)["run"]} - {run})

    @property
    def left_out(self) -> list[str]:
        """The runs that a later one of the same seed and settings replaces."""
        return sorted(self._all_runs.loc[self._all_runs["repeated"], "run"])

    @property
    def synthetic(self) -> bool:
        """Whether any run was trained or scored on procedural data."""
        return bool(self.runs["synthetic"].any())

    def rows(self, runs: Iterable[str]) -> pd.DataFrame:
        """Return the rows of `runs` that have these names."""
        return self.runs[self.runs["run"].isin(list(runs))]

    def main_runs(self, variant: str, settings: str = "", legs: bool = True) -> list[str]:
        """Return the names of a variant's runs with the most pairs; by default without changes.

        There is at most one for each seed, and none for a seed with fewer pairs. If runs continue
        each other, it is the last one; without ``legs``, the first one.
        """
        found = self.runs[(self.runs["variant"] == variant) & (self.runs["settings"] == settings)]
        if not legs:
            found = found[found["pairs_before"] == 0]
        return list(found.loc[found["pairs"] == found["pairs"].max(), "run"])

    def comparable_settings(self, *variants: str) -> str:
        """Return the settings under which all variants were trained and scored.

        They are chosen in this order: two seeds of each variant; the profile's own settings; most
        pairs; fewest changes. Runs that continue other runs do not count.
        """
        scored = {path.stem for path in self.folder.glob("davis*/*.csv")}
        whole = self.runs[self.runs["run"].isin(scored) & (self.runs["pairs_before"] == 0)]
        groups = {str(name): group for name, group in whole.groupby("settings")}
        shared = [name for name, group in groups.items() if {*variants} <= {*group["variant"]}]

        def order(name: str) -> tuple[bool, bool, int, int]:
            group = groups[name][groups[name]["variant"].isin(variants)]
            one_seed = group.groupby("variant")["seed"].nunique().min() < 2
            return one_seed, name != "", -group["pairs"].max(), len(name.split())

        return min(shared, key=order, default="")

    def compared_runs(self, *variants: str) -> dict[str, list[str]]:
        """Return the names of each variant's runs under `comparable_settings`."""
        settings = self.comparable_settings(*variants)
        return {variant: self.main_runs(variant, settings, legs=False) for variant in variants}

    def with_first_stage(self, compared: Iterable[str], pairs: float) -> list[str]:
        """Return runs like `compared`, but with more pairs: their first stage alone saw `pairs`."""
        but_pairs = self.runs["settings"].str.replace(r"(^| )train\.pairs=\S+", "", regex=True)
        kind = self.runs["variant"] + " " + but_pairs.str.strip()
        is_compared, found = self.runs["run"].isin(list(compared)), []
        for run in self.runs.loc[~is_compared & kind.isin(kind[is_compared]), "run"]:
            ends = self.table(f"runs/{run}_log").groupby("stage", sort=False)["pairs"].last()
            if len(ends) > 1 and ends.iloc[0] == pairs:
                found.append(run)
        return found

    def ablations(self) -> Iterator[tuple[list[str], pd.DataFrame, pd.DataFrame]]:
        """Yield, for each variant with changed settings: changes, runs, runs to compare them with.

        The runs to compare with have the same variant, seeds, pairs and settings of training, and
        the fewest other changes. Without such runs, all settings are changes.
        """
        trained = self.runs
        changed = trained[trained["settings"] != ""]
        for (variant, text), group in changed.groupby(["variant", "settings"], sort=False):
            settings = str(text).split()
            budget = {each for each in settings if each.startswith("train.")}
            alike = trained[trained["variant"] == variant]
            alike = alike[alike["pairs"].isin(group["pairs"]) & alike["seed"].isin(group["seed"])]
            fewer = alike[[budget <= {*each.split()} < {*settings} for each in alike["settings"]]]
            least = min(fewer["settings"], key=lambda each: len(each.split()), default="")
            changes = [each for each in settings if each not in least.split()]
            yield changes, group, fewer[fewer["settings"] == least]

    def stages(self, runs: Iterable[str]) -> int:
        """Return the largest number of training stages in the logs of runs; 0 without a log."""
        stages = [0]
        for run, pairs in self.rows(runs)[["run", "own_pairs"]].to_numpy():
            log = self.table(f"runs/{run}_log")
            if len(log) and log["pairs"].iloc[-1] != pairs:
                path = self.folder / "runs" / f"{run}_log.csv"
                raise SCHEMAS["runs"].misfit(path, "does not end with the run")
            stages.append(log["stage"].nunique())
        return max(stages)

    def scores(self, benchmark: str) -> pd.DataFrame:
        """Return the scores per object of every run and baseline, in percent.

        Beside the columns of `SCORES_OF_RECORD` there is mask_threshold, at which masks were cut.
        Baselines have the run "" and the seed 0.
        """
        key = f"{benchmark} in percent"
        if key not in self._tables:
            names = sorted(path.stem for path in (self.folder / benchmark).glob("[!.]*.csv"))
            scored = [name for name in names if not name.endswith(NO_SCORES)]
            tables = [self._scores(benchmark, name) for name in scored]
            if len({frozenset(table["sequence"]) for table in tables}) > 1:
                where = f"the scores in {self.folder / benchmark} are of different sequences"
                raise InputError(f"{where}; delete those of other data, or score all anew")
            empty = pd.DataFrame(columns=SCORES_OF_RECORD.columns)
            scores = pd.concat(tables or [empty], ignore_index=True)
            scores[list(STATISTICS)] *= 100
            self._tables[key] = scores.fillna({"seed": 0}).astype({"seed": int})
        return self._tables[key]

    def _scores(self, benchmark: str, name: str) -> pd.DataFrame:
        """Return one file of scores, which must be whole and of the run that it is named by."""
        table = self.table(f"{benchmark}/{name}", SCORES_OF_RECORD)
        run = "" if name == "baselines" else name
        found = self.rows([run])
        labels = [benchmark, run, *found[["variant", "seed"]].to_numpy().ravel()]
        columns = ["benchmark", "run", "variant", "seed"][: len(labels)]
        scored, timed = {*table["sequence"]}, {*self.speed(benchmark, [run])["sequence"]}
        methods = table.groupby(["sequence", "object"]).size()
        problems = {
            "is of another run or benchmark": (table[columns] != labels).any(axis=None),
            "lacks rows": (methods != table["method"].nunique()).any(),
            f"has other sequences than {run}_speed.csv": timed and timed != scored,
        }
        for problem, is_there in problems.items():
            if is_there:
                raise SCORES_OF_RECORD.misfit(self.folder / benchmark / f"{name}.csv", problem)
        track = found["track"].iloc[0] if len(found) else {}
        own = table["mask_threshold"].fillna(track.get("mask_threshold", PAPER_THRESHOLD))
        return table.assign(mask_threshold=table["method"].map(threshold_of).fillna(own))

    def measure(
        self, benchmark: str, runs: Iterable[str] = ("",), method: str = MODEL
    ) -> Measured | None:
        """Return a method's scores over some runs, or None; baselines belong to the run ""."""
        scores = self.scores(benchmark)
        part = scores[scores["run"].isin(list(runs)) & (scores["method"] == method)]
        return Measured(part) if len(part) else None

    def by_threshold(self, benchmark: str, runs: Iterable[str]) -> dict[float, Measured]:
        """Return the scores of runs' masks by mask threshold, the runs' own among them."""
        scores = self.scores(benchmark)
        is_mask = (scores["method"] == MODEL) | scores["method"].map(threshold_of).notna()
        groups = scores[scores["run"].isin(list(runs)) & is_mask].groupby("mask_threshold")
        return {float(threshold): Measured(rows) for threshold, rows in groups}

    def speed(self, benchmark: str, runs: Iterable[str]) -> pd.DataFrame:
        """Return the timing per sequence of some runs.

        fps is object-frames per second as SiamMask counts them, without reading. machine is the
        one that tracked; older records know that of the training only, and say so.
        """
        tables = [pd.DataFrame(columns=SPEED.columns)]
        for run in runs:
            name = f"{benchmark}/{run}_speed"
            tables.append(table := self.table(name, SPEED))
            if {*table["run"]} - {run}:
                raise SPEED.misfit(self.folder / f"{name}.csv", "is of another run")
        speed = pd.concat([each for each in tables if len(each)] or tables, ignore_index=True)
        steps = (speed["frames"] - 1) * speed["objects"]
        trained_on = self.runs.set_index("run")["machine"].map(
            "a machine not on record (trained on {})".format
        )
        machines = speed["run"].map(trained_on)
        machines = speed.get("machine", machines).fillna(machines)
        return speed.assign(fps=steps / speed["seconds_tracking"], machine=machines)

    @property
    def int8_graphs(self) -> dict[str, dict[str, Any]]:
        """The scores and speed of the main run's int8 graphs, measured in one process: by the
        paper's protocol, and with the additions of ``e3sn track``. Empty if not on record."""
        table = self.table("sessions")
        rows = table[table["run"].isin(self.main_runs("e3sn"))].to_dict("records")
        return {label: row for row in rows if (label := SESSIONS.get(row["contender"]))}

    def attributes(self, benchmark: str) -> pd.Series | None:
        """Return the attributes of each sequence as one text, None if they are not on record."""
        table = self.table(f"{benchmark}/attributes")
        return table.set_index("sequence")["attributes"] if len(table) else None

    def scope(self, benchmark: str) -> str:
        """Return how much of a benchmark was scored, "4 of 20 sequences"; "" if nothing was."""
        names = {*self.scores(benchmark)["sequence"]}
        official = {*reference("val_sequences")[benchmark]}
        if not names:
            return ""
        if names == official:
            return f"all {len(official)} sequences"
        if names < official:
            return f"{len(names)} of {len(official)} sequences"
        kind = "synthetic" if self.synthetic else "other"
        return f"{len(names)} {kind} sequences instead of the {len(official)}"

    def whole_set(self, benchmark: str) -> bool:
        """Return whether a benchmark's validation set, all of it and nothing else, was scored."""
        return self.scope(benchmark).startswith("all ")

    @cached_property
    def notebooks(self) -> list[dict[str, Any]]:
        """How the notebooks ended: name, status and seconds of each."""
        path = self.folder / "manifest.json"
        return Manifest.read(path).model_dump()["notebooks"] if path.is_file() else []

    @cached_property
    def slider(self) -> list[dict[str, Any]]:
        """Videos of the slider, as `slider_frames` gives them; none if they are not on record."""
        path = self.folder / "slider.json"
        return Slider.read(path).model_dump()["videos"] if path.is_file() else []

    def reason_not_run(self, benchmark: str) -> str:
        """Return why a benchmark was not run; "" if that is not on record."""
        path = self.folder / benchmark / "not_run.txt"
        return without_folders(read_text(path).strip()) if path.is_file() else ""


def _schema(name: str) -> Schema:
    folder, _, file = name.rpartition("/")
    return SCHEMAS.get(file) or SCHEMAS[folder]


@cache
def reference(name: str) -> Any:
    """Return the content of a YAML file of ``reference/``."""
    return yaml.safe_load(read_text(REFERENCE / f"{name}.yaml"))


def without_folders(text: str) -> str:
    """Return a text with absolute paths cut to their last part, which names no machine."""
    text = re.sub(r"\b[A-Za-z]:[\\/](?:[^\s;,\\/]+[\\/])+", ".../", text)  # of Windows
    return re.sub(r"(?<![\w:/.])/(?:[^\s;,/]+/)+", ".../", text)
