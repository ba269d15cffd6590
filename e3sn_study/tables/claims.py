"""The paper's claims and their verdicts, decided by rule from the files of record.

``reference/claims.yaml`` holds the claims and the rules in words; the functions here are those
rules. A verdict is "reproduced", "partly", "not reproduced" or "not testable here", with its
reason where the numbers beside it do not show it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from e3sn_study.records import BENCHMARKS, MEANS, VARIANTS, Records, reference
from e3sn_study.records.averages import Interval, Measured
from e3sn_study.records.schema import SAMPLING_COST, STILL
from e3sn_study.tables.cells import interval_text, number, percent, signed
from e3sn_study.tables.costs import speed_share, training_shares

NOT = "not reproduced"
Claim = dict[str, Any]


class Finding(NamedTuple):
    """What one claim comes to."""

    paper: str
    ours: str
    verdict: str = ""


def claims(records: Records) -> pd.DataFrame:
    """One row per claim: the paper's number, ours, and the verdict."""
    rows, content = [], reference("claims")
    for place, claim in enumerate(content["claims"], start=1):
        finding = _RULES[claim["rule"]](records, claim)
        rows.append(
            {
                "Claim": f"C{place}",
                "The paper says": claim["claim"],
                "Where": claim["where"],
                "Paper": finding.paper,
                "Ours": finding.ours,
                "Verdict": _not_testable(records, claim, finding) or finding.verdict,
                "Ours is": claim["computed"],
            }
        )
    table, name = pd.DataFrame(rows), f"Claims{', synthetic' * records.synthetic}"
    table.attrs["title"] = f"{name}: what the paper says and what we found"
    rules, thresholds = content["rules"].items(), content["thresholds"]
    table.attrs["notes"] = [f"Rule for {key}: {rule.format(**thresholds)}." for key, rule in rules]
    return table


def _not_testable(records: Records, claim: Claim, finding: Finding) -> str:
    """Return the verdict on a claim that cannot be tested, or ""."""
    if finding.ours.startswith("not run"):
        return "not testable here (not run)"
    if records.synthetic:
        return "not testable here (synthetic)"
    if "benchmark" in claim and not records.whole_set(claim["benchmark"]):
        return f"not testable here ({records.scope(claim['benchmark'])})"
    return ""


def _stages(records: Records, claim: Claim) -> Finding:
    benchmark, names = claim["benchmark"], records.main_runs("e3sn")
    model, still = records.measure(benchmark, names), records.measure(benchmark, method=STILL)
    stages = records.stages(names)
    if not model or not still or not stages:
        return Finding("one stage", _not_run(records, benchmark))
    gains = [model.minus(still, name) for name in MEANS]
    learned = sum(gain.low > 0 for gain in gains)
    verdict = NOT if stages > 1 or not learned else "reproduced" if learned == 2 else "partly"
    text = f"{_count(stages, 'stage')}; against a still mask {_both(gains)}"
    return Finding("one stage", text, verdict)


def _gain(records: Records, claim: Claim) -> Finding:
    compared = _compare(records, claim)
    if compared is None:
        return _no_comparison(records, claim)
    j, f = compared.differences
    if j.mean > 0 and f.mean > 0:
        is_sure = j.low > 0 and f.low > 0
        verdict = compared.supported(above=0) if is_sure else "partly (an interval includes 0)"
    else:
        verdict = "partly (only J)" if j.mean > 0 else "partly (only F)" if f.mean > 0 else NOT
    return Finding(compared.paper, compared.text, verdict)


def _not_worse(records: Records, claim: Claim) -> Finding:
    compared = _compare(records, claim)
    if compared is None:
        return _no_comparison(records, claim)
    slightly = _threshold("slightly")
    within = sum(difference.mean >= -slightly for difference in compared.differences)
    verdict = (NOT, "partly", compared.supported(above=-slightly))[within]
    return Finding(compared.paper, compared.text, verdict)


def _budget(records: Records, claim: Claim) -> Finding:
    new, old = _papers(claim, "Training hours")
    paper = f"{old:g} h to {new:g} h: {percent(new / old)}"
    shares = training_shares(records, *claim["of"])
    if shares is None:
        return Finding(paper, "not run")
    text = (
        f"{percent(shares[0])} for equally many pairs in all, {percent(shares[1])} for as many in "
        "the first stage alone"
    )
    saved = sum(share <= 1 - (1 - new / old) * _threshold("saving") / 100 for share in shares)
    any_saved = "partly" if round(min(shares), 2) < 1 else NOT
    verdicts = (any_saved, "partly (by one count of pairs)", "reproduced")
    return Finding(paper, text, verdicts[saved])


def _memory(records: Records, claim: Claim) -> Finding:
    cost = records.table("sampling_cost", SAMPLING_COST).dropna(subset=["peak_memory_mb"])
    if cost.empty:
        return Finding("no number", "not run")
    memory, samples = cost.groupby("samples_per_image")["peak_memory_mb"].first(), claim["samples"]
    if samples not in memory or len(memory) < 2:
        return Finding("no number", f"not run with {samples} samples and with more")
    few, most = memory[samples], memory.iloc[-1]
    text = (
        f"{number(most, decimals=0)} MB with {memory.index[-1]:g} samples to "
        f"{number(few, decimals=0)} MB with {samples}: {percent(few / most)}"
    )
    near = few / most <= _threshold("memory") / 100
    verdict = "reproduced" if near else "partly" if few < most else NOT
    return Finding("no number", text, verdict)


