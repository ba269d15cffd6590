"""The study's tables: functions of its files of record, with the paper's rows beside ours.

Each takes `Records` and returns a table of text, with ``attrs["title"]`` and ``attrs["notes"]``.
No cell is empty: "not run" stands where nothing was run, a dash where nothing can belong.
"""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from e3sn_study.records import MEANS, PAPER_THRESHOLD, STATISTICS, VARIANTS, Records, reference
from e3sn_study.records.averages import Measured
from e3sn_study.records.schema import BOUND, BOX, MODEL, STILL, STILL_BOX, TRUE_BOX
from e3sn_study.tables import cells, costs, origins
from e3sn_study.tables.cells import NONE, NOT_RUN, note, number, ours, score, spread, titled
from e3sn_study.tables.claims import claims

Cells = dict[str, str]
ATTRIBUTES: dict[str, str] = reference("tables")["attributes"]


def table1(records: Records) -> pd.DataFrame:
    """Return the paper's Table 1, DAVIS-2016, with our rows and those of the authors of DAVIS."""
    return _benchmark(records, "table1", "davis2016", cells.recomputed_rows(), note("recomputed"))


def table2(records: Records) -> pd.DataFrame:
    """Return the paper's Table 2, DAVIS-2017, with our rows."""
    return _benchmark(records, "table2", "davis2017", {})


def table3(records: Records) -> pd.DataFrame:
    """Compare two stages with sampling: accuracy, training time and memory, at equal budget."""
    return _comparison(records, "table3", "e3sn-s", "siammask", with_costs=True)


def table4(records: Records) -> pd.DataFrame:
    """Compare one level with the aggregation of three, at equal budget."""
    return _comparison(records, "table4", "e3sn", "e3sn-s")


def bounds(records: Records) -> pd.DataFrame:
    """Return baselines without learning, and scores with true boxes."""
    scores, chosen = records.scores("davis2016"), records.main_runs("e3sn")
    baselines = scores.loc[scores["run"] == "", "method"].unique().tolist()
    entries = [(method, method, [""]) for method in baselines or [STILL_BOX, STILL]]
    entries += [(f"E3SN: {method}", method, chosen) for method in (BOX, BOUND)]
    rows = []
    for label, method, names in [*entries, ("E3SN", MODEL, chosen)]:
        measured = records.measure("davis2016", names, method)
        shows = reference("tables")["methods"].get(method, "no network of this study")
        row = {"Method": label, "What it shows": shows}
        rows.append(row | {name: score(measured, name) for name in STATISTICS})
    for lacking in records.table("davis2016/baselines_not_run").to_dict("records"):
        row = {"Method": lacking["method"], "What it shows": f"not run: {lacking['reason']}"}
        rows.append(row | dict.fromkeys(STATISTICS, NOT_RUN))
    return titled(rows, records, "bounds", note("averages"))


def per_sequence(records: Records) -> pd.DataFrame:
    """Return J and F of each sequence, the worst of E3SN first."""
    frames = records.scores("davis2016").groupby("sequence")["frames"].max().astype(int)
    columns: dict[str, pd.Series | str] = {"Frames scored": frames}
    own = _own_runs(records)
    entries = [(label, runs, MODEL) for label, runs in own.items()]
    for label, runs, method in [*entries, ("E3SN in true boxes", own["E3SN"], BOUND)]:
        measured = records.measure("davis2016", runs, method)
        for name in MEANS if method == MODEL else MEANS[:1]:
            columns[f"{name[0]} {label}"] = measured.by_sequence(name) if measured else NOT_RUN
    table = pd.DataFrame(columns).rename_axis("Sequence").reset_index()
    table = table.sort_values(["J E3SN", "Sequence"])
    table = table.map(lambda cell: number(cell) if isinstance(cell, float) else cell)
    return titled(table, records, "per_sequence")


def crops(records: Records) -> pd.DataFrame:
    """Compare masks and boxes of single crops, of objects that training has seen and of others."""
    rows = []
    for run, table in records.tables("crops").items():
        for name, part in table.groupby("set", sort=False):
            row = {"Run": run, "Set": name}
            row["Seen in training"] = "no" if str(name).endswith("held out") else "yes"
            for label, key in (("Mask IoU", "mask_iou"), ("Box IoU", "box_iou")):
                values = 100 * part[key].dropna()
                error = f" ± {number(values.sem())}" if len(values) > 1 else ""
                row[label] = f"{number(values.mean())}{error}" if len(values) else NONE
            slope = size_slope(part)
            row["Slope of size"] = NONE if math.isnan(slope) else number(slope, decimals=2)
            row["Crops"] = str(len(part))
            rows.append(row | {"Without a mask": str(part["mask_iou"].isna().sum())})
    return titled(rows, records, "crops")


