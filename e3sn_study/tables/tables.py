"""The study's tables: pure functions of its files of record, with the paper's rows beside ours.

Each takes the folder ``results/`` and returns a table of text as it is to be shown, with ``attrs["title"]`` and ``attrs["notes"]``.
No cell is empty: "not run" stands where nothing was run, a dash where nothing can belong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_study.evaluation.diagnosis import size_slope
from e3sn_study.records import (
    BENCHMARKS,
    MEANS,
    MODEL,
    NONE,
    NOT_RUN,
    REFERENCE,
    STATISTICS,
    VARIANTS,
    Measured,
    comparable_settings,
    frozen_backbone,
    main_runs,
    measure,
    number,
    read_lacking,
    read_runs,
    read_scores,
    read_speed,
    reference,
    whole_set,
)
from e3sn_study.records import bootstrap_interval as bootstrap_interval
from e3sn_study.records import paired_difference as paired_difference
from e3sn_study.tables.attributes import attributes
from e3sn_study.tables.cells import (
    AVERAGES,
    FROZEN,
    GAINS,
    PAPER,
    PAPER_GPU,
    RECOMPUTED,
    duration,
    gain_text,
    ours,
    score,
    spread,
    titled,
)
from e3sn_study.tables.cells import to_markdown as to_markdown
from e3sn_study.tables.claims import claims as claims
from e3sn_study.tables.claims import paper_difference, paper_rows
from e3sn_study.tables.costs import ablations, checks, choices, runs, sampling_cost, speed, training_speed, variant_costs

METHODS = {
    "first box held still": "a box, and nothing followed",
    "first mask held still": "the true first mask, and nothing followed",
    "tracker box filled": "localisation without segmentation",
    MODEL: "the model itself",
    "mask in true boxes": "the model, were localisation perfect",
    "true box filled": "perfect localisation without segmentation",
    "true box + GrabCut": "perfect localisation, the outline by colour alone",
    "MIL box filled": "OpenCV's tracker TrackerMIL, whose random draws cannot be seeded",
    "MIL box + GrabCut": "TrackerMIL, the outline by colour alone",
    "CSRT box filled": "OpenCV's tracker TrackerCSRT",
    "CSRT box + GrabCut": "TrackerCSRT, the outline by colour alone",
    "NanoTrack box filled": "OpenCV's tracker TrackerNano, a trained network of others",
    "NanoTrack box + GrabCut": "TrackerNano, the outline by colour alone",
}


def table1(results: Path) -> pd.DataFrame:
    """DAVIS-2016: the paper's Table 1 with our rows, and what the DAVIS authors' own files give."""
    path = REFERENCE / "davis16_recomputed.csv"
    recomputed = pd.read_csv(path, dtype=str).sort_values("J-Mean", ascending=False).set_index("name").to_dict("index")
    note = "Recomputed: from the per-frame results that the DAVIS authors publish (jponttuset/davis-matlab), to two decimals."
    return _benchmark(results, "table1", "davis2016", recomputed, note)


def table2(results: Path) -> pd.DataFrame:
    """DAVIS-2017: the paper's Table 2 with our rows."""
    return _benchmark(results, "table2", "davis2017", {})


def table3(results: Path) -> pd.DataFrame:
    """Two stages against sampling: accuracy, training time and memory, at equal budget."""
    return _comparison(results, "table3", "e3sn-s", "siammask", costs=True)


def table4(results: Path) -> pd.DataFrame:
    """One level against the aggregation of three, at equal budget."""
    return _comparison(results, "table4", "e3sn", "e3sn-s")


