"""What every notebook of the study looks like, checked without running it; and that the check sees what it should."""

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
MOST_CODE_CELLS = 25
MOST_LINES, LONG_CELLS = 20, 2
FOLDERS = "home|Users|root|mnt|media|work|data|tmp|var|opt|usr|srv|content|kaggle|workspace"


def problems(notebook):
    """Every departure from the study's form, as text."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        *form_problems(notebook, code),
        *(line for cell in code for line in code_problems(cell)),
        *record_problems(code),
    ]


def form_problems(notebook, code):
    ids = [cell.get("id") for cell in notebook.cells]
    if notebook.nbformat_minor < 5 or None in ids or len(set(ids)) < len(ids):
        yield "a cell has no id of its own"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec is not python3"
    if (
        not notebook.cells
        or notebook.cells[0].cell_type != "markdown"
        or not re.match(r"# \S", notebook.cells[0].source)
    ):
        yield "the first cell is no title"
    if any(cell.outputs or cell.execution_count is not None for cell in code):
        yield "it stores outputs or execution counts"
    if "papermill" in notebook.metadata or any(
        "papermill" in cell.metadata for cell in notebook.cells
    ):
        yield "it is an executed copy"
    if len(code) > MOST_CODE_CELLS:
        yield f"{len(code)} code cells"
    if sum(len(cell.source.splitlines()) > MOST_LINES for cell in code) > LONG_CELLS:
        yield f"more than {LONG_CELLS} cells have over {MOST_LINES} lines"
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged parameters"
    else:
        yield from parameter_problems(tagged[0])
    for text in (cell.source for cell in notebook.cells if cell.cell_type == "markdown"):
        if match := re.search(rf"(?<![\w/.:])/(?:{FOLDERS})/\S*|\b[A-Z]:\\\S*|file://\S*", text):
            yield f"absolute path {match[0]}"
        if match := re.search(
            r"!\[[^\]]*\]\(\s*https?://\S*|<(?:img|script|link|iframe)\b[^>]*https?://\S*", text
        ):
            yield f"loads {match[0]}"


def parameter_problems(cell):
    for line in cell.source.splitlines():
        if line.count("=") > 1:
            yield f"papermill cannot read parameter line {line!r}"
    for line in ast.parse(cell.source).body:
        target = (
            line.targets[0]
            if isinstance(line, ast.Assign) and len(line.targets) == 1
            else getattr(line, "target", None)
        )
        if not isinstance(line, ast.Assign | ast.AnnAssign) or not isinstance(target, ast.Name):
            yield f"parameter line {ast.unparse(line)!r} is no assignment of one name"
        elif isinstance(line, ast.AnnAssign) and not isinstance(line.annotation, ast.Name):
            yield f"parameter annotation {ast.unparse(line.annotation)!r} is no plain type"
        else:
            try:
                ast.literal_eval(line.value)
            except (ValueError, TypeError):
                yield f"parameter value {ast.unparse(line)!r} is no literal"


def code_problems(cell):
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        yield f"not plain Python (a magic?): {error.text!r}"
        return
    after_a_value = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values[1:]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"defines {node.name}"
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield f"imports * from {node.module}"
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in after_a_value
        ):
            if re.match(r"/\w|~/|[A-Za-z]:[\\/]|file://", node.value):
                yield f"absolute path {node.value!r}"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("exit", "quit", "get_ipython")
        ):
            yield f"calls {node.func.id}"


def record_problems(code):
    if not code or not re.search(r"^[^#\n]*\brecord\(", code[-1].source, re.MULTILINE):
        yield "the last code cell does not call record()"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_declares_what_reproduce_gives(path):
    cells = nbformat.read(path, 4).cells
    source = next(each.source for each in cells if "parameters" in each.metadata.get("tags", ()))
    declared = {line.partition(":")[0] for line in source.splitlines()}
    assert declared >= {"profile", "data", "runs", "report", "seed", "overrides"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_the_form_of_the_study(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert problems(notebook) == []


GOOD = new_notebook(
    cells=[
        new_markdown_cell("# Data\n\nFrom the [paper](https://example.org/data/paper), J/F."),
        new_code_cell("from e3sn_study.notebooks import record"),
        new_code_cell(
            'profile = "smoke"\nseed: int = 0  # 0: the first\nbox = [1, -2.5]',
            metadata={"tags": ["parameters"]},
        ),
        new_code_cell(
            'key = sorted(f"{profile}/b ~1", key=lambda pair: pair[0])  # really?\nrate = (5\n    % 3)'
        ),
        new_code_cell('record("00_good", {"J": 0}, ".")'),
    ],
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
)


def test_good_notebook_has_no_problems():
    assert problems(GOOD) == []


def with_cell(source):
    return lambda notebook: notebook.cells.insert(3, new_code_cell(source))


def with_text(source):
    return lambda notebook: notebook.cells.insert(3, new_markdown_cell(source))


def with_parameter(line):
    return lambda notebook: notebook.cells[2].update(source=notebook.cells[2].source + "\n" + line)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda notebook: notebook.update(nbformat_minor=4), "id"),
        (lambda notebook: notebook.cells[1].update(id=notebook.cells[2].id), "id"),
        (lambda notebook: notebook.metadata.kernelspec.update(name="e3sn"), "kernelspec"),
        (lambda notebook: notebook.cells.pop(0), "title"),
        (lambda notebook: notebook.cells[0].update(source="## Data"), "title"),
        (lambda notebook: notebook.cells[1].update(execution_count=1), "execution counts"),
        (lambda notebook: notebook.metadata.update(papermill={}), "executed copy"),
        (lambda notebook: [with_cell("1")(notebook) for _ in range(22)], "26 code cells"),
        (lambda notebook: [with_cell("1\n" * 21)(notebook) for _ in range(3)], "over 20 lines"),
        (lambda notebook: notebook.cells[2].metadata.update(tags=[]), "0 cells are tagged"),
        (
            lambda notebook: notebook.cells[3].metadata.update(tags=["parameters"]),
            "2 cells are tagged",
        ),
        (with_parameter("steps: int | None = None"), "no plain type"),
        (with_parameter("steps = 2 * 3"), "no literal"),
        (with_parameter("steps = other = 1"), "no assignment"),
        (with_parameter("import os"), "no assignment"),
        (with_parameter("steps = 1  # 0 = none"), "papermill cannot read"),
        (with_cell("def f():\n    pass"), "defines f"),
        (with_cell("if True:\n    class C:\n        pass"), "defines C"),
        (with_cell("!pip install torch"), "magic"),
        (with_cell("1\n%matplotlib inline"), "magic"),
        (with_cell("len?"), "magic"),
        (with_cell('open("/data/DAVIS")'), "absolute path"),
        (with_cell('open("~/DAVIS")'), "absolute path"),
        (with_cell(r'open("C:\\DAVIS")'), "absolute path"),
        (with_cell("exit()"), "calls exit"),
        (with_cell("from e3sn_lib import *"), "imports *"),
        (with_text("Masks are in /home/someone/masks."), "absolute path"),
        (with_text("![figure](https://example.org/a.png)"), "loads"),
        (with_text('<img width="3" src="https://example.org/a.png">'), "loads"),
        (lambda notebook: notebook.cells[-1].update(source="1"), "record()"),
        (lambda notebook: notebook.cells.append(new_code_cell("1")), "record()"),
    ],
)
def test_bad_notebook_is_seen(spoil, problem):
    notebook = copy.deepcopy(GOOD)
    spoil(notebook)
    assert any(problem in line for line in problems(notebook)), problems(notebook)
