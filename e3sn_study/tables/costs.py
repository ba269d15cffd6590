"""Tables of costs: speed, memory and time of training and tracking."""

import math

import numpy as np
import pandas as pd

from e3sn_study.records import MEANS, STAGES, VARIANTS, Records
from e3sn_study.records.schema import SCHEMAS, TRACKING, TRAINING, WHOLE_MAPS
from e3sn_study.tables.cells import NONE, NOT_RUN, note, number, percent, titled


def _costs(records: Records, part: str) -> pd.DataFrame:
    """Return one part of `measurements.variant_costs`."""
    costs = records.table("variant_costs")
    shares = costs[costs["part"] != TRACKING].groupby(["variant", "part"])["share"].sum()
    if not np.allclose(shares.astype(float), 1, atol=1e-3):
        raise SCHEMAS["variant_costs"].misfit(records.folder / "variant_costs.csv", "lacks rows")
    return costs[costs["part"] == part]


def training_seconds(records: Records, part: str = TRAINING) -> pd.Series:
    """Return the seconds of training that a pair takes, by network, from steps that took turns."""
    training = _costs(records, part)
    return (training["share"] * training["seconds"]).groupby(training["variant"]).sum()


def training_shares(
    records: Records, new: str, old: str, part: str = TRAINING
) -> tuple[float, float] | None:
    """Return the training time of one network as a share of another's; None if it was not run.

    The first share is with the same number of pairs in all. In the second one, the first stage of
    `old` alone sees as many as `new`, and its further stages come on top.
    """
    training, per_pair = _costs(records, part), training_seconds(records, part)
    if not {new, old} <= {*per_pair.index}:
        return None
    stages = training[training["variant"] == old].groupby("stage", sort=False)["share"].sum()
    equal = float(per_pair[new] / per_pair[old])
    return equal, equal * float(stages.iloc[0])


def speed_share(records: Records, new: str, old: str) -> float | None:
    """Return the tracking speed of one network as a share of another's; None if it was not run."""
    seconds = _costs(records, TRACKING).set_index("variant")["seconds"]
    return float(seconds[old] / seconds[new]) if {new, old} <= {*seconds.index} else None


def variant_costs(records: Records) -> pd.DataFrame:
    """Return the time of training and tracking of the compared networks, which took turns."""
    training, tracking = _costs(records, TRAINING), _costs(records, TRACKING)
    columns, rows = ["Network", "Part", "Counts for", "Time", "Of SiamMask's"], list[list[str]]()
    per_pair = {part: training_seconds(records, part) for part in (TRAINING, WHOLE_MAPS)}
    for variant, label in VARIANTS.items():
        is_other = variant != "siammask"
        for row in training[training["variant"] == variant].to_dict("records"):
            stage = STAGES.get(row["stage"], row["stage"])
            part = f"training a pair, {stage}, backbone {row['backbone']}"
            counts = f"{percent(row['share'])} of its pairs"
            rows.append([label, part, counts, _milliseconds(row["seconds"]), NONE])
        for part, seconds in per_pair.items():
            if variant not in seconds:
                continue
            shares = training_shares(records, variant, "siammask", part) if is_other else None
            equal, on_top = map(percent, shares or (0, 0))
            of = f"{equal}; {on_top} with its second stage on top" if shares else NONE
            name = part.replace("training", "training a pair, all phases", 1)
            rows.append([label, name, NONE, _milliseconds(seconds[variant]), of])
        for seconds in tracking.loc[tracking["variant"] == variant, "seconds"]:
            share = speed_share(records, variant, "siammask") if is_other else None
            of = percent(1 / share) if share else NONE
            rows.append([label, "tracking an object-frame", NONE, _milliseconds(seconds), of])
    table = pd.DataFrame(rows, columns=columns)
    return titled(table, records, "variant_costs", *_of_first("batches", training))