def bounds(results: Path) -> pd.DataFrame:
    """What needs no learning, and what would be left to lose if localisation were perfect."""
    scores, chosen = read_scores(results, "davis2016"), main_runs(read_runs(results), "e3sn")
    baselines = list(dict.fromkeys(scores.loc[scores["run"] == "", "method"])) or ["first box held still", "first mask held still"]
    entries = [(method, method, measure(scores, method=method)) for method in baselines]
    entries += [(f"E3SN: {name}", name, measure(scores, chosen, name)) for name in ("tracker box filled", "mask in true boxes")]
    entries.append(("E3SN", MODEL, measure(scores, chosen)))
    rows = [
        {"Method": label, "What it shows": METHODS.get(method, "no network of this study")}
        | {name: score(measured, name) for name in STATISTICS}
        for label, method, measured in entries
    ]
    rows += [
        {"Method": method, "What it shows": f"not run: {reason}"} | dict.fromkeys(STATISTICS, NOT_RUN)
        for method, reason in read_lacking(results, "davis2016").items()
    ]
    return titled(pd.DataFrame(rows), results, "Baselines and bounds", "DAVIS-2016 val", "davis2016", AVERAGES)


def per_sequence(results: Path, benchmark: str = "davis2016") -> pd.DataFrame:
    """J and F of each sequence, the worst of E3SN first."""
    scores, trained = read_scores(results, benchmark), read_runs(results)
    columns: dict[str, pd.Series | str] = {"Frames scored": scores.groupby("sequence")["frames"].max()}
    for variant in _with_own_settings(trained):
        measured = measure(scores, main_runs(trained, variant))
        for statistic in MEANS:
            columns[f"{statistic[0]} {VARIANTS[variant]}"] = measured.by_sequence(statistic) if measured else NOT_RUN
    bound = measure(scores, main_runs(trained, "e3sn"), "mask in true boxes")
    columns["J E3SN in true boxes"] = bound.by_sequence("J-Mean") if bound else NOT_RUN
    table = pd.DataFrame(columns).rename_axis("Sequence").reset_index()
    if table.empty:
        table = pd.DataFrame([dict.fromkeys(table.columns, NOT_RUN)])
    table = table.sort_values(["J E3SN", "Sequence"]).map(lambda cell: number(cell) if isinstance(cell, float) else cell)
    title = f"J and F mean on {BENCHMARKS[benchmark]} val"
    return titled(table, results, "Per sequence", title, benchmark, "The worst first, by J of E3SN.")


def crops(results: Path) -> pd.DataFrame:
    """Masks and boxes of single crops, of objects that training has seen and of those it has not."""
    rows = []
    for path in sorted((results / "crops").glob("*.csv")):
        for name, part in pd.read_csv(path).groupby("set", sort=False):
            rows.append(
                {
                    "Run": path.stem,
                    "Set": name,
                    "Seen in training": "no" if str(name).endswith("held out") else "yes",
                    **{label: _with_error(100 * part[key]) for label, key in (("Mask IoU", "mask_iou"), ("Box IoU", "box_iou"))},
                    "Slope of size": number(size_slope(part), decimals=2),
                    "Pairs": str(part["mask_iou"].count()),
                    "Left out": str(part["mask_iou"].isna().sum()),
                }
            )
    table = pd.DataFrame(rows or [dict.fromkeys(("Run", "Set", "Mask IoU", "Box IoU"), NOT_RUN)])
    notes = [
        "Template and search crops as augmentation draws them in training, without negative pairs. Mask IoU: mean over positive "
        "windows. Box IoU: of the anchor with the highest score. ±: standard error, pairs taken for independent. Left out: pairs "
        "without a positive window.",
        "Slope of size: by how much the logarithm of the predicted box's size grows with the true one's; at 0 a box cannot follow "
        "its object's size, at 1 it does.",
    ]
    return titled(table, results, "Crops", "single crops, apart from tracking", "", *notes)


def threshold_sweep(results: Path) -> pd.DataFrame:
    """J and F at other mask thresholds than the paper's."""
    scores, trained = read_scores(results, "davis2016"), read_runs(results)
    methods = {0.5: MODEL} | {float(name[5:]): name for name in scores["method"].unique() if name.startswith(f"{MODEL}@")}
    rows = []
    for threshold, method in sorted(methods.items()):
        row = {"Threshold": f"{threshold:.2f}"}
        for variant in _with_own_settings(trained):
            measured = measure(scores, main_runs(trained, variant), method)
            row |= {f"{name[0]} {VARIANTS[variant]}": score(measured, name) for name in MEANS}
        rows.append(row)
    note = "All numbers elsewhere are at the paper's 0.50. The sweep is shown, not used: nothing is chosen on val sequences."
    return titled(pd.DataFrame(rows), results, "Threshold sweep", "J and F mean on DAVIS-2016 val", "davis2016", note)


