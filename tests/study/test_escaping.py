"""Names that are not ours must not become HTML: those of runs, sequences, files, profiles, machines, notebooks, reasons."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import mistune
import nbformat
import pandas as pd
import pytest
from made_results import VAL, add_run, add_scores, add_speed
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from e3sn_lib.config import Profile
from e3sn_lib.profiles.loading import load_profile, profile_from_dict
from e3sn_study.display import show_table
from e3sn_study.notebooks import to_html
from e3sn_study.records import Records
from e3sn_study.report.report import build_report, readme_table
from e3sn_study.report.shipping import model_card

HOSTILE = [
    '"><img src=x onerror=alert(1)><script>alert(1)<script>',
    "'--></style></title></script><svg onload=alert(1)><iframe srcdoc=x>",
    "`<b onclick=alert(1)>` ' onmouseover='alert(1) {{ 7 * 6 }}{% raw %}",
    'https://example.org/"onmouseover="alert(1)',
]
TEXT = re.compile("a|br|code|div|em|hr|li|ol|p|small|span|strong|table|tbody|td|th|thead|tr|ul")
"""Elements that hold text and do nothing."""


class Active(HTMLParser):
    """How often each element is there that is more than text, each attribute that runs code, each scheme of an address."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] += not TEXT.fullmatch(tag)
        for key, value in attrs:
            self.found[key] += key.startswith("on") or key == "srcdoc"
            if key in ("href", "src") and (scheme := re.match(r"\s*([\w+.-]+):", value or "")):
                self.found[scheme[1]] += scheme[1] != "https"


def fill(report: Path, name: str) -> tuple[Profile, str]:
    """Write a report's records with this name wherever a name can come from; return the profile and the run."""
    results, file_name = report / "results", name.replace("/", "|")
    settings = load_profile("cpu").to_dict() | {"name": file_name, "title": name}
    settings["data"]["train"][0]["path"] = [name]
    settings["data"]["train"][-1]["hold_out"] = [name]  # DAVIS, which has sequences
    run = f"made-{file_name}-seed0"
    record = {"precision": name, "packages": {name: name}, "absent": [name]}
    written = add_run(
        results, overrides=[f"{name}={name}"], machine=name, data=name, title=name, **record
    )
    other = add_run(results, variant=file_name, machine=name, data=name, title=name, **record)
    path = results / "runs" / f"{written}.json"
    content = json.loads(path.read_text()) | {"run": run, "profile": name}
    content["environment"] |= {"commit": name, "date": name}
    path.write_text(json.dumps(content))
    path.rename(path.with_name(f"{run}.json"))
    add_scores(results, other, 0.5, sequences=[name, *VAL])
    add_scores(results, "", 0.2, method=name, sequences=[name, *VAL])
    add_speed(results, other, 10, sequences=[name, *VAL])
    (results / "davis2017").mkdir()
    (results / "davis2017" / "not_run.txt").write_text(name)
    lacking = pd.DataFrame([{"method": name, "reason": name}])
    lacking.to_csv(results / "davis2016" / "baselines_not_run.csv", index=False)
    labels = pd.DataFrame([{"sequence": VAL[0], "attributes": name.replace(" ", "")}])
    labels.to_csv(results / "davis2016" / "attributes.csv", index=False)
    (results / "crops").mkdir()
    crops = {"set": name, "pair": [0, 1], "mask_iou": [0.1, 0.2], "box_iou": 0.5}
    crops |= {"size": [1.0, 2], "predicted_size": [1.0, 2]}
    pd.DataFrame(crops).to_csv(results / "crops" / f"{file_name}.csv", index=False)
    check = pd.DataFrame(
        [[name, name, 0.1, 0.2, 3]], columns=["check", "source", "largest", "tolerance", "cases"]
    )
    check.to_csv(results / "checks.csv", index=False)
    network = pd.DataFrame([[name, name, name, name, 1, 1]])
    columns = ["variant", "backbone", "levels", "stages", "parameters", "multiply_adds"]
    network.set_axis(columns, axis=1).to_csv(results / "networks.csv", index=False)
    frame = {"number": 0, "j": None, "image": "", "box": [0, 0, 0, 0], "mask": "", "truth": ""}
    (results / "slider.json").write_text(
        json.dumps({"videos": [{"name": file_name, "size": [2, 2], "frames": [frame]}]})
    )
    notebook = {"name": name, "status": name, "seconds": 1.0}
    (results / "manifest.json").write_text(json.dumps({"notebooks": [notebook]}))
    (report / "notebooks").mkdir()
    (report / "notebooks" / f"{file_name}.html").touch()
    (report / "figures").mkdir()
    Image.new("RGB", (8, 8)).save(report / "figures" / f"{file_name}.png")
    (report / "figures" / f"{file_name}.mp4").write_bytes(b"clip")
    (report / "what_did_not_work.md").write_text(name)
    return profile_from_dict(settings), run


def pages(report: Path, name: str) -> dict[str, Counter[str]]:
    """The active parts of the page, of every table in Markdown, of the card and of the README's table."""
    profile, run = fill(report, name)
    build_report(report, profile)
    file = report / f"{name.replace('/', '|')}.safetensors"
    file.touch()
    written = {path.stem: path.read_text() for path in (report / "tables").glob("*.md")}
    written["card"] = model_card(Records(report / "results"), run, profile, file)
    written["readme"] = readme_table(report / "README.md", report)
    shown = {key: str(mistune.html(text)) for key, text in written.items()} | {
        "page": (report / "index.html").read_text()
    }
    assert name.split()[0].strip("`")[:4] in written["card"].replace("&lt;", "<")
    return {key: +Active(text).found for key, text in shown.items()}


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    return pages(tmp_path_factory.mktemp("harmless"), "a name")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_adds_no_element(
    name: str, harmless: dict[str, Counter[str]], tmp_path: Path
) -> None:
    assert pages(tmp_path, name) == harmless


@pytest.mark.parametrize("name", [*HOSTILE, "[a link](javascript:alert(1))"])
def test_a_name_adds_no_element_to_a_notebook(name: str, tmp_path: Path) -> None:
    def shown(text: str) -> Counter[str]:
        table = pd.DataFrame({"Run": [text]})
        table.attrs |= {"title": text, "notes": [text]}
        output = new_output("display_data", {"text/markdown": str(show_table(table).data)})
        notebook = new_notebook(cells=[new_code_cell("1", outputs=[output])])
        nbformat.write(notebook, tmp_path / "a.ipynb")
        to_html(tmp_path / "a.ipynb", tmp_path / "a.html")
        page = (tmp_path / "a.html").read_text()
        assert "javascript:" not in "".join(re.findall('href="(.*?)"', page))
        return +Active(page).found

    assert shown(name) == shown("a name")


def test_the_test_sees_what_a_browser_would_run() -> None:
    for name in HOSTILE[:3]:
        assert +Active(name).found
