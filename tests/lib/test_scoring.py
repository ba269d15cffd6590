"""Scoring: the official rules, what is refused, what is said, and another evaluator's opinion."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from e3sn_lib.data.davis import read_list
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_mask, write_mask
from e3sn_lib.metrics.measures import boundary_accuracy, region_similarity, statistics
from e3sn_lib.metrics.scoring import (
    evaluate_sequence,
    score_folder,
    score_sequence,
    summarise,
    write_official_csvs,
)

Ids = NDArray[np.uint8]
OFFICIAL_COLUMNS = ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]


def clip(boxes: dict[int, tuple[int, int]], frames: int = 6, shift: int = 0) -> list[Ids]:
    """Squares of 20 px, id -> (top, left), that move 2 px per frame; `shift` px beside that place."""
    masks = np.zeros((frames, 90, 120), np.uint8)
    for index, mask in enumerate(masks):
        for number, (top, left) in boxes.items():
            y, x = top + shift, left + 2 * index + shift
            mask[y : y + 20, x : x + 20] = number
    return list(masks)


def save(folder: Path, masks: list[Ids], grey: bool = False) -> Path:
    folder.mkdir(parents=True)
    for index, mask in enumerate(masks):
        path = folder / f"{index:05d}.png"
        Image.fromarray(mask).save(path) if grey else write_mask(path, mask)
    return folder


def sequence(folder: Path, merge_ids: bool = False) -> Video:
    paths = tuple(sorted(folder.glob("*.png")))
    return Video(folder.name, paths, paths, merge_ids)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Annotations of one sequence "walk" of two objects."""
    save(tmp_path / "truth/walk", clip({1: (5, 5), 2: (50, 40)}))
    return tmp_path / "truth"


def test_each_object_and_frame_but_the_first_and_the_last_has_a_row(truth: Path) -> None:
    masks = clip({1: (5, 5), 2: (50, 40)}, shift=3)
    table = score_sequence(masks, sequence(truth / "walk"))
    assert list(table.columns) == ["sequence", "object", "frame", "J", "F"]
    assert [*table["frame"].unique()] == ["00001", "00002", "00003", "00004"]
    assert table.attrs["notes"] == []
    for row in table.itertuples():
        index = int(row.frame)
        pair = masks[index] == row.object, read_mask(truth / f"walk/{row.frame}.png") == row.object
        assert (region_similarity(*pair), boundary_accuracy(*pair)) == (row.J, row.F)
    assert len(table) == 8
    assert table["J"].to_numpy() == pytest.approx(17**2 / (2 * 20**2 - 17**2))


def test_a_stream_is_scored_in_flat_memory(truth: Path) -> None:
    seen: list[weakref.ref[Ids]] = []

    def stream() -> Iterator[Ids]:
        for mask in clip({1: (5, 5), 2: (50, 40)}):
            mask = mask.copy()
            seen.append(weakref.ref(mask))
            assert sum(reference() is not None for reference in seen) <= 2
            yield mask

    assert (score_sequence(stream(), sequence(truth / "walk"))["J"] == 1).all()
    assert len(seen) == 6


