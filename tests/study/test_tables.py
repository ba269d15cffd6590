"""Tables: closed forms, the paper's own arithmetic, scipy's bootstrap, and nothing left blank."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_results import VAL, add_costs, add_exports, add_run, add_scores, add_sessions, add_speed

from e3sn_lib.errors import InputError
from e3sn_study.records import Records, entries, reference
from e3sn_study.records.averages import Measured, bootstrap_interval
from e3sn_study.tables.cells import paper_difference, spread, to_markdown
from e3sn_study.tables.claims import claims
from e3sn_study.tables.costs import sampling_cost, variant_costs
from e3sn_study.tables.origins import ablations, checks, choices, runs
from e3sn_study.tables.tables import (
    TABLES,
    attributes,
    bounds,
    per_sequence,
    short_table1,
    size_slope,
    table1,
    table2,
    table3,
    table4,
    threshold_sweep,
)

REFERENCE = Path(__file__).parents[2] / "e3sn_study" / "reference"
RAMP = {name: index / 20 for index, name in enumerate(VAL)}


def row(table: pd.DataFrame, method: str, source: str = "ours") -> dict[str, str]:
    """The one row of a method whose numbers are from `source`."""
    found = table[(table["Method"] == method) & (table["Numbers from"] == source)]
    assert len(found) == 1
    return found.iloc[0].to_dict()


def claim(results: Path, number: str) -> pd.Series:
    """The row of a claim."""
    return claims(Records(results)).set_index("Claim").loc[number]


def test_bootstrap_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).normal(60, 15, 20)
    ours = bootstrap_interval(values, np.ones(20))
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-2)


def test_bootstrap_covers_the_true_mean() -> None:
    random = np.random.default_rng(0)
    intervals = [bootstrap_interval(random.normal(0, 1, 30), np.ones(30)) for _ in range(300)]
    assert 0.89 < np.mean([low < 0 < high for _, low, high in intervals]) < 0.98


def test_bootstrap_knows_seeds() -> None:
    # each seed scores all sequences alike: a resample's mean is one of the two, or their middle
    two = np.repeat([[40.0], [60.0]], 9, axis=1)
    assert bootstrap_interval(two, np.ones(9)) == (50.0, 40.0, 60.0)
    assert bootstrap_interval(two, np.ones(9), two[:1]) == (10.0, 0.0, 20.0)
    # of sequences and seeds that add up, the variances of both means add up
    random = np.random.default_rng(1)
    sequences, seeds = random.normal(0, 3, (1, 40)), random.normal(0, 2, (25, 1))
    _, low, high = bootstrap_interval(sequences + seeds, np.ones(40))
    expected = 2 * 1.96 * np.sqrt(sequences.var() / 40 + seeds.var() / 25)
    assert high - low == pytest.approx(expected, rel=0.03)
    # pairing takes away what the sequences have in common
    _, low, high = bootstrap_interval(sequences + seeds, np.ones(40), sequences - seeds)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(2 * seeds.var() / 25), rel=0.03)


def test_bootstrap_of_special_values() -> None:
    assert bootstrap_interval([5.0], [3]) == (5.0, 5.0, 5.0)
    assert bootstrap_interval([2.0] * 7, [1] * 7) == (2.0, 2.0, 2.0)
    assert bootstrap_interval([1.0, 4.0], [2, 1]).mean == pytest.approx(2.0)
    for nothing in ([], [1.0, np.nan]):
        with pytest.raises(InputError, match="needs at least one value, and finite ones"):
            bootstrap_interval(nothing, [1] * len(nothing))


def test_a_difference_is_paired_by_sequence() -> None:
    a = pd.DataFrame({"sequence": RAMP.keys(), "J-Mean": RAMP.values(), "object": 1, "seed": 0})
    shifted = a.assign(**{"J-Mean": a["J-Mean"] + 0.25}).sample(frac=1, random_state=0)
    assert Measured(shifted).minus(Measured(a), "J-Mean") == pytest.approx((0.25, 0.25, 0.25))
    with pytest.raises(InputError, match="different sequences"):
        Measured(a).minus(Measured(a.tail(5)), "J-Mean")


@pytest.mark.parametrize(
    ("table", "pair", "gain"),
    [
        ("table1", ("e3sn", "siammask"), (1.3, 1.5)),
        ("table2", ("e3sn", "siammask"), (1.8, 1.3)),
        ("table4", ("e3sn", "e3sn-s"), (2.2, 3.0)),
    ],
)
def test_the_papers_tables_give_the_gains_its_text_states(
    table: str, pair: tuple[str, str], gain: tuple[float, float]
) -> None:
    assert tuple(paper_difference(table, *pair).values()) == gain


def test_recomputed_rows_are_the_published_ones_and_agree_with_the_paper(
    shared_path: Callable[[str], Path],
) -> None:
    rows = pd.read_csv(REFERENCE / "davis16_recomputed.csv").set_index("code")
    paper = {values[0]: values[3:7] for values in reference("paper_tables")["table1"]["rows"]}
    for code, name in (("msk", "MaskTrack"), ("vpn", "VPN")):
        assert rows.loc[
            code, ["J-Mean", "J-Recall", "F-Mean", "F-Recall"]
        ].tolist() == pytest.approx(paper[name], abs=0.0501)
    published = json.loads(shared_path("golden/davis16_val_published.json").read_text())
    assert set(rows.index) == set(published)
    for code, values in published.items():
        assert rows.loc[code].drop("name").astype(float).to_numpy() == pytest.approx(
            100 * np.array(values["J"] + values["F"])
        )


def test_table1_holds_the_paper_the_recomputed_and_our_rows(tmp_path: Path) -> None:
    for seed, score in enumerate((0.50, 0.54)):
        run = add_run(tmp_path, seed=seed)
        add_scores(tmp_path, run, score, score - 0.1)
        add_speed(tmp_path, run, 20.0 + 10 * seed)
    table = table1(Records(tmp_path))
    assert table.attrs["title"] == "Table 1: the DAVIS-2016 validation set (ours: all 20 sequences)"
    ours = row(table, "E3SN")
    assert ours["J-Mean"] == "52.0 ± 2.8 (50.0 to 54.0)"
    assert (ours["J-Recall"], ours["J-Decay"]) == ("52.0 ± 2.8", "5.2 ± 0.3")
    gaps = {"J - paper": "-21.0", "F - paper": "-27.3"}
    assert ours.items() >= (gaps | {"FPS": "25.0", "Seeds": "2"}).items()
    siammask = pd.Series(row(table, "SiamMask")).drop(["Method", "Numbers from", "FT", "M"])
    assert set(siammask) == {"not run"}
    assert row(table, "E3SN", "the paper")["FPS"] == "46"
    assert row(table, "VPN", "the paper")["F-Recall"] == "69.0"
    assert (
        row(table, "MaskTrack", "recomputed from the DAVIS authors' files")["J-Recall"] == "93.05"
    )
    assert (table["Numbers from"] == "recomputed from the DAVIS authors' files").sum() == 21
    assert any(
        "ours on a machine not on record (trained on a processor)" in note
        for note in table.attrs["notes"]
    )


def test_intervals_are_those_of_the_bootstrap_over_sequences(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path), RAMP)
    values = [100 * value for _, value in sorted(RAMP.items())]
    _, low, high = bootstrap_interval(values, np.ones(len(values)))
    assert row(table1(Records(tmp_path)), "E3SN")["J-Mean"] == f"47.5 ({low:.1f} to {high:.1f})"


def test_a_part_of_the_set_is_said_and_not_compared_with_the_paper(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path), 0.6, sequences=VAL[:4])
    table = table1(Records(tmp_path))
    assert table.attrs["title"].endswith("(ours: 4 of 20 sequences)")
    assert row(table, "E3SN")["J - paper"] == "–"
    assert (
        "No difference to the paper is given, since not the whole validation set was scored."
        in table.attrs["notes"]
    )
    add_scores(tmp_path, "", 0.1, 0.1, method="first mask held still", sequences=VAL[:4])
    for number in ("C1", "C9"):
        verdict = claim(tmp_path, number)["Verdict"]
        assert verdict == "not testable here (4 of 20 sequences)"


def test_objects_are_averaged_not_sequences(tmp_path: Path) -> None:
    names = reference("val_sequences")["davis2017"]
    j = dict.fromkeys(names, 0.2) | {"pigs": 0.8}
    add_scores(
        tmp_path, add_run(tmp_path), j, benchmark="davis2017", sequences=names, objects={"pigs": 3}
    )
    expected = (29 * 20 + 3 * 80) / 32
    ours = row(table2(Records(tmp_path)), "E3SN")
    assert ours["J-Mean"].startswith(f"{expected:.1f} (20.0 to ")
    assert ours["J - paper"] == f"{expected - 56.1:+.1f}"


def test_what_was_not_run_says_so_and_why(tmp_path: Path) -> None:
    (tmp_path / "davis2017").mkdir(parents=True)
    reason = "benchmark davis2017 is absent: no /a/b/DAVIS-2017/val.txt; get it from https://davischallenge.org/davis2017"
    (tmp_path / "davis2017" / "not_run.txt").write_text(f"{reason}\n")
    table = table2(Records(tmp_path))
    assert row(table, "E3SN", "ours")["J-Mean"] == "not run"
    assert table.attrs["notes"][-1] == f"Not run: {reason.replace('/a/b/DAVIS-2017/', '.../')}."
    assert set(claims(Records(tmp_path))["Verdict"]) == {"not testable here (not run)"}


@pytest.mark.parametrize("state", ["nothing", "one run", "everything"])
def test_no_cell_is_blank_or_nan(tmp_path: Path, state: str) -> None:
    states = {"nothing": [], "one run": ["e3sn"], "everything": ["siammask", "e3sn-s", "e3sn"]}
    for variant in states[state]:
        run = add_run(tmp_path, variant)
        add_scores(tmp_path, run, RAMP)
        add_scores(tmp_path, run, 0.3, method="mask@0.30")
        add_run(tmp_path, variant, overrides=["sampler.samples_per_image=1"])
    for name, make in TABLES.items():
        table = make(Records(tmp_path))
        assert len(table), name
        assert not table.map(
            lambda cell: not isinstance(cell, str) or not cell.strip() or "nan" in cell.lower()
        ).any(axis=None), name
        assert table.attrs["title"], name


def test_every_title_of_synthetic_results_says_synthetic(tmp_path: Path) -> None:
    run = add_run(tmp_path, data="synthetic-train")
    add_scores(tmp_path, run, 0.475, sequences=["fish-1", "car-2"])
    for name, make in TABLES.items():
        assert ("synthetic" in make(Records(tmp_path)).attrs["title"]) == (name != "checks")
    table = table1(Records(tmp_path))
    assert row(table, "E3SN", "ours (synthetic)")["J-Mean"].startswith("47.5")
    assert table.attrs["title"].endswith("(ours: 2 synthetic sequences instead of the 20)")
    assert claim(tmp_path, "C9")["Verdict"] == "not testable here (synthetic)"


def test_table3_compares_time_and_memory_at_equal_budget(tmp_path: Path) -> None:
    for seed in range(2):
        higher = {name: value + 0.01 for name, value in RAMP.items()}
        add_scores(tmp_path, add_run(tmp_path, "siammask", seed, memory=3000), higher)
        add_scores(tmp_path, add_run(tmp_path, "e3sn-s", seed, memory=1234), RAMP, 0.5)
    assert row(table3(Records(tmp_path)), "SiamMask")["Training time"] == "not run"
    add_costs(tmp_path, {"siammask": (0.3, 0.1), "e3sn-s": (0.02,)}, {})
    table = table3(Records(tmp_path))
    assert row(table, "SiamMask")["Training time"] == "0.83 h"  # 12,000 pairs of 0.25 s
    ours = row(table, "E3SN only S")
    costs = {"Training time": "240 s", "Peak memory": "1,234 MiB"}
    assert ours.items() >= (costs | {"Pairs": "12,000", "Seeds": "2"}).items()
    difference = row(table, "E3SN only S - SiamMask")
    assert (difference["J-Mean"], difference["F-Mean"]) == (
        "-1.0 (-1.0 to -1.0), by seed -1.0 -1.0",
        "0.0 (0.0 to 0.0), by seed 0.0 0.0",
    )
    assert row(table, "E3SN only S - SiamMask", "the paper")["J-Mean"] == "-0.9"
    assert row(table, "E3SN only S", "the paper")["Training time"] == "20 h"


def test_table3_has_a_row_for_a_second_stage_on_top(tmp_path: Path) -> None:
    """As many pairs in the first stage alone; Table 1 and the claims keep equal budgets."""
    add_costs(tmp_path, {"siammask": (0.3, 0.1), "e3sn-s": (0.02,)}, {})
    stages = ("base", "base", "base", "sharp")
    for variant, score in (("e3sn", 0.8), ("e3sn-s", 0.7)):
        add_scores(tmp_path, add_run(tmp_path, variant), score)
    add_scores(tmp_path, add_run(tmp_path, "siammask", stages=stages), 0.5)
    more = ["train.pairs=16000"]
    add_scores(
        tmp_path, add_run(tmp_path, "siammask", pairs=16_000, overrides=more, stages=stages), 0.6
    )
    table = table3(Records(tmp_path))
    on_top = row(table, "SiamMask, second stage on top")
    assert (on_top["J-Mean"][:4], on_top["Pairs"], on_top["Seeds"]) == ("60.0", "16,000", "1")
    assert on_top["Training time"] == "1.11 h"  # 16,000 pairs of 0.25 s
    assert row(table, "E3SN only S - SiamMask")["J-Mean"].startswith("+20.0 ")
    difference = row(table, "E3SN only S - SiamMask, second stage on top")
    assert difference["J-Mean"].startswith("+10.0 ")
    assert row(table1(Records(tmp_path)), "SiamMask")["Pairs"] == "12,000"
    found = claim(tmp_path, "C5")["Ours"]
    assert re.match(
        r"J \+20\.0 .*; with SiamMask's second stage on top \(1 seed\) J \+10\.0 .*: partly", found
    )
    assert "on top" not in claim(tmp_path, "C4")["Ours"]


def test_changed_runs_alone_are_no_row_of_table1(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path, overrides=["model.levels=[4]"]), 0.7)
    assert row(table1(Records(tmp_path)), "E3SN")["J-Mean"] == "not run"


def test_a_common_smaller_budget_is_used_if_not_all_were_trained_with_the_profiles(
    tmp_path: Path,
) -> None:
    add_scores(tmp_path, add_run(tmp_path), 0.7)
    for variant, score in (("e3sn", 0.6), ("e3sn-s", 0.55)):
        add_scores(
            tmp_path, add_run(tmp_path, variant, pairs=4000, overrides=["train.pairs=4000"]), score
        )
        add_scores(
            tmp_path, add_run(tmp_path, variant, pairs=100, overrides=["train.pairs=100"]), 0.1
        )
    table = table4(Records(tmp_path))
    assert row(table, "E3SN")["J-Mean"].startswith("60.0")
    assert row(table, "E3SN - E3SN only S")["J-Mean"] == "+5.0 (+5.0 to +5.0)"
    assert (
        "These are the runs with train.pairs=4000. "
        "Runs with two seeds of each network are shown rather than longer runs with one seed."
        in table.attrs["notes"]
    )
    assert row(table1(Records(tmp_path)), "E3SN")["J-Mean"].startswith("70.0")


def test_table1_shows_each_budget_with_its_pairs(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path), 0.7)
    short = ["train.unfreeze_at=1", "train.pairs=4000"]
    for variant, score in (("e3sn", 0.6), ("siammask", 0.55)):
        add_scores(tmp_path, add_run(tmp_path, variant, pairs=4000, overrides=short), score)
        add_scores(
            tmp_path,
            add_run(tmp_path, variant, pairs=4000, overrides=[*short, "loss.loc_beta=1"]),
            0.9,
        )
    table = table1(Records(tmp_path))
    mine = table[table["Numbers from"].str.startswith("ours")]
    assert mine[["Method", "Pairs"]].to_numpy().tolist() == [
        ["SiamMask", "4,000"],
        ["E3SN", "12,000"],
        ["E3SN", "4,000"],
    ]
    assert [cell[:4] for cell in mine["J-Mean"]] == ["55.0", "70.0", "60.0"]
    assert claim(tmp_path, "C2")["Verdict"].startswith("partly")


def test_runs_with_changed_settings_stay_out_of_the_main_tables(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path), 0.6, 0.5)
    add_scores(tmp_path, add_run(tmp_path, overrides=["sampler.samples_per_image=1"]), RAMP, 0.47)
    assert row(table1(Records(tmp_path)), "E3SN")["Seeds"] == "1"
    changed = ablations(Records(tmp_path)).iloc[0]
    assert (changed["Variant"], changed["Changed"]) == ("E3SN", "sampler.samples_per_image=1")
    assert changed["Compared with"] == "the profile's settings"
    assert changed["J gain"].startswith("-12.5 (")
    assert changed["F gain"] == "-3.0 (-3.0 to -3.0)"


def test_an_ablation_is_compared_at_its_own_budget(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path), 0.9)
    short = ["train.pairs=400"]
    add_scores(tmp_path, add_run(tmp_path, pairs=400, overrides=short), 0.5)
    add_scores(tmp_path, add_run(tmp_path, pairs=400, overrides=[*short, "model.levels=[4]"]), 0.45)
    frozen = [*short, "train.unfreeze_at=1"]
    add_scores(tmp_path, add_run(tmp_path, pairs=400, overrides=frozen), 0.3)
    add_scores(tmp_path, add_run(tmp_path, pairs=400, overrides=[*frozen, "loss.x=1"]), 0.31)
    add_scores(
        tmp_path, add_run(tmp_path, pairs=400, overrides=[*frozen, "loss.x=1", "loss.y=2"]), 0.33
    )
    table = ablations(Records(tmp_path)).set_index("Changed")
    of_frozen = "train.pairs=400 train.unfreeze_at=1"
    assert table.loc["loss.x=1", "Compared with"] == of_frozen
    assert table.loc["loss.x=1 loss.y=2", ["Compared with", "J gain"]].tolist() == [
        of_frozen,
        "+3.0 (+3.0 to +3.0)",
    ]
    assert table.loc[of_frozen, "Compared with"] == "no run of this budget"
    assert table.loc["model.levels=[4]", ["Compared with", "J gain"]].tolist() == [
        "train.pairs=400",
        "-5.0 (-5.0 to -5.0)",
    ]
    assert table.loc["train.pairs=400", ["Compared with", "J gain"]].tolist() == [
        "no run of this budget",
        "–",
    ]


def test_an_ablation_is_compared_with_its_own_seeds_only(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path, seed=0), 0.9)
    add_scores(tmp_path, add_run(tmp_path, seed=3, overrides=["sampler.high=0.5"]), 0.5)
    changed = ablations(Records(tmp_path)).iloc[0]
    assert changed["Changed"] == "sampler.high=0.5"
    assert [changed["Compared with"], changed["J gain"]] == ["no run of this budget", "–"]


def test_only_runs_that_are_scored_and_whole_are_compared(tmp_path: Path) -> None:
    short = ["train.pairs=400"]
    for variant, j in (("e3sn", 0.6), ("siammask", 0.5)):
        add_scores(tmp_path, add_run(tmp_path, variant, pairs=400, overrides=short), j)
    add_scores(tmp_path, add_run(tmp_path, pairs=10, pairs_before=90), 0.9)
    add_run(tmp_path, "siammask")  # not scored
    assert claim(tmp_path, "C2")["Ours"].startswith("J +10.0 (+10.0 to +10.0), ")


def test_scores_on_other_sequences_are_not_mixed(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path), 0.6)
    add_scores(tmp_path, add_run(tmp_path, "siammask"), 0.5, sequences=VAL[:4])
    with pytest.raises(InputError, match="are of different sequences; delete those of other data"):
        table1(Records(tmp_path))


def test_speed_is_of_the_machine_that_tracked(tmp_path: Path) -> None:
    run = add_run(tmp_path, machine="a processor")
    add_scores(tmp_path, run, 0.6)
    add_speed(tmp_path, run, 20.0)
    path = tmp_path / "davis2016" / f"{run}_speed.csv"
    notes = " ".join(table1(Records(tmp_path)).attrs["notes"])
    assert "ours on a machine not on record (trained on a processor) (12,000 pairs)" in notes
    pd.read_csv(path).assign(machine="where it tracked").to_csv(path, index=False)
    notes = " ".join(table1(Records(tmp_path)).attrs["notes"])
    assert "ours on where it tracked (12,000 pairs)" in notes


def test_a_record_tells_no_folder_and_no_setting_that_changes_no_run(tmp_path: Path) -> None:
    changed = ["train.init_weights=/home/me/a.safetensors", "study.recorded=true", "train.pairs=8"]
    told = ["train.init_weights=MODEL", "train.pairs=8"]
    assert entries.told([*changed, "train.backup=/mnt"]) == told
    add_run(tmp_path, pairs=8, pairs_before=12, own_pairs=8, overrides=told)
    command = runs(Records(tmp_path))["Command"][0]
    assert command.endswith(" --set train.pairs=8 --set train.init_weights=MODEL")


def test_a_run_trained_again_replaces_the_shorter_one_and_is_named(tmp_path: Path) -> None:
    old, new = add_run(tmp_path, pairs=10), add_run(tmp_path, pairs=20)
    add_scores(tmp_path, old, 0.1)
    add_scores(tmp_path, new, 0.2)
    assert Records(tmp_path).runs["run"].tolist() == [new]
    table = table1(Records(tmp_path))
    assert row(table, "E3SN")["J-Mean"].startswith("20.0")
    assert (
        table.attrs["notes"][-1]
        == f"Left out, as trained again with the same seed and settings: {old}."
    )


def test_bounds_sweep_sequences_and_speed(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    add_scores(tmp_path, run, RAMP, 0.4)
    add_scores(tmp_path, run, 0.8, method="mask in true boxes")
    add_scores(tmp_path, run, 0.65, method="mask@0.30")
    add_scores(tmp_path, "", 0.2, method="first box held still")
    add_scores(tmp_path, "", 0.3, method="another tracker")
    add_speed(tmp_path, run, 24.5)
    (tmp_path / "davis2016" / "baselines_not_run.csv").write_text(
        "method,reason\nCSRT box filled,needs another package\n"
    )
    bound = bounds(Records(tmp_path)).set_index("Method")
    assert bound.loc["CSRT box filled", ["What it shows", "F-Mean"]].tolist() == [
        "not run: needs another package",
        "not run",
    ]
    bound = bound.drop(index="CSRT box filled")
    assert bound["J-Mean"].to_dict() == {
        "first box held still": "20.0 (20.0 to 20.0)",
        "another tracker": "30.0 (30.0 to 30.0)",
        "E3SN: tracker box filled": "not run",
        "E3SN: mask in true boxes": "80.0 (80.0 to 80.0)",
        "E3SN": bound.loc["E3SN", "J-Mean"],
    }
    assert bound.loc["another tracker", "What it shows"] == "no network of this study"
    sweep = threshold_sweep(Records(tmp_path))
    assert sweep["Threshold"].tolist() == ["0.30", "0.50"]
    assert sweep["J E3SN"][0] == "65.0 (65.0 to 65.0)"
    by_sequence = per_sequence(Records(tmp_path))
    assert by_sequence["Sequence"].tolist() == VAL
    scores = {"J E3SN": "5.0", "F E3SN": "40.0", "J E3SN in true boxes": "80.0"}
    assert by_sequence.loc[1].to_dict() == {"Sequence": VAL[1], "Frames scored": "48"} | scores
    assert row(table1(Records(tmp_path)), "E3SN")["FPS"] == "24.5"


def test_the_sweep_is_of_the_networks_masks_alone_and_of_both_measures(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    add_scores(tmp_path, run, 0.4, 0.3)
    for method in ("tracker box filled", "mask in true boxes"):
        add_scores(tmp_path, run, 0.8, 0.7, method=method)
    add_scores(tmp_path, run, 0.6, 0.2, method="mask@0.30")
    sweep = threshold_sweep(Records(tmp_path)).set_index("Threshold")
    assert [cell[:4] for cell in sweep["J E3SN"]] == ["60.0", "40.0"]
    assert [cell[:4] for cell in sweep["F E3SN"]] == ["20.0", "30.0"]


def test_attributes_are_split_for_both_measures(tmp_path: Path) -> None:
    j, f = {"dog": 0.4, "goat": 0.6}, {"dog": 0.1, "goat": 0.9}
    add_scores(tmp_path, add_run(tmp_path), j, f, sequences=[*j])
    (tmp_path / "davis2016" / "attributes.csv").write_text(
        "sequence,attributes\ndog,OCC\ngoat,FM\n"
    )
    table = attributes(Records(tmp_path)).set_index("Attribute")
    found = table.loc["OCC: occlusion", ["J difference", "F with", "F without", "F difference"]]
    assert found.tolist() == ["-20.0", "10.0", "90.0", "-80.0"]


def test_crops_tell_masks_from_boxes_and_seen_from_held_out(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    rows = [
        ("coco", 0, 0.5, 50, 50, 0.8),
        ("coco", 1, 0.7, 100, 100, 0.9),
        ("coco", 2, 0.6, 70, 70, None),
    ]
    rows += [("coco, held out", number, 0.3, 60 + number, 60, 0.4) for number in range(2)]
    rows += [("boxes alone", 0, 0.25, 60, 60, None)]
    columns = ["set", "pair", "box_iou", "size", "predicted_size", "mask_iou"]
    (tmp_path / "crops").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "crops" / f"{run}.csv", index=False)
    seen, held_out, boxes = TABLES["crops"](Records(tmp_path)).to_dict("records")
    # the standard error of the mean: deviations 7.07 and 10.0, over the square roots of 2 and 3
    shown = {"Mask IoU": "85.0 ± 5.0", "Box IoU": "60.0 ± 5.8", "Slope of size": "1.00"}
    shown |= {"Seen in training": "yes", "Crops": "3", "Without a mask": "1"}
    assert seen.items() >= shown.items()
    assert (held_out["Seen in training"], held_out["Box IoU"]) == ("no", "30.0 ± 0.0")
    assert (boxes["Mask IoU"], boxes["Box IoU"]) == ("–", "25.0")


def test_held_out_scenes_by_both_scores(tmp_path: Path) -> None:
    header = "model,run,pairs,J-Mean,F-Mean,scenes,raw_over,penalised_over\n"
    (tmp_path / "held_out.csv").write_text(f"{header}abc,mine,12000,0.61,0.52,300,0.25,0.125\n")
    (found,) = TABLES["held_out"](Records(tmp_path)).to_dict("records")
    scores = {"Run": "mine", "Pairs": "12,000", "J-Mean": "61.0", "F-Mean": "52.0", "Scenes": "300"}
    assert found == scores | {"Look-alike taken": "25.0 %", "With penalty": "12.5 %"}


def test_training_speed_tells_each_part_of_a_step(tmp_path: Path) -> None:
    header = "phase,contender,machine,pairs_per_second,ratio,forward,backward,update,data,batch\n"
    rows = "frozen,this loop,a processor,4,1,0.11,0.22,0.33,0.44,8\nfrozen,a plain loop,a processor,2,2,1,2,3,,8\n"
    (tmp_path / "training_speed.csv").write_text(header + rows)
    ours, plain = TABLES["training_speed"](Records(tmp_path)).to_dict("records")
    parts = {"Forward": "0.11 s", "Backward": "0.22 s", "Update": "0.33 s", "Data": "0.44 s"}
    assert ours.items() >= (parts | {"Pairs per second": "4.00", "This loop is": "–"}).items()
    assert (plain["This loop is"], plain["Data"]) == ("2.0 times as fast", "not run")


def test_attributes_split_the_sequences(tmp_path: Path) -> None:
    add_scores(
        tmp_path,
        add_run(tmp_path),
        {"dog": 0.4, "goat": 0.6, "cows": 0.8},
        sequences=["dog", "goat", "cows"],
    )
    assert attributes(Records(tmp_path)).to_numpy().tolist() == [["not run"]]
    assert (
        attributes(Records(tmp_path)).attrs["notes"][0].startswith("Not run: needs the db_info.yml")
    )
    labels = "sequence,attributes\ndog,FM OCC\ngoat,FM\ncows,FM\nlibby,SV\n"
    (tmp_path / "davis2016" / "attributes.csv").write_text(labels)
    table = attributes(Records(tmp_path)).set_index("Attribute")
    found = table[["Sequences", "J with", "J without", "J difference"]]
    assert found.loc["OCC: occlusion"].tolist() == ["1 of 3", "40.0", "70.0", "-30.0"]
    assert found.loc["FM: fast motion"].tolist() == ["3 of 3", "60.0", "–", "–"]
    assert not table.index.str.startswith("SV").any()


def test_choices_show_each_pass_at_its_best_and_the_best_at_all_thresholds(tmp_path: Path) -> None:
    used = {"size_lr": 1.0, "window_influence": 0.4, "penalty_k": 0.04, "mask_threshold": 0.5}
    run, rows = add_run(tmp_path, track=used), []
    passes = (1.0, 0.4, 0.5), (1.0, 0.5, 0.4), (0.3, 0.4, 0.3), (0.3, 0.5, 0.35)
    for size_lr, threshold, j in passes:
        for name, shift in (("rhino", 0.1), ("car-turn", -0.1)):
            score = {"J-Mean": j + shift, "F-Mean": j + shift - 0.1}
            settings = {"size_lr": size_lr, "mask_threshold": threshold}
            rows.append(used | settings | {"sequence": name, "object": 1} | score)
    (tmp_path / "choices").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "choices" / f"{run}.csv", index=False)
    table = choices(Records(tmp_path))
    assert table[
        ["Size rate", "Threshold", "J-Mean", "F-Mean", "J&F", "Best"]
    ].to_numpy().tolist() == [
        ["1", "0.4", "50.0", "40.0", "45.0", "yes"],
        ["1", "0.5", "40.0", "30.0", "35.0", "–"],
        ["0.3", "0.5", "35.0", "25.0", "30.0", "–"],
    ]
    assert table.attrs["notes"][1].endswith("held out of training: rhino, car-turn.")
    assert table.attrs["notes"][2] == (
        f"{run}: all other tables use size rate 1, window 0.4, penalty 0.04, threshold 0.5. "
        "Here their J&F is 35.0."
    )


def test_a_run_that_began_with_another_counts_the_pairs_of_both(tmp_path: Path) -> None:
    run = add_run(tmp_path, pairs=12_000, pairs_before=60_000)
    add_scores(tmp_path, run, 0.5)
    found = runs(Records(tmp_path)).iloc[0]
    options = " --set train.pairs=12000 --set train.init_weights=MODEL"
    assert found["Command"].endswith(f"--seed 0{options}")
    shown = {"Pairs": "72,000", "Of these its own": "12,000", "Of 12 million": "0.600 %"}
    assert found.to_dict().items() >= shown.items()
    assert row(table1(Records(tmp_path)), "E3SN")["Pairs"] == "72,000"
    assert Records(tmp_path).stages([run]) == 1

    # the run before it has a row of its own, below
    add_scores(tmp_path, add_run(tmp_path, pairs=60_000), 0.4)
    table = table1(Records(tmp_path))
    ours = table[(table["Method"] == "E3SN") & (table["Numbers from"] == "ours")]
    assert ours["Pairs"].tolist() == ["72,000", "60,000"]
    assert Records(tmp_path).main_runs("e3sn") == [run]
    assert Records(tmp_path).main_runs("e3sn", legs=False) != [run]
    assert claim(tmp_path, "C9")["Ours"].startswith("J 50.0 ")

    records = Records(tmp_path)
    history = records.history(run)
    assert records.history(run).equals(history)  # every figure of a page asks anew
    assert records.stages([run]) == 1
    assert history["pairs"].is_monotonic_increasing
    assert history["pairs"].iloc[-1] == 72_000
    assert history["stage"].nunique() == 2


def test_legs_are_of_one_seed(tmp_path: Path) -> None:
    run = add_run(tmp_path, pairs=12_000, pairs_before=60_000)
    add_run(tmp_path, pairs=60_000, seed=1)
    add_run(tmp_path, pairs=60_000, overrides=["sampler.high=0.5"])
    assert [leg["run"] for leg in Records(tmp_path).legs(run)] == [run]
    first = add_run(tmp_path, pairs=60_000, overrides=["train.lr=[1e-3, 1e-4]"])
    assert [leg["run"] for leg in Records(tmp_path).legs(run)] == [first, run]


def test_a_command_has_the_settings_that_the_run_was_given(tmp_path: Path) -> None:
    given = "e3sn train --profile made --set train.precision=fp32 --set train.backup=/b --seed 0"
    add_run(tmp_path, environment={"command": given})
    made = "e3sn train --profile made --variant e3sn --seed 0 --set train.precision=fp32"
    assert runs(Records(tmp_path))["Command"].tolist() == [made]


def test_runs_of_two_profiles_do_not_replace_each_other(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path, profile="one"), 0.5)
    add_run(tmp_path, profile="two", pairs=90_000, date="2027-01-01")
    assert Records(tmp_path).left_out == []


def test_legs_are_not_compared_with_whole_runs(tmp_path: Path) -> None:
    for variant, score in (("e3sn", 0.6), ("e3sn-s", 0.55)):
        add_scores(tmp_path, add_run(tmp_path, variant), score)
    add_scores(tmp_path, add_run(tmp_path, pairs=6_000, pairs_before=12_000), 0.8)
    found = row(table4(Records(tmp_path)), "E3SN")
    assert (found["J-Mean"][:4], found["Pairs"]) == ("60.0", "12,000")


def test_only_runs_with_the_same_other_settings_are_on_top(tmp_path: Path) -> None:
    stages = ("base", "base", "base", "sharp")
    first = add_run(tmp_path, "siammask", stages=stages)
    wanted = add_run(
        tmp_path, "siammask", stages=stages, pairs=16_000, overrides=["train.pairs=16000"]
    )
    frozen = ["train.pairs=16000", "train.unfreeze_at=1"]
    add_run(tmp_path, "siammask", stages=stages, pairs=16_000, overrides=frozen)
    assert Records(tmp_path).with_first_stage([first], 12_000) == [wanted]
    assert Records(tmp_path).with_first_stage([wanted], 12_000) == []


def test_runs_costs_and_checks(tmp_path: Path) -> None:
    later = [{"commit": "89abcdef01", "dirty": True}, {"date": "the commit of the beginning"}]
    add_run(
        tmp_path,
        seed=3,
        overrides=["train.lr=[1,2]"],
        peak_memory_mb=2048,
        precision="bf16",
        resumed=later,
    )
    found = runs(Records(tmp_path)).iloc[0]
    command = "e3sn train --profile made --variant e3sn --seed 3 --set 'train.lr=[1,2]'"
    assert found["Command"] == command
    origin = {"Pairs": "12,000", "Of 12 million": "0.100 %"}
    origin |= {"Commit": "01234567, 89abcdef with changes"}
    origin |= {"Machine": "a processor, 2 cores, threads: 1"}
    origin |= {"Precision": "bf16", "Steps skipped": "1"}
    assert found.to_dict().items() >= origin.items()
    (tmp_path / "sampling_cost.csv").write_text(
        "samples_per_image,samples,seconds_per_step,peak_memory_mb,estimated_memory_mb\n625,1250,,,4000\n4,8,0.456,1000,\n"
    )
    assert sampling_cost(Records(tmp_path)).to_numpy().tolist() == [
        ["4", "8", "0.46 s", "1,000 MiB", "–"],
        ["625", "1,250", "not run", "not run", "4,000 MiB"],
    ]
    last = sampling_cost(Records(tmp_path)).attrs["notes"][-1]
    assert last.endswith("2 random images per step, on a machine not on record.")
    (tmp_path / "checks.csv").write_text(
        "check,source,largest,tolerance,cases\nJ of a set,an evaluator,1e-7,5e-6,20\nF,it,1,.5,3\n"
    )
    assert checks(Records(tmp_path)).to_numpy().tolist() == [
        ["J of a set", "an evaluator", "1e-07", "5e-06", "20", "yes"],
        ["F", "it", "1", "0.5", "3", "no"],
    ]


def two_seeds(
    results: Path, variant: str, j: float, f: float, seeds: int = 2, **settings: object
) -> None:
    for seed in range(seeds):
        add_scores(
            results,
            add_run(results, variant, seed, **settings),
            {k: v / 10 + j for k, v in RAMP.items()},
            f,
        )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("j", "f", "seeds", "verdict"),
    [
        (0.02, 0.03, 2, "reproduced"),
        (0.02, 0.03, 1, "partly (one seed)"),
        (0.02, -0.01, 2, "partly (only J)"),
        (-0.02, 0.01, 2, "partly (only F)"),
        (-0.02, -0.03, 2, "not reproduced"),
        (0.0, 0.0, 2, "not reproduced"),
        (0.08, 0.03, 2, "partly (more than 5 points from the paper's)"),
    ],
)
def test_verdict_on_a_gain(tmp_path: Path, j: float, f: float, seeds: int, verdict: str) -> None:
    two_seeds(tmp_path, "e3sn-s", 0.5, 0.5, seeds)
    two_seeds(tmp_path, "e3sn", 0.5 + j, 0.5 + f, seeds)
    found = claim(tmp_path, "C4")
    assert found["Verdict"] == verdict
    assert found["Paper"] == "J +2.2, F +3.0"
    if j:
        assert found["Ours"].startswith(
            f"J {100 * j:+.1f} ({100 * j:+.1f} to {100 * j:+.1f}), F {100 * f:+.1f}"
        )


@pytest.mark.parametrize(
    ("gains_j", "gains_f", "verdict", "ours"),
    [
        ((6, -1, 4, 5), (5, 5, 5, 5), "partly (not with every seed)", "J +3.5 "),
        ((6, -1), (5, 5), "partly (an interval includes 0)", "J +2.5 (-1.0 to +6.0), F +5.0"),
        # without any effect J or F gains on average more often than not, so that shows nothing
        ((6, -1), (1, -6), "undecided (no interval is above 0)", "J +2.5 (-1.0 to +6.0), F -2.5"),
    ],
)
def test_a_gain_that_not_every_seed_shows(
    tmp_path: Path, gains_j: tuple[int, ...], gains_f: tuple[int, ...], verdict: str, ours: str
) -> None:
    for seed, (j, f) in enumerate(zip(gains_j, gains_f, strict=True)):
        add_scores(tmp_path, add_run(tmp_path, "e3sn-s", seed), 0.5, 0.5)
        add_scores(tmp_path, add_run(tmp_path, "e3sn", seed), 0.5 + j / 100, 0.5 + f / 100)
    found = claim(tmp_path, "C4")
    assert found["Verdict"] == verdict
    assert found["Ours"].startswith(ours)
    by_seed = " ".join(f"{each:+.1f}" for each in gains_j)
    assert f"{len(gains_j)} seeds (J {by_seed}, F " in found["Ours"]


def test_a_loss_that_may_be_large_is_not_slight(tmp_path: Path) -> None:
    for seed, sampled in enumerate([0.52, 0.47]):
        add_scores(tmp_path, add_run(tmp_path, "siammask", seed), 0.5, 0.5)
        add_scores(tmp_path, add_run(tmp_path, "e3sn-s", seed), sampled, 0.5)
    found = claim(tmp_path, "C5")
    assert found["Ours"].startswith("J -0.5 (-3.0 to +2.0), F 0.0 (0.0 to 0.0)")
    assert found["Verdict"] == "partly (an interval includes -2)"


def test_seeds_of_one_side_alone_are_no_comparison(tmp_path: Path) -> None:
    two_seeds(tmp_path, "e3sn-s", 0.5, 0.5, seeds=3)
    two_seeds(tmp_path, "e3sn", 0.52, 0.53, seeds=1)
    found = claim(tmp_path, "C4")
    assert found["Verdict"] == "partly (one seed)"
    assert "1 and 3 seeds, 12,000 pairs" in found["Ours"]


@pytest.mark.parametrize(
    ("seeds", "ours"), [(1, "J +2.0 (+2.0 to +2.0), F +3.0"), (2, "J +3.0 (+3.0 to +3.0), F +4.0")]
)
def test_a_larger_budget_is_compared_once_each_network_has_two_seeds_of_it(
    tmp_path: Path, seeds: int, ours: str
) -> None:
    small, large = ({"overrides": [f"train.pairs={n}"], "pairs": n} for n in (4000, 16000))
    two_seeds(tmp_path, "e3sn-s", 0.5, 0.5, 3, **small)
    two_seeds(tmp_path, "e3sn", 0.52, 0.53, 3, **small)
    two_seeds(tmp_path, "e3sn-s", 0.6, 0.6, 2, **large)
    two_seeds(tmp_path, "e3sn", 0.63, 0.64, seeds, **large)
    assert claim(tmp_path, "C4")["Ours"].startswith(ours)


def test_a_gain_whose_interval_includes_zero_is_partly_reproduced(tmp_path: Path) -> None:
    two_seeds(tmp_path, "e3sn-s", 0.5, 0.5)
    for seed in range(2):
        j = {k: v / 10 + 0.5 + (0.3 if k == "dog" else -0.01) for k, v in RAMP.items()}
        add_scores(tmp_path, add_run(tmp_path, "e3sn", seed), j, 0.6)
    assert claim(tmp_path, "C4")["Verdict"] == "partly (an interval includes 0)"


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        ((0.0, 0.02), "reproduced"),
        ((0.01, 0.03), "partly (only J)"),
        ((0.03, 0.03), "not reproduced"),
        ((-0.10, 0.01), "partly (more than 5 points from the paper's)"),
    ],
)
def test_verdict_on_being_slightly_worse(
    tmp_path: Path, loss: tuple[float, float], verdict: str
) -> None:
    two_seeds(tmp_path, "siammask", 0.5, 0.5)
    two_seeds(tmp_path, "e3sn-s", 0.5 - loss[0], 0.5 - loss[1] + 1e-9)
    assert claim(tmp_path, "C5")["Verdict"] == verdict


@pytest.mark.parametrize(
    ("seconds", "shares", "verdict"),
    [
        (0.60, ("75 %", "56 %"), "reproduced"),
        (0.80, ("100 %", "75 %"), "partly (it saves 25 % by one count of pairs)"),
        (1.00, ("125 %", "94 %"), "partly (it saves 6 % by one count of pairs)"),
        (1.04, ("130 %", "98 %"), "not reproduced"),
        (1.20, ("150 %", "112 %"), "not reproduced"),
    ],
)
def test_verdict_on_training_time(
    tmp_path: Path, seconds: float, shares: tuple[str, str], verdict: str
) -> None:
    """SiamMask: 0.75 * 1.0 + 0.25 * 0.2 = 0.8 s per pair of both stages, 0.8 / 0.75 s per pair of the first."""
    add_run(tmp_path)
    whole = {"siammask": (1.0, 0.2), "e3sn-s": (seconds,)}
    add_costs(tmp_path, whole | {"e3sn-s": (1.2,)}, {}, whole)
    found = claim(tmp_path, "C6")
    assert found["Verdict"] == verdict
    assert re.findall(r"\d+ %", found["Ours"]) == [*shares, "150 %", "112 %"]


@pytest.mark.parametrize(
    ("memory", "verdict"), [(500, "reproduced"), (900, "partly"), (1000, "not reproduced")]
)
def test_verdict_on_memory(tmp_path: Path, memory: float, verdict: str) -> None:
    text = f"samples_per_image,samples,seconds_per_step,peak_memory_mb\n4,8,1,{memory}\n64,128,8,1000\n625,1250,,\n"
    (tmp_path / "sampling_cost.csv").write_text(text)
    found = claim(tmp_path, "C7")
    assert found["Verdict"] == verdict
    assert (
        found["Ours"] == f"1,000 MiB with 64 samples to {memory:,} MiB with 4: {memory / 10:.0f} %"
    )


def test_memory_with_fewer_samples_only_says_nothing(tmp_path: Path) -> None:
    text = "samples_per_image,samples,seconds_per_step,peak_memory_mb\n1,2,1,400\n4,8,1,500\n"
    (tmp_path / "sampling_cost.csv").write_text(text)
    assert claim(tmp_path, "C7")["Verdict"].startswith("not testable here")


def test_rules_and_verdicts_have_their_thresholds_from_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = "samples_per_image,samples,seconds_per_step,peak_memory_mb\n4,8,1,400\n64,128,8,1000\n"
    (tmp_path / "sampling_cost.csv").write_text(costs)
    monkeypatch.setitem(reference("claims")["thresholds"], "memory", 39)
    table = claims(Records(tmp_path))
    assert table.set_index("Claim").loc["C7", "Verdict"] == "partly"
    assert any(
        "reproduced if 4 samples need at most 39 % of the memory of the most" in note
        for note in table.attrs["notes"]
    )
    rules = " ".join(reference("claims")["rules"].values())
    assert set(re.findall(r"{(\w+)}", rules)) == reference("claims")["thresholds"].keys()


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.062, "reproduced"), (0.07, "partly"), (0.08, "not reproduced")]
)
def test_verdict_on_speed(tmp_path: Path, seconds: float, verdict: str) -> None:
    add_run(tmp_path)
    add_costs(tmp_path, {}, {"siammask": 0.05, "e3sn": seconds})
    found = claim(tmp_path, "C8")
    assert (found["Verdict"], found["Ours"]) == (verdict, f"{5 / seconds:.0f} %")


def test_costs_side_by_side(tmp_path: Path) -> None:
    add_run(tmp_path)
    add_costs(
        tmp_path, {"siammask": (1.0, 0.2), "e3sn": (0.9,)}, {"siammask": 0.05, "e3sn": 0.0625}
    )
    table = variant_costs(Records(tmp_path)).set_index(["Network", "Part"])
    assert (
        table.loc[("SiamMask", "training a pair, stage1, backbone frozen"), "Counts for"]
        == "25 % of its pairs"
    )
    whole = table.loc[("E3SN", "training a pair, all phases")]
    assert whole["Time"] == "900 ms"
    assert whole["Of SiamMask's"] == "112 %; 84 % with its second stage on top"
    assert table.loc[("E3SN", "tracking an object-frame"), "Of SiamMask's"] == "125 %"


@pytest.mark.parametrize(
    ("j", "f", "verdict"),
    [
        (0.725, 0.69, "reproduced"),
        (0.80, 0.80, "reproduced"),
        (0.60, 0.56, "partly"),
        (0.60, 0.50, "not reproduced"),
    ],
)
def test_verdict_on_an_absolute_score(tmp_path: Path, j: float, f: float, verdict: str) -> None:
    add_scores(tmp_path, add_run(tmp_path), j, f)
    assert claim(tmp_path, "C9")["Verdict"] == verdict


@pytest.mark.parametrize(
    ("stages", "still", "verdict"),
    [
        (["a"], 0.2, "reproduced"),
        (["a"], 0.5, "not reproduced"),
        (["a", "b"], 0.2, "not reproduced"),
    ],
)
def test_verdict_on_training_in_one_stage(
    tmp_path: Path, stages: list[str], still: float, verdict: str
) -> None:
    add_scores(tmp_path, add_run(tmp_path, stages=stages), 0.4, 0.4)
    add_scores(tmp_path, "", still, still, method="first mask held still")
    assert claim(tmp_path, "C1")["Verdict"] == verdict


@pytest.mark.parametrize(
    ("still_j", "still_f", "verdict"),
    [
        ("low", "low", "reproduced"),
        ("low", "mixed", "partly"),
        ("mixed", "mixed", "not reproduced"),
    ],
)
def test_what_may_be_chance_is_not_learned(
    tmp_path: Path, still_j: str, still_f: str, verdict: str
) -> None:
    """A gain that one of twenty sequences makes alone is in the mean, but its interval includes 0."""
    stills = {"low": dict.fromkeys(VAL, 0.2), "mixed": dict.fromkeys(VAL, 0.41) | {"dog": 0.0}}
    add_scores(tmp_path, add_run(tmp_path), 0.4, 0.4)
    add_scores(tmp_path, "", stills[still_j], stills[still_f], method="first mask held still")
    assert claim(tmp_path, "C1")["Verdict"] == verdict


def test_one_seed_with_two_stages_is_two_stages(tmp_path: Path) -> None:
    names = [add_run(tmp_path, seed=seed, stages=["a", "b"][: 2 - seed]) for seed in range(2)]
    assert [Records(tmp_path).stages(each) for each in (names, names[1:], [])] == [2, 1, 0]


def test_a_backbone_that_is_freed_at_the_very_end_is_frozen(tmp_path: Path) -> None:
    for seed, share in enumerate((1, 0.5)):
        add_run(tmp_path, seed=seed, overrides=[f"train.unfreeze_at={share}"])
    add_run(tmp_path, seed=2)
    frozen = Records(tmp_path).runs.set_index("seed")["frozen"]
    assert frozen.to_dict() == {0: True, 1: False, 2: False}


def test_runs_that_differ_have_a_sample_deviation() -> None:
    """Deviations of -20, -10 and 30 from 30: the root of 1400 / 2."""
    runs_of = pd.DataFrame({"memory": [10.0, 20.0, 60.0], "pairs": 8})
    assert spread(runs_of, "memory", "MiB") == "30 ± 26 MiB"
    assert spread(runs_of, "pairs") == "8"


def test_a_run_tells_its_hours(tmp_path: Path) -> None:
    add_run(tmp_path, seconds=5400.0)
    assert runs(Records(tmp_path))["Training time"].tolist() == ["1.50 h"]


def test_short_table1_has_the_two_networks_and_what_bounds_them(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    add_scores(tmp_path, run, 0.6)
    add_scores(tmp_path, run, 0.8, method="mask in true boxes")
    add_scores(tmp_path, "", 0.2, method="first mask held still")
    table = short_table1(Records(tmp_path))
    assert table["Method"].tolist() == [
        "SiamMask",
        "SiamMask",
        "E3SN",
        "E3SN",
        "first mask held still",
        "E3SN: mask in true boxes",
    ]
    assert table["J-Mean"].tolist()[2:] == [
        "73.0",
        *(f"{x} ({x} to {x})" for x in ("60.0", "20.0", "80.0")),
    ]


def test_short_table1_has_the_last_leg_only(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path, pairs=12_000), 0.6)
    add_scores(tmp_path, add_run(tmp_path, pairs=6_000, pairs_before=12_000), 0.8)
    pairs = [set(make(Records(tmp_path))["Pairs"]) for make in (table1, short_table1)]
    assert pairs == [{"–", "not run", "12,000", "18,000"}, {"–", "not run", "18,000"}]


def test_short_table1_keeps_the_runs_to_compare(tmp_path: Path) -> None:
    for variant in ("e3sn", "siammask"):
        add_scores(tmp_path, add_run(tmp_path, variant), 0.6)
    add_scores(tmp_path, add_run(tmp_path, pairs=6_000, pairs_before=12_000), 0.8)
    table = short_table1(Records(tmp_path))
    is_ours = (table["Numbers from"] == "ours") & table["Method"].isin(["SiamMask", "E3SN"])
    found = table.loc[is_ours, ["Method", "Pairs"]].to_numpy().tolist()
    assert found == [["SiamMask", "12,000"], ["E3SN", "18,000"], ["E3SN", "12,000"]]


def test_markdown() -> None:
    table = pd.DataFrame(
        {"name": ["a|b", "c"], "value": ["+1.5 (1 to 2)", "not run"], "none": ["–", "–"]}
    )
    assert to_markdown(table) == (
        "| name | value | none |\n| --- | ---: | ---: |\n| a\\|b | +1.5 (1 to 2) | – |\n| c | not run | – |\n"
    )


def test_exported_graphs_are_compared_with_their_network(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    add_exports(tmp_path, run)
    table = TABLES["exports"](Records(tmp_path))
    assert f"These are networks of the run {run}." in table.attrs["notes"][-1]
    assert table["J gain"].tolist() == ["0.0", "+1.0"]
    assert table["J in true boxes"].tolist() == ["72.1", "71.9"]
    assert "F in true boxes" not in table
    assert any(each.startswith("In true boxes, ") for each in table.attrs["notes"])


def test_sessions_are_compared_with_one_step_a_frame(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    add_scores(tmp_path, run, 0.67, 0.66)
    add_sessions(tmp_path, run)
    table = TABLES["sessions"](Records(tmp_path))
    assert table["F gain"].tolist() == ["0.0", "-1.0"]
    assert table["Steps per object-frame"].tolist() == ["1.00", "1.23"]
    assert table["Object-frames per second"].tolist() == ["35.0", "28.0"]
    found = row(table1(Records(tmp_path)), "E3SN", "ours, as e3sn track --keep-lost")
    assert found.items() >= {"J-Mean": "70.0", "F-Mean": "66.0", "FPS": "28.0"}.items()
    found = row(table1(Records(tmp_path)), "E3SN", "ours, int8 graphs")
    shown = {"J-Mean": "68.0", "F-Mean": "67.0", "FPS": "35.0", "Pairs": "12,000"}
    assert found.items() >= shown.items()
    add_sessions(tmp_path, "another")
    assert "ours, int8 graphs" not in table1(Records(tmp_path))["Numbers from"].tolist()


def test_tracking_speed_is_shown_in_words(tmp_path: Path) -> None:
    header = "contender,machine,width,height,objects,step_ms,frames_per_second,ratio,share,threads"
    rows = [
        "torch fp32,CPU,854,480,1,400,2.5,1,0.5,2",
        "ONNX int8,CPU,854,480,1,100,10,4,0.25,2",
        "torch fp32,CPU,854,480,8,3000,0.3,1,0.6,2",
        "ONNX int8,CPU,854,480,8,600,1.7,5,0.3,2",
    ]
    (tmp_path / "tracking_speed.csv").write_text("\n".join([header, *rows]) + "\n")
    table = TABLES["tracking_speed"](Records(tmp_path))
    assert list(table["1 object"]) == ["400 ms", "100 ms"]
    assert list(table["8 objects"]) == ["3,000 ms", "600 ms"]
    assert list(table["Rate against the first"]) == ["1.0 times", "4.0 times"]
    shown = {"Frame": "854×480", "Frames per second": "10.0", "Of the peak": "25 %"}
    assert table.iloc[1].to_dict().items() >= shown.items()
    assert "2 threads" in " ".join(table.attrs["notes"])


def test_the_slope_tells_a_box_that_follows_from_one_that_does_not() -> None:
    sizes = np.array([40.0, 50, 60, 80])
    for exponent in (0.0, 0.5, 1.0):
        rows = pd.DataFrame({"size": sizes, "predicted_size": 1.1 * sizes**exponent})
        assert size_slope(rows) == pytest.approx(exponent, abs=1e-9)
