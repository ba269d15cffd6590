"""Figures say what their data say: values, places and labels are read back from the drawn figure, never its pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_results import VAL, add_costs, add_run, add_scores, add_sessions, add_speed
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from e3sn_lib.config import Profile
from e3sn_lib.data.pairs import Pair, PairDataset
from e3sn_lib.data.sources import open_evaluation, open_train_sets
from e3sn_lib.data.synthetic import VERSION
from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_mask
from e3sn_lib.geometry import box_from_mask
from e3sn_lib.losses import mask_windows
from e3sn_lib.model.windows import Cells, cut_windows
from e3sn_lib.sampling import anchor_iou
from e3sn_lib.tracking.video import OBJECT_COLOURS
from e3sn_study.evaluation.inspection import Answers
from e3sn_study.figures import curves, photographs, scores, style, windows
from e3sn_study.figures.style import LEVEL_COLOURS, VARIANT_COLOURS
from e3sn_study.records import Records

J = {name: 0.3 + index / 40 for index, name in enumerate(VAL)}


@pytest.fixture(scope="module")
def profile(tiny_profile: Callable[..., Profile]) -> Profile:
    return tiny_profile()


@pytest.fixture(scope="module")
def pairs(profile: Profile) -> list[Pair]:
    dataset = PairDataset(
        open_train_sets(profile.data).opened, profile, profile.stages["end_to_end"]
    )
    return [dataset[index] for index in range(24)]


@pytest.fixture(scope="module")
def pair(pairs: list[Pair]) -> Pair:
    return next(each for each in pairs if (each.sample_labels == 1).sum() == 3)


@pytest.fixture(scope="module")
def videos(profile: Profile) -> list[Video]:
    return open_evaluation(profile.data, "davis2017")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three variants on DAVIS-2016 val: E3SN is 2 points of J better than the others, 10 where boxes are true."""
    for variant, gain in (("e3sn", 0.02), ("e3sn-s", 0.0), ("siammask", 0.0)):
        run = add_run(tmp_path, variant)
        add_scores(tmp_path, run, {name: value + gain for name, value in J.items()}, 0.5)
        if variant == "e3sn":
            bonuses = {"mask in true boxes": 0.1, "tracker box filled": -0.1}
            bonuses |= {"mask@0.30": 0.03, "mask@0.60": -0.05}
            for method, bonus in bonuses.items():
                scores = {name: value + bonus for name, value in J.items()}
                add_scores(tmp_path, run, scores, 0.4, method=method)
    add_scores(tmp_path, "", 0.2, 0.1, method="first mask held still")
    add_scores(tmp_path, "", 0.1, 0.1, method="first box held still")
    return tmp_path


def log(points: int = 20, stages: tuple[str, ...] = ("end_to_end",)) -> pd.DataFrame:
    step = np.arange(1, points + 1)
    names = [
        stages[min(int(len(stages) * index / points), len(stages) - 1)] for index in range(points)
    ]
    columns = {"step": step, "stage": names, "pairs": 8 * step, "mask_iou": step / points}
    columns |= {"pairs_per_second": 9.0, "data_share": 0.02, "peak_memory_mb": 2048.0}
    columns |= {"w2": 0.3, "w3": 0.33, "w4": 0.37}
    return pd.DataFrame(columns | dict.fromkeys(("cls", "loc", "mask"), 1.0 / step))


def texts(figure: Figure) -> str:
    found = [
        text.get_text()
        for axes in figure.axes
        for text in (*axes.texts, axes.title, axes._left_title)
    ]
    return "\n".join([*found, *(text.get_text() for text in figure.texts)])


def boxes(axes) -> list[tuple[float, ...]]:
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(*patch.get_bbox().p0, *patch.get_bbox().p1) for patch in patches]


def test_a_figure_is_the_same_file_every_time_and_carries_what_it_shows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        figure = curves.level_weights(log())
        style.save_figure(tmp_path / name / "x_synthetic.png", figure)
    for suffix in (".png", ".svg"):
        first, second = ((tmp_path / name / f"x_synthetic{suffix}").read_bytes() for name in "ab")
        assert first == second
    assert b"synthetic data</text>" in first
    with Image.open(tmp_path / "a" / "x_synthetic.png") as image:
        assert image.info["Description"] == "The weights of eq. 5 while they are learned."
    assert figure.canvas.manager is None  # no window system knows of it


