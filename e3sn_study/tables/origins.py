"""Tables of origins: runs, their changed and chosen settings, held-out data, checks."""

import shlex
from itertools import pairwise

import pandas as pd

from e3sn_study.evaluation.choices import best_choice, mean_choices
from e3sn_study.records import MEANS, VARIANTS, Records
from e3sn_study.records.entries import told
from e3sn_study.records.schema import SETTINGS
from e3sn_study.tables import cells
from e3sn_study.tables.cells import NONE, NOT_RUN, gain_text, note, number, score, spread, titled


def ablations(records: Records) -> pd.DataFrame:
    """Compare runs with changed settings with runs of the same budget without the change."""
    rows = []
    for changes, group, base in records.ablations():
        new, old = (records.measure("davis2016", runs["run"]) for runs in (group, base))
        variant = group["variant"].iloc[0]
        row = {"Variant": VARIANTS.get(variant, variant), "Changed": " ".join(changes)}
        row["Compared with"] = "no run of this budget"
        if len(base):
            row["Compared with"] = base["settings"].iloc[0] or "the profile's settings"
        for name in MEANS:
            gain = gain_text(new, old, name) if new and old else NOT_RUN if len(base) else NONE
            row |= {name: score(new, name), f"{name[0]} gain": gain}
        seeds = new.seeds if new else len(group)
        rows.append(row | {"Pairs": spread(group, "pairs"), "Seeds": str(seeds)})
    gains = f"{note('gains')} {note('same_seed')}"
    frozen = [note("frozen")] if records.runs["frozen"].any() else []
    return titled(rows, records, "ablations", note("averages"), gains, *frozen)


def choices(records: Records) -> pd.DataFrame:
    """Compare settings of inference on held-out sequences: each pass at its best threshold."""
    labels = dict(zip(SETTINGS, ("Size rate", "Window", "Penalty", "Threshold"), strict=True))
    rows, notes, tracked = [], list[str](), list(SETTINGS[:3])
    tracks = dict(records.runs[["run", "track"]].to_numpy())
    for run, scores in records.tables("choices").items():
        means, best = mean_choices(scores), best_choice(scores)
        of_best_pass = (means[tracked] == [best[name] for name in tracked]).all(axis=1)
        best_of_passes = means.groupby(tracked, sort=False)["J&F"].idxmax()
        for index, row in means[means.index.isin(best_of_passes) | of_best_pass].iterrows():
            texts = {"Run": run} | {label: f"{row[name]:g}" for name, label in labels.items()}
            texts |= {name: number(100 * row[name]) for name in ("J-Mean", "F-Mean", "J&F")}
            rows.append(texts | {"Best": "yes" if index == means["J&F"].idxmax() else NONE})
        notes.append(note("held_out", sequences=", ".join(scores["sequence"].unique())))
        if used := tracks.get(run):
            same = means[(means[[*SETTINGS]] == [used[name] for name in SETTINGS]).all(axis=1)]
            here = number(100 * same["J&F"].iloc[0]) if len(same) else NOT_RUN
            named = ", ".join(f"{label.lower()} {used[name]:g}" for name, label in labels.items())
            notes.append(note("chosen", run=run, settings=named, score=here))
    return titled(rows, records, "choices", *dict.fromkeys(notes))


def held_out(records: Records) -> pd.DataFrame:
    """Compare models on held-out sequences and scenes, by the pairs that they have seen."""
    rows = [
        {
            "Run": row["run"],
            "Pairs": number(row["pairs"], decimals=0),
            "J-Mean": number(100 * row["J-Mean"]),
            "F-Mean": number(100 * row["F-Mean"]),
            "Scenes": number(row["scenes"], decimals=0),
            "Look-alike taken": f"{number(100 * row['raw_over'])} %",
            "With penalty": f"{number(100 * row['penalised_over'])} %",
        }
        for row in records.table("held_out").to_dict("records")
    ]
    return titled(rows, records, "held_out")


def runs(records: Records) -> pd.DataFrame:
    """Return one row per training run: where every number comes from."""
    rows = []
    for run in records.runs.to_dict("records"):
        own = [f"train.pairs={run['own_pairs']}", "train.init_weights=MODEL"]
        first = own if run["pairs_before"] else []
        command = run["command"]
        words = shlex.split(command) if command.startswith("e3sn train ") else []
        given = told(value for key, value in pairwise(words) if key == "--set")
        each_once = dict.fromkeys([*first, *run["settings"].split(), *given])
        changes = "".join(f" --set {shlex.quote(each)}" for each in each_once)
        options = f"--profile {run['profile']} --variant {run['variant']} --seed {run['seed']}"
        processes = [run, *(run | later for later in run["resumed"])]
        commits = dict.fromkeys(
            cells.or_unknown(each.get("commit"))[:8] + " with changes" * (each.get("dirty") is True)
            for each in processes
        )
        cores, threads = (cells.or_unknown(run.get(each)) for each in ("cores", "threads"))
        rows.append(
            {
                "Run": run["run"],
                "Command": f"e3sn train {options}{changes}",
                "Pairs": f"{run['pairs']:,}",
                "Of these its own": f"{run['own_pairs']:,}",
                "Of 12 million": f"{number(100 * run['pairs'] / cells.PAPER_PAIRS, decimals=3)} %",
                "Training time": f"{number(run['seconds'] / 3600, decimals=2)} h",
                "Peak memory": f"{number(run['peak_memory_mb'], decimals=0)} MiB",
                "Machine": f"{run['machine']}, {cores} cores, threads: {threads}",
                "Precision": cells.or_unknown(run.get("precision")),
                "Commit": ", ".join(commits),
                "Files replaced": cells.or_unknown(run.get("replaced_files")),
                "Steps skipped": cells.or_unknown(run.get("skipped_steps")),
            }
        )
    return titled(rows, records, "runs", note("stage", pairs=cells.PAPER_PAIRS))


def checks(records: Records) -> pd.DataFrame:
    """List what this was checked against, from the file that the golden tests leave."""
    rows = [
        {
            "Check": row["check"],
            "Outside source": row["source"],
            "Largest deviation": f"{row['largest']:.2g}",
            "Tolerance": f"{row['tolerance']:.2g}",
            "Cases": f"{row['cases']:,}",
            "Holds": "yes" if row["largest"] <= row["tolerance"] else "no",
        }
        for row in records.table("checks").to_dict("records")
    ]
    return titled(rows, records, "checks")
