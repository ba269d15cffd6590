"""The command that measures: speeds, precisions, and how well J can be predicted."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from e3sn_lib.errors import InputError
from e3sn_lib.files import check_writable, write_csv, write_json
from e3sn_study.checkout import SHIPPED, open_tracker
from e3sn_study.cli.options import a_path, add_settings, at_least, profile_of

if TYPE_CHECKING:
    import pandas as pd


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn bench``."""
    add = command.add_argument
    text = (
        "train, track: time of a step; precision: losses in fp32 and bf16; exports: J, F and speed "
        "by torch and by graphs; sessions: the same for what e3sn track adds; confidence: fit of "
        "the predicted J; held-out: scores of a model"
    )
    add("what", choices=[*MEASUREMENTS], help=text)
    add_settings(command)
    add("--batch", type=at_least(1, 65_536), default=8, help="pairs per step (default: 8)")
    text = "steps to time (train: 4, track: 5) or to train (precision: 300)"
    add("--steps", type=at_least(1), help=text)
    text = (
        "confidence: a JSON file for the fit; precision: folder for runs and figure (default: "
        "precision); others: a CSV file"
    )
    add("--out", type=a_path, help=text)
    text = (
        "track, exports, held-out: a trained model (default: the shipped one); held-out also takes "
        "the folder of a run"
    )
    add("--model", type=a_path, default=SHIPPED, help=text)
    text = "track, exports, sessions: its int8 export (default: the shipped one)"
    add("--export", type=a_path, help=text)
    text = "track: a checkout of github.com/foolwood/SiamMask, whose code is run and timed too"
    add("--public", type=a_path, metavar="DIR", help=text)
    text = "track, exports, sessions: number of threads (default: idle cores, at most 4)"
    add("--threads", type=at_least(1), help=text)
    add("--report", type=a_path, help="folder of a report that gets the results, e.g. reports/cpu")
    text = "confidence: a model or an export (default: E3SN_WEIGHTS, or the shipped one)"
    add("--weights", type=a_path, help=text)


def bench(options: argparse.Namespace) -> None:
    """Time training or tracking, compare precisions, fit the prediction of J, or score a model."""
    if options.out and options.out.is_dir() and options.what != "precision":
        raise InputError(f"--out {options.out} is a folder; give a file")
    profile = options.profile if str(options.profile).endswith((".yaml", ".yml")) else None
    for used in filter(None, (options.model, options.weights, profile)):
        if options.out and os.path.realpath(options.out) == os.path.realpath(used):
            raise InputError(f"--out {options.out} is a file that is read; give another one")
    target = options.out and options.out.parent
    if options.what == "precision":
        target = options.out or Path("precision")
    for folder in filter(None, (target, options.report and options.report / "results")):
        check_writable(folder)  # now, not after minutes of measuring
    tracking = [each for each in options.set if each.startswith("track.")]
    if tracking and options.what not in ("train", "precision"):
        problem = "it tracks with the settings that come with a model"
        raise InputError(f"{problem}; leave out --set {tracking[0]}")
    MEASUREMENTS[options.what](options)


def _keep(options: argparse.Namespace, name: str, table: pd.DataFrame) -> None:
    """Write a table to ``--out`` and to the records of ``--report``, where they are given."""
    from e3sn_study.records.store import write_record

    if options.out:
        write_csv(options.out, table)
    if options.report:
        write_record(options.report / "results" / f"{name}.csv", table)


def _train(options: argparse.Namespace) -> None:
    from e3sn_lib.data.sources import open_train_sets
    from e3sn_study.bench.training_speed import bench_training

    profile = profile_of(options)
    sources = open_train_sets(profile.data).opened
    table = bench_training(profile, sources, options.batch, options.steps or 4)
    shown = table.drop(columns=["batch", "machine"])
    looks = {"ratio": "{:.2f}x".format, "pairs_per_second": "{:.2f}".format}
    print(shown.to_string(index=False, float_format="{:.3f}".format, formatters=looks))
    print(
        "ratio: this loop's pairs per second over the contender's; forward, backward, update: "
        f"seconds of the fastest step of {options.batch} pairs; data: seconds to prepare them in "
        "one process, during the step or, with data.workers=0, before it"
    )
    _keep(options, "training_speed", table)


