"""Tables of what things cost and where they come from: speed, memory, runs, changed settings, checks."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from e3sn_study.records import (
    CHOICE_SETTINGS,
    MEANS,
    NONE,
    NOT_RUN,
    TRAINING_SPEED,
    VARIANTS,
    best_choice,
    compared_runs,
    main_runs,
    mean_choices,
    measure,
    number,
    percent,
    read_choices,
    read_runs,
    read_scores,
    read_speed,
    read_variant_costs,
    reference,
    speed_share,
    training_shares,
)
from e3sn_study.tables.cells import AVERAGES, GAINS, PAPER, PAPER_GPU, gain_text, known, ours, score, spread, titled

PAPER_PAIRS = 12_000_000
"""Image pairs of SiamMask's first stage, 20 epochs of 600,000; the paper does not give its own number."""


def speed(results: Path) -> pd.DataFrame:
    """Tracking speed by the paper's convention and by the clock."""
    trained = read_runs(results)
    paper = {row[0]: row[-1] for row in reference("paper_tables")["table1"]["rows"]}
    rows = [_speed_row(name, PAPER, paper[name], NONE, NONE, PAPER_GPU) for name in ("SiamMask", "E3SN")]
    compared = compared_runs(trained, *VARIANTS)
    chosen = {variant: names or main_runs(trained, variant) for variant, names in compared.items()}
    timed = {variant: read_speed(results, "davis2016", names) for variant, names in chosen.items()}
    for variant, each in timed.items():
        if each.empty:
            rows.append(_speed_row(VARIANTS[variant], ours(results), None, NOT_RUN, NOT_RUN, NOT_RUN))
            continue
        wall = each["frames"].sum() / (each["seconds_reading"] + each["seconds_tracking"]).sum()
        step = 1000 * each["seconds_tracking"].sum() / ((each["frames"] - 1) * each["objects"]).sum()
        machine = ", ".join(sorted(set(trained.loc[trained["run"].isin(each["run"]), "machine"])))
        fps = float(each["fps"].mean())
        rows.append(_speed_row(VARIANTS[variant], ours(results), fps, number(wall), f"{number(step)} ms", machine))
    notes = [
        "Object-frames per second = (frames - 1) × objects / tracking time, mean over sequences; reading images is excluded, the "
        "start included. By the clock = all frames / (reading + tracking), in one process.",
        "Ours were measured at different hours; which network is faster is in the table of costs side by side.",
    ]
    return titled(pd.DataFrame(rows), results, "Speed", "tracking on DAVIS-2016 val", "davis2016", *notes)


def variant_costs(results: Path) -> pd.DataFrame:
    """Time of training and tracking of the networks that are compared, which took turns."""
    costs, rows = read_variant_costs(results), []
    for variant, label in VARIANTS.items():
        part = costs[costs["variant"] == variant]
        if part.empty:
            continue
        for row in part[part["part"] == "training"].to_dict("records"):
            share = f"{percent(row['share'])} of its pairs"
            what = f"training a pair, {row['stage']}, backbone {row['backbone']}"
            rows.append(
                {"Network": label, "Part": what, "Counts for": share, "Time": _milliseconds(row["seconds"]), "Of SiamMask's": NONE}
            )
        equal, on_top = training_shares(costs, variant, "siammask")
        whole = float((part["share"] * part["seconds"])[part["part"] == "training"].sum())
        of = f"{percent(equal)}; {percent(on_top)} with its second stage on top"
        every = {"Network": label, "Part": "training a pair, all phases", "Counts for": NONE, "Time": _milliseconds(whole)}
        rows.append(every | {"Of SiamMask's": NONE if variant == "siammask" else of})
        tracked = float(part.loc[part["part"] == "tracking", "seconds"].iloc[0])
        speed = {"Network": label, "Part": "tracking an object-frame", "Counts for": NONE, "Time": _milliseconds(tracked)}
        rows.append(
            speed | {"Of SiamMask's": NONE if variant == "siammask" else percent(1 / speed_share(costs, variant, "siammask"))}
        )
    notes = [
        "The networks took turns in one process, by the schedule of the profile's main run. Training: the fastest of several "
        "steps, without preparing the pairs. Tracking: the median over frames, without reading them.",
        "The second stage on top: SiamMask's first stage has as many pairs as the other network in all, as in SiamMask's public "
        "code; otherwise both its stages together have.",
    ]
    if len(costs):
        batch, machine = costs[["batch", "machine"]].iloc[0]
        notes.append(f"Batches of {batch}, {machine}.")
    table = pd.DataFrame(rows or [{"Network": NOT_RUN, "Part": NOT_RUN, "Time": NOT_RUN}])
    return titled(table, results, "Costs side by side", "time of the compared networks", "", *notes)