OUTER = ("first mask held still", "NanoTrack box + GrabCut", "true box filled", "true box + GrabCut", "E3SN: mask in true boxes")
"""Rows of `bounds` that stand beside the networks where space is short."""
LEGEND = (
    "J, F: region similarity and contour accuracy in percent. Brackets: 95 % interval over the videos; ±: standard deviation over "
    "seeds. Only rows of equally many pairs say which network is better."
)
TABLES: dict[str, Callable[[Path], pd.DataFrame]] = {
    "claims": claims,
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "bounds": bounds,
    "per_sequence": per_sequence,
    "crops": crops,
    "attributes": attributes,
    "threshold_sweep": threshold_sweep,
    "variant_costs": variant_costs,
    "speed": speed,
    "sampling_cost": sampling_cost,
    "training_speed": training_speed,
    "ablations": ablations,
    "choices": choices,
    "checks": checks,
    "runs": runs,
}
"""Every table by its name, in the order of the report."""


def short_table1(results: Path) -> pd.DataFrame:
    """Table 1 in a few rows, for the README: the paper's two networks, ours, what one would use without, and what bounds them."""
    full, bound = table1(results), bounds(results)
    rows = full[full["Method"].isin(["SiamMask", "E3SN"])]
    outer = bound[bound["Method"].isin(OUTER)].assign(**{"Numbers from": ours(results), "Pairs": NONE, "Seeds": NONE})
    table = pd.concat([rows, outer])[["Method", "Numbers from", "Pairs", "Seeds", *MEANS]].reset_index(drop=True)
    table.attrs |= {"title": full.attrs["title"], "notes": [LEGEND]}
    return table


def _benchmark(results: Path, name: str, benchmark: str, recomputed: dict[str, dict[str, str]], *notes: str) -> pd.DataFrame:
    trained, scores, timed = read_runs(results), read_scores(results, benchmark), pd.DataFrame({"run": []})
    remaining, rows, frozen = dict(recomputed), [], False
    for method, paper in paper_rows(name).items():
        flags = {key: "yes" if paper[key] else "no" for key in ("FT", "M")}
        rows.append(_row(method, PAPER, {key: str(value) for key, value in paper.items()} | flags))
        if method in remaining:
            rows.append(_row(method, RECOMPUTED, remaining.pop(method) | flags))
        for variant in (variant for variant, label in VARIANTS.items() if label == method):
            for group in _budgets(trained, variant):
                speeds = read_speed(results, benchmark, group["run"])
                timed = pd.concat([timed, speeds])
                own = {"FPS": NOT_RUN if speeds.empty else number(speeds["fps"].mean()), "Pairs": spread(group, "pairs")}
                gap = paper if whole_set(results, benchmark) else {}
                rows.append(_row(method, ours(results), flags | own | _our_cells(measure(scores, group["run"]), gap)))
                frozen |= any(map(frozen_backbone, group["settings"]))
    for run in sorted(set(scores["run"]) - {"", *trained["run"], *trained.attrs.get("left_out", [])}):
        variant = scores.loc[scores["run"] == run, "variant"].iloc[0]
        cells = _our_cells(measure(scores, [run]), {})
        rows.append(_row(VARIANTS.get(variant, variant), f"{run}: weights without a training run on record", cells))
    rows += [_row(method, RECOMPUTED, values) for method, values in remaining.items()]
    machines = ", ".join(sorted(set(trained.loc[trained["run"].isin(timed["run"]), "machine"])))
    general = [AVERAGES, "FT: fine-tuned on the first frame. M: starts from a mask, not a box."]
    general.append("Pairs: training pairs of images; only rows of equal budgets say which method is better.")
    general.append(f"FPS: object-frames per second, the paper's on an {PAPER_GPU}{f', ours on {machines}' if machines else ''}.")
    if frozen:
        general.append(FROZEN)
    if len(scores) and not whole_set(results, benchmark):
        general.append("No difference to the paper is given, since not the whole validation set was scored.")
    title = f"the {reference('paper_tables')[name]['title']}"
    return titled(pd.DataFrame(rows), results, f"Table {name[-1]}", title, benchmark, *general, *notes)


