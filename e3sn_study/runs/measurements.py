"""What a study measures with its runs: each once, kept as a table of record beside the report."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.data.davis import video_tracks
from e3sn_lib.data.sources import open_attributes, open_held_out
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import box_xywh
from e3sn_lib.model.device import best_device, precision_of
from e3sn_lib.profiles.identity import training_settings
from e3sn_lib.profiles.loading import available_variants
from e3sn_study.bench.sampling_cost import COUNTS, measure_sampling_cost
from e3sn_study.bench.variant_costs import PARTS
from e3sn_study.bench.variant_costs import variant_costs as measure_variant_costs
from e3sn_study.evaluation.baselines import UNREPEATABLE, boxes_of, opencv_trackers
from e3sn_study.evaluation.benchmark import evaluate_baselines, evaluate_tracker
from e3sn_study.evaluation.choices import TRIED, overrides_of, sweep
from e3sn_study.evaluation.diagnosis import crop_quality
from e3sn_study.records import without_folders
from e3sn_study.records.schema import MODEL, SCHEMAS, SCORES_OF_RECORD, SPEED, box_methods
from e3sn_study.records.store import digest, once, write_record
from e3sn_study.runs import Run, Study

FRAMES = 25
"""Frames on which the variants take turns to track."""


def evaluate(study: Study, run: Run, benchmark: str, extras: bool = True) -> pd.DataFrame:
    """Return the scores per object of a run on a benchmark, 0 to 1.

    `extras` are further thresholds and bounds, see `evaluate_tracker`. If an evaluation with extras
    exists, it is also used where none are asked for. With ``study.recorded`` a run without its
    network has the scores that are on record; without a record it has no rows.
    """
    scores, speed = (study.results / benchmark / f"{run.name}{end}.csv" for end in ("", "_speed"))
    if study.load().study.recorded and not run.model.is_file():
        if not scores.is_file():
            print(f"not run: {run.name} on {benchmark}: its network is not here")
        return study.records.table(f"{benchmark}/{run.name}", SCORES_OF_RECORD)
    sequences = study.sequences(benchmark)
    full, plain = _evaluations(run, benchmark, sequences)
    folder = full if extras or (full / "scores.csv").is_file() else plain

    @functools.cache
    def compute() -> list[pd.DataFrame]:
        tables = evaluate_tracker(run.tracker(), sequences, folder, extras=folder == full)
        return [_labelled(table, benchmark, sequences, run) for table in tables]

    once(folder / "speed.csv", SPEED, folder.name, lambda: compute()[1], speed)
    return once(folder / "scores.csv", SCORES_OF_RECORD, folder.name, lambda: compute()[0], scores)


def _labelled(
    table: pd.DataFrame, benchmark: str, sequences: list[Video], run: Run | None = None
) -> pd.DataFrame:
    """Return a table that says what it is about; a baseline belongs to no run."""
    labels: dict[str, Any] = {"benchmark": benchmark, "variant": "", "seed": "", "run": ""}
    if run:
        labels |= {"variant": run.profile.variant, "seed": run.profile.seed, "run": run.name}
    about = pd.DataFrame(labels, index=table.index)
    return pd.concat([about, table.assign(data=digest(sequences))], axis=1)


def masks(study: Study, run: Run, benchmark: str, method: str = MODEL) -> Path:
    """Return the folder of the PNG masks that `evaluate` wrote with the run's settings."""
    for folder in _evaluations(run, benchmark, study.sequences(benchmark)):
        if (folder / "scores.csv").is_file() and (folder / method).is_dir():
            return folder / method
    lacking = f"run {run.name} has no masks of {benchmark} with these settings yet"
    raise InputError(f"{lacking}; evaluate it first")


def _evaluations(run: Run, benchmark: str, sequences: list[Video]) -> list[Path]:
    """Return the folders of the evaluation with extras and of that without."""
    made_of = (run.model, run.profile.track, sequences)
    return [run.folder / f"{benchmark}-{digest(*made_of, extras)}" for extras in (True, False)]


def ablate(study: Study, variant: str, changes: Iterable[str]) -> list[Run]:
    """Train and score the short runs with changed settings, one per seed; none without
    ``study.ablation``."""
    config = study.load().study
    seeds = range(config.ablation_seeds if config.ablation else 0)
    overrides = [*config.ablation, *changes]
    runs = [study.train(variant, overrides, study.seed + each) for each in seeds]
    for run in runs:
        evaluate(study, run, "davis2016", extras=False)
    return runs