def size_slope(rows: pd.DataFrame) -> float:
    """Return the slope of log predicted size over log true size: 1 follows it, 0 ignores it; NaN
    for fewer than two rows."""
    if len(rows) < 2:
        return float("nan")
    return float(np.polyfit(np.log(rows["size"]), np.log(rows["predicted_size"]), 1)[0])


def attributes(records: Records) -> pd.DataFrame:
    """Return J and F of E3SN on the sequences with and without each attribute of DAVIS-2016."""
    model = records.measure("davis2016", records.main_runs("e3sn"))
    labels = records.attributes("davis2016")
    if labels is None or model is None:
        reason = "no_attributes" if labels is None else "no_model"
        return titled([], records, "attributes", note(reason))
    rows = []
    compared = {name[0]: with_and_without(model, labels, name) for name in MEANS}
    for name, counts in compared["J"][["sequences", "of"]].iterrows():
        row = {"Attribute": f"{name}: {ATTRIBUTES.get(str(name), 'not known')}"}
        row["Sequences"] = f"{counts['sequences']} of {counts['of']}"
        for statistic, table in compared.items():
            for key, cell in table.loc[name, ["with", "without", "difference"]].dropna().items():
                row[f"{statistic} {key}"] = number(cell, signed=key == "difference")
        rows.append(row)
    return titled(rows, records, "attributes", note("attributes"))


def with_and_without(model: Measured, labels: pd.Series, statistic: str) -> pd.DataFrame:
    """Return means over scored sequences; `labels` has spaces between attributes. By attribute:
    with, without (NaN if all sequences have it), difference, sequences (which have it), of (all).
    """
    values = model.by_sequence(statistic)
    values = values[values.index.isin(labels.index)]
    has = labels[values.index].str.get_dummies(" ").astype(bool)
    means = {name: (values[own].mean(), values[~own].mean()) for name, own in has.items()}
    table = pd.DataFrame.from_dict(means, orient="index", columns=["with", "without"])
    difference = table["with"] - table["without"]
    return table.assign(difference=difference, sequences=has.sum(), of=len(has))


def threshold_sweep(records: Records) -> pd.DataFrame:
    """Return J and F at several mask thresholds, among them that of the runs' own settings."""
    runs_of, rows = _own_runs(records), []
    found = {label: records.by_threshold("davis2016", runs) for label, runs in runs_of.items()}
    for threshold in sorted({*chain(*found.values())}) or [PAPER_THRESHOLD]:
        row = {"Threshold": f"{threshold:.2f}"}
        for label, each in found.items():
            row |= {f"{name[0]} {label}": score(each.get(threshold), name) for name in MEANS}
        rows.append(row)
    scored = records.scores("davis2016")
    is_own = (scored["method"] == MODEL) & scored["run"].isin([*chain(*runs_of.values())])
    own = sorted(scored.loc[is_own, "mask_threshold"].unique()) or [PAPER_THRESHOLD]
    texts = ["the paper's 0.50" if each == PAPER_THRESHOLD else f"{each:.2f}" for each in own]
    return titled(rows, records, "threshold_sweep", note("thresholds", own=" and ".join(texts)))


OUTER = (STILL, "NanoTrack box + GrabCut", TRUE_BOX, "true box + GrabCut", f"E3SN: {BOUND}")
"""Rows of `bounds` that stand beside the networks where space is short."""
_TABLES = (
    *(claims, table1, table2, table3, table4, bounds, per_sequence, crops, attributes),
    *(threshold_sweep, costs.variant_costs, costs.sampling_cost, costs.training_speed),
    *(costs.tracking_speed, costs.exports, costs.sessions, origins.ablations, origins.choices),
    *(origins.held_out, origins.checks, origins.runs),
)
TABLES: dict[str, Callable[[Records], pd.DataFrame]] = {make.__name__: make for make in _TABLES}
"""Every table by the name of its function, in the order of the report."""