def test_empty_margins_are_cut_off_and_a_note_is_not(tmp_path: Path) -> None:
    heights = []
    for name in ("figure", "figure_synthetic"):
        path = tmp_path / f"{name}.png"
        style.save_figure(path, curves.level_weights(log()))
        ink = np.array(Image.open(path).convert("L")) < 250
        heights.append(len(ink))
        for edge in (ink[:16], ink[-16:], ink[:, :16], ink[:, -16:]):
            assert edge.any()
    assert heights[1] > heights[0]


SIGHT = {  # Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB
    "full": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "palette",
    [VARIANT_COLOURS, LEVEL_COLOURS, dict(enumerate(OBJECT_COLOURS[:3]))],
    ids=["variants", "levels", "objects"],
)
def test_colours_stay_apart_for_every_kind_of_sight(palette: dict, sight: str) -> None:
    colours = [
        np.array(colour) / 255 if isinstance(colour, tuple) else np.array(to_rgb(colour))
        for colour in palette.values()
    ]
    seen = [np.clip(np.array(SIGHT[sight]) @ colour**2.2, 0, 1) ** (1 / 2.2) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.2


def test_training_curves_show_every_run_and_the_border_between_stages() -> None:
    figure = curves.training_curves({"e3sn": log(), "siammask": log(stages=("base", "sharp"))})
    assert [axes._left_title.get_text() for axes in figure.axes] == [
        "classification loss",
        "box loss",
        "mask loss",
        "mask IoU",
    ]
    border = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [set(line.get_xdata()) for line in border] == [{80}]
    assert {"E3SN", "SiamMask"} <= set(texts(figure).split("\n"))


def test_few_points_are_marked_and_not_smoothed() -> None:
    short = curves.training_curves({"e3sn": log(3)})
    assert [line.get_marker() for line in short.axes[0].lines] == ["o"]
    assert list(short.axes[0].lines[0].get_ydata()) == [1.0, 0.5, 1 / 3]
    assert curves.throughput(log(1)).axes[0].lines[0].get_marker() == "o"


def test_labels_at_line_ends_do_not_overlap() -> None:
    figure = curves.level_weights(log().assign(w2=0.333, w3=0.3331, w4=0.3339))
    heights = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert len(heights) == 3
    assert min(np.diff(heights)) >= 0.07


def test_stage_times_add_up(tmp_path: Path) -> None:
    """Of SiamMask's pairs the second stage has a quarter: 0.75 x 120 ms + 0.25 x 40 ms."""
    add_costs(tmp_path, {"e3sn": (0.15,), "siammask": (0.12, 0.04)}, {"e3sn": 0.1})
    figure = curves.stage_times(Records(tmp_path))
    assert [round(right, 3) for _, _, right, _ in boxes(figure.axes[0])] == [90, 100, 150]
    assert {"stage0", "stage1", "  100 ms", "  150 ms"} <= set(texts(figure).split("\n"))


def test_sampling_cost_tells_measured_from_estimated(tmp_path: Path) -> None:
    cost = pd.DataFrame(
        {
            "samples_per_image": [1, 4, 625],
            "samples": [2, 8, 1250],
            "peak_memory_mb": [1024.0, 2048.0, np.nan],
        }
    )
    cost = cost.assign(
        seconds_per_step=[1.0, 2.0, np.nan], estimated_memory_mb=[np.nan, np.nan, 20480.0]
    )
    cost.to_csv(tmp_path / "sampling_cost.csv", index=False)
    memory, time = curves.sampling_cost(Records(tmp_path)).axes
    _, every, filled = memory.lines[:3]
    assert (list(every.get_ydata()), every.get_markerfacecolor()) == ([1024, 2048, 20480], "white")
    assert np.isnan(filled.get_ydata()[2])
    assert [text.get_text() for text in memory.texts][:3] == ["1,024", "2,048", "20,480"]
    assert [text.get_text() for text in time.texts] == ["1", "2"]
    cost.assign(peak_memory_mb=np.nan, seconds_per_step=np.nan, estimated_memory_mb=0.0).to_csv(
        tmp_path / "sampling_cost.csv", index=False
    )
    memory, time = curves.sampling_cost(Records(tmp_path)).axes  # every process was killed
    assert (memory.get_ylim(), time.get_ylim()) == ((0, 1), (0, 1))


def test_ladder_shows_the_means_and_the_papers_score_for_the_whole_set(results: Path) -> None:
    figure = scores.ladder(Records(results))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    widths = dict(zip(names, (right for _, _, right, _ in boxes(figure.axes[0])), strict=True))
    mean = 100 * np.mean(list(J.values()))
    assert widths["E3SN"] == pytest.approx(mean + 2)
    assert widths["E3SN in true boxes"] == pytest.approx(mean + 10)
    assert widths["first mask held still"] == pytest.approx(20)
    assert "paper 73.0" in texts(figure)


def test_the_frame_whose_box_is_given_does_not_count_as_lost() -> None:
    rows = [(frame, number, 0.5, 0.1) for frame in range(3) for number in (1, 2)]
    tracks = pd.DataFrame(rows, columns=["frame", "object", "score", "predicted_j"])
    (axes,) = curves.certainty(tracks, 0.4).axes
    assert axes.get_title("left") == "below 0.40: 4 of 6 masks count as lost"


def test_no_paper_score_beside_a_part_of_the_set(tmp_path: Path) -> None:
    add_scores(tmp_path, add_run(tmp_path), J, sequences=VAL[:4])
    assert "paper" not in texts(scores.ladder(Records(tmp_path)))


def test_speed_and_accuracy_stand_beside_those_of_the_paper(results: Path) -> None:
    (run,) = Records(results).main_runs("e3sn")
    add_speed(results, run, 30)
    add_sessions(results, run)
    (axes,) = scores.trade_off(Records(results)).axes
    places = [line.get_xydata()[0].tolist() for line in axes.lines]
    points = dict(zip([text.get_text() for text in axes.texts], places, strict=True))
    own = (100 * np.mean(list(J.values())) + 2 + 50) / 2
    assert points["E3SN, ours"] == pytest.approx([30, own])
    assert points["E3SN, ours, int8 graphs"] == pytest.approx([35, 67.5])
    assert points["E3SN, the paper"] == pytest.approx([46, (73.0 + 69.3) / 2])
    assert points["E3SN, ours, as e3sn track --keep-lost"] == pytest.approx([28, 68])
    assert len(points) == 13


def test_the_papers_points_are_not_shown_beside_a_part_of_the_set(tmp_path: Path) -> None:
    run = add_run(tmp_path)
    add_scores(tmp_path, run, J, sequences=VAL[:4])
    add_speed(tmp_path, run, 30, sequences=VAL[:4])
    assert texts(scores.trade_off(Records(tmp_path))).split("\n") == ["E3SN, ours", "", ""]


def test_sequences_are_ranked_by_e3sn(results: Path) -> None:
    figure = scores.per_sequence(Records(results))
    axes = figure.axes[0]
    order = [label.get_text() for label in axes.get_yticklabels()]
    assert order == sorted(J, key=lambda name: -J[name])
    dots = {line.get_label(): line for line in axes.lines}
    assert list(dots["E3SN in true boxes"].get_xdata()) == pytest.approx(
        [100 * (J[name] + 0.1) for name in order]
    )
    values = dict(zip(dots["E3SN"].get_ydata(), dots["E3SN"].get_xdata(), strict=True))
    assert [values[place] for place in range(len(order))] == pytest.approx(
        [100 * (J[name] + 0.02) for name in order]
    )


def test_thresholds_are_in_order_with_the_papers_own(results: Path) -> None:
    j, f = scores.thresholds(Records(results)).axes[0].lines[:2]
    mean = 100 * np.mean(list(J.values()))
    assert list(j.get_xdata()) == [0.3, 0.5, 0.6]
    assert list(j.get_ydata()) == pytest.approx([mean + 3, mean + 2, mean - 5])
    assert list(f.get_ydata()) == pytest.approx([40, 50, 40])


def test_gains_are_paired_and_name_their_mean(results: Path) -> None:
    figure = scores.gains(Records(results), "e3sn", "e3sn-s")
    bars = [box for box in boxes(figure.axes[0]) if box[3] - box[1] == pytest.approx(0.66)]
    assert [right for _, _, right, _ in bars] == pytest.approx([2.0] * len(VAL))
    assert "J: +2.0 (+2.0 to +2.0)" in texts(figure)


def test_ablations_show_each_change_its_mean_and_its_seeds(tmp_path: Path) -> None:
    for seed, gain in enumerate((0.02, 0.06)):
        add_scores(tmp_path, add_run(tmp_path, seed=seed), J, 0.5)
        run = add_run(tmp_path, seed=seed, overrides=["sampler.high=0.5", "sampler.low=0.2"])
        add_scores(tmp_path, run, {name: j + gain for name, j in J.items()}, 0.48)
    figure = scores.ablations(Records(tmp_path), "e3sn")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["sampler.high=0.5\nsampler.low=0.2\n12,000 pairs"]
    for axes, mean, by_seed in zip(figure.axes, (4, -2), ([2, 6], [-2, -2]), strict=True):
        interval, dot, seeds, _ = (line.get_xdata() for line in axes.lines)
        assert list(dot) == pytest.approx([mean])
        assert list(seeds) == pytest.approx(by_seed)
        assert interval[0] <= mean <= interval[1]
    with pytest.raises(InputError, match="no ablation of siammask has been scored"):
        scores.ablations(Records(tmp_path), "siammask")


@pytest.mark.parametrize(
    "draw",
    [scores.ladder, scores.per_sequence, scores.thresholds, scores.gains, scores.trade_off],
)
def test_without_scores_a_figure_says_what_to_do(
    draw: Callable[[Records], Figure], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no run that this needs has been scored on davis2016"):
        draw(Records(tmp_path))


def test_j_over_time_starts_at_the_first_scored_frame() -> None:
    table = pd.DataFrame({"object": [1, 1, 2, 2], "J": [0.1, 0.2, 0.3, 0.4]})
    axes = scores.over_time({"clip": table}).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[1, 2], [1, 2]]


def test_the_sample_matrix_is_drawn_where_its_cells_are(pair: Pair, profile: Profile) -> None:
    figure = windows.sample_matrix(pair, profile.sampler)
    anchors, overlap, matrix = figure.axes
    dots = {tuple(to_rgb(line.get_color())): line for line in matrix.lines}
    drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in matrix.lines]
    expected = [(127.5 + 8 * (column - 12), 127.5 + 8 * (row - 12)) for row, column in pair.cells]
    assert len(dots) == 2
    assert drawn == expected
    x1, y1, x2, y2 = pair.box_crop_xyxy
    for (x, y), label in zip(drawn, pair.sample_labels, strict=True):
        assert label < 0 or (x1 < x < x2 and y1 < y < y2)
    for axes in figure.axes:
        assert boxes(axes)[-1] == pytest.approx(tuple(pair.box_crop_xyxy))
    assert len(boxes(anchors)) == 6
    best = anchor_iou(tuple(float(value) for value in pair.box_crop_xyxy)).max(axis=0)
    assert np.array_equal(overlap.images[0].get_array(), best)


