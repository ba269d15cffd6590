"""The command line. Wrong input ends in one line and exit status 2; nothing is left half-written."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

import pandas as pd

from e3sn_lib.config import PRECISIONS, Profile, available_profiles, available_variants, load_profile
from e3sn_lib.errors import InputError

if TYPE_CHECKING:
    from e3sn_lib.training import Source

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SHIPPED = ROOT / "models" / "e3sn.safetensors"
DATA_ACTIONS = (
    "verify: only look, status 1 unless every set is complete; prepare: make what can be made, the indices too, and open some "
    "frames of each set, status 1 unless what is there can be trained on; synthesize: make the procedural set in DATA/synthetic"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (InputError, OSError) as error:  # also a folder that may not be written, a full disk
        print(f"e3sn {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\ne3sn {options.command}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130


def reproduce(options: argparse.Namespace) -> int:
    """Execute the notebooks with papermill and build the report page."""
    from e3sn_lib.notebooks import run_all, to_html
    from e3sn_lib.study import Study

    study = Study.open(options.profile, _data(options), options.runs, options.report, options.seed, options.set)
    profile = study.load()
    sources = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    wanted = [part for part in options.only.split(",") if part]
    if unknown := [part for part in wanted if not any(source.name.startswith(part) for source in sources)]:
        raise InputError(f"there is no notebook {unknown[0]}; there are {', '.join(source.stem for source in sources)}")
    sources = [source for source in sources if not wanted or any(source.name.startswith(part) for part in wanted)]
    study.train_sets()
    if outdated := study.set_aside_outdated():
        print(f"{len(outdated)} runs on record are of other settings or data; their records are now in {study.results / 'earlier'}")
    duration = f"about {profile.minutes:g} minutes on two CPU cores" if profile.minutes else "its duration is not known"
    print(f"{len(sources)} notebooks in profile {study.profile} ({profile.title}): {duration}; finished runs are reused")
    parameters = {
        "profile": study.profile,
        # relative to the repository, as notebooks take them, so that executed copies do not tell whose machine it was
        "data": os.path.relpath(study.data, ROOT) if study.data else "",
        "runs": os.path.relpath(study.runs, ROOT),
        "report": os.path.relpath(study.report, ROOT),
        "seed": study.seed,
        "overrides": list(study.overrides),
    }
    runs = run_all(sources, study.report, parameters, cwd=NOTEBOOKS)
    for executed in sorted((study.report / "notebooks").glob("*.ipynb")):
        to_html(executed, executed.with_suffix(".html"))
    _build_report(study.report, profile)
    return 0 if all(run.status == "passed" for run in runs) else 1


def report(options: argparse.Namespace) -> int:
    """Make tables and page of a report anew from its files of record; needs neither data nor runs."""
    folder = options.report or ROOT / "reports" / Path(options.profile).stem
    if not (folder / "results").is_dir():
        raise InputError(f"{folder} holds no results; run the study first: make reproduce PROFILE={options.profile}")
    _build_report(folder, load_profile(options.profile))
    return 0


def _build_report(folder: Path, profile: Profile) -> None:
    from e3sn_lib.reporting.report import build_report, readme_report, update_readme

    print(f"report: {build_report(folder, profile)}")
    shown = readme_report(ROOT / "reports")
    if shown and folder.resolve() == shown.resolve() and update_readme(ROOT / "README.md", shown):
        print("README.md: its table follows the results")


def data(options: argparse.Namespace) -> int:
    """Say what data are there and what is missing, prepare them, or make the procedural set."""
    from e3sn_lib.data.sources import prepare, verify
    from e3sn_lib.data.synthetic import ensure_synthetic

    profile = load_profile(options.profile, data_root=_data(options))
    if options.action == "synthesize":
        if not profile.data.root:
            raise InputError("no data folder: give one with --data DIR or in the environment variable E3SN_DATA")
        print(ensure_synthetic(Path(profile.data.root) / "synthetic"))
        return 0
    table = (prepare if options.action == "prepare" else verify)(profile.data)
    print(table.drop(columns=["origin", "kind", "left_out"]).to_string(index=False))
    for row in table[table["left_out"] != ""].itertuples():
        remedy = "" if row.state == "ok" else f"; get it from {row.origin} and put it in {row.path}"
        print(f"{'left out' if row.state == 'ok' else row.state}: {row.use} set {row.name}, {row.left_out}{remedy}")
    complete, usable = table["state"] == "ok", table["state"].isin(["ok", "partial"])
    print(f"{complete.sum()} of {len(table)} sets are complete")
    if options.action == "verify":
        return 0 if complete.all() else 1
    can_train = (usable & (table["use"] == "train")).any()
    return 0 if can_train and table.loc[~usable, "state"].eq("absent").all() else 1


def train(options: argparse.Namespace) -> int:
    """Train one run, or go on with it."""
    if options.dry_run:
        return _dry_run(options)
    from e3sn_lib import parallel
    from e3sn_lib.study import Study

    with parallel.process_group():
        study = Study.open(options.profile, _data(options), options.runs, options.report, options.seed, options.set)
        run = study.train(options.variant, resume=options.resume == "auto")
        print(f"model: {run.model}")
    return 0


def _dry_run(options: argparse.Namespace) -> int:
    from e3sn_lib.bench.dry_run import dry_run
    from e3sn_lib.bench.planning import ARITHMETIC_SHARE, BANDWIDTH_SHARE

    profile = load_profile(options.profile, options.variant, options.set, seed=options.seed, data_root=_data(options))
    plan = dry_run(profile, Path(options.runs))
    for table in (plan.sets, plan.phases.T):
        if not table.empty:
            print(
                table.to_string(index=table is not plan.sets, header=table is plan.sets, float_format="{:.4g}".format), end="\n\n"
            )
    for line in (*plan.notes, *plan.files):
        print(line)
    print(
        f"\nESTIMATE, no such GPU was used: counted operations and bytes in 16 bits, at {ARITHMETIC_SHARE:.0%} of the peak "
        f"arithmetic and {BANDWIDTH_SHARE:.0%} of the bandwidth, if pairs are prepared fast enough"
    )
    print(plan.gpus.to_string(index=False, float_format="{:.3g}".format))
    for problem in plan.problems:
        print(f"e3sn train: {problem}", file=sys.stderr)
    return 2 if plan.problems else 0


def bench(options: argparse.Namespace) -> int:
    """Time the training loop against a plain version of itself, or compare what two precisions learn."""
    from e3sn_lib.data.sources import open_train_sets

    profile = load_profile(options.profile, "e3sn", options.set, seed=options.seed, data_root=_data(options))
    sources = open_train_sets(profile.data).opened
    return (_bench_train if options.what == "train" else _bench_precision)(options, profile, sources)


def _bench_train(options: argparse.Namespace, profile: Profile, sources: list[Source]) -> int:
    from e3sn_lib.bench.training_speed import bench_training
    from e3sn_lib.files import write_csv
    from e3sn_lib.provenance import environment
    from e3sn_lib.records import TRAINING_SPEED

    table = bench_training(profile, sources, options.batch, options.steps or 4)
    shown = table.assign(
        ratio=table["ratio"].map("{:.2f}x".format), pairs_per_second=table["pairs_per_second"].map("{:.2f}".format)
    )
    print(shown.to_string(index=False, float_format="{:.3f}".format))
    print(
        f"ratio: this loop's pairs per second over the contender's; forward, backward, update: seconds of the fastest step of "
        f"{options.batch} pairs; data: seconds to prepare them in one process, beside the step or, with data.workers=0, before it"
    )
    if options.out:
        write_csv(options.out, table)
    if options.report:
        write_csv(options.report / "results" / TRAINING_SPEED, table.assign(batch=options.batch, machine=environment()["cpu"]))
    return 0


def _bench_precision(options: argparse.Namespace, profile: Profile, sources: list[Source]) -> int:
    from e3sn_lib.bench.training_speed import expected_seconds, precision_difference, precision_profile, train_precisions
    from e3sn_lib.figures import precision_curves, save_figure
    from e3sn_lib.files import write_csv

    out, steps = options.out or Path("precision"), options.steps or 300
    profiles = {name: precision_profile(profile, name, steps, options.batch) for name in ("fp32", "bf16")}
    minutes = sum(expected_seconds(each, sources) for each in profiles.values()) / 60
    print(f"two runs of {steps} steps of {options.batch} pairs: about {minutes:.2g} minutes")
    logs = train_precisions(profiles, sources, out)
    figure = precision_curves(logs)
    save_figure(out / "precision.png", figure)
    for column in ("loss", "mask_iou"):
        mean, error = precision_difference(logs["fp32"], logs["bf16"], column)
        print(f"{column}: bf16 differs from fp32 by {mean:+.2%} ± {error:.2%} (second half, two standard errors)")
    print(f"logs and figure: {out}")
    if options.report:
        save_figure(options.report / "figures" / "precision.png", figure)
        write_csv(options.report / "results" / "precision.csv", pd.concat(logs, names=["precision"]).droplevel(1).reset_index())
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Score anyone's PNG masks, or a run's or a model's own on a benchmark."""
    from e3sn_lib.scoring import summarise, write_official_csvs

    scores, out, seconds = _given_masks(options) if options.masks else _model_masks(options)
    write_official_csvs(out, scores, options.name)
    per_object, overall = summarise(scores)
    with pd.option_context("display.max_rows", None):
        print(per_object.round(3).to_string(index=False))
    print("  ".join(f"{name} {value:.3f}" for name, value in overall.items()))
    frames = int(per_object["frames"].sum())
    print(f"{frames} object frames (first and last left out) scored in {seconds:.1f} s; tables in {out}")
    return 0