def short_table1(records: Records) -> pd.DataFrame:
    """Return Table 1 in a few rows, for the README: both networks, baselines and bounds. Of a run
    in legs it has the last leg."""
    full, bound = table1(records), bounds(records)
    legs = [leg for run in records.main_runs("e3sn") for leg in records.legs(run)[:-1]]
    compared = records.compared_runs("e3sn", "siammask")
    kept = compared["e3sn"] if compared["siammask"] else []
    pairs = [f"{leg['pairs']:,}" for leg in legs if leg["run"] not in kept]
    earlier = (full["Method"] == "E3SN") & full["Pairs"].isin(pairs)
    rows = full[full["Method"].isin(["SiamMask", "E3SN"]) & ~earlier]
    outer = bound[bound["Method"].isin(OUTER)]
    outer = outer.assign(**{"Numbers from": ours(records), "Pairs": NONE, "Seeds": NONE})
    columns = ["Method", "Numbers from", "Pairs", "Seeds", *MEANS]
    table = pd.concat([rows, outer])[columns].reset_index(drop=True)
    of_main = records.rows(records.main_runs("e3sn"))["data"]
    sets = [each["name"] for run in of_main for each in run]
    has_davis = any(each.startswith("davis2016") for each in sets)
    notes = [note("legend"), *([note("other_data")] if has_davis else [])]
    table.attrs |= {"title": full.attrs["title"], "notes": notes}
    return table


def _benchmark(
    records: Records, name: str, benchmark: str, recomputed: dict[str, Cells], *notes: str
) -> pd.DataFrame:
    """Return the paper's rows of a table, each followed by recomputed rows and by ours."""
    whole, remaining = records.whole_set(benchmark), dict(recomputed)
    variants = {label: variant for variant, label in VARIANTS.items()}
    rows, shown = list[dict[str, Any]](), list[str]()
    for method, paper in cells.paper_rows(name).items():
        flags = {key: "yes" if paper[key] else "no" for key in ("FT", "M")} | {"Method": method}
        rows.append(paper | flags | {"Numbers from": cells.PAPER})
        if method in remaining:
            rows.append(remaining.pop(method) | flags | {"Numbers from": cells.RECOMPUTED})
        for group in _budgets(records, variants[method]) if method in variants else ():
            speeds = records.speed(benchmark, group["run"])
            texts = _scores(records.measure(benchmark, group["run"]), paper if whole else {})
            texts |= {"FPS": number(speeds["fps"].mean()) if len(speeds) else NOT_RUN}
            texts |= {"Numbers from": ours(records), "Pairs": spread(group, "pairs")}
            rows.append(texts | flags)
            shown += [*group["run"]]
    if benchmark == "davis2016":
        rows += _exported(records)
    for method, values in remaining.items():
        rows.append(values | {"Method": method, "Numbers from": cells.RECOMPUTED})
    timed = records.speed(benchmark, shown).merge(records.runs[["run", "pairs"]], on="run")
    machines = " and ".join(
        f"{machine} ({', '.join(f'{each:,}' for each in sorted({*found}))} pairs)"
        for machine, found in timed.groupby("machine")["pairs"]
    )
    fps = note("fps", gpu=cells.PAPER_GPU, ours=f", ours on {machines}" if machines else "")
    general = [note("averages"), note("tuned"), note("pairs"), fps]
    general += [note("frozen")] if records.rows(shown)["frozen"].any() else []
    general += [note("part")] if len(records.scores(benchmark)) and not whole else []
    columns = ["Method", "Numbers from", "Pairs", "FT", "M", *STATISTICS]
    columns += ["FPS", "J - paper", "F - paper", "Seeds"]
    return titled(pd.DataFrame(rows, columns=columns), records, name, *general, *notes)


def _exported(records: Records) -> list[Cells]:
    """Return the rows of the int8 graphs, which track where there is no GPU."""
    found = []
    for label, row in records.int8_graphs.items():
        texts = {name: number(100 * row[name]) for name in MEANS}
        texts |= {"FPS": number(row["fps"]), "FT": "no", "M": "no", "Seeds": "1"}
        texts |= {"Pairs": spread(records.rows([row["run"]]), "pairs"), "Method": "E3SN"}
        found.append(texts | {"Numbers from": f"{ours(records)}, {label}"})
    return found


