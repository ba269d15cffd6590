"""The paper's claims and their verdicts, decided by rule from the files of record.

``reference/claims.yaml`` holds the claims and the rules in words; the functions here are those
rules. A verdict is "reproduced", "partly", "undecided", "not reproduced" or "not testable here",
with its reason where the numbers beside it do not show it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from e3sn_study.records import BENCHMARKS, MEANS, VARIANTS, Records, reference
from e3sn_study.records.averages import Interval, Measured
from e3sn_study.records.schema import STILL, TRAINING, WHOLE_MAPS
from e3sn_study.tables import cells
from e3sn_study.tables.cells import NOT_RUN, interval_text, number, percent, signed, titled
from e3sn_study.tables.costs import speed_share, training_shares

Claim = dict[str, Any]
_THRESHOLDS: dict[str, float] = reference("claims")["thresholds"]
"""Of the rules: points, percent or times."""


class Finding(NamedTuple):
    """The paper's number for one claim, ours, and the verdict."""

    paper: str
    ours: str = NOT_RUN
    verdict: str = ""


def claims(records: Records) -> pd.DataFrame:
    """Return one row per claim: the paper's number, ours, and the verdict."""
    rows, content = [], reference("claims")
    for place, claim in enumerate(content["claims"], start=1):
        paper, ours, verdict = _RULES[claim["rule"]](records, claim)
        verdict = _not_testable(records, claim, ours) or verdict
        benchmark = claim.get("benchmark")
        if ours == NOT_RUN and benchmark and records.reason_not_run(benchmark):
            ours = f"{NOT_RUN} on {BENCHMARKS[benchmark]}"
        row = {"Claim": f"C{place}", "The paper says": claim["claim"], "Where": claim["where"]}
        row |= {"Paper": paper, "Ours": ours, "Verdict": verdict, "Ours is": claim["computed"]}
        rows.append(row)
    rules = content["rules"].items()
    notes = [f"Rule for {key}: {rule.format(**_THRESHOLDS)}." for key, rule in rules]
    return titled(rows, records, "claims", *notes)


def _not_testable(records: Records, claim: Claim, ours: str) -> str:
    """Return the verdict on a claim that cannot be tested, or ""."""
    if ours.startswith(NOT_RUN):
        return "not testable here (not run)"
    if records.synthetic:
        return "not testable here (synthetic)"
    if "benchmark" in claim and not records.whole_set(claim["benchmark"]):
        return f"not testable here ({records.scope(claim['benchmark'])})"
    return ""


def _verdict(reproduced: bool, partly: bool) -> str:
    return "reproduced" if reproduced else "partly" if partly else "not reproduced"


def _stages(records: Records, claim: Claim) -> Finding:
    benchmark, names = claim["benchmark"], records.main_runs("e3sn", legs=False)
    model, still = records.measure(benchmark, names), records.measure(benchmark, method=STILL)
    stages = records.stages(names)
    if not model or not still or not stages:
        return Finding("one stage")
    gains = [model.minus(still, name) for name in MEANS]
    learned = [gain.low > 0 for gain in gains]
    pairs = records.rows(names)["pairs"].max()
    text = f"{_count(stages, 'stage')}, {pairs:,} pairs; against a still mask {_both(gains)}"
    verdict = _verdict(stages == 1 and all(learned), stages == 1 and any(learned))
    return Finding("one stage", text, verdict)


def _accuracy(records: Records, claim: Claim) -> Finding:
    """Compare two variants on equal budgets: one has to gain, or to be only slightly worse."""
    paper = cells.paper_difference(claim["table"], *claim["of"])
    points = ", ".join(f"{name[0]} {number(gain, signed=True)}" for name, gain in paper.items())
    compared = records.compared_runs(*claim["of"])
    a, b = (records.measure(claim["benchmark"], names) for names in compared.values())
    if not a or not b:
        return Finding(points)

    def judged(other: Measured) -> tuple[list[Interval], pd.DataFrame, str]:
        """Return the gains of `a` over another network, those by seed, and the verdict on them."""
        gains = [a.minus(other, name) for name in MEANS]
        by_seed = pd.DataFrame({name: a.minus_by_seed(other, name) for name in MEANS})
        gaps = [abs(gain.mean - paper[name]) for gain, name in zip(gains, MEANS, strict=True)]
        return gains, by_seed, _verdict_on_gains(claim["rule"], gains, by_seed, max(gaps))

    gains, by_seed, verdict = judged(b)
    seeds = _count(a.seeds, "seed") if a.seeds == b.seeds else f"{a.seeds} and {b.seeds} seeds"
    if len(by_seed) > 1:
        each = ", ".join(f"{name[0]} {signed(by_seed[name])}" for name in MEANS)
        seeds += f" ({each})"
    runs = records.rows([name for names in compared.values() for name in names])
    pairs = " or ".join(f"{each:,}" for each in sorted({*runs["pairs"]}))
    frozen = ", backbone frozen" if runs["frozen"].any() else ""
    text = f"{_both(gains)}; {seeds}, {pairs} pairs{frozen}"
    on_top = records.with_first_stage(compared[claim["of"][1]], runs["pairs"].max())
    if other := records.measure(claim["benchmark"], on_top):
        with_it, _, its_verdict = judged(other)
        text += f"; with SiamMask's second stage on top ({_count(other.seeds, 'seed')}) "
        text += f"{_both(with_it)}: {_not_testable(records, claim, text) or its_verdict}"
    return Finding(points, text, verdict)