def baselines(study: Study, benchmark: str) -> pd.DataFrame:
    """Return the scores per object of what needs no network of this study, with ``study.recorded``
    those on record. A method that is not available here is recorded with what it needs."""
    kept = study.results / benchmark / "baselines.csv"
    if study.load().study.recorded and kept.is_file():
        return SCORES_OF_RECORD.read(kept)
    sequences = study.sequences(benchmark)
    trackers, lacking = opencv_trackers(Path(study.data))
    unrepeatable = UNREPEATABLE & {*trackers} if study.is_synthetic else set()
    for name in unrepeatable:
        del trackers[name]
        lacking[name] = "is random without a seed, but synthetic results must repeat exactly"
    scores = evaluate_baselines(sequences, trackers, study.runs / f"{benchmark}-baselines")
    table = _labelled(scores, benchmark, sequences)
    write_record(kept, table)
    rows = [(each, reason) for name, reason in lacking.items() for each in box_methods(name)]
    for method, reason in rows:
        print(f"not run: {method}: {reason}")
    absent = pd.DataFrame(rows, columns=["method", "reason"])
    write_record(study.results / benchmark / "baselines_not_run.csv", absent)
    return table


def choose(study: Study, run: Run, grid: Mapping[str, tuple[float, ...]] = TRIED) -> pd.DataFrame:
    """Score settings of inference on the held-out training sequences, see `choices.sweep`; print
    the best, to be given to ``--set`` or written into the profile. With ``study.recorded=true``
    the scores are those on record."""
    kept = study.results / "choices" / f"{run.name}.csv"
    if study.load().study.recorded and kept.is_file():
        scores = SCHEMAS["choices"].read(kept)
    else:
        scores = sweep(run.tracker(), study.held_out(), run.folder / "choices", grid)
        write_record(kept, scores)
    print("best: " + " ".join(f"--set {each}" for each in overrides_of(scores)))
    return scores


def single_crops(study: Study, run: Run) -> pd.DataFrame:
    """Return `crop_quality` of a run on crops seen in training and on held-out ones."""
    data, pairs = study.load().data, 100
    sources = [*study.train_sets().opened]
    for videos, config in open_held_out(data) if study.held_out() else []:
        name = f"{config.kind}{config.year}-{config.split} held out"
        sources.append((video_tracks(name, videos, config.min_area), config))
    return once(
        run.folder / f"crops-{pairs}.csv",
        SCHEMAS["crops"],
        digest(run.model, pairs, [(tracks.name, tracks.tracks) for tracks, _ in sources]),
        lambda: crop_quality(run.network(), sources, run.profile, pairs),
        study.results / "crops" / f"{run.name}.csv",
    )


def keep_attributes(study: Study, benchmark: str = "davis2016") -> None:
    """Keep the attributes of a benchmark's sequences, where the data set's own list is there."""
    try:
        found = open_attributes(study.load().data, benchmark)
    except InputError as error:
        print(f"not run: {without_folders(str(error))}")
        return
    names = [sequence.name for sequence in study.sequences(benchmark)]
    if unknown := [name for name in names if name not in found]:
        print(f"without attributes in db_info.yml: {', '.join(unknown)}")
    rows = [(name, " ".join(found[name])) for name in names if name in found]
    table = pd.DataFrame(rows, columns=["sequence", "attributes"])
    write_record(study.results / benchmark / "attributes.csv", table)


def sampling_cost(study: Study, counts: Iterable[int] = COUNTS) -> pd.DataFrame:
    """Return memory and time of a training step of E3SN only S by samples per image, with
    ``study.recorded`` those on record."""
    kept, profile, counts = study.results / "sampling_cost.csv", study.load("e3sn-s"), list(counts)
    if profile.study.recorded and kept.is_file():
        return SCHEMAS["sampling_cost"].read(kept)
    train, device = profile.train, best_device()
    made_of = digest(
        *(profile.model, profile.loss, train.optimiser, train.train_layers, train.train_shortcuts),
        *(str(precision_of(train.precision, device)), device.type, counts),
    )
    path = study.runs / f"sampling_cost-{made_of}.csv"
    compute = functools.partial(measure_sampling_cost, profile, counts)
    return once(path, SCHEMAS["sampling_cost"], made_of, compute, kept)


def variant_costs(study: Study) -> pd.DataFrame:
    """Return what training and tracking cost each variant, which take turns; or what is on record
    of it, where their networks are not here."""
    kept = study.results / "variant_costs.csv"
    profiles = {variant: study.load(variant) for variant in available_variants()}
    runs = {variant: study.compared(variant)[0] for variant in profiles}
    if not all(run.model.is_file() for run in runs.values()):
        return SCHEMAS["variant_costs"].read(kept)
    settings = [training_settings(profile) for profile in profiles.values()]
    video = study.sequences("davis2016")[0]
    made_of = digest(settings, [*PARTS], FRAMES, video)

    def compute() -> pd.DataFrame:
        trackers = {variant: run.tracker() for variant, run in runs.items()}
        box = next(iter(boxes_of(video.mask(0), video.object_ids()).values()))
        shown = (video.frame(index) for index in range(min(FRAMES, len(video))))
        sources = study.train_sets().opened
        return measure_variant_costs(profiles, sources, trackers, shown, box_xywh(box))

    path = study.runs / f"variant_costs-{made_of}.csv"
    return once(path, SCHEMAS["variant_costs"], made_of, compute, kept)
