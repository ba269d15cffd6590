"""The report page: complete, offline, honest about what is synthetic or missing; and the README's table."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import VAL, add_costs, add_run, add_scores, add_speed
from PIL import Image
from remote_loads import remote_loads

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import load_profile, profile_from_dict
from e3sn_lib.tracking.clip import write_clip
from e3sn_study.checkout import REPORTS
from e3sn_study.records import Records, reference
from e3sn_study.report import page as page_pieces
from e3sn_study.report.page import HTML, picture, prose, view
from e3sn_study.report.report import (
    FIGURES,
    MARKS,
    build_report,
    draw_figures,
    readme_report,
    readme_table,
    update_readme,
)
from e3sn_study.report.sections import in_words
from e3sn_study.tables.cells import NOT_RUN
from e3sn_study.tables.deviations import deviations
from e3sn_study.tables.tables import TABLES, table1

ROOT = Path(__file__).parents[2]
MACROS: Any = HTML.get_template("macros.html.j2").make_module(
    {"figures": {}, "next_figure": lambda: 1}
)
HEADINGS = [
    "Claims and verdicts",
    "Limits",
    "Summary",
    "Scope",
    "Method",
    "What was easy",
    "What was difficult",
    "Communication with the authors",
    "Main results",
    "What it looks like",
    "What limits the scores",
    "Cost",
    "Ablations",
    "What this was checked against",
    "Data",
    "Model and training",
    "Evaluation",
    "Deviations",
    "What we tried",
    "Commands and runs",
    "Licences and use",
]
"""What a reproduction report has to speak about."""


class Outline(HTMLParser):
    """Headings, links, open tags and text of a page."""

    void = frozenset({"meta", "img", "br", "path", "rect", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.open: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values["href"] or ""] if tag == "a" else []
        self.anchors |= {values["id"] or ""} if "id" in values else set()
        self.headings += [""] if re.fullmatch(r"h\d", tag) else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch(r"h\d", self.open[-1]):
            self.headings[-1] += data
        if not {"style", "script"} & {*self.open}:
            self.words += data


@pytest.fixture
def smoke() -> Profile:
    return load_profile("smoke")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A folder "made" with the results of one network."""
    folder = tmp_path / "reports" / "made"
    run = add_run(folder / "results")
    add_scores(folder / "results", run, {name: index / 20 for index, name in enumerate(VAL)}, 0.45)
    add_speed(folder / "results", run, 12.5)
    return folder