def _given_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """Scores per frame, the folder for the tables, seconds of scoring."""
    from e3sn_lib.scoring import score_folder

    if options.model or options.run_folder:
        raise InputError("give --masks, or one of --run and --model, not both")
    if not options.annotations:
        raise InputError("--masks needs --annotations, the folder with the true masks")
    names = _lines(options.sequences) if options.sequences else []
    started = time.perf_counter()
    scores = score_folder(options.masks, options.annotations, names)
    seconds = time.perf_counter() - started
    for note in scores.attrs["notes"]:
        print(f"note: {note}")
    out = options.out or Path("scores")
    if out.resolve().is_relative_to(options.masks.resolve()):
        raise InputError(f"--out {out} lies inside the masks folder; choose another, so that results are not taken for masks")
    return scores, out, seconds


def _model_masks(options: argparse.Namespace) -> tuple[pd.DataFrame, Path, float]:
    """As `_given_masks`, of masks that are made first."""
    from e3sn_lib.data.sources import open_evaluation
    from e3sn_lib.evaluation import MODEL, score_written, write_masks
    from e3sn_lib.files import write_csv
    from e3sn_lib.model.weights import load_model
    from e3sn_lib.tracking import Tracker
    from e3sn_lib.training import FINAL

    if bool(options.run_folder) == bool(options.model):
        raise InputError("give --run DIR (a run's folder), --model FILE (a trained model), or --masks DIR with --annotations DIR")
    model, own = load_model(options.run_folder / FINAL if options.run_folder else options.model)
    profile = load_profile(options.profile) if options.profile else own
    root = _data(options) or profile.data.root
    sequences = open_evaluation(replace(profile.data, root=root), options.benchmark)
    out = options.out or Path("evaluation") / options.benchmark
    tracker, timed = Tracker(model, own.track), []
    for number, sequence in enumerate(sequences, start=1):
        timed.append(write_masks(tracker, sequence, out))
        print(f"{number}/{len(sequences)} {sequence.name}: {timed[-1]['seconds_tracking'].sum():.1f} s of tracking")
    write_csv(out / "speed.csv", pd.concat(timed))
    started = time.perf_counter()
    scores = pd.concat([score_written(out / MODEL, sequence) for sequence in sequences], ignore_index=True)
    return scores, out, time.perf_counter() - started