def _budgets(records: Records, variant: str) -> list[pd.DataFrame]:
    """Return a variant's runs with the profile's own settings, and those compared with SiamMask, in
    groups that have seen the same number of pairs. Without a run there is one, which is empty."""
    of_variant = records.runs[records.runs["variant"] == variant]
    groups = []
    for settings in dict.fromkeys(["", records.comparable_settings("e3sn", "siammask")]):
        alike = of_variant[of_variant["settings"] == settings].sort_values("pairs")
        groups += [group for _, group in alike.groupby("pairs", sort=False)][::-1]
    return groups or [of_variant[:0]]


def _scores(measured: Measured | None, paper: dict[str, Any]) -> Cells:
    """Return the cells of our scores, with their differences to the paper's."""
    scores = {name: score(measured, name) for name in STATISTICS}
    if measured is None:
        return scores | dict.fromkeys(("J - paper", "F - paper", "Seeds"), NOT_RUN)
    gaps = {name: measured.value(name) - paper[name] for name in MEANS if name in paper}
    texts = {f"{name[0]} - paper": number(gap, signed=True) for name, gap in gaps.items()}
    return scores | texts | {"Seeds": str(measured.seeds)}


def _comparison(
    records: Records, name: str, new: str, old: str, with_costs: bool = False
) -> pd.DataFrame:
    """Return two variants at equal budget, the paper's rows and ours, and their differences. With
    costs, there is also the old one with its second stage on top."""
    settings, compared = records.comparable_settings(new, old), records.compared_runs(old, new)
    groups = {VARIANTS[each]: records.rows(names) for each, names in compared.items()}
    of_new = groups[VARIANTS[new]]
    on_top = list[str]()
    if with_costs:
        on_top = records.with_first_stage(compared[old], of_new["pairs"].max())
        groups[f"{VARIANTS[old]}, second stage on top"] = records.rows(on_top)
    measured = {each: records.measure("davis2016", group["run"]) for each, group in groups.items()}
    rows, per_pair = list[dict[str, Any]](), costs.training_seconds(records) if with_costs else {}
    for label, group in groups.items():
        found = measured[label]
        mine = {key: score(found, key) for key in MEANS}
        if with_costs:
            seconds = (group["variant"].map(per_pair) * group["pairs"]).max()
            time = NOT_RUN if math.isnan(seconds) else cells.duration(seconds)
            mine |= {"Training time": time, "Peak memory": spread(group, "peak_memory_mb", "MiB")}
        mine |= {"Pairs": spread(group, "pairs"), "Seeds": str(found.seeds) if found else NOT_RUN}
        if paper := cells.paper_rows(name).get(label):
            theirs = {key: paper[key] for key in MEANS}
            if with_costs:
                theirs["Training time"] = f"{paper['Training hours']} h"
            rows.append({"Method": label, "Numbers from": cells.PAPER} | theirs)
        rows.append({"Method": label, "Numbers from": ours(records)} | mine)
    gaps = cells.paper_difference(name, new, old)
    theirs = {key: number(value, signed=True) for key, value in gaps.items()}
    method = f"{VARIANTS[new]} - {VARIANTS[old]}"
    rows.append({"Method": method, "Numbers from": cells.PAPER} | theirs)
    a = measured.pop(VARIANTS[new])
    for label, b in measured.items():
        mine = {key: cells.gain_text(a, b, key) if a and b else NOT_RUN for key in MEANS}
        method = f"{VARIANTS[new]} - {label}"
        rows.append({"Method": method, "Numbers from": ours(records)} | mine)
    notes = [note("averages"), note("gains")]
    for sets in of_new["data"][:1]:
        notes.append(note("trained_on", sets=cells.trained_on(sets)))
    notes += [note("budget", settings=settings)] if settings else []
    notes += [note("more_pairs")] if on_top else []
    notes += [note("frozen")] if any(group["frozen"].any() for group in groups.values()) else []
    notes += [note("hours")] if with_costs else []
    return titled(rows, records, name, *notes)


def _own_runs(records: Records) -> dict[str, list[str]]:
    """Return the runs with the profile's own settings by network, those of E3SN in any case."""
    found = {label: records.main_runs(variant) for variant, label in VARIANTS.items()}
    return {label: runs for label, runs in found.items() if runs or label == "E3SN"}