def _speed(records: Records, claim: Claim) -> Finding:
    new, old = _papers(claim, "FPS")
    paper = f"{new:g} of {old:g} per second: {percent(new / old)}"
    share = speed_share(records, *claim["of"])
    if share is None:
        return Finding(paper, "not run")
    near = share >= new / old - _threshold("speed") / 100
    part = 1 - share <= _threshold("speed_loss") * (1 - new / old)
    verdict = "reproduced" if near else "partly" if part else NOT
    return Finding(paper, percent(share), verdict)


def _absolute(records: Records, claim: Claim) -> Finding:
    row, benchmark = paper_rows(claim["table"])["E3SN"], claim["benchmark"]
    paper = f"J {row['J-Mean']}, F {row['F-Mean']}"
    model = records.measure(benchmark, records.main_runs("e3sn"))
    if model is None:
        return Finding(paper, _not_run(records, benchmark))
    pairs = [(model.value(name), row[name]) for name in MEANS]
    near = all(ours >= theirs - _threshold("below") for ours, theirs in pairs)
    part = all(ours >= _threshold("score") / 100 * theirs for ours, theirs in pairs)
    ours = ", ".join(f"{name[0]} {interval_text(model.interval(name))}" for name in MEANS)
    verdict = "reproduced" if near else "partly" if part else NOT
    return Finding(paper, f"{ours}; {_count(model.seeds, 'seed')}", verdict)


_RULES: dict[str, Callable[[Records, Claim], Finding]] = {
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
    """Return what the paper's table says variant `a` gains over `b`, in points of J and F mean."""
    rows = paper_rows(table)
    return {name: round(rows[VARIANTS[a]][name] - rows[VARIANTS[b]][name], 1) for name in MEANS}


def paper_rows(table: str) -> dict[str, dict[str, Any]]:
    """Return the rows of one of the paper's tables by method."""
    content = reference("paper_tables")[table]
    return {row[0]: dict(zip(content["columns"], row, strict=True)) for row in content["rows"]}


def _papers(claim: Claim, column: str) -> tuple[float, float]:
    """Return what the paper's table gives in a column for both variants of a claim."""
    rows = paper_rows(claim["table"])
    new, old = (float(rows[VARIANTS[variant]][column]) for variant in claim["of"])
    return new, old


class _Comparison(NamedTuple):
    """Two variants on equal budgets."""

    paper: str
    text: str
    differences: list[Interval]
    """Of J and F mean, over the sequences."""
    by_seed: pd.DataFrame
    """Columns J-Mean and F-Mean, a row for each seed that both were trained with."""
    alike: bool
    """Whether both differences are about as large as the paper's."""

    def supported(self, above: float) -> str:
        """Return the verdict if both differences are above a number of points on average."""
        if not self.alike:
            return "partly (an effect of another size)"
        if len(self.by_seed) < 2:
            return "partly (one seed)"
        is_of_all = (self.by_seed >= above).all(axis=None)
        return "reproduced" if is_of_all else "partly (not with every seed)"


def _compare(records: Records, claim: Claim) -> _Comparison | None:
    compared = records.compared_runs(*claim["of"])
    a, b = (records.measure(claim["benchmark"], names) for names in compared.values())
    if not a or not b:
        return None
    differences = [a.minus(b, name) for name in MEANS]
    by_seed = pd.DataFrame({name: a.minus_by_seed(b, name) for name in MEANS})
    runs = records.rows([name for names in compared.values() for name in names])
    pairs = " or ".join(f"{each:,}" for each in sorted({*runs["pairs"]}))
    text = f"{_both(differences)}; {_seeds(a, b, by_seed)}, {pairs} pairs"
    if runs["frozen"].any():
        text += ", backbone frozen"
    paper, largest = paper_difference(claim["table"], *claim["of"]), _threshold("alike")
    gaps = [mine.mean - paper[name] for mine, name in zip(differences, MEANS, strict=True)]
    alike = all(abs(gap) <= largest for gap in gaps)
    return _Comparison(_points(paper), text, differences, by_seed, alike)


def _seeds(a: Measured, b: Measured, by_seed: pd.DataFrame) -> str:
    """Return how many seeds each side has, and the differences of the seeds that both have."""
    count = _count(a.seeds, "seed") if a.seeds == b.seeds else f"{a.seeds} and {b.seeds} seeds"
    if len(by_seed) < 2:
        return count
    each = ", ".join(f"{name[0]} {signed(by_seed[name])}" for name in MEANS)
    return f"{count} ({each})"


def _no_comparison(records: Records, claim: Claim) -> Finding:
    paper = _points(paper_difference(claim["table"], *claim["of"]))
    return Finding(paper, _not_run(records, claim["benchmark"]))


def _not_run(records: Records, benchmark: str) -> str:
    return f"not run on {BENCHMARKS[benchmark]}" if records.reason_not_run(benchmark) else "not run"


def _points(values: dict[str, float]) -> str:
    return ", ".join(f"{name[0]} {number(value, signed=True)}" for name, value in values.items())


def _both(differences: list[Interval]) -> str:
    texts = (interval_text(difference, signed=True) for difference in differences)
    return "J {}, F {}".format(*texts)


def _count(amount: int, noun: str) -> str:
    return f"{amount} {noun}{'' if amount == 1 else 's'}"