def track(options: argparse.Namespace) -> int:
    """Masks of the boxed objects in one's own video."""
    from e3sn_lib.model.weights import load_model
    from e3sn_lib.own_video import track_video
    from e3sn_lib.tracking import Tracker

    if not options.weights and not SHIPPED.is_file():
        raise InputError(
            f"there is no {SHIPPED.parent.name}/{SHIPPED.name}; give --weights FILE, or train one: "
            "e3sn train --profile cpu --data DIR, then e3sn ship --run RUN"
        )
    model, profile = load_model(options.weights or SHIPPED)
    with _all_or_nothing(options.out) as out:
        tracker = Tracker(model, profile.track, precision=options.precision)
        scores = track_video(tracker, options.video, options.box, out)
    print(f"{len(scores)} frames, {len(options.box)} objects: {options.out / 'masks'}, {options.out / 'overlay.webm'}")
    print("lowest score per object (below 0.5 it was probably lost): " + ", ".join(f"{value:.2f}" for value in scores.min(axis=0)))
    return 0


def ship(options: argparse.Namespace) -> int:
    """Write a finished run's model as one half-precision file, with a model card from the files of record."""
    from e3sn_lib.model.weights import load_model
    from e3sn_lib.reporting.shipping import ship as write
    from e3sn_lib.training import FINAL

    report = Path(options.report or f"reports/{load_model(options.run_folder / FINAL)[1].name}")
    model, card = write(options.run_folder, report / "results", options.out)
    print(f"model: {model} ({model.stat().st_size / 1e6:.1f} MB)\ncard: {card}")
    return 0