def test_sampled_windows_are_what_the_loss_sees(pair: Pair) -> None:
    figure = windows.sampled_windows(pair)
    rows, columns = torch.from_numpy(pair.cells).unbind(1)
    cells = Cells(torch.zeros_like(rows), rows, columns)
    search = torch.from_numpy(pair.search).permute(2, 0, 1)[None].float()
    cut = cut_windows(search, cells, 32, 1, 127).permute(0, 2, 3, 1).numpy()
    labels = mask_windows(torch.from_numpy(pair.mask)[None].float(), cells, 32).numpy()
    assert len(figure.axes) == 4
    for axes, window, pixels in zip(figure.axes, cut, labels, strict=True):
        inside = pixels != 0
        assert np.array_equal(np.asarray(axes.images[0].get_array())[inside], window[inside])


def test_positives_are_counted_over_positive_pairs_only(
    pairs: list[Pair], profile: Profile
) -> None:
    figure = windows.positives_per_image(pairs, profile.sampler)
    counted = sum(top for _, _, _, top in boxes(figure.axes[0]))
    assert counted == sum(not each.negative for each in pairs)
    assert sum(right for _, _, right, _ in boxes(figure.axes[1])) == counted


def test_a_pair_is_shown_with_its_box_beside_its_template(pairs: list[Pair]) -> None:
    figure = photographs.pair_grid(pairs[:4], columns=2)
    assert len(figure.axes) == 4
    for axes, each in zip(figure.axes, pairs, strict=False):
        tile = np.asarray(axes.images[0].get_array())
        assert np.array_equal(tile[:127, :127], each.template)
        assert np.array_equal(tile[:, -255:], each.search)
        if each.negative:
            assert "another object" in "".join(text.get_text() for text in axes.texts)
        else:
            assert boxes(axes) == [
                pytest.approx(tuple(each.box_crop_xyxy + np.array([135, 0, 135, 0])))
            ]


