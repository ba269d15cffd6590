"""Tables of record: bound to what they were made of, and refused in one line where they are damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import VAL, add_costs, add_run, add_scores, add_speed

from e3sn_lib.data.index import PackedTracks
from e3sn_lib.data.types import Track
from e3sn_lib.errors import InputError
from e3sn_study.records import Records
from e3sn_study.records.schema import SETTINGS, Schema
from e3sn_study.records.store import digest, once, write_record
from e3sn_study.tables.claims import claims
from e3sn_study.tables.tables import TABLES, threshold_sweep

SMALL = Schema("name", "value", "more", key="name")


@dataclass(frozen=True)
class Clip:
    name: str
    files: tuple[Path, ...]


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    files = tuple(tmp_path / "clip" / f"{number}.bin" for number in range(3))
    files[0].parent.mkdir()
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 100)
    return Clip("clip", files)


class TestDigest:
    def test_it_is_of_names_and_contents_wherever_they_lie(
        self, clip: Clip, tmp_path: Path
    ) -> None:
        first = digest(clip)
        moved = Path(shutil.copytree(clip.files[0].parent, tmp_path / "moved"))
        assert digest(Clip("clip", tuple(moved / path.name for path in clip.files))) == first
        assert digest(Clip("other", clip.files)) != first
        assert digest(replace(clip, files=clip.files[::-1])) != first
        assert digest(replace(clip, files=clip.files[:2])) != first

    def test_a_changed_file_of_the_same_size_changes_it(self, clip: Clip) -> None:
        first, path = digest(clip), clip.files[1]
        path.write_bytes(b"x" * 100)
        os.utime(path, ns=(1, 1))
        second = digest(clip)
        path.unlink()
        assert len({first, second, digest(clip)}) == 3

    def test_large_sets_count_by_size_and_time(
        self, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("e3sn_study.records.store.HASHED_BYTES", 299)
        first = digest(clip)
        os.utime(clip.files[2], ns=(5, 5))
        assert digest(clip) != first

    def test_packed_tracks_count_by_their_tracks(self) -> None:
        texts = [json.dumps(each).encode() for each in ("one", "two")]
        packed, offsets = np.frombuffer(b"".join(texts), np.uint8), np.array([0, 5, 10])
        tracks = PackedTracks(packed, offsets, lambda name: Track(name, ()))
        assert digest(tracks) == digest((Track("one", ()), Track("two", ())))

    def test_what_has_another_text_tomorrow_is_refused(self) -> None:
        with pytest.raises(TypeError, match="no lasting text"):
            digest("a part", lambda: 0)


class TestSchema:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "is no table"),
            ("name,value\na,1\n", ""),
            ("name,value,more\nnan,1,\nNA,2,3\n", ""),
            ("name,more\na,1\n", "lacks the column value"),
            ("name,value,more\n", "has no rows"),
            ("name,value,more\na,1,2", "is cut short or damaged"),
            ("name,value,more\na,1,2\nb,2,3,4\n", "is no table"),
            ("name,value,more\na,1,2\nb\n", "has no valid value in row 2"),
            ("name,value,more\na,,2\n", "has no valid value in row 1"),
            ("name,value,more\na,inf,2\n", "has no valid value in row 1"),
            ("name,value,more\na,1,x\n", "has no valid more in row 1"),
            ("name,value,more\na,1,2\na,3,4\n", "has a row twice"),
            ("name,value,made\na,1,ab/2\n", "has 1 of 2 rows"),
        ],
    )
    def test_what_does_not_fit_is_named(self, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "table.csv"
        path.write_text(text)
        if words:
            with pytest.raises(InputError, match=rf"^{re.escape(str(path))} {words}.*; delete it"):
                SMALL.read(path)
        else:
            assert SMALL.read(path)["value"].tolist()[0] == 1
            assert SMALL.read(path)["name"].tolist() in (["a"], ["nan", "NA"])

    @given(st.binary(max_size=300))
    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_bytes_are_a_table_or_one_line(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "table.csv"
        path.write_bytes(b"name,value,more\n" + content)
        with suppress(InputError):
            SMALL.read(path)
            return
        with pytest.raises(InputError, match=rf"^[^\n]*{re.escape(str(path))}[^\n]*$"):
            SMALL.read(path)


class TestOnce:
    def test_a_table_is_made_once_for_what_it_is_made_of(self, tmp_path: Path) -> None:
        made, path, copy = [], tmp_path / "kept" / "table.csv", tmp_path / "report" / "table.csv"

        def table(of: str) -> pd.DataFrame:
            def compute() -> pd.DataFrame:
                made.append(of)
                return pd.DataFrame(
                    {"name": ["a", "b"], "value": [0.5, len(made)], "more": [None, 1.0]}
                )

            return once(path, SMALL, of, compute, copy)

        first = table("x")
        pd.testing.assert_frame_equal(table("x"), first)
        assert list(first) == ["name", "value", "more"]
        assert table("y")["value"].tolist() == [0.5, 2]
        for damage in (
            lambda text: text[:-9],
            lambda text: text.replace("0.5", "nan"),
            lambda text: text.replace("y/2", ""),
            lambda text: text.replace("y/2", "7"),
            lambda _: "garbage",
        ):
            path.write_text(damage(path.read_text()))
            table("y")
            assert copy.read_text() == path.read_text()
        assert made == ["x", *6 * ["y"]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of record of every kind; read only."""
    tmp_path = tmp_path_factory.mktemp("results")
    for variant in ("e3sn", "siammask"):
        run = add_run(tmp_path, variant)
        add_scores(tmp_path, run, {name: index / 20 for index, name in enumerate(VAL)}, 0.5)
        add_scores(tmp_path, run, 0.4, 0.5, method="mask@0.30")
        add_speed(tmp_path, run, 20.0)
    add_scores(tmp_path, "", 0.2, 0.1, method="first mask held still")
    add_costs(tmp_path, {"siammask": (1.0, 0.2), "e3sn": (0.9,)}, {"siammask": 0.05, "e3sn": 0.06})
    for path in (tmp_path / "davis2016" / "baselines.csv", tmp_path / "variant_costs.csv"):
        write_record(path, pd.read_csv(path))  # as a study does
    write_record(
        tmp_path / "davis2016" / "attributes.csv",
        pd.DataFrame({"sequence": VAL, "attributes": "FM"}),
    )
    sampling = {"samples_per_image": [4, 64], "samples": [8, 128]}
    sampling |= {"seconds_per_step": [1.0, 2.0], "peak_memory_mb": [500.0, 900.0]}
    write_record(tmp_path / "sampling_cost.csv", pd.DataFrame(sampling))
    crops = {"set": "coco", "pair": range(3), "mask_iou": [0.5, 0.6, 0.7], "box_iou": 0.5}
    crops |= {"size": [40.0, 50.0, 60.0], "predicted_size": [41.0, 52.0, 63.0]}
    write_record(tmp_path / "crops" / f"{run}.csv", pd.DataFrame(crops))
    return tmp_path


