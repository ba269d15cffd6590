"""The paper's claims and their verdicts, decided by rule from the files of record.

``reference/claims.yaml`` holds the claims and the rules in words; the functions here are those rules. A verdict is one of
"reproduced", "partly", "not reproduced" and "not testable here", with its reason where the numbers beside it do not show it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from e3sn_study.records import (
    BENCHMARKS,
    MEANS,
    VARIANTS,
    Interval,
    Measured,
    comparable_settings,
    compared_runs,
    frozen_backbone,
    is_synthetic,
    main_runs,
    measure,
    number,
    percent,
    read_runs,
    read_scores,
    read_variant_costs,
    reason_not_run,
    reference,
    scope,
    signed,
    speed_share,
    training_shares,
    whole_set,
)

NOT = "not reproduced"


class Finding(NamedTuple):
    """What one claim comes to."""

    paper: str
    ours: str
    verdict: str


def claims(results: Path) -> pd.DataFrame:
    """One row per claim: the paper's number, ours, and the verdict."""
    rows, content = [], reference("claims")
    for place, claim in enumerate(content["claims"], start=1):
        finding = _RULES[claim["rule"]](results, claim)
        rows.append(
            {
                "Claim": f"C{place}",
                "The paper says": claim["claim"],
                "Where": claim["where"],
                "Paper": finding.paper,
                "Ours": finding.ours,
                "Verdict": _not_testable(results, claim, finding) or finding.verdict,
                "Ours is": claim["computed"],
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["title"] = f"Claims{', synthetic' if is_synthetic(results) else ''}: what the paper says and what we found"
    rules = {name: rule.format(**content["thresholds"]) for name, rule in content["rules"].items()}
    table.attrs["notes"] = [f"Rule for {name}: {rule}." for name, rule in rules.items()]
    return table


def _not_testable(results: Path, claim: dict[str, Any], finding: Finding) -> str:
    if finding.ours.startswith("not run"):
        return "not testable here (not run)"
    if is_synthetic(results):
        return "not testable here (synthetic)"
    if claim["rule"] in ("stages", "gain", "not_worse", "absolute") and not whole_set(results, claim["benchmark"]):
        return f"not testable here ({scope(results, claim['benchmark'])})"
    return ""


def _stages(results: Path, claim: dict[str, Any]) -> Finding:
    runs, scores = read_runs(results), read_scores(results, claim["benchmark"])
    names = main_runs(runs, "e3sn")
    model, still = measure(scores, names), measure(scores, method="first mask held still")
    logs = [path for name in names if (path := results / "runs" / f"{name}_log.csv").is_file()]
    if not model or not still or not logs:
        return Finding("one stage", _not_run(results, claim["benchmark"]), "")
    stages = max(pd.read_csv(path)["stage"].nunique() for path in logs)
    gains = [model.minus(still, name) for name in MEANS]
    learned = sum(gain.low > 0 for gain in gains)
    verdict = NOT if stages > 1 or not learned else "reproduced" if learned == 2 else "partly"
    return Finding("one stage", f"{_count(stages, 'stage')}; against a still mask {_both(*gains)}", verdict)


def _gain(results: Path, claim: dict[str, Any]) -> Finding:
    compared = _compare(results, claim)
    if compared is None:
        return _no_comparison(results, claim)
    right = sum(gain.mean > 0 for gain in compared.differences)
    if right == 2 and all(gain.low > 0 for gain in compared.differences):
        verdict = compared.supported(above=0)
    elif right == 2:
        verdict = "partly (an interval includes 0)"
    else:
        verdict = "partly (only J)" if compared.differences[0].mean > 0 else "partly (only F)" if right else NOT
    return Finding(compared.paper, compared.text, verdict)


def _not_worse(results: Path, claim: dict[str, Any]) -> Finding:
    compared = _compare(results, claim)
    if compared is None:
        return _no_comparison(results, claim)
    slightly = _threshold("slightly")
    within = sum(difference.mean >= -slightly for difference in compared.differences)
    verdict = (NOT, "partly", compared.supported(above=-slightly))[within]
    return Finding(compared.paper, compared.text, verdict)


def _budget(results: Path, claim: dict[str, Any]) -> Finding:
    rows = paper_rows(claim["table"])
    new, old = (rows[VARIANTS[variant]]["Training hours"] for variant in claim["of"])
    paper, costs = f"{old:g} h to {new:g} h: {percent(new / old)}", read_variant_costs(results)
    if not set(claim["of"]) <= set(costs["variant"]):
        return Finding(paper, "not run", "")
    shares = training_shares(costs, *claim["of"])
    text = f"{percent(shares[0])} for equally many pairs in all, {percent(shares[1])} for as many in the first stage alone"
    saved = sum(share <= 1 - (1 - new / old) * _threshold("saving") / 100 for share in shares)
    any_saved = "partly" if round(min(shares), 2) < 1 else NOT
    verdict = "reproduced" if saved == 2 else "partly (by one count of pairs)" if saved else any_saved
    return Finding(paper, text, verdict)


def _memory(results: Path, claim: dict[str, Any]) -> Finding:
    path = results / "sampling_cost.csv"
    if not path.is_file():
        return Finding("no number", "not run", "")
    cost = pd.read_csv(path).dropna(subset=["peak_memory_mb"]).sort_values("samples")
    few = cost[cost["samples_per_image"] == claim["samples"]]
    if few.empty or len(cost) < 2:
        return Finding("no number", f"not run with {claim['samples']} samples and with more", "")
    few, most = few.iloc[0], cost.iloc[-1]
    ratio = few["peak_memory_mb"] / most["peak_memory_mb"]
    memory = [number(row["peak_memory_mb"], decimals=0) for row in (most, few)]
    text = f"{memory[0]} MB with {most['samples_per_image']:g} samples to {memory[1]} MB with {claim['samples']}: {percent(ratio)}"
    return Finding("no number", text, "reproduced" if ratio <= _threshold("memory") / 100 else "partly" if ratio < 1 else NOT)


def _speed(results: Path, claim: dict[str, Any]) -> Finding:
    rows = paper_rows(claim["table"])
    new, old = (rows[VARIANTS[variant]]["FPS"] for variant in claim["of"])
    paper, costs = f"{new:g} of {old:g} per second: {percent(new / old)}", read_variant_costs(results)
    if not set(claim["of"]) <= set(costs["variant"]):
        return Finding(paper, "not run", "")
    share = speed_share(costs, *claim["of"])
    near = share >= new / old - _threshold("speed") / 100
    part = 1 - share <= _threshold("speed_loss") * (1 - new / old)
    verdict = "reproduced" if near else "partly" if part else NOT
    return Finding(paper, percent(share), verdict)


def _absolute(results: Path, claim: dict[str, Any]) -> Finding:
    row = paper_rows(claim["table"])["E3SN"]
    paper = f"J {row['J-Mean']}, F {row['F-Mean']}"
    model = measure(read_scores(results, claim["benchmark"]), main_runs(read_runs(results), "e3sn"))
    if model is None:
        return Finding(paper, _not_run(results, claim["benchmark"]), "")
    shares = [(model.value(name), row[name]) for name in MEANS]
    near = all(ours >= theirs - _threshold("below") for ours, theirs in shares)
    part = all(ours >= _threshold("score") / 100 * theirs for ours, theirs in shares)
    ours = ", ".join(f"{name[0]} {model.interval(name).text()}" for name in MEANS)
    return Finding(paper, f"{ours}; {_count(model.seeds, 'seed')}", "reproduced" if near else "partly" if part else NOT)


_RULES: dict[str, Callable[[Path, dict[str, Any]], Finding]] = {
    "stages": _stages,
    "gain": _gain,
    "not_worse": _not_worse,
    "budget": _budget,
    "memory": _memory,
    "speed": _speed,
    "absolute": _absolute,
}


def _threshold(name: str) -> float:
    """Return a threshold of the rules: points, percent or times."""
    return float(reference("claims")["thresholds"][name])


def paper_difference(table: str, a: str, b: str) -> dict[str, float]:
    """What the paper's table says variant `a` gains over `b`, in points of J and F mean."""
    rows = paper_rows(table)
    return {name: round(rows[VARIANTS[a]][name] - rows[VARIANTS[b]][name], 1) for name in MEANS}


def paper_rows(table: str) -> dict[str, dict[str, Any]]:
    """Rows of one of the paper's tables by method."""
    content = reference("paper_tables")[table]
    return {row[0]: dict(zip(content["columns"], row, strict=True)) for row in content["rows"]}


class _Comparison(NamedTuple):
    """Two variants on equal budgets: differences of J and F mean over the sequences, and again seed by seed."""

    paper: str
    text: str
    differences: tuple[Interval, Interval]
    by_seed: pd.DataFrame
    """Columns J-Mean and F-Mean, a row for each seed that both were trained with."""
    alike: bool
    """Whether both differences are about as large as the paper's."""

    def supported(self, above: float) -> str:
        """The verdict if both differences are above a number of points: whether chance of training could have put them there."""
        if not self.alike:
            return "partly (an effect of another size)"
        if len(self.by_seed) < 2:
            return "partly (one seed)"
        return "reproduced" if (self.by_seed >= above).all(axis=None) else "partly (not with every seed)"


def _compare(results: Path, claim: dict[str, Any]) -> _Comparison | None:
    runs, scores = read_runs(results), read_scores(results, claim["benchmark"])
    compared = compared_runs(runs, *claim["of"])
    a, b = (measure(scores, names) for names in compared.values())
    if not a or not b:
        return None
    j, f = (a.minus(b, name) for name in MEANS)
    by_seed = pd.DataFrame({name: a.minus_by_seed(b, name) for name in MEANS})
    pairs = sorted(set(runs.loc[runs["run"].isin([name for names in compared.values() for name in names]), "pairs"]))
    text = f"{_both(j, f)}; {_seeds(a, b, by_seed)}, {' or '.join(f'{each:,}' for each in pairs)} pairs"
    if frozen_backbone(comparable_settings(runs, *claim["of"])):
        text += ", backbone frozen"
    paper = paper_difference(claim["table"], *claim["of"])
    largest = _threshold("alike")
    alike = all(abs(mine.mean - theirs) <= largest for mine, theirs in zip((j, f), paper.values(), strict=True))
    return _Comparison(_points(paper), text, (j, f), by_seed, alike)


def _seeds(a: Measured, b: Measured, by_seed: pd.DataFrame) -> str:
    """How many seeds each side has, and what the differences are between what each bears."""
    count = _count(a.seeds, "seed") if a.seeds == b.seeds else f"{a.seeds} and {b.seeds} seeds"
    if len(by_seed) < 2:
        return count
    each = ", ".join(f"{name[0]} {signed(by_seed[name])}" for name in MEANS)
    return f"{count} ({each})"


def _no_comparison(results: Path, claim: dict[str, Any]) -> Finding:
    paper = _points(paper_difference(claim["table"], *claim["of"]))
    return Finding(paper, _not_run(results, claim["benchmark"]), "")


def _not_run(results: Path, benchmark: str) -> str:
    return f"not run on {BENCHMARKS[benchmark]}" if reason_not_run(results, benchmark) else "not run"


def _points(values: dict[str, float]) -> str:
    return ", ".join(f"{name[0]} {number(value, signed=True)}" for name, value in values.items())


def _both(j: Interval, f: Interval) -> str:
    return f"J {j.text(signed=True)}, F {f.text(signed=True)}"


def _count(amount: int, noun: str) -> str:
    return f"{amount} {noun}{'' if amount == 1 else 's'}"
