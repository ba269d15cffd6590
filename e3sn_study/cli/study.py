"""Commands about a study: its data, its runs, its report."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import load_profile
from e3sn_study.checkout import NOTEBOOKS, REPORTS, ROOT


def data_root(options: argparse.Namespace) -> str:
    """The folder of the data sets: ``--data``, else the environment's, else "", which leaves it to the profile."""
    return options.data or os.environ.get("E3SN_DATA", "")


def reproduce(options: argparse.Namespace) -> int:
    """Execute the notebooks with papermill and build the report page."""
    from e3sn_lib.files import write_csv
    from e3sn_study.bench.variant_costs import network_sizes
    from e3sn_study.notebooks import run_all, to_html
    from e3sn_study.runs import Study
    from e3sn_study.tables.deviations import profiles_of

    study = Study.open(options.profile, data_root(options), options.runs, options.report, options.seed, options.set)
    profile = study.load()
    sources = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    wanted = [part for part in options.only.split(",") if part]
    if unknown := [part for part in wanted if not any(source.name.startswith(part) for source in sources)]:
        raise InputError(f"there is no notebook {unknown[0]}; there are {', '.join(source.stem for source in sources)}")
    sources = [source for source in sources if not wanted or any(source.name.startswith(part) for part in wanted)]
    study.train_sets()
    write_csv(study.results / "networks.csv", network_sizes(profiles_of(profile)))
    if outdated := study.set_aside_outdated():
        print(f"{len(outdated)} runs on record are of other settings or data; their records are now in {study.results / 'earlier'}")
    duration = f"about {profile.minutes:g} minutes on two CPU cores" if profile.minutes else "its duration is not known"
    print(f"{len(sources)} notebooks in profile {study.profile} ({profile.title}): {duration}; finished runs are reused")
    parameters = {
        "profile": os.path.relpath(study.profile, ROOT) if study.profile.endswith((".yaml", ".yml")) else study.profile,
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
    folder = options.report or REPORTS / Path(options.profile).stem
    if not (folder / "results").is_dir():
        raise InputError(f"{folder} holds no results; run the study first: make reproduce PROFILE={options.profile}")
    _build_report(folder, load_profile(options.profile))
    return 0


def _build_report(folder: Path, profile: Profile) -> None:
    from e3sn_study.report.report import build_report, readme_report, update_readme

    print(f"report: {build_report(folder, profile)}")
    shown = readme_report(REPORTS)
    if shown and folder.resolve() == shown.resolve() and update_readme(ROOT / "README.md", shown):
        print("README.md: its table follows the results")


def data(options: argparse.Namespace) -> int:
    """Say what data are there and what is missing, prepare them, or make the procedural set."""
    from e3sn_lib.data.sources import prepare, verify
    from e3sn_lib.data.synthetic import ensure_synthetic

    profile = load_profile(options.profile, data_root=data_root(options))
    if options.action == "synthesize":
        if not profile.data.root:
            raise InputError("no data folder: give one with --data DIR or in the environment variable E3SN_DATA")
        print(ensure_synthetic(Path(profile.data.root) / "synthetic"))
        return 0
    table = (prepare if options.action == "prepare" else verify)(profile.data)
    print(table.drop(columns=["remedy", "kind", "left_out"]).to_string(index=False))
    for row in table[table["left_out"] != ""].itertuples():
        remedy = "" if row.state == "present" else f"; {row.remedy}"
        print(f"{'left out' if row.state == 'present' else row.state}: {row.use} set {row.name}, {row.left_out}{remedy}")
    complete, usable = table["state"] == "present", table["tracks"] > 0
    print(f"{complete.sum()} of {len(table)} sets are complete")
    weights = _lacking_weights(profile)
    if weights:
        print(weights)
    if options.action == "verify":
        return 0 if complete.all() and not weights else 1
    can_train = (usable & (table["use"] == "train")).any() and table.loc[~usable, "state"].eq("absent").all()
    return 0 if can_train and not weights else 1


def _lacking_weights(profile: Profile) -> str:
    """What is wrong with the file that the backbone is to start from, if it starts from one."""
    from e3sn_lib.model.weights import backbone_file

    try:
        if profile.train.weights not in ("none", "torchvision"):
            backbone_file(profile.train.weights, Path(profile.data.root))
    except InputError as error:
        return str(error)
    return ""


def train(options: argparse.Namespace) -> int:
    """Train one run, or go on with it."""
    if options.dry_run:
        return _dry_run(options)
    from e3sn_lib.training import processes
    from e3sn_study.runs import Study

    with processes.process_group():
        study = Study.open(options.profile, data_root(options), options.runs, options.report, options.seed, options.set)
        with processes.first_alone():
            study.train_sets()
        run = study.train(options.variant, resume=options.resume == "auto")
        print(f"model: {run.model}")
    return 0


def _dry_run(options: argparse.Namespace) -> int:
    from e3sn_study.bench.dry_run import dry_run
    from e3sn_study.bench.planning import ARITHMETIC_SHARE, BANDWIDTH_SHARE

    profile = load_profile(options.profile, options.variant, options.set, seed=options.seed, data_root=data_root(options))
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