@pytest.fixture
def results(kept: Path, tmp_path: Path) -> Path:
    """A copy of those files, to be spoilt."""
    return Path(shutil.copytree(kept, tmp_path / "results"))


def tables(results: Path) -> dict[str, str]:
    records = Records(results)
    return {name: make(records).to_csv() for name, make in TABLES.items()}


@pytest.fixture(scope="module")
def before(kept: Path) -> dict[str, str]:
    return tables(kept)


SPOILT: dict[str, Callable[[str], str]] = {
    "half": lambda text: text[: len(text) // 2],
    "half of the lines": lambda text: "".join(
        text.splitlines(keepends=True)[: len(text.splitlines()) // 2]
    ),
    "without the last row": lambda text: re.sub(r"[^\n]*\n$", "", text),
    "last row twice": lambda text: text + text.splitlines()[-1] + "\n",
    "empty": lambda _: "",
    "a list": lambda _: "[]\n",
    "not finite": lambda text: re.sub(r"\d+\.\d+", "nan", text, count=1),
}
ENDS = ("siammask-seed0-*.csv", "siammask-seed0-*_speed.csv", "baselines.csv", "attributes.csv",
        "sampling_cost.csv", "variant_costs.csv", "e3sn-seed0-*_log.csv", "e3sn-seed0-*.json", "crops/*.csv")  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("pattern", ENDS)
def test_a_damaged_file_of_record_is_named_and_never_gives_other_numbers(
    results: Path, before: dict[str, str], pattern: str, spoil: str
) -> None:
    path = min(
        results.rglob(pattern if "/" in pattern else f"*{pattern}"), key=lambda path: len(path.name)
    )
    damaged = SPOILT[spoil](path.read_text())
    if damaged == path.read_text():
        pytest.skip("nothing to spoil")
    path.write_text(damaged)
    try:
        assert tables(results) == before, "a table was made of it"
    except InputError as error:
        refused = str(error)
    else:
        return
    assert path.name in refused
    assert "again" in refused
    assert "\n" not in refused


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("siammask-seed0-*.csv", "J-Mean", 79.7),
        ("siammask-seed0-*.csv", "F-Recall", -0.1),
        ("siammask-seed0-*.csv", "frames", 0),
        ("siammask-seed0-*_speed.csv", "seconds_tracking", -1.0),
    ],
)
def test_a_number_that_cannot_be_is_named(
    results: Path, name: str, column: str, value: float
) -> None:
    path = min(results.rglob(f"davis2016/*{name}"), key=lambda path: len(path.name))
    table = pd.read_csv(path).astype({column: float})
    table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"{path.name} has no valid {column} in row 2"):
        tables(results)