def _budgets(trained: pd.DataFrame, variant: str) -> list[pd.DataFrame]:
    """A variant's runs with the profile's own settings, and those that are compared with SiamMask's; one empty group if none."""
    both = dict.fromkeys(["", comparable_settings(trained, variant, "siammask")])
    groups = [trained[trained["run"].isin(main_runs(trained, variant, settings))] for settings in both]
    return [group for group in groups if len(group)] or groups[:1]


def _row(method: str, source: str, values: dict[str, str]) -> dict[str, str]:
    columns = ("Pairs", "FT", "M", *STATISTICS, "FPS", "J - paper", "F - paper", "Seeds")
    return {"Method": method, "Numbers from": source} | {name: values.get(name, NONE) for name in columns}


def _our_cells(measured: Measured | None, paper: dict[str, Any]) -> dict[str, str]:
    cells = {name: score(measured, name) for name in STATISTICS}
    if measured is None:
        return cells | dict.fromkeys(("J - paper", "F - paper", "Seeds"), NOT_RUN)
    gaps = {f"{name[0]} - paper": number(measured.value(name) - paper[name], signed=True) for name in MEANS if name in paper}
    return cells | gaps | {"Seeds": str(measured.seeds)}


def _comparison(results: Path, name: str, new: str, old: str, costs: bool = False) -> pd.DataFrame:
    trained, scores, paper = read_runs(results), read_scores(results, "davis2016"), paper_rows(name)
    settings, rows, measured = comparable_settings(trained, new, old), [], {}
    for variant in (old, new):
        label = VARIANTS[variant]
        group = trained[trained["run"].isin(main_runs(trained, variant, settings))]
        measured[variant] = measure(scores, group["run"])
        theirs = {"Method": label, "Numbers from": PAPER} | {key: str(paper[label][key]) for key in MEANS}
        mine = {"Method": label, "Numbers from": ours(results)} | {key: score(measured[variant], key) for key in MEANS}
        if costs:
            theirs |= {"Training time": f"{paper[label]['Training hours']} h", "Peak memory": NONE}
            mine |= {"Training time": duration(group), "Peak memory": spread(group, "peak_memory_mb", "MB")}
        mine |= {"Pairs": spread(group, "pairs"), "Seeds": str(len(group)) if len(group) else NOT_RUN}
        rows += [theirs | {"Pairs": NONE, "Seeds": NONE}, mine]
    a, b = measured[new], measured[old]
    gap = dict.fromkeys(rows[0], NONE) | {"Method": f"{VARIANTS[new]} - {VARIANTS[old]}"}
    difference = {key: number(value, signed=True) for key, value in paper_difference(name, new, old).items()}
    rows.append(gap | {"Numbers from": PAPER} | difference)
    found = {key: gain_text(a, b, key) if a and b else NOT_RUN for key in MEANS}
    rows.append(gap | {"Numbers from": ours(results)} | found)
    notes = [AVERAGES, GAINS, f"The runs with {settings}: the largest budget that both were trained with." if settings else ""]
    if frozen_backbone(settings):
        notes.append(FROZEN)
    if costs:
        notes.append("Training times were taken at different hours; the table of costs side by side is the fair comparison.")
    return titled(
        pd.DataFrame(rows),
        results,
        f"Table {name[-1]}",
        reference("paper_tables")[name]["title"],
        "davis2016",
        *filter(None, notes),
    )


def _with_error(values: pd.Series) -> str:
    return f"{number(values.mean())} ± {number(values.sem())}"


def _with_own_settings(trained: pd.DataFrame) -> list[str]:
    """Variants trained with the profile's own settings, E3SN in any case."""
    return [variant for variant in VARIANTS if variant == "e3sn" or main_runs(trained, variant)]