def _verdict_on_gains(rule: str, gains: list[Interval], by_seed: pd.DataFrame, gap: float) -> str:
    """Return the verdict on gains in J and F, by seed too, with the largest gap to the paper's."""
    is_gain = rule == "gain"
    least = 0.0 if is_gain else -_THRESHOLDS["slightly"]
    passed, clear = (
        [value > 0 if is_gain else value >= least for value in values]
        for values in ([gain.mean for gain in gains], [gain.low for gain in gains])
    )
    if not any(passed):
        return "not reproduced"
    if is_gain and not any(clear):
        return "undecided (no interval is above 0)"
    if not all(passed):
        return f"partly (only {'J' if passed[0] else 'F'})"
    if not all(clear):
        return f"partly (an interval includes {least:g})"
    if gap > _THRESHOLDS["alike"]:
        return f"partly (more than {_THRESHOLDS['alike']:g} points from the paper's)"
    if len(by_seed) < 2:
        return "partly (one seed)"
    return "reproduced" if (by_seed >= least).all(axis=None) else "partly (not with every seed)"


def _budget(records: Records, claim: Claim) -> Finding:
    new, old = _papers(claim, "Training hours")
    paper = f"{old:g} h to {new:g} h: {percent(new / old)}"
    a, b = claim["of"]
    shares, own = (training_shares(records, a, b, part) for part in (WHOLE_MAPS, TRAINING))
    if shares is None or own is None:
        return Finding(paper)
    equal, first_stage, *here = map(percent, [*shares, *own])
    text = f"{equal} of SiamMask's time with the same number of pairs in all; "
    text += f"{first_stage} if only its first stage has as many; "
    text += f"as trained here {' and '.join(here)}"
    saved = [share <= 1 - (1 - new / old) * _THRESHOLDS["saving"] / 100 for share in shares]
    verdict = _verdict(all(saved), 1 - min(shares) >= _THRESHOLDS["saving_least"] / 100)
    if verdict == "partly":
        verdict = f"partly (it saves {percent(1 - min(shares))} by one count of pairs)"
    return Finding(paper, text, verdict)


def _memory(records: Records, claim: Claim) -> Finding:
    cost = records.table("sampling_cost").dropna(subset=["peak_memory_mb"])
    memory, samples = cost.groupby("samples_per_image")["peak_memory_mb"].first(), claim["samples"]
    if memory.empty:
        return Finding("no number")
    if samples not in memory or memory.index[-1] <= samples:
        return Finding("no number", f"not run with {samples} samples and with more")
    few, most = memory[samples], memory.iloc[-1]
    text = f"{number(most, decimals=0)} MiB with {memory.index[-1]:g} samples to "
    text += f"{number(few, decimals=0)} MiB with {samples}: {percent(few / most)}"
    verdict = _verdict(few / most <= _THRESHOLDS["memory"] / 100, few < most)
    return Finding("no number", text, verdict)


def _speed(records: Records, claim: Claim) -> Finding:
    new, old = _papers(claim, "FPS")
    paper = f"{new:g} of {old:g} per second: {percent(new / old)}"
    share = speed_share(records, *claim["of"])
    if share is None:
        return Finding(paper)
    near = share >= new / old - _THRESHOLDS["speed"] / 100
    part = 1 - share <= _THRESHOLDS["speed_loss"] * (1 - new / old)
    return Finding(paper, percent(share), _verdict(near, part))


def _absolute(records: Records, claim: Claim) -> Finding:
    row, benchmark = cells.paper_rows(claim["table"])["E3SN"], claim["benchmark"]
    paper = f"J {row['J-Mean']}, F {row['F-Mean']}"
    model = records.measure(benchmark, records.main_runs("e3sn"))
    if model is None:
        return Finding(paper)
    pairs = [(model.value(name), row[name]) for name in MEANS]
    near = all(ours >= theirs - _THRESHOLDS["below"] for ours, theirs in pairs)
    part = all(ours >= _THRESHOLDS["score"] / 100 * theirs for ours, theirs in pairs)
    ours = ", ".join(f"{name[0]} {interval_text(model.interval(name))}" for name in MEANS)
    return Finding(paper, f"{ours}; {_count(model.seeds, 'seed')}", _verdict(near, part))


_RULES: dict[str, Callable[[Records, Claim], Finding]] = {
    "stages": _stages,
    "gain": _accuracy,
    "not_worse": _accuracy,
    "budget": _budget,
    "memory": _memory,
    "speed": _speed,
    "absolute": _absolute,
}


def _papers(claim: Claim, column: str) -> tuple[float, float]:
    """Return what the paper's table gives in a column for both variants of a claim."""
    rows = cells.paper_rows(claim["table"])
    new, old = (float(rows[VARIANTS[variant]][column]) for variant in claim["of"])
    return new, old


def _both(differences: list[Interval]) -> str:
    texts = (interval_text(difference, signed=True) for difference in differences)
    return "J {}, F {}".format(*texts)


def _count(amount: int, noun: str) -> str:
    return f"{amount} {noun}{'' if amount == 1 else 's'}"