@pytest.mark.parametrize(
    ("pairs", "threshold", "named"), [(10**12, 0.5, "pairs"), (800, "x", "mask_threshold")]
)
def test_a_record_of_a_run_has_settings_that_can_be(
    tmp_path: Path, pairs: int, threshold: object, named: str
) -> None:
    track = dict.fromkeys(SETTINGS, 0.1) | {"mask_threshold": threshold}
    run = add_run(tmp_path, pairs=pairs, track=track)
    with pytest.raises(InputError, match=rf"{run}.json is no record of a run \({named}: "):
        _ = Records(tmp_path).runs


def test_a_command_whose_quote_does_not_end_is_named(tmp_path: Path) -> None:
    run = add_run(tmp_path, environment={"command": "e3sn train --set 'train.precision=fp32"})
    with pytest.raises(InputError, match=rf"{run}.json is no record of a run \(.*[Qq]uot"):
        _ = Records(tmp_path).runs


def test_a_file_of_another_run_is_refused(results: Path) -> None:
    e3sn, siammask = (Records(results).main_runs(variant)[0] for variant in ("e3sn", "siammask"))
    for name in (f"davis2016/{e3sn}.csv", f"davis2016/{e3sn}_speed.csv", f"runs/{e3sn}.json"):
        path, content = results / name, (results / name).read_text()
        shutil.copyfile(results / name.replace(e3sn, siammask), path)
        with pytest.raises(InputError, match=re.escape(path.name)):
            tables(results)
        path.write_text(content)


def test_a_log_that_ends_before_the_run_is_named(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    path = tmp_path / "runs" / f"{run}_log.csv"
    pd.read_csv(path).assign(pairs=5).to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))} does not end with the run; "):
        Records(tmp_path).stages([run])


def test_a_damaged_manifest_is_named(results: Path) -> None:
    path = results / "manifest.json"
    path.write_text(json.dumps({"notebooks": [{"name": "01", "status": "passed", "seconds": 3.0}]}))
    assert Records(results).notebooks == [{"name": "01", "status": "passed", "seconds": 3.0}]
    for text in (
        "{",
        "[]",
        "{}",
        '{"notebooks": [1]}',
        '{"notebooks": [{"name": "01", "status": "passed", "seconds": NaN}]}',
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json is no record of notebooks"):
            _ = Records(results).notebooks


class TestFacts:
    """What once was decided by the text of a setting or a title."""

    def test_masks_are_labelled_by_the_threshold_that_cut_them(self, tmp_path: Path) -> None:
        run = add_run(
            tmp_path,
            track=dict.fromkeys(("size_lr", "window_influence", "penalty_k"), 0.1)
            | {"mask_threshold": 0.4},
        )
        add_scores(tmp_path, run, 0.6)
        add_scores(tmp_path, run, 0.5, method="mask@0.50")
        table = threshold_sweep(Records(tmp_path))
        assert table["Threshold"].tolist() == ["0.40", "0.50"]
        assert table["J E3SN"].tolist() == ["60.0 (60.0 to 60.0)", "50.0 (50.0 to 50.0)"]
        assert table.attrs["notes"][0].startswith("Scores of other tables on val are at 0.40. ")
        path = tmp_path / "davis2016" / f"{run}.csv"
        pd.read_csv(path).assign(mask_threshold=0.45).to_csv(
            path, index=False
        )  # scored with other settings than those of record
        assert threshold_sweep(Records(tmp_path))["Threshold"].tolist() == ["0.45", "0.50"]

    @pytest.mark.parametrize(
        ("value", "expected"), [("1", True), ("1.0", True), ("1e0", True), ("0.5", False)]
    )
    def test_a_frozen_backbone_is_known_by_the_number(
        self, tmp_path: Path, value: str, expected: bool
    ) -> None:
        for variant in ("e3sn", "siammask"):
            add_scores(
                tmp_path,
                add_run(tmp_path, variant, overrides=[f"train.unfreeze_at = {value}"]),
                0.5,
            )
        found = claims(Records(tmp_path)).set_index("Claim").loc["C2", "Ours"]
        assert found.endswith(", backbone frozen") == expected

    def test_what_a_run_says_of_itself_goes_before_its_names(self, tmp_path: Path) -> None:
        add_run(
            tmp_path,
            title="a synthetic title",
            data="synthetic_shapes",
            synthetic=False,
            frozen=True,
        )
        assert not Records(tmp_path).synthetic
        assert Records(tmp_path).runs["frozen"].all()
        add_run(tmp_path, "siammask", data="coco", synthetic=True)
        assert Records(tmp_path).synthetic