def _precision(options: argparse.Namespace) -> None:
    import pandas as pd

    from e3sn_lib.data.sources import open_train_sets
    from e3sn_lib.training.loop import Trainer
    from e3sn_study.bench import training_speed
    from e3sn_study.bench.dry_run import dry_run
    from e3sn_study.figures.curves import precision_curves
    from e3sn_study.figures.style import save_figure

    profile, out, steps = profile_of(options), options.out or Path("precision"), options.steps
    profiles = training_speed.precision_profiles(profile, steps or 300, options.batch)
    sources = open_train_sets(profile.data).opened
    hours = sum(dry_run(each, out).phases["hours"].sum() for each in profiles.values())
    runs = f"two runs of {steps or 300} steps of {options.batch} pairs"
    print(f"{runs}: about {60 * hours:.2g} minutes")
    for name, each in profiles.items():
        Trainer(each, sources, out / name, data_root=Path(each.data.root)).run()
    logs = {name: pd.read_csv(out / name / "log.csv") for name in profiles}
    figure = precision_curves(logs)
    save_figure(out / "precision.png", figure)
    for column in ("loss", "mask_iou"):
        mean, error = training_speed.precision_difference(logs["fp32"], logs["bf16"], column)
        difference = f"bf16 differs from fp32 by {mean:+.2%} ± {error:.2%}"
        print(f"{column}: {difference} (second half, two standard errors)")
    print(f"logs and figure: {out}")
    if options.report:
        name = f"precision{'_synthetic' * profile.data.is_synthetic}.png"
        save_figure(options.report / "figures" / name, figure)
        both = pd.concat(logs, names=["precision"]).droplevel(1).reset_index()
        write_csv(options.report / "results" / "precision.csv", both)


def _track(options: argparse.Namespace) -> None:
    from e3sn_lib.tracking.backends import thread_count
    from e3sn_study.bench.tracking_speed import OBJECTS, PUBLIC, SIZES, STAND_IN, bench_tracking

    model, threads = options.model, thread_count(options.threads)
    table = bench_tracking(model, options.export, options.public, threads, options.steps or 5)
    shown = table.drop(columns=["contender", "threads", "machine"])
    short = {STAND_IN: "stand-in", PUBLIC: "public code"}
    shown.insert(3, "contender", table["contender"].replace(short))
    print(shown.to_string(index=False, float_format="{:.2f}".format))
    print(f"stand-in: {STAND_IN}; ratio: to its rate; share: of peak; peak: GFLOP/s")
    _keep(options, "tracking_speed", table)
    narrow = table.set_index(["width", "contender", "objects"]).loc[SIZES[0][0]]
    one, most = (narrow.loc[("ONNX int8", count)] for count in (OBJECTS[0], OBJECTS[-1]))
    rate = f"{one['ratio']:.2f} times the stand-in, {one['frames_per_second']:.0f} frames/s"
    if options.public:
        slower = narrow.loc[(PUBLIC, OBJECTS[0]), "step_ms"] / one["step_ms"]
        rate = f"{slower:.2f} times SiamMask's public code, {rate}"
    more = f"{OBJECTS[-1]} objects cost {most['step_ms'] / one['step_ms']:.1f} times one"
    print(f"ONNX int8, one object, {SIZES[0][0]}x{SIZES[0][1]}, {threads} threads: {rate}; {more}")


def _score(options: argparse.Namespace) -> None:
    """Score exported graphs, or sessions, on DAVIS-2016 val."""
    from e3sn_lib.data.sources import open_evaluation
    from e3sn_lib.tracking.backends import thread_count
    from e3sn_study.bench.tracking_speed import EXPORTED, bench_exports, bench_sessions
    from e3sn_study.records.schema import SESSIONS

    sequences = open_evaluation(profile_of(options).data, "davis2016")
    contenders = EXPORTED if options.what == "exports" else SESSIONS
    print(f"{len(sequences)} sequences by {'; '.join(contenders)}: some minutes each")
    threads = thread_count(options.threads)
    if options.what == "exports":
        table = bench_exports(options.model, options.export, sequences, threads)
    else:
        table = bench_sessions(options.export, sequences, threads)
    print(table.to_string(index=False, float_format="{:.4f}".format))
    _keep(options, options.what, table)


def _confidence(options: argparse.Namespace) -> None:
    import pandas as pd

    from e3sn_lib.data.davis import davis_sequences
    from e3sn_study.evaluation.confidence import fit_and_test
    from e3sn_study.records.store import write_record

    tracker, root = open_tracker(options.weights), Path(profile_of(options).data.root, "DAVIS")
    train, val = (davis_sequences(root, 2016, split) for split in ("train", "val"))
    table, numbers, found = fit_and_test(tracker, train, val)
    print(pd.DataFrame(found).round(3).to_string())
    print(f"an object is lost below {numbers['lost_below']}, chosen on train")
    if options.out:
        write_json(options.out, numbers)
    if options.report:
        write_record(options.report / "results" / "confidence.csv", table.round(4))


def _held_out(options: argparse.Namespace) -> None:
    """Score a model on held-out data; the report keeps a row for each model."""
    import pandas as pd

    from e3sn_study.evaluation.held_out import score_held_out
    from e3sn_study.records import Records

    before = pd.DataFrame(columns=["model"])
    if options.report:
        before = Records(options.report / "results").table("held_out")
    row = score_held_out(options.model, profile_of(options).data)
    print(pd.Series(row).to_string())
    others = before[before["model"] != row["model"]].drop(columns="made", errors="ignore")
    table = pd.concat([others, pd.DataFrame([row])]).sort_values("pairs")
    table = table.astype({"pairs": int, "scenes": int})
    _keep(options, "held_out", table)


MEASUREMENTS = {
    "train": _train,
    "track": _track,
    "precision": _precision,
    "exports": _score,
    "sessions": _score,
    "confidence": _confidence,
    "held-out": _held_out,
}