def convert(options: argparse.Namespace) -> int:
    """Published SiamMask weights into a model of this project."""
    from e3sn_lib.model.convert import convert_file

    convert_file(options.checkpoint, options.out)
    print(f"model: {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="e3sn", description="E3SN: video object segmentation from one box, as a reproducible study.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    def add_profile(command: argparse.ArgumentParser) -> None:
        command.add_argument("--profile", default="smoke", help=f"{', '.join(available_profiles())}, or a YAML file")
        command.add_argument(
            "--data", default="", help="folder that holds the data sets (default: E3SN_DATA, or the profile's own)"
        )

    def add_study(command: argparse.ArgumentParser) -> None:
        add_profile(command)
        command.add_argument("--runs", default="runs", help="folder of training runs (default: runs)")
        command.add_argument("--report", default="", help="folder of results (default: reports/PROFILE)")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. train.pairs=1000"
        )

    command = add("reproduce", reproduce)
    add_study(command)
    command.add_argument("--only", default="", help="only these notebooks, by number: 04 or 01,04")
    command = add("report", report)
    command.add_argument("--profile", default="smoke", help=f"{', '.join(available_profiles())}, or a YAML file")
    command.add_argument("--report", type=Path, help="folder of the report (default: reports/PROFILE of this checkout)")
    command = add("data", data)
    command.add_argument("action", choices=["verify", "prepare", "synthesize"], nargs="?", default="verify", help=DATA_ACTIONS)
    add_profile(command)
    command = add("train", train)
    add_study(command)
    command.add_argument("--variant", default="e3sn", help=", ".join(available_variants()))
    command.add_argument(
        "--resume", choices=["auto", "never"], default="auto", help="go on with the run if there is one (default), or refuse to"
    )
    command.add_argument("--dry-run", action="store_true", help="check data, model and memory, time a step, print the plan")
    command = add("bench", bench)
    command.add_argument("what", choices=["train", "precision"])
    add_profile(command)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    command.add_argument("--batch", type=_positive, default=8, help="pairs per step (default: 8)")
    command.add_argument("--steps", type=_positive, help="per contender and phase (train: 4) or per run (precision: 300)")
    command.add_argument("--out", type=Path, help="train: a CSV file; precision: folder for runs and figure (default: precision)")
    command.add_argument("--report", type=Path, help="a report, such as reports/cpu, that the results are to be kept in")
    command = add("evaluate", evaluate)
    add_profile(command)
    command.set_defaults(profile="")  # a model's own
    command.add_argument("--run", dest="run_folder", type=Path, metavar="RUN", help="folder of a finished run")
    command.add_argument("--model", type=Path, help="a trained model (model.safetensors)")
    command.add_argument("--benchmark", default="davis2016")
    command.add_argument("--masks", type=Path, help="PNG masks to score: DIR/SEQUENCE/FRAME.png")
    command.add_argument("--annotations", type=Path, help="true masks: DIR/SEQUENCE/FRAME.png")
    command.add_argument("--sequences", type=Path, help="text file with one sequence name per line")
    command.add_argument("--name", default="val", help="set name in the output files' names")
    command.add_argument("--out", type=Path, help="folder for the tables")
    command = add("track", track)
    command.add_argument("video", type=Path, help="video file or folder of frames")
    command.add_argument(
        "--box", type=_box, action="append", required=True, metavar="X,Y,W,H", help="object in the first frame; repeatable"
    )
    command.add_argument("--weights", type=Path, help="a trained model (default: models/e3sn.safetensors of this checkout)")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="auto: half where the processor computes it natively"
    )
    command = add("ship", ship)
    command.add_argument("--run", dest="run_folder", type=Path, required=True, metavar="RUN", help="folder of a finished run")
    command.add_argument("--report", default="", help="folder of the results that it is on record in (default: reports/PROFILE)")
    command.add_argument("--out", type=Path, default=Path("models"), help="folder for model and card (default: models)")
    command = add("convert", convert)
    command.add_argument("layout", choices=["siammask"])
    command.add_argument("checkpoint", type=Path)
    command.add_argument("out", type=Path)
    return parser


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to write to; what it holds moves to `out` at the end, and goes if something fails."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a new folder, or one for the results to be added to")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    with TemporaryDirectory(dir=nearest, prefix=f".{out.name}.", suffix=".tmp") as work:
        yield Path(work)
        for path in [path for path in Path(work).rglob("*") if path.is_file()]:
            target = out / path.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _data(options: argparse.Namespace) -> str:
    return options.data or os.environ.get("E3SN_DATA", "")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def _box(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not x,y,width,height") from error


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
