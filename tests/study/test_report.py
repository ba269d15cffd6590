"""The report page: complete, offline, honest about what is synthetic or missing; and the README's table."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_results import VAL, add_run, add_scores, add_speed
from PIL import Image
from remote_loads import remote_loads

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import load_profile, profile_from_dict
from e3sn_study.checkout import REPORTS
from e3sn_study.records import Records, reference
from e3sn_study.report.page import figure_html, table_html, text, verdict
from e3sn_study.report.report import MARKS, build_report, readme_report, readme_table, update_readme
from e3sn_study.report.sections import networks
from e3sn_study.tables.deviations import deviations
from e3sn_study.tables.tables import TABLES, table1

ROOT = Path(__file__).parents[2]
HEADINGS = [
    "Claims and verdicts",
    "Summary",
    "Scope",
    "Method",
    "What was easy",
    "What was difficult",
    "Communication with the authors",
    "Main results",
    "Where the points are",
    "Cost",
    "Ablations",
    "Figures",
    "What this was checked against",
    "Data",
    "Model and training",
    "Evaluation",
    "Deviations",
    "What did not work",
    "Limits",
    "Commands and runs",
    "Licences and use",
]
"""What a reproduction report has to speak about."""


class Outline(HTMLParser):
    """Headings, links, open tags and text of a page."""

    void = frozenset({"meta", "img", "br", "path", "rect"})

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
        if "style" not in self.open:
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
    assert {"figures/ladder.png", "notebooks/04_evaluation.html", "tables/table1.csv", "tables/table1.md"} <= set(local)
    assert [link for link in local if not (report / link).is_file()] == []


def test_the_first_screen_gives_the_numbers_and_verdicts(report: Path, smoke: Profile) -> None:
    page = build_report(report, smoke).read_text()
    header = Outline(page[page.index("<header>") : page.index("</header>")]).words
    assert "E3SN: Efficient End-to-End Siamese Network for Video Object Segmentation" in header
    for part in ("47.5", "45.0", "all 20 sequences; the paper: 73.0", "12,000", "0.1\u00a0% of 12 million", "12.5"):
        assert part in header
    assert "1 not reproduced, 9 not testable here" in header
    assert page.index("<header>") < page.index("Claims and verdicts</h2>") < page.index("Summary</h2>")


def test_building_twice_gives_the_same_bytes(report: Path, smoke: Profile) -> None:
    draw(report / "figures" / "gains.png")
    first = build_report(report, smoke).read_bytes()
    tables = {path.name: path.read_bytes() for path in (report / "tables").iterdir()}
    assert build_report(report, smoke).read_bytes() == first
    assert {path.name: path.read_bytes() for path in (report / "tables").iterdir()} == tables
    assert set(tables) == {f"{name}{suffix}" for name in [*TABLES, "deviations"] for suffix in (".md", ".csv")}


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


def test_synthetic_results_say_so_in_titles_file_names_and_at_the_top(tmp_path: Path, smoke: Profile) -> None:
    run = add_run(tmp_path / "results", data="synthetic-train")
    add_scores(tmp_path / "results", run, 0.5, sequences=["fish-1", "car-2"])
    draw(tmp_path / "figures" / "ladder_synthetic.png")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table1.csv").write_text("left from real results")
    page = build_report(tmp_path, smoke).read_text()
    names = {path.stem for path in (tmp_path / "tables").iterdir()}
    assert names == {f"{name}_synthetic" for name in TABLES if name != "checks"} | {"checks", "deviations"}
    header = Outline(page[page.index("<header>") : page.index("</header>")]).words
    assert "Synthetic results. Everything here was trained and scored on procedural clips" in header
    titles = [heading for heading in Outline(page).headings if heading.startswith("Table ")]
    assert len(titles) == 4
    assert all(", synthetic: " in title for title in titles)
    assert "<title>E3SN study, profile smoke, synthetic</title>" in page
    assert "Synthetic. From no learning" in page
    assert Outline(page).words.count("not testable here") >= 10


def test_known_figures_have_captions_in_order_and_others_their_name(report: Path, smoke: Profile) -> None:
    for name in ("zebra", "throughput", "per_sequence"):
        draw(report / "figures" / f"{name}.png")
    found = re.findall(r"<figcaption>(.*?)</figcaption>", build_report(report, smoke).read_text())
    captions = reference("figures")
    assert found == [text(captions["per_sequence"]), text(captions["throughput"]), "zebra"]


def test_clips_are_embedded(report: Path, smoke: Profile) -> None:
    draw(report / "figures" / "a.png")
    (report / "figures" / "clip.mp4").write_bytes(b"clip")
    page = build_report(report, smoke).read_text()
    assert 'src="data:video/mp4;base64,Y2xpcA=="' in page
    assert 'href="figures/clip.mp4"' in page


def test_figures_are_embedded_small_with_transparency_on_white(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((30, 4000, 4), np.uint8)).save(path)
    found = figure_html(path, 'a "caption"', "figures/wide.png")
    assert 'width="1600" height="12" alt="a &quot;caption&quot;"' in found
    assert found.startswith('<figure style="width:2960px"><a href="figures/wide.png"><img src="data:image/webp;base64,')


def test_what_did_not_work_notebooks_and_absent_data_are_told(report: Path, smoke: Profile) -> None:
    (report / "what_did_not_work.md").write_text("One **global** clip starved `rpn`.")
    notebooks = [{"name": "02_training", "status": "failed", "seconds": 61.25, "error": "x"}]
    (report / "results" / "manifest.json").write_text(json.dumps({"notebooks": notebooks}))
    add_run(report / "results", "e3sn-s", absent=["training set coco is absent: no /a/b/coco; put it in /a/b/coco"])
    page = build_report(report, smoke).read_text()
    assert "One <strong>global</strong> clip starved <code>rpn</code>." in page
    assert re.search(r"<td>02_training</td><td>failed</td><td class=\"n\">61\.2</td>", page)
    assert "training set coco is absent: no .../coco; put it in .../coco" in page


@pytest.mark.parametrize("page", sorted(REPORTS.glob("*/index.html")), ids=lambda page: page.parent.name)
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
    assert table.loc["Negatives in the mask loss", "We did"].startswith("literally so")
    if name != "paper":
        assert f"{profile.train.pairs:,} pairs" in table.loc["Length of training", "We did"]


def test_a_changed_setting_changes_the_deviations() -> None:
    settings = load_profile("paper").to_dict()
    settings["loss"]["negatives"] = "background"
    settings["train"]["pairs"] = 1_200_000
    table = deviations(profile_from_dict(settings)).set_index("Item")
    assert "Negatives in the mask loss" not in table.index
    assert table.loc["Loss of a negative sample", "The paper says"] == "weight (1 + y) / 2 = 0 (eq. 4)"
    assert table.loc["Length of training", "We did"] == "1,200,000 pairs, 10 % of 12 million"
    assert table.loc["The SiamMask baseline's losses", "We did"].startswith("the baseline has L1 with weights 1, 1.2, 36,")


def test_the_full_size_networks_have_the_parameters_of_their_definitions() -> None:
    found = networks(load_profile("paper")).set_index("Network")["Parameters"].to_dict()
    assert found["E3SN"] == "22,954,950"
    assert found["SiamMask"] == "21,482,052"


def test_pieces_of_the_page() -> None:
    assert text("a < b: -1.5 to -2, 2014-15 & 30 %, `x_y`") == "a &lt; b: −1.5 to −2, 2014-15 &amp; 30\u00a0%, <code>x_y</code>"
    assert text("E3SN - SiamMask, see https://example.org/a.") == (
        'E3SN − SiamMask, see <a href="https://example.org/a">https://example.org/a</a>.'
    )
    assert verdict("partly (one seed)") == '<span class="v partly">partly</span><small>one seed</small>'
    assert verdict("not reproduced") == '<span class="v not">not reproduced</span>'
    assert verdict("not testable here (not run)").startswith('<span class="v untested">')
    row = table_html(table1(Records(Path("nowhere"))).head(1)[["Method", "J-Mean"]], lambda _: "ours")
    assert '<tr class=ours><td class="t">OnAVOS</td><td class="n">86.1</td></tr>' in row


def test_the_readme_gets_its_table(report: Path) -> None:
    readme = report.parents[1] / "README.md"
    readme.write_text(f"# Title\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nend\n")
    assert update_readme(readme, report)
    content = readme.read_text()
    assert content.startswith(
        f"# Title\n\n{MARKS[0]}\n**Table 1: the DAVIS-2016 validation set (ours: all 20 sequences)**\n\n| Method |"
    )
    assert "| E3SN | the paper | – | – | 73.0 | 69.3 |" in content
    mine = next(line for line in content.splitlines() if line.startswith("| E3SN | ours (made) | 12,000 | 1 |"))
    assert re.search(r"\| 47\.5 \([\d.]+ to [\d.]+\) \| 45\.0 \(45\.0 to 45\.0\) \|$", mine)
    assert content.endswith(f"[reports/made/index.html](reports/made/index.html)\n{MARKS[1]}\n\nend\n")
    assert not update_readme(readme, report)


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
