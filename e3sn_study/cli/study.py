"""Commands about a study: its data, its runs, its report."""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError, printable
from e3sn_lib.files import write_csv
from e3sn_lib.profiles.loading import available_variants, load_profile
from e3sn_study.checkout import NOTEBOOKS, REPORTS, ROOT, from_checkout
from e3sn_study.cli.options import (
    a_path,
    add_data,
    add_profile,
    add_study,
    profile_name,
    profile_of,
    study_of,
)

DATA_ACTIONS = (
    "verify: only look; status 1 unless every set is present. prepare: make what can be made, the "
    "indices too, and open some frames of each set; status 1 if a set that is there cannot be "
    "used, or if none can be trained on. Both: status 1 if the backbone weights are missing. "
    "synthesize: make the procedural set in DATA/synthetic. Wrong settings or no data folder: "
    "status 2"
)


def add_reproduce(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn reproduce``."""
    add_study(command)
    command.add_argument("--only", default="", help="only these notebooks, by number: 04 or 01,04")


def reproduce(options: argparse.Namespace) -> int:
    """Execute the notebooks with papermill and build the report page."""
    from e3sn_study.bench.variant_costs import network_sizes
    from e3sn_study.notebooks import run_all, to_html

    study = study_of(options)
    profile = study.load()
    sources = _notebooks(options.only)
    study.train_sets()
    networks = network_sizes({variant: study.load(variant) for variant in available_variants()})
    write_csv(study.results / "networks.csv", networks)
    if outdated := study.set_aside_outdated():
        fault = f"{len(outdated)} recorded runs have other settings or data"
        print(f"{fault}; their records are now in {study.results / 'earlier'}")
    duration = "its duration is not known"
    if profile.study.recorded:
        duration = "runs on record are not trained again"
    elif profile.minutes and not options.only:
        duration = f"about {profile.minutes:g} minutes on two fast CPU cores and longer on others"
    planned = f"{len(sources)} notebooks in profile {study.profile} ({profile.title})"
    print(f"{planned}: {duration}; finished runs are reused")
    is_file = study.profile.endswith((".yaml", ".yml"))
    # Notebooks take paths relative to the repository. So executed copies name no machine.
    parameters = {
        "profile": _from_root(study.profile) if is_file else study.profile,
        "data": _from_root(study.data) if study.data else "",
        "runs": _from_root(study.runs),
        "report": _from_root(study.report),
        "seed": study.seed,
        "overrides": list(study.overrides),
    }
    runs = run_all(sources, study.report, parameters)
    for executed in sorted((study.report / "notebooks").glob("[!.]*.ipynb")):  # whole ones only
        to_html(executed, executed.with_suffix(".html"))
    _build_report(study.report, profile)
    return 0 if all(run.status == "passed" for run in runs) else 1


def _from_root(path: str | Path) -> str:
    """Return a path relative to the repository; on another drive of Windows it stays absolute."""
    with suppress(ValueError):
        path = os.path.relpath(path, ROOT)
    return Path(path).as_posix()


def _notebooks(only: str) -> list[Path]:
    """Return the study's notebooks, or those whose names begin with one of the numbers given."""
    sources = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if not sources:
        remedy = "clone the repository, make setup, and work there"
        raise InputError(f"there are no notebooks in {NOTEBOOKS}; {remedy}")
    wanted = [part for part in only.split(",") if part]
    for part in wanted:
        if not any(source.name.startswith(part) for source in sources):
            names = ", ".join(source.stem for source in sources)
            raise InputError(f"there is no notebook {part}; there are {names}")
    return [each for each in sources if not wanted or each.name.startswith(tuple(wanted))]


def add_report(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn report``."""
    add_profile(command)
    command.add_argument("--report", type=a_path, help="report folder (default: reports/PROFILE)")


def report(options: argparse.Namespace) -> None:
    """Make tables, page and most figures of a report from its records, without data or runs."""
    name = profile_name(options)
    folder = options.report or from_checkout(f"reports/{Path(name).stem}")
    if not (folder / "results").is_dir():
        remedy = f"run the study first: make reproduce PROFILE={name}"
        raise InputError(f"{folder} holds no results; {remedy}")
    _build_report(folder, load_profile(name))


def _build_report(folder: Path, profile: Profile) -> None:
    from e3sn_study.report.report import build_report, draw_figures, readme_report, update_readme

    draw_figures(folder)
    print(f"report: {build_report(folder, profile)}")
    shown = readme_report(REPORTS)
    if shown and folder.resolve() == shown.resolve() and update_readme(ROOT / "README.md", shown):
        print("README.md: its table was updated")


def add_data_action(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn data``."""
    actions = ["verify", "prepare", "synthesize"]
    command.add_argument("action", choices=actions, nargs="?", default="verify", help=DATA_ACTIONS)
    add_profile(command, default="smoke")
    add_data(command)


def data(options: argparse.Namespace) -> int:
    """Say what data are there and what is missing, prepare them, or make the procedural set."""
    from e3sn_lib.data.sources import verify
    from e3sn_lib.data.synthetic import ensure_synthetic
    from e3sn_lib.model.weights import backbone_file

    profile = load_profile(options.profile or "smoke", data_root=options.data)
    if options.action == "synthesize":
        if not profile.data.root:
            advice = "give one with --data DIR or in the environment variable E3SN_DATA"
            raise InputError(f"no data folder: {advice}")
        print(ensure_synthetic(Path(profile.data.root) / "synthetic", whole=True))
        return 0
    table = verify(profile.data, prepare=options.action == "prepare")
    print(table.drop(columns=["remedy", "left_out"]).to_string(index=False))
    for row in table[table["left_out"] != ""].itertuples():
        what = "left out" if row.state == "present" else row.state
        remedy = f"; {row.remedy}" if row.state == "absent" else ""
        print(printable(f"{what}: {row.use} set {row.name}, {row.left_out}{remedy}"))
    complete, usable = table["state"] == "present", table["tracks"] > 0
    print(f"{complete.sum()} of {len(table)} sets are complete")
    good = complete.all()
    if options.action == "prepare":
        can_train = (usable & (table["use"] == "train")).any()
        good = can_train and table.loc[~usable, "state"].eq("absent").all()
    if profile.train.weights not in ("none", "torchvision"):
        try:
            backbone_file(profile.train.weights, Path(profile.data.root))
        except InputError as error:
            print(error)
            good = False
    return 0 if good else 1


def add_train(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``e3sn train``."""
    add_study(command)
    add = command.add_argument
    add("--variant", default="e3sn", help=f"{', '.join(available_variants())} (default: e3sn)")
    resume = "auto, the default: continue the run if it exists; never: refuse"
    add("--resume", choices=["auto", "never"], default="auto", help=resume)
    add("--dry-run", action="store_true", help="check, time a step, print the plan; do not train")


def train(options: argparse.Namespace) -> int:
    """Train one run, or continue it."""
    if options.dry_run:
        return _dry_run(options)
    from e3sn_lib.training import processes

    with processes.process_group():
        options.data = profile_of(options, options.variant).data.root
        changes, options.set = options.set, []  # of this run alone; its record tells them
        study = study_of(options)
        with processes.first_alone():
            study.run(options.variant, changes)
        run = study.train(options.variant, changes, resume=options.resume == "auto")
        print(f"model: {run.model}")
    return 0


def _dry_run(options: argparse.Namespace) -> int:
    from e3sn_study.bench.dry_run import dry_run

    plan = dry_run(profile_of(options, options.variant), from_checkout(options.runs))
    look = "{:.4g}".format
    if not plan.sets.empty:
        print(plan.sets.to_string(index=False, float_format=look), end="\n\n")
    print(plan.phases.T.to_string(header=False, float_format=look), end="\n\n")
    print(*plan.notes, sep="\n")
    for problem in plan.problems:
        print(f"e3sn train: {problem}", file=sys.stderr)
    return 2 if plan.problems else 0