def test_the_ends_that_are_not_scored_are_those_of_the_video(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        write_mask(tmp_path / f"truth/walk/{number}.png", clip({1: (5, 5)}, 1)[0])
    shutil.copytree(tmp_path / "truth", tmp_path / "masks")
    assert score_folder(tmp_path / "masks", tmp_path / "truth")["frame"].tolist() == ["2"]


def test_folder_stream_and_summary_agree(truth: Path, tmp_path: Path) -> None:
    masks = clip({1: (5, 5), 2: (50, 40)}, shift=2)
    save(tmp_path / "out/walk", masks)
    streamed = score_sequence(masks, sequence(truth / "walk"))
    pd.testing.assert_frame_equal(score_folder(tmp_path / "out", truth), streamed)
    pd.testing.assert_series_equal(
        evaluate_sequence(masks, sequence(truth / "walk")), summarise(streamed)[1]
    )


def test_objects_are_averaged_not_videos_or_frames() -> None:
    values = {("a", 1): [0.9, 0.7], ("a", 2): [0.2, 0.4, 0.6, 0.0], ("b", 1): [1.0]}
    rows = [
        (*key, str(frame), j, 1 - j)
        for key, series in values.items()
        for frame, j in enumerate(series)
    ]
    table = pd.DataFrame(rows, columns=["sequence", "object", "frame", "J", "F"])
    per_object, overall = summarise(table)
    assert per_object["frames"].tolist() == [2, 4, 1]
    assert per_object.iloc[1, 2:5].tolist() == pytest.approx(statistics([0.2, 0.4, 0.6, 0.0]))
    assert list(overall.index) == OFFICIAL_COLUMNS
    assert overall["J-Mean"] == pytest.approx((0.8 + 0.3 + 1.0) / 3)
    assert overall["J-Recall"] == pytest.approx((1 + 0.25 + 1) / 3)
    assert overall["J&F-Mean"] == pytest.approx(0.5)


def test_renaming_the_objects_changes_nothing(tmp_path: Path) -> None:
    results = []
    for case, (one, other) in enumerate(((1, 2), (2, 1))):
        truth = save(tmp_path / f"{case}", clip({one: (5, 5), other: (50, 40)}))
        masks = clip({one: (7, 6), other: (45, 40)})
        results.append(evaluate_sequence(masks, sequence(truth)))
    pd.testing.assert_series_equal(*results)


def test_an_id_that_appears_late_is_background_and_said_so(tmp_path: Path) -> None:
    truth = clip({1: (5, 5)})
    for mask in truth[2:]:
        mask[60:80, 60:80] = 2
        mask[80:, :] = 255
    save(tmp_path / "truth/late", truth)
    table = score_sequence(clip({1: (5, 5)}), sequence(tmp_path / "truth/late"))
    assert table["object"].unique().tolist() == [1]
    assert (table["J"] == 1).all()
    assert table.attrs["notes"] == [
        "late: object 2 is not in the first truth mask, so not scored",
        "late: void (255) in the truth is scored as background",
    ]


def test_a_gap_in_the_ids_is_an_object_that_scores_one_while_absent(tmp_path: Path) -> None:
    save(tmp_path / "gap", clip({1: (5, 5), 3: (50, 40)}))
    masks = clip({1: (5, 5), 3: (50, 40)}, shift=1)
    masks[2][80:, 100:] = 2
    table = score_sequence(masks, sequence(tmp_path / "gap"))
    assert table[table["object"] == 2]["J"].tolist() == [1, 0, 1, 1]
    assert table[table["object"] == 2]["F"].tolist() == [1, 0, 1, 1]
    assert table.attrs["notes"] == ["gap: object 2 is missing in the first truth mask, but scored"]


@pytest.mark.parametrize("grey", [True, False], ids=["grey 0/255", "palette ids"])
def test_a_truth_of_0_and_255_is_one_object_with_merged_predictions(
    tmp_path: Path, grey: bool
) -> None:
    masks = clip({1: (5, 5), 2: (50, 40)})
    merged = [np.where(mask, 255, 0).astype(np.uint8) for mask in masks]
    save(tmp_path / "truth/walk", merged, grey=True)
    save(tmp_path / "out/walk", merged if grey else masks, grey)
    table = score_folder(tmp_path / "out", tmp_path / "truth")
    assert table[["object", "J", "F"]].drop_duplicates().to_numpy().tolist() == [[1, 1, 1]]
    assert table.attrs["notes"] == [
        "the truth is 0/255 as in DAVIS-2016: one object per sequence, predicted ids above 0 merged into it"
    ]
    with pytest.raises(InputError, match="has one value that is no id; it needs merge_ids"):
        score_sequence([], sequence(tmp_path / "truth/walk"))


def test_ids_are_merged_on_request(truth: Path, tmp_path: Path) -> None:
    merged = sequence(truth / "walk", merge_ids=True)
    assert (score_sequence(clip({7: (5, 5), 1: (50, 40)}), merged)["J"] == 1).all()


def test_what_has_no_truth_is_counted(truth: Path, tmp_path: Path) -> None:
    save(tmp_path / "out/walk", clip({1: (5, 5), 2: (50, 40)}, frames=8))
    save(tmp_path / "out/run", clip({1: (5, 5)}))
    assert score_folder(tmp_path / "out", truth).attrs["notes"] == [
        f"other folders of {tmp_path / 'out'}, not scored: run",
        f"masks in {tmp_path / 'out'} of frames without truth, not scored: 2",
    ]


def test_first_and_last_masks_need_not_be_there(truth: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "out/walk", clip({1: (5, 5), 2: (50, 40)}))
    for name in ("00000.png", "00005.png"):
        (folder / name).unlink()
    assert len(score_folder(tmp_path / "out", truth, ["walk"])) == 8


def test_a_picture_beside_the_folder_of_masks_is_no_mask(truth: Path, tmp_path: Path) -> None:
    save(tmp_path / "out/walk", clip({1: (5, 5), 2: (50, 40)}))
    (tmp_path / "out/overview.png").touch()
    assert (score_folder(tmp_path / "out", truth)["J"] == 1).all()


def test_bad_predictions_are_named(truth: Path, tmp_path: Path) -> None:
    def error(names: tuple[str, ...] = ()) -> str:
        with pytest.raises(InputError) as raised:
            score_folder(tmp_path / "out", truth, names)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert f"there is no folder of masks at {tmp_path / 'out'}" in error()
    (tmp_path / "out").mkdir()
    assert f"no masks for sequence walk (no folder {tmp_path / 'out/walk'})" in error()
    assert f"no PNG masks in {truth / 'wlak'}" in error(("wlak",))

    folder = save(tmp_path / "out/walk", clip({1: (5, 5), 2: (50, 40)}))
    path, wanted = folder / "00002.png", truth / "walk/00002.png"
    write_mask(path, np.zeros((90, 121), np.uint8))
    assert f"mask {path} is 121x90 pixels, but its truth {wanted} is 120x90" in error()
    write_mask(path, np.full((90, 120), 3, np.uint8))
    assert f"mask {path} has id 3, but the ids of the first truth mask end at 2" in error()
    path.write_bytes(b"no image")
    assert f"mask {path} is damaged" in error()
    path.unlink()
    (folder / "00003.png").unlink()
    assert f"missing mask {path}, and 1 more of this sequence" in error()


def test_bad_streams_are_named(truth: Path) -> None:
    walk, masks = sequence(truth / "walk"), clip({1: (5, 5), 2: (50, 40)})
    for stream, words in (
        (masks[:4], "sequence walk: no mask for frame 00004"),
        ([*masks, masks[0]], "sequence walk: there are more masks than its 6 frames"),
        ([mask[:80] for mask in masks], "sequence walk, frame 00001 is 120x80 pixels"),
        ([*masks[:3], masks[3] * 5, *masks[4:]], "sequence walk, frame 00003 has id 10"),
    ):
        with pytest.raises(InputError, match=words):
            score_sequence(stream, walk)


@pytest.mark.parametrize("spoil", [lambda mask: mask * 0.9, lambda mask: mask.tolist(), len])
def test_a_mask_that_holds_no_ids_is_refused(truth: Path, spoil: Callable[[Ids], object]) -> None:
    """Of probabilities, all above 0 would count as the object."""
    masks = [spoil(mask) for mask in clip({1: (5, 5), 2: (50, 40)})]
    for merge in (False, True):
        with pytest.raises(InputError, match=r"frame 00001 is .*; give whole numbers"):
            score_sequence(masks, sequence(truth / "walk", merge))  # type: ignore[arg-type]


def test_one_grey_value_is_one_object(tmp_path: Path) -> None:
    """A truth of 0 and 128, and a prediction elsewhere: J is 0, and no 127 others are there."""
    truth, masks = np.zeros((2, 90, 120), np.uint8)
    truth[10:30, 10:30], masks[50:70, 60:90] = 128, 1
    save(tmp_path / "truth/walk", [truth] * 5, grey=True)
    save(tmp_path / "out/walk", [masks] * 5)
    scores = score_folder(tmp_path / "out", tmp_path / "truth")
    assert (scores["object"].tolist(), scores["J"].tolist()) == ([1] * 3, [0] * 3)
    truth[10, 10:30] = 255
    save(tmp_path / "soft/walk", [truth] * 5, grey=True)
    with pytest.raises(InputError, match="has 2 values up to 255: soft edges"):
        score_folder(tmp_path / "out", tmp_path / "soft")


def test_a_truth_of_grey_levels_is_no_set_of_objects(tmp_path: Path) -> None:
    grey = np.add.outer(np.arange(90), np.arange(120)).astype(np.uint8)
    walk = sequence(save(tmp_path / "walk", [grey] * 6, grey=True))
    with pytest.raises(InputError, match=r"has 20\d values up to 20\d: soft edges"):
        score_sequence([grey] * 6, walk)


def test_a_truth_that_leaves_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    two = sequence(save(tmp_path / "two", clip({1: (5, 5)}, frames=2)))
    with pytest.raises(InputError, match="sequence two: only 2 frames"):
        score_sequence(clip({1: (5, 5)}, frames=2), two)
    empty = sequence(save(tmp_path / "empty", clip({})))
    with pytest.raises(InputError, match="shows no object"):
        score_sequence(clip({}), empty)
    paths = empty.frame_paths
    with pytest.raises(InputError, match="1 truth masks for 6 frames"):
        score_sequence(clip({}), Video("sparse", paths, paths[:1]))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no folders in"):
        score_folder(tmp_path, tmp_path / "none")
    with pytest.raises(InputError, match="no scores"):
        summarise(pd.DataFrame(columns=["sequence", "object", "frame", "J", "F"]))


def test_the_csv_files_have_the_official_columns(truth: Path, tmp_path: Path) -> None:
    table = score_sequence(clip({1: (5, 5), 2: (50, 40)}, shift=5), sequence(truth / "walk"))
    write_official_csvs(tmp_path / "out", table, "val")
    overall = pd.read_csv(tmp_path / "out/global_results-val.csv")
    objects = pd.read_csv(tmp_path / "out/per-sequence_results-val.csv")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "global_results-val.csv",
        "per-sequence_results-val.csv",
    ]
    assert overall.columns.tolist() == OFFICIAL_COLUMNS
    assert overall.iloc[0].to_numpy() == pytest.approx(summarise(table)[1].to_numpy(), abs=1e-6)
    assert objects.columns.tolist() == ["Sequence", "J-Mean", "F-Mean"]
    assert objects["Sequence"].tolist() == ["walk_1", "walk_2"]
    assert objects["J-Mean"].mean() == pytest.approx(overall["J-Mean"][0], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_vos_benchmark_agrees_on_clips_of_several_objects(tmp_path: Path, seed: int) -> None:
    """Both evaluators treat objects alike that the first evaluated frame shows."""
    benchmark = pytest.importorskip(
        "vos_benchmark.benchmark", reason="the development extra vos-benchmark is not installed"
    )
    truth, prediction = (np.zeros((9, 120, 200), np.uint8) for _ in range(2))
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :200]
    for number in (1, 2, 3):
        centre, speed = random.uniform((20, 30), (100, 170)), random.uniform(-4, 4, 2)
        radii = random.uniform(8, 35, 2)
        for index in range(9):
            for masks, error in ((truth, 0.0), (prediction, 3.0)):
                dy, dx = centre + speed * index + error * random.normal(0, 1, 2)
                masks[index][((y - dy) / radii[0]) ** 2 + ((x - dx) / radii[1]) ** 2 <= 1] = number
    prediction[5] = 0
    truth[1:, 0, :3], prediction[1:, -1, -3:] = (1, 2, 3), (1, 2, 3)
    truth[0, 0, :3] = 1, 2, 3
    save(tmp_path / "truth/clip", list(truth))
    save(tmp_path / "out/clip", list(prediction))
    _, j, f = benchmark.VideoEvaluator(tmp_path / "truth", tmp_path / "out")("clip")
    ours = summarise(score_folder(tmp_path / "out", tmp_path / "truth"))[0].set_index("object")
    for number, row in ours.iterrows():
        found = 100 * row["J-Mean"], 100 * row["F-Mean"]
        assert found == pytest.approx((j[number], f[number]), abs=1e-9)
    assert ours.index.tolist() == [1, 2, 3]
    assert 20 < 100 * ours["J-Mean"].mean() < 95


def test_cases(shared_path: Callable[[str], Path]) -> None:
    cases = shared_path("cases")
    double = score_folder(cases / "apple_double/masks", cases / "apple_double/truth")
    assert double["J"].tolist() == [1]
    listed = cases / "list_with_bom"
    names = read_list(listed / "val.txt")
    assert score_folder(listed / "masks", listed / "truth", names)["J"].tolist() == [1] * 3
    soft = score_folder(cases / "soft_masks/masks", cases / "soft_masks/truth")
    assert soft.attrs["notes"][1:] == [
        "s: 3 masks have other values than 0 and 255; all above 0 count as the object"
    ]