def draw(path: Path, width: int = 300, height: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(path)


def test_the_page_has_every_section_and_is_well_formed(report: Path, smoke: Profile) -> None:
    page = Outline(build_report(report, smoke).read_text())
    assert [heading for heading in page.headings if heading in HEADINGS] == HEADINGS
    assert page.open == []
    assert "nan" not in page.words.lower().split()
    assert [link for link in page.links if link.startswith("#")]
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.anchors


def test_the_page_needs_no_network_and_its_files_exist(report: Path, smoke: Profile) -> None:
    draw(report / "figures" / "ladder.png")
    (report / "notebooks").mkdir()
    (report / "notebooks" / "04_evaluation.html").write_text("<p>executed</p>")
    page = build_report(report, smoke).read_text()
    assert remote_loads(page) == []
    local = [link for link in Outline(page).links if not re.match(r"#|https?:", link)]
    expected = {"figures/ladder.png", "notebooks/04_evaluation.html"}
    assert expected | {"tables/table1.csv", "tables/table1.md"} <= set(local)
    assert [link for link in local if not (report / link).is_file()] == []


def test_the_first_screen_gives_the_numbers_and_verdicts(report: Path, smoke: Profile) -> None:
    page = build_report(report, smoke).read_text()
    header = Outline(page[page.index("<header>") : page.index("</header>")]).words
    assert "E3SN: Efficient End-to-End Siamese Network for Video Object Segmentation" in header
    parts = "47.5", "45.0", "12,000", "0.1\u00a0% of 12 million", "12.5"
    for part in (*parts, "all 20 sequences; the paper: 73.0"):
        assert part in header
    assert "1 not reproduced, 9 not testable here" in header


def test_building_twice_gives_the_same_bytes(report: Path, smoke: Profile) -> None:
    draw(report / "figures" / "gains.png")
    first = build_report(report, smoke).read_bytes()
    tables = {path.name: path.read_bytes() for path in (report / "tables").iterdir()}
    assert build_report(report, smoke).read_bytes() == first
    assert {path.name: path.read_bytes() for path in (report / "tables").iterdir()} == tables
    assert {Path(name).stem for name in tables} == {*TABLES, "deviations"}


def test_table_files_name_the_command_that_makes_them(report: Path, smoke: Profile) -> None:
    build_report(report, smoke)
    lines = (report / "tables" / "table4.md").read_text().splitlines()
    assert lines[0] == "<!-- make reproduce PROFILE=smoke ONLY=06 -->"
    assert lines[1].startswith("# Table 4: ")
    assert "| E3SN | the paper | 73.0 | 69.3 | – | – |" in lines


def test_an_empty_folder_is_a_page_of_what_was_not_run(tmp_path: Path, smoke: Profile) -> None:
    page = Outline(build_report(tmp_path, smoke).read_text())
    assert page.headings[-1]
    assert page.words.count("not run") > 50
    assert "10 not testable here" in page.words


def test_synthetic_results_say_so_in_titles_file_names_and_at_the_top(
    tmp_path: Path, smoke: Profile
) -> None:
    run = add_run(tmp_path / "results", data="synthetic-train")
    add_scores(tmp_path / "results", run, 0.5, sequences=["fish-1", "car-2"])
    draw(tmp_path / "figures" / "ladder_synthetic.png")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table1.csv").write_text("left from real results")
    page = build_report(tmp_path, smoke).read_text()
    names = {path.stem for path in (tmp_path / "tables").iterdir()}
    synthetic = {f"{name}_synthetic" for name in TABLES if name != "checks"}
    assert names == synthetic | {"checks", "deviations"}
    header = Outline(page[page.index("<header>") : page.index("</header>")]).words
    assert "Synthetic results. Everything here was trained and scored on procedural clips" in header
    titles = [heading for heading in Outline(page).headings if heading.startswith("Table ")]
    assert len(titles) == 4
    assert all(", synthetic: " in title for title in titles)
    assert "<title>E3SN study, profile smoke, synthetic</title>" in page
    assert "Synthetic. J (left) and F (right) on the procedural clips" in page
    answer = "None of the paper's 10 claims can be tested with these results."
    assert answer in " ".join(header.split())


def test_data_and_settings_are_those_of_the_main_run(tmp_path: Path) -> None:
    config = load_profile("long").to_dict()
    run = add_run(
        tmp_path / "results", pairs=10_000, pairs_before=70_000, profile="long", config=config
    )
    add_scores(tmp_path / "results", run, 0.5)
    page = Outline(build_report(tmp_path, load_profile("cpu")).read_text()).words
    assert "(PennFudanPed)" in page
    assert "The network was trained in legs." in page
    assert "80,000 pairs, 0.67 % of 12 million" in " ".join(page.split())
    assert "make reproduce PROFILE=cpu" in page


def test_legs_in_a_row_with_the_same_data_are_told_as_one(tmp_path: Path) -> None:
    results = tmp_path / "results"
    legs = [(5_000, 0, "stills"), (2_000, 5_000, "videos"), (3_000, 7_000, "videos")]
    for pairs, before, data in legs:
        run = add_run(results, pairs=pairs, own_pairs=pairs, pairs_before=before, data=data)
        add_scores(results, run, 0.5)
    page = " ".join(Outline(build_report(tmp_path, load_profile("cpu")).read_text()).words.split())
    told = (
        "5,000 pairs of the objects of stills (1,500); then on 5,000 pairs of the objects of videos"
    )
    assert told in page


def test_training_sets_that_were_absent_have_no_share(tmp_path: Path) -> None:
    absent = ["training set davis (DAVIS) is absent: no list"]
    add_scores(tmp_path / "results", add_run(tmp_path / "results", absent=absent), 0.5)
    page = Outline(build_report(tmp_path, load_profile("cpu")).read_text()).words
    assert "trained on COCO (coco_mini) 62 %, " in " ".join(page.split())
    assert "DAVIS-2016 train (DAVIS)" not in page


def test_figures_of_records_are_drawn_and_those_without_are_named(
    report: Path, smoke: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_figures(report)
    drawn = {path.name for path in (report / "figures").iterdir()}
    names = ("training_curves", "level_weights", "throughput")
    names += ("trade_off", "ladder", "per_sequence", "thresholds")
    assert drawn == {f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}
    told = capsys.readouterr().out.splitlines()
    absent = "results/held_out.csv is missing; make it with e3sn bench held-out"
    assert f"figure seen_pairs is not drawn: {absent}" in told
    assert len(told) == len(FIGURES) - len(names)
    assert 'href="figures/ladder.svg"><img src="data:image/webp' in (
        build_report(report, smoke).read_text()
    )


def test_figures_are_numbered_through_the_page_beside_what_they_belong_to(
    report: Path, smoke: Profile
) -> None:
    known = reference("figures")
    for name in (*known, "zebra"):
        draw(report / "figures" / f"{name}.png", 3, 2)
    (report / "figures" / "._zebra.png").write_bytes(b"as macOS leaves on other disks")
    page = build_report(report, smoke).read_text()
    found = re.findall(r"<figcaption><b>Figure (\d+)\.</b> (.*?)</figcaption>", page)
    assert [int(number) for number, _ in found] == list(range(1, len(known) + 2))
    captions = [caption for _, caption in found]
    assert sorted(captions) == sorted(
        ["zebra", *(prose(each["caption"]) for each in known.values())]
    )
    places = {"table-bounds": "ladder", "data": "pair_grid", "pictures": "clip"}
    for place, name in places.items():
        after = page[page.index(f'id="{place}"') :]
        end = re.search('<div class="entry" id=|<section id=', after).start()
        assert prose(known[name]["caption"]) in after[:end]


def test_clips_are_embedded(report: Path, smoke: Profile) -> None:
    draw(report / "figures" / "a.png")
    (report / "figures" / "clip.mp4").write_bytes(b"clip")
    page = build_report(report, smoke).read_text()
    assert 'src="data:video/mp4;base64,Y2xpcA=="' in page
    assert 'href="figures/clip.mp4"' in page


def test_of_a_large_clip_the_page_has_the_first_frame(
    report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = report / "figures" / "clip.mp4"
    write_clip(clip, [np.full((40, 60, 3), 200, np.uint8)] * 3, 12)
    monkeypatch.setattr(page_pieces, "LARGEST_CLIP", 10)
    shown = picture(clip, "a clip")
    assert (shown["pixels"], shown["link"]) == ((60, 40), "figures/clip.mp4")
    assert shown["clip"] == "Clip, 0.0 MB"
    image = Image.open(BytesIO(base64.b64decode(shown["source"].partition(",")[2])))
    assert np.abs(np.asarray(image.convert("RGB"), int) - 200).max() < 8


def test_figures_are_embedded_small_with_transparency_on_white(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((30, 4000, 4), np.uint8)).save(path)
    found = MACROS.picture(picture(path, 'a "caption"'))
    assert 'width="1600" height="12" alt="a &#34;caption&#34;"' in found
    assert found.startswith('<figure style="max-width:2960px;')
    assert '<a href="figures/wide.png"><img src="data:image/webp;base64,' in found


def test_two_sentences_on_top_say_what_was_reproduced_and_what_not(
    report: Path, smoke: Profile
) -> None:
    results = report / "results"
    for variant in ("siammask", "e3sn-s", "e3sn"):
        add_run(results, variant)
    costs = {"siammask": (1.0, 0.2), "e3sn-s": (1.2,), "e3sn": (1.2,)}
    add_costs(results, costs, dict.fromkeys(costs, 0.05))
    page = build_report(report, smoke).read_text()
    start = page.index('<p class="answer">')
    answer = Outline(page[start : page.index("</p>", start) + 4])
    assert " ".join(answer.words.split()).startswith(
        "1 of the paper's 10 claims is reproduced here: speed near SiamMask's. Not reproduced: less training time, "
    )
    assert answer.words.count(".") == 2
    assert {*answer.links} == {f"#C{number}" for number in range(1, 11)}


def test_rows_that_were_not_run_are_folded() -> None:
    table = pd.DataFrame(
        [["a", "1", "2"], ["b", NOT_RUN, NOT_RUN], ["c", "1", NOT_RUN]], columns=list("pqr")
    )
    shown = view(table)
    assert [row["cells"][0] for row in shown["rows"]] == [("t", "a"), ("t", "c")]
    assert [row["cells"][0] for row in shown["not_run"]] == [("t", "b")]


def test_names_of_runs_and_settings_are_put_into_words(tmp_path: Path) -> None:
    plain = add_run(tmp_path)
    changed = add_run(
        tmp_path, "e3sn-s", 1, pairs=2000, overrides=["train.pairs=2000", "model.levels=[3,4]"]
    )
    words = in_words(Records(tmp_path))
    assert words(f"{plain}: best") == "E3SN, 12,000 pairs, seed 0: best"
    assert words(changed) == "E3SN only S, 2,000 pairs, levels 3,4, seed 1"
    short = "runs with train.pairs=2000 train.unfreeze_at=1: short"
    assert words(short) == "runs with 2,000 pairs, backbone frozen: short"
    assert words("those of train.pairs=4000. Others") == "those of 4,000 pairs. Others"
    assert words("an.unknown={0.key} J = 5") == "an.unknown={0.key} J = 5"
    assert words(f"left out: {plain}-12345678") == f"left out: {plain}-12345678"


def test_the_page_carries_the_frames_of_the_slider(report: Path, smoke: Profile) -> None:
    frame = {"number": 3, "j": 61.2, "image": "UklGRg==", "box": [1, 2, 3, 4], "truth": ""}
    frame["mask"] = "M0 0 1 1 2 0Z"
    videos = [{"name": "</script>", "size": [8, 6], "frames": [frame]}]
    (report / "results" / "slider.json").write_text(json.dumps({"videos": videos}))
    page = build_report(report, smoke).read_text()
    content = page[page.index('id="frames">') + 12 :]
    assert json.loads(content[: content.index("</script>")]) == videos


def test_what_did_not_work_notebooks_and_absent_data_are_told(report: Path, smoke: Profile) -> None:
    (report / "what_did_not_work.md").write_text("One **global** clip starved `rpn`.")
    notebooks = [{"name": "02_training", "status": "failed", "seconds": 61.25, "error": "x"}]
    (report / "results" / "manifest.json").write_text(json.dumps({"notebooks": notebooks}))
    add_run(
        report / "results",
        "e3sn-s",
        absent=["training set coco is absent: no /a/b/coco; put it in /a/b/coco"],
    )
    page = build_report(report, smoke).read_text()
    assert "One <strong>global</strong> clip starved <code>rpn</code>." in page
    assert re.search(r'>02_training</td><td class="t">failed</td><td class="n">61\.2</td>', page)
    assert "training set coco is absent: no .../coco; put it in .../coco" in page


@pytest.mark.parametrize(
    "page", sorted(REPORTS.glob("*/index.html")), ids=lambda page: page.parent.name
)
def test_the_pages_on_record_load_nothing(page: Path) -> None:
    assert remote_loads(page.read_text()) == []


@pytest.mark.parametrize("name", ["smoke", "cpu", "paper"])
def test_deviations_follow_from_the_settings(name: str) -> None:
    profile = load_profile(name)
    table = deviations(profile).set_index("Item")
    assert table.index.is_unique
    assert not table.map(lambda cell: "{" in cell or not cell).any(axis=None)
    assert ("Optimiser" in table.index) == (profile.train.optimiser != "sgd")
    assert ("Backbone" in table.index) == (profile.model.backbone != "resnet50")
    assert ("Training data" in table.index) == (name != "paper")
    assert table.loc["Negatives in the mask loss", "We did"].startswith("as in eq. 4")
    if name != "paper":
        assert f"{profile.train.pairs:,} pairs" in table.loc["Length of training", "We did"]


def test_compared_networks_add_the_deviations_that_they_have_alone() -> None:
    main, compared = load_profile("long"), load_profile("cpu")
    alone, table = deviations(main), deviations(main, compared)
    assert alone.equals(table[: len(alone)])
    added = table[len(alone) :].set_index("Item")["We did"]
    assert added["Negative pairs, Tables 3 and 4"].startswith("10 %")
    assert "Mask threshold, Tables 3 and 4" not in added  # it is the same
    missing = "Objects over their own background, Look-alikes"
    assert f"These rows do not hold for these networks: {missing}. " in table.attrs["notes"][0]
    assert deviations(main, main).equals(alone)


def test_a_changed_setting_changes_the_deviations() -> None:
    settings = load_profile("paper").to_dict()
    settings["loss"]["negatives"] = "background"
    settings["train"]["pairs"] = 1_200_000
    table = deviations(profile_from_dict(settings)).set_index("Item")
    assert "Negatives in the mask loss" not in table.index
    assert (
        table.loc["Loss of a negative sample", "The paper says"] == "weight (1 + y) / 2 = 0 (eq. 4)"
    )
    assert table.loc["Length of training", "We did"] == "1,200,000 pairs, 10 % of 12 million"
    assert table.loc["The SiamMask baseline's losses", "We did"].startswith(
        "the baseline has L1 with weights 1, 1.2, 36,"
    )


def test_pieces_of_the_page() -> None:
    text = prose("a < b: -1.5 to -2, 2014-15 & 30 %, `x_y`")
    assert text == "a &lt; b: −1.5 to −2, 2014-15 &amp; 30\u00a0%, <code>x_y</code>"
    text = prose("E3SN - SiamMask, see https://example.org/a.")
    link = '<a href="https://example.org/a">https://example.org/a</a>'
    assert text == f"E3SN − SiamMask, see {link}."
    verdict = MACROS.verdict("partly (one seed)")
    assert verdict == '<span class="v partly">partly</span><small>one seed</small>'
    assert MACROS.verdict("not reproduced") == '<span class="v not">not reproduced</span>'
    assert MACROS.verdict("not testable here (not run)").startswith('<span class="v untested">')
    first = table1(Records(Path("nowhere"))).head(1)[["Method", "J-Mean"]]
    row = MACROS.grid(view(first, lambda _: "ours"))
    assert '<tr class="ours"><td class="t">OnAVOS</td><td class="n">86.1</td></tr>' in row


def test_the_readme_gets_its_table(report: Path) -> None:
    readme = report.parents[1] / "README.md"
    readme.write_text(f"# Title\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nend\n")
    assert update_readme(readme, report)
    content = readme.read_text()
    assert content.startswith(
        f"# Title\n\n{MARKS[0]}\n**Table 1: the DAVIS-2016 validation set (ours: all 20 sequences)**\n\n| Method |"
    )
    assert "| E3SN | the paper | – | – | 73.0 | 69.3 |" in content
    mine = r"^\| E3SN \| ours \| 12,000 \| 1 \| 47\.5 \([\d.]+ to [\d.]+\) \| 45\.0 "
    assert re.search(mine + r"\(45\.0 to 45\.0\) \|$", content, re.MULTILINE)
    link = "[reports/made/index.html](reports/made/index.html)"
    shown = f"{link} (open it in your clone: GitHub shows only its source)"
    assert content.endswith(f"{shown}\n{MARKS[1]}\n\nend\n")
    said = next(line for line in content.splitlines() if line.startswith("Of the paper's"))
    assert said.startswith("Of the paper's 10 claims, 0 are reproduced here. Not reproduced: ")
    assert "Not tested: training in one stage, " in said
    assert not update_readme(readme, report)


def test_the_readme_tells_the_speed_with_one_object(report: Path) -> None:
    header = "contender,machine,width,height,objects,step_ms,frames_per_second,ratio,share,threads"
    rows = [
        ("torch fp32; plain SiamMask", 854, 480, 1, 100),
        ("torch fp32; public code of SiamMask", 854, 480, 1, 150),
        ("ONNX int8", 854, 480, 1, 25),
        ("ONNX int8", 854, 480, 8, 150),
        ("ONNX int8", 1920, 1080, 1, 30),
    ]
    lines = [
        f'"{name.replace(";", ",")}",Some Chip,{width},{height},{count},{ms},{1000 / ms},1,0.5,2'
        for name, width, height, count, ms in rows
    ]
    path = report / "results" / "tracking_speed.csv"
    path.write_text("\n".join([header, *lines, ""]))
    text = readme_table(report / "README.md", report)
    assert "need 25 ms for one object in a frame of 854 × 480, on 2 cores (Some Chip)" in text
    rate = "6.0 times the rate of public code of SiamMask (PyTorch, fp32)"
    assert f"40 frames a second, {rate} in" in text
    path.unlink()
    assert "frames a second" not in readme_table(report / "README.md", report)


def test_executed_notebooks_have_the_tables_of_the_page() -> None:
    """A notebook that ran before the last training has other numbers, and has to run again."""

    def cells(html: str, tag: str) -> tuple[str, ...]:
        found = re.findall(rf"<{tag}[ >].*?</{tag}>", html, re.DOTALL)
        return tuple(unescape(re.sub("<.*?>", "", cell)).strip() for cell in found)

    report = ROOT / "reports" / "cpu"
    rows: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for path in (report / "tables").glob("*.csv"):  # tables 1 and 2 have the same columns
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows.setdefault(tuple(table), set()).update(table.itertuples(index=False, name=None))
    shown = []
    for page in sorted((report / "notebooks").glob("*.html")):
        for table in re.findall(r"<table.*?</table>", page.read_text(), re.DOTALL):
            if (columns := cells(table, "th")) in rows:
                found = {cells(row, "td") for row in re.findall("<tr>.*?</tr>", table, re.DOTALL)}
                assert found - {()} <= rows[columns], page.name
                shown.append(columns[0])
    assert len(shown) > 15
    assert shown.count("Claim") == 3


@pytest.mark.parametrize("content", ["# Title\n", f"{MARKS[1]}\n{MARKS[0]}\n", f"{MARKS[0]}\n"])
def test_a_readme_without_marks_is_left_alone(tmp_path: Path, content: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(content)
    with pytest.raises(InputError, match=r"README\.md lacks the lines <!-- table1:begin -->"):
        update_readme(readme, tmp_path)
    assert readme.read_text() == content
    with pytest.raises(InputError, match="cannot read"):
        update_readme(tmp_path / "absent.md", tmp_path)


def test_the_readme_shows_the_largest_profile_with_scores(tmp_path: Path) -> None:
    assert readme_report(tmp_path) is None
    for name in ("smoke", "cpu"):
        add_scores(tmp_path / name / "results", add_run(tmp_path / name / "results"), 0.5)
        assert readme_report(tmp_path) == tmp_path / name


def test_the_committed_readme_holds_the_table_of_the_committed_results() -> None:
    report = readme_report(ROOT / "reports")
    if report is None:
        pytest.skip("reports/ holds no scores yet")
    content = (ROOT / "README.md").read_text()
    begin, end = (content.index(mark) for mark in MARKS)
    assert content[begin + len(MARKS[0]) : end].strip() == readme_table(ROOT / "README.md", report)