def sampling_cost(results: Path) -> pd.DataFrame:
    """Memory and time of a training step against the samples per image."""
    path = results / "sampling_cost.csv"
    cost = pd.read_csv(path).sort_values("samples").to_dict("records") if path.is_file() else []
    rows = [
        {
            "Samples per image": f"{row['samples_per_image']:g}",
            "Windows per step": number(row["samples"], decimals=0),
            "Time per step": _measured(row["seconds_per_step"], "s", 2),
            "Peak memory": _measured(row["peak_memory_mb"], "MB", 0),
            "Estimated memory": _measured(row.get("estimated_memory_mb", math.nan), "MB", 0).replace(NOT_RUN, NONE),
        }
        for row in cost
    ]
    table = pd.DataFrame(rows or [{"Samples per image": NOT_RUN, "Time per step": NOT_RUN, "Peak memory": NOT_RUN}])
    notes = ["Peak memory of the whole process. Not run where more memory is needed than there is; then it is estimated."]
    if cost:
        images = cost[0]["samples"] / cost[0]["samples_per_image"]
        notes.append(f"E3SN only S with a trained backbone, {images:g} random images per step.")
    title = "one training step by the number of sampled windows (the paper gives no number)"
    return titled(table, results, "Sampling cost", title, "", *notes)


def training_speed(results: Path) -> pd.DataFrame:
    """Pairs per second of the training loop against plain loops, and where a step's time goes."""
    path = results / TRAINING_SPEED
    timed = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    rows = [
        {
            "Backbone": row["phase"],
            "Loop": row["contender"],
            "Pairs per second": number(row["pairs_per_second"], decimals=2),
            "This loop is": NONE if row["ratio"] == 1 else f"{number(row['ratio'], decimals=1)} times as fast",
            **{part.capitalize(): f"{number(row[part], decimals=2)} s" for part in ("forward", "backward", "update", "data")},
        }
        for row in timed.to_dict("records")
    ]
    table = pd.DataFrame(rows or [{"Backbone": NOT_RUN, "Loop": NOT_RUN, "Pairs per second": NOT_RUN}])
    notes = [
        "Plain: the same network in fp32, contiguous, every position of every correlation map. Plain SiamMask: the baseline's "
        "first stage computed so, with one level instead of three. The fastest of several steps, taking turns in one process.",
    ]
    if len(timed):
        batch, machine = timed[["batch", "machine"]].iloc[0]
        notes.append(f"Batches of {batch}, {machine}. Data are prepared beside the step.")
    return titled(table, results, "Training speed", "one training step against plain loops", "", *notes)


def ablations(results: Path) -> pd.DataFrame:
    """Runs with changed settings against runs of the same variant and budget without the change."""
    trained, scores = read_runs(results), read_scores(results, "davis2016")
    columns = ["Variant", "Changed", "Compared with", "J-Mean", "J gain", "F-Mean", "F gain", "Pairs", "Seeds"]
    rows = []
    for (variant, settings), group in trained[trained["settings"] != ""].groupby(["variant", "settings"], sort=False):
        base = _unchanged(trained, group)
        kept = base["settings"].iloc[0] if len(base) else ""
        changed = " ".join(each for each in settings.split() if each not in kept.split())
        before = kept or "the profile's settings" if len(base) else "no run of this budget"
        same_seeds = base[base["seed"].isin(group["seed"])]
        new, old = measure(scores, group["run"]), measure(scores, same_seeds["run"])
        row = {"Variant": VARIANTS.get(variant, variant), "Changed": changed, "Compared with": before, "Seeds": str(len(group))}
        for name in MEANS:
            gain = gain_text(new, old, name) if new and old else NOT_RUN if len(base) else NONE
            row |= {name: score(new, name), f"{name[0]} gain": gain}
        rows.append(row | {"Pairs": spread(group, "pairs")})
    table = pd.DataFrame(rows or [dict.fromkeys(columns, NOT_RUN)])[columns]
    notes = [AVERAGES, f"{GAINS} Against the run of the same seed. One seed cannot carry a claim."]
    return titled(table, results, "Ablations", "changed settings on DAVIS-2016 val", "davis2016", *notes)


