"""The papermill driver, on tiny notebooks."""

import base64
import io
import json
import re
import sys
from functools import partial

import cv2
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from remote_loads import remote_loads

from e3sn_lib.errors import InputError
from e3sn_study.notebooks import (
    NotebookRun,
    as_boxes,
    as_list,
    record,
    run_all,
    run_notebook,
    to_html,
)

PARAMETERS = (
    'name = "nobody"\nsteps: int = 0  # 0 = the profile\'s value\nbox = [1, 2, 3, 4]\nreport = ""'
)


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook with the given code cells after a parameters cell."""

    def write(*cells, stem="tiny", parameters=PARAMETERS):
        tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = new_notebook(
            cells=[new_markdown_cell("# Tiny"), tagged, *map(new_code_cell, cells)],
            metadata={"kernelspec": kernelspec},
        )
        path = tmp_path / "sources" / f"{stem}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(content, path)
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "executed" / "tiny.ipynb"


def outputs(path):
    return "".join(
        "".join(output.get("text", ""))
        for cell in json.loads(path.read_text())["cells"]
        for output in cell.get("outputs", ())
    )


def leftovers(path):
    return [entry.name for entry in path.parent.iterdir() if entry != path]


def test_passing_notebook_gets_its_parameters(notebook, out, tmp_path):
    source = notebook(
        "import os, glob\nprint(name, steps, box, report, os.getcwd(), glob.glob('*'))"
    )
    before = source.read_text()
    given = {"name": "it's", "steps": 3, "box": (5, 6.5, 7, 8), "report": tmp_path / "a b"}
    run = run_notebook(source, out, given)
    assert run == NotebookRun("tiny", "passed", run.seconds)
    assert 0 < run.seconds < 60
    assert outputs(out) == f"it's 3 [5, 6.5, 7, 8] {tmp_path}/a b {source.parent} ['tiny.ipynb']\n"
    assert source.read_text() == before
    assert leftovers(source) == leftovers(out) == []
    assert json.loads(out.read_text())["metadata"]["papermill"]["output_path"] == "tiny.ipynb"


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("1 / 0", "code cell 3 of 4 (1 / 0): ZeroDivisionError: division by zero"),
        (
            "raise ValueError('a\\nb')",
            "code cell 3 of 4 (raise ValueError('a\\nb')): ValueError: a b",
        ),
        ("import sys\nsys.exit()", "code cell 3 of 4 (import sys): it called sys.exit"),
        ("raise SystemExit(2)", "code cell 3 of 4 (raise SystemExit(2)): SystemExit: 2"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "code cell 3 of 4 (import os, signal): Kernel died",
        ),
    ],
    ids=["error", "two lines", "sys.exit", "SystemExit", "killed"],
)
def test_cell_that_does_not_finish_fails_the_notebook(notebook, out, cell, error):
    run = run_notebook(notebook("print('before')", cell, "print('after')"), out, {})
    assert run.status == "failed"
    assert run.error.startswith(error)
    assert outputs(out).startswith("before")
    assert "after" not in outputs(out)
    assert leftovers(out) == []


def test_failure_in_the_last_cell_is_one_too(notebook, out):
    assert run_notebook(notebook("import sys\nsys.exit(0)"), out, {}).status == "failed"


def test_kernel_is_this_interpreter_whatever_is_registered(notebook, out, tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = ["false", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    assert run_notebook(notebook("import sys\nprint(sys.executable)"), out, {}).status == "passed"
    assert outputs(out) == f"{sys.executable}\n"


def test_figures_on_a_page_have_the_text_that_describes_them(tmp_path):
    Image.new("L", (2, 2)).save(content := io.BytesIO(), "PNG")
    png = base64.b64encode(content.getvalue()).decode()
    outputs = [
        new_output("display_data", {"image/png": png}, metadata={"image/png": {"alt": text}})
        for text in ("J < 1 over time", "a second one")
    ]
    page = page_of(tmp_path, new_code_cell("", outputs=outputs))
    assert re.findall(r'alt="([^"]*)"', page) == ["J &lt; 1 over time", "a second one"]


def test_links_between_notebooks_lead_to_their_pages(notebook, out, tmp_path):
    source = notebook("1")
    content = nbformat.read(source, as_version=4)
    links = "[next](02_next.ipynb), [all](README.md), [file](other.ipynb)"
    content.cells.append(nbformat.v4.new_markdown_cell(links))
    nbformat.write(content, source)
    to_html(source, page := tmp_path / "tiny.html")
    found = re.findall(r'href="([^"#]+)"', page.read_text())
    assert found[-3:] == ["02_next.html", "../index.html", "other.ipynb"]


def test_a_list_may_come_as_text():
    assert as_list("[[16, 18, 28, 28]]") == as_list([[16, 18, 28, 28]]) == [[16, 18, 28, 28]]
    assert as_list("[train.pairs=8, 'model.levels=[4]']") == ["train.pairs=8", "model.levels=[4]"]
    assert as_list(None) == []  # an empty entry in a file of parameters
    for text in ("16,18", "[1", "3", ""):
        with pytest.raises(InputError, match=r"is no list; write one like \[1, 4\] or"):
            as_list(text)


def test_a_box_may_be_text_or_a_list():
    one, two = [1, 2, 3, 4], [5, 6.5, 7, 8]
    for given in ("1,2,3,4", " 1, 2, 3, 4 ", "[1, 2, 3, 4]", one, [one], "[[1,2,3,4]]"):
        assert as_boxes(given) == [one]
    for given in ("1,2,3,4; 5,6.5,7,8", "[1,2,3,4];[5,6.5,7,8]", [one, two]):
        assert as_boxes(given) == [one, two]


@pytest.mark.parametrize("given", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", [], [1, 2], "1,2,3,4;5"])
def test_what_is_no_box_is_one_line(given):
    with pytest.raises(InputError, match=r"is no box; write x,y,width,height"):
        as_boxes(given)


@pytest.mark.parametrize("content", [None, "", "no json", "{}", '{"cells": 3}', "[]"])
def test_file_that_is_no_notebook_is_one_line(tmp_path, content):
    path = tmp_path / "broken.ipynb"
    if content is not None:
        path.write_text(content)
    for use in (to_html, partial(run_notebook, parameters={})):
        out = tmp_path / "out" / "made"
        with pytest.raises(InputError, match=r"^cannot read notebook .*broken.ipynb.*$") as caught:
            use(path, out)
        assert "\n" not in str(caught.value)
        assert not out.exists()


def test_all_stops_at_the_first_failure_and_keeps_a_manifest(notebook, tmp_path, capsys):
    cells = {"01_good": "print(name)", "02_bad": "1 / 0", "03_after": "3"}
    sources = [notebook(cell, stem=stem) for stem, cell in cells.items()]
    report = tmp_path / "report"
    runs = run_all(sources, report, {"name": "all"})
    assert [run.status for run in runs] == ["passed", "failed", "not run"]
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["notebook", "status", "seconds"]
    assert table[1].split()[:2] == ["01_good", "passed"]
    assert table[2].split()[:2] == ["02_bad", "failed"]
    assert table[3].strip() == runs[1].error
    assert table[4].split() == ["03_after", "not", "run", "0.0"]
    manifest = json.loads((report / "results" / "manifest.json").read_text())
    assert [entry["status"] for entry in manifest["notebooks"]] == ["passed", "failed", "not run"]
    assert manifest["parameters"] == {"name": "all"}
    assert manifest["environment"]["python"]
    executed = sorted(path.name for path in (report / "notebooks").iterdir())
    assert executed == ["01_good.ipynb", "02_bad.ipynb"]

    # one of them again: the others stay in the manifest; one that is gone does not
    sources[1].unlink()
    run_all(sources[2:], report, {"name": "all"})
    manifest = json.loads((report / "results" / "manifest.json").read_text())
    found = {entry["name"]: entry["status"] for entry in manifest["notebooks"]}
    assert found == {"01_good": "passed", "03_after": "passed"}


def test_record_writes_plain_json(tmp_path):
    given = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": (np.inf, {"e": True})}
    table = record("plain", given | {"f": tmp_path}, tmp_path)
    written = json.loads((tmp_path / "results/plain.json").read_text(), parse_constant=pytest.fail)
    plain = {"a": 0.5, "b": [0, 1], "c": None, "d": [None, {"e": True}]}
    assert written == plain | {"f": str(tmp_path)}
    assert table["value"].to_dict() == written


def test_record_refuses_what_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="no attribute"):
        record("odd", {"a": object()}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def page_of(tmp_path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "shown.ipynb")
    to_html(tmp_path / "shown.ipynb", tmp_path / "shown.html")
    return (tmp_path / "shown.html").read_text()


def test_page_opens_without_a_network(tmp_path):
    code = new_code_cell('image = "<img src=https://example.org/a.png>"', execution_count=1)
    text = new_markdown_cell("# Title\n\n[paper](https://example.org/paper) and $a^2$")
    page = page_of(tmp_path, text, code)
    assert remote_loads(page) == []
    assert "<script" not in page
    assert 'href="https://example.org/paper"' in page
    assert "$a^2$" not in page
    assert re.search(r"and <math [^>]*><mrow><msup><mi>a</mi><mn>2</mn></msup></mrow></math>", page)


def test_equations_are_drawn_by_the_browser_alone(tmp_path):
    text = new_markdown_cell(r"$$J = \frac{M}{G}$$" + "\n\n" + r"$$\frac{1}{$$")
    code = new_code_cell("1", execution_count=1)
    code.outputs = [new_output("stream", text=r"$$\text{<img src=x>}$$")]
    page = page_of(tmp_path, text, code)
    assert re.search(r"<mfrac>.*<mi>M</mi>.*<mi>G</mi>.*</mfrac>", page)
    assert r"\frac{1}{" in page  # not valid: as it was typed
    assert "<img" not in page  # what is printed is no equation


@pytest.mark.parametrize(
    ("html", "count"),
    [
        ('<img src="https://e.org/a.png">', 1),
        ('<img srcset="https://e.org/a.png 1x, https://e.org/b.png 2x">', 2),
        ('<link rel="stylesheet" href="http://e.org/a.css">', 1),
        ('<iframe src="//e.org/a.html"></iframe>', 1),
        ('<video poster="https://e.org/a.png"></video>', 1),
        ('<div style="background: url(https://e.org/a.png)"></div>', 1),
        (
            '<style>@import "https://e.org/a.css"; b { background: url( "//e.org/b.png" ) }</style>',
            2,
        ),
        ('<script type="module">const m = await import("https://e.org/m.mjs")</script>', 1),
        ('<svg><use xlink:href="https://e.org/a.svg#b"/></svg>', 1),
        ('<a href="https://e.org/paper">paper</a> https://e.org', 0),
        (
            '<img src="data:image/png;base64,//8A"><img src="figures/a.png"><a href="04.html">4</a>',
            0,
        ),
        (
            '<pre>&lt;img src="https://e.org/a.png"&gt;</pre><svg xmlns="http://www.w3.org/2000/svg"></svg>',
            0,
        ),
    ],
)
def test_remote_loads_are_found_and_links_are_not(html, count):
    assert len(remote_loads(html)) == count


def test_page_has_small_images_of_the_same_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 3)).save(picture, "PNG")
    data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
    page = page_of(tmp_path, new_code_cell(outputs=[new_output("display_data", data)]))
    [(kind, encoded)] = re.findall(r'src="data:image/(\w+);base64,([\w+/=]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as shown:
        assert (kind, shown.size) == ("webp", (400, 300))
    assert len(encoded) < len(data["image/png"]) / 4