def test_every_training_set_has_its_row(profile: Profile) -> None:
    figure = photographs.training_examples(open_train_sets(profile.data))
    assert f"synthetic-v{VERSION}-train: 3 objects" in texts(figure)
    assert [len(boxes(axes)) for axes in figure.axes] == [1, 1, 1, 0, 0]


def test_the_benchmark_is_shown_with_the_boxes_the_tracker_gets(videos: list[Video]) -> None:
    figure = photographs.benchmark_overview(videos)
    for axes, video in zip(figure.axes, videos, strict=False):
        first = video.mask(0)
        assert boxes(axes) == [
            pytest.approx(box_from_mask(first == number)) for number in video.object_ids()
        ]


def test_rows_of_figure_4_start_with_boxes_and_go_on_with_masks(
    videos: list[Video], tmp_path: Path
) -> None:
    video = videos[0]
    for index, path in enumerate(video.frame_paths):
        write_mask(tmp_path / video.name / f"{path.stem}.png", video.mask(index))
    rows = [photographs.Row(video, tmp_path), photographs.Row(video, tmp_path, "again")]
    figure = photographs.video_rows(rows, columns=3, truth=True)
    first, second, third, *others = figure.axes
    assert len(boxes(first)) == len(video.object_ids())
    assert [axes.texts[0].get_text() for axes in (second, third)] == [
        f"frame {len(video) // 2}",
        f"frame {len(video) - 1}",
    ]
    assert others[0]._left_title.get_text() == "again"
    assert [len(axes.images) for axes in others] == [1, 1, 1]
    with pytest.raises(InputError, match="cannot read mask"):
        photographs.video_rows([photographs.Row(videos[1], tmp_path)])
    axes = photographs.video_rows(rows, columns=3, close=True).axes[1]
    mask = video.mask(len(video) // 2)
    x1, y1, x2, y2 = box_from_mask(mask > 0)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    height, width = mask.shape
    assert 0 <= left <= x1 < x2 <= right <= width
    assert 0 <= top <= y1 < y2 <= bottom <= height
    assert (right - left) / (bottom - top) == pytest.approx(width / height)
    assert right - left < width


def test_level_maps_lie_on_the_crop_at_their_own_resolution() -> None:
    maps = {"conv2": np.zeros((49, 49), np.float32), "conv4": np.zeros((25, 25), np.float32)}
    figure = photographs.level_maps(
        Answers(np.zeros((255, 255, 3), np.uint8), (100.0, 90.0, 160.0, 150.0), maps)
    )
    fine, coarse = (axes.images[1].get_extent() for axes in figure.axes[1:])
    assert tuple(coarse) == (27.5, 227.5, 227.5, 27.5)
    assert tuple(fine) == (29.5, 225.5, 225.5, 29.5)
    assert all(boxes(axes) == [(100.0, 90.0, 160.0, 150.0)] for axes in figure.axes)


def test_the_reliability_figure_shows_each_split_in_its_own_panel(tmp_path: Path) -> None:
    rows = {
        "train": [(0.1, 0.2), (0.3, 0.6), (0.9, 0.95)],
        "val": [(0.2, 0.9), (0.8, 0.4)],
        "backwards": [(0.5, 0.5)],
    }
    lines = [
        f"{split},bear,1,{frame},{j},{predicted}"
        for split, each in rows.items()
        for frame, (j, predicted) in enumerate(each)
    ]
    header = "split,sequence,object,frame,j,predicted_j"
    (tmp_path / "confidence.csv").write_text("\n".join([header, *lines]) + "\n")
    train, val = scores.reliability(Records(tmp_path)).axes
    for axes, split in ((train, "train"), (val, "val")):
        shown = axes.lines[0].get_xydata()
        assert shown is not None
        assert [(y, x) for x, y in np.asarray(shown)] == rows[split]
    assert (train.get_xlabel(), train.get_ylabel()) == ("predicted J", "J")
    assert "area 1.000 for J < 0.5" in train.texts[0].get_text()
    assert "area 0.000 for J < 0.5" in val.texts[0].get_text()


def test_models_on_held_out_data_are_shown_by_their_pairs(tmp_path: Path) -> None:
    header = "model,run,pairs,J-Mean,F-Mean,scenes,raw_over,penalised_over"
    rows = "a,run,1000,.6,.5,150,.2,.1\nb,run,2000,.7,.6,150,.1,.05\n"
    (tmp_path / "held_out.csv").write_text(f"{header}\n{rows}")
    left, right = scores.seen_pairs(Records(tmp_path)).axes
    drawn = [line.get_xydata() for axes in (left, right) for line in axes.lines]
    expected = [[(1000, 55), (2000, 65)], [(1000, 20), (2000, 10)], [(1000, 10), (2000, 5)]]
    np.testing.assert_allclose(np.array(drawn, float), expected)
    legend = right.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["by the score alone", "with penalty and window"]