def choices(results: Path) -> pd.DataFrame:
    """Settings of inference on held-out training sequences: each tracking pass at its best threshold, the best pass at all."""
    labels = ("Size rate", "Window", "Penalty", "Threshold")
    rows, notes, tracks = [], [], {row["run"]: row.get("track") for row in read_runs(results).to_dict("records")}
    for run, scores in read_choices(results).items():
        means, best = mean_choices(scores), best_choice(scores)
        tracked = list(CHOICE_SETTINGS[:3])
        is_best = means.index == means["J&F"].idxmax()
        of_best_pass = (means[tracked] == [best[name] for name in tracked]).all(axis=1)
        shown = means.index.isin(means.groupby(tracked, sort=False)["J&F"].idxmax()) | of_best_pass
        for row, chosen in zip(means[shown].to_dict("records"), is_best[shown], strict=True):
            settings = {label: f"{row[name]:g}" for label, name in zip(labels, CHOICE_SETTINGS, strict=True)}
            values = {name: number(100 * row[name]) for name in ("J-Mean", "F-Mean", "J&F")}
            rows.append({"Run": run} | settings | values | {"Best": "yes" if chosen else NONE})
        notes.append(f"{run}: on {', '.join(scores['sequence'].unique())}, which are training sequences held out of training.")
        if used := tracks.get(run):
            same = means[(means[list(CHOICE_SETTINGS)] == [used[name] for name in CHOICE_SETTINGS]).all(axis=1)]
            named = ", ".join(f"{label.lower()} {used[name]:g}" for label, name in zip(labels, CHOICE_SETTINGS, strict=True))
            here = number(100 * same["J&F"].iloc[0]) if len(same) else NOT_RUN
            notes.append(f"All other scores of this run are with {named}, whose J&F here is {here}.")
    rule = (
        "Each setting in turn, the others as found best before; every value at its best threshold, by the mean of J and F. "
        "No sequence of a benchmark takes part."
    )
    columns = ["Run", *labels, "J-Mean", "F-Mean", "J&F", "Best"]
    table = pd.DataFrame(rows or [dict.fromkeys(columns, NOT_RUN)], columns=columns)
    return titled(table, results, "Choices", "settings of inference on held-out training sequences", "", rule, *notes)


def runs(results: Path) -> pd.DataFrame:
    """Where every number comes from: one row per training run."""
    rows = []
    for run in read_runs(results).to_dict("records"):
        changes = "".join(f" --set {each}" for each in run["settings"].split())
        rows.append(
            {
                "Run": run["run"],
                "Command": f"e3sn train --profile {run['profile']} --variant {run['variant']} --seed {run['seed']}{changes}",
                "Pairs": f"{run['pairs']:,}",
                "Of 12 million": f"{number(100 * run['pairs'] / PAPER_PAIRS, decimals=3)} %",
                "Training time": f"{number(run['seconds'] / 3600, decimals=2)} h",
                "Peak memory": f"{number(run['peak_memory_mb'], decimals=0)} MB",
                "Machine": f"{run['machine']}, {known(run.get('cores'))} cores",
                "Precision": known(run.get("precision")),
                "Commit": f"{known(run.get('commit'))[:8]}{' with changes' if run.get('dirty') is True else ''}",
                "Files replaced": known(run.get("replaced_files")),
                "Steps skipped": known(run.get("skipped_steps")),
            }
        )
    note = f"{PAPER_PAIRS:,} pairs are 20 epochs of SiamMask's first stage; the paper does not give its number of pairs."
    return titled(pd.DataFrame(rows or [{"Run": NOT_RUN}]), results, "Runs", "training runs of record", "", note)


def checks(results: Path) -> pd.DataFrame:
    """What this was checked against, from the file that the tests leave."""
    path = results / "checks.csv"
    rows = []
    found = pd.read_csv(path).set_axis(["check", "source", "largest", "tolerance", "cases"], axis=1) if path.is_file() else None
    for row in found.to_dict("records") if found is not None else []:
        rows.append(
            {
                "Check": row["check"],
                "Outside source": row["source"],
                "Largest deviation": f"{row['largest']:.2g}",
                "Tolerance": f"{row['tolerance']:.2g}",
                "Cases": f"{row['cases']:,}",
                "Holds": "yes" if row["largest"] <= row["tolerance"] else "no",
            }
        )
    table = pd.DataFrame(rows or [{"Check": NOT_RUN, "Outside source": NOT_RUN}])
    table.attrs |= {"title": "Checks: the largest deviation from each outside source", "notes": []}
    return table


def _milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds, decimals=0 if seconds >= 0.1 else 1)} ms"


def _measured(value: float, unit: str, decimals: int) -> str:
    return NOT_RUN if math.isnan(value) else f"{number(value, decimals=decimals)} {unit}"


def _unchanged(trained: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame:
    """Runs of the same variant and number of pairs that change the fewest of a group's settings, but not all of them."""
    changed = set(group["settings"].iloc[0].split())
    alike = trained[(trained["variant"] == group["variant"].iloc[0]) & trained["pairs"].isin(group["pairs"])]
    fewer = alike[[set(text.split()) < changed for text in alike["settings"]]]
    least = min(fewer["settings"], key=lambda text: len(text.split()), default="")
    return fewer[fewer["settings"] == least]


def _speed_row(method: str, source: str, fps: float | None, wall: str, step: str, machine: str) -> dict[str, str]:
    return {
        "Method": method,
        "Numbers from": source,
        "Object-frames per second": NOT_RUN if fps is None else f"{fps:g}" if source == PAPER else number(fps),
        "Frames per second by the clock": wall,
        "Time per object-frame": step,
        "Machine": machine,
    }