def sampling_cost(records: Records) -> pd.DataFrame:
    """Return memory and time of a training step by the samples per image."""
    cost = records.table("sampling_cost").sort_values("samples")
    rows = [
        {
            "Samples per image": f"{row['samples_per_image']:g}",
            "Windows per step": number(row["samples"], decimals=0),
            "Time per step": _measured(row["seconds_per_step"], "s", 2),
            "Peak memory": _measured(row["peak_memory_mb"], "MiB", 0),
            "Estimated memory": _measured(row["estimated_memory_mb"], "MiB", 0, NONE),
        }
        for row in cost.to_dict("records")
    ]
    cost = cost.assign(images=cost["samples"] / cost["samples_per_image"])
    cost["machine"] = cost.get("machine", "a machine not on record")
    return titled(rows, records, "sampling_cost", *_of_first("images", cost))


def training_speed(records: Records) -> pd.DataFrame:
    """Compare the training loop with plain loops: pairs per second, and the parts of a step."""
    timed, rows = records.table("training_speed"), []
    for row in timed.to_dict("records"):
        texts = {
            "Backbone": row["phase"],
            "Loop": row["contender"],
            "Pairs per second": number(row["pairs_per_second"], decimals=2),
            "This loop is": NONE if row["ratio"] == 1 else f"{number(row['ratio'])} times as fast",
        }
        for part in ("forward", "backward", "update", "data"):
            texts[part.capitalize()] = _measured(row[part], "s", 2)
        rows.append(texts)
    notes = [f"{each} Data are prepared beside the step." for each in _of_first("batches", timed)]
    return titled(rows, records, "training_speed", *notes)


def tracking_speed(records: Records) -> pd.DataFrame:
    """Return the time of a tracking step by torch and by graphs, by frame size and objects."""
    timed, rows = records.table("tracking_speed"), []
    for (width, height, name), group in timed.groupby(["width", "height", "contender"], sort=False):
        one = group.sort_values("objects").iloc[0]
        row = {"Frame": f"{width:g}×{height:g}", "Network by": name}
        for count, step in group[["objects", "step_ms"]].to_numpy():
            of_objects = "1 object" if count == 1 else f"{count:g} objects"
            row[of_objects] = _milliseconds(step / 1000)
        row["Frames per second"] = number(one["frames_per_second"])
        row["Rate against the first"] = f"{number(one['ratio'])} times"
        rows.append(row | {"Of the peak": percent(one["share"])})
    return titled(rows, records, "tracking_speed", *_of_first("threads", timed))


def exports(records: Records) -> pd.DataFrame:
    """Return scores and speed of a model and of its exported graphs on DAVIS-2016."""
    return _against_first(records, "exports", "Network by")


def sessions(records: Records) -> pd.DataFrame:
    """Return scores and speed of what a session adds to the paper's steps, on DAVIS-2016."""
    return _against_first(records, "sessions", "Steps")


def _against_first(records: Records, name: str, head: str) -> pd.DataFrame:
    table, rows = records.table(name).dropna(axis="columns", how="all"), []
    for row in table.to_dict("records"):
        texts = {head: row["contender"], "Sequences": f"{row['sequences']:g}"}
        for mean in MEANS:
            gap = 100 * (row[mean] - table[mean].iloc[0])
            texts |= {mean: number(100 * row[mean]), f"{mean[0]} gain": number(gap, signed=True)}
        for bound in [each for each in ("J_bound", "F_bound") if each in row]:
            texts[f"{bound[0]} in true boxes"] = number(100 * row[bound])
        if "steps" in row:
            texts["Steps per object-frame"] = number(row["steps"], decimals=2)
        rows.append(texts | {"Object-frames per second": number(row["fps"])})
    notes = [note("bounds")] if "J_bound" in table else []
    return titled(rows, records, name, *notes, *_of_first("graphs", table))


def _milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds, decimals=0 if seconds >= 0.1 else 1)} ms"


def _measured(value: float, unit: str, decimals: int, absent: str = NOT_RUN) -> str:
    return absent if math.isnan(value) else f"{number(value, decimals=decimals)} {unit}"


def _of_first(key: str, table: pd.DataFrame) -> list[str]:
    """Return a note about the first row, none where there is no row."""
    return [note(key, **row) for row in table[:1].to_dict("records")]
