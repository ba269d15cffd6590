"""Run notebooks with papermill, keep what they record, and make pages of them."""

import base64
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ConfigDict, TypeAdapter

from e3sn_lib.errors import InputError
from e3sn_lib.files import as_webp, atomic_path, read_text, temporary_path, write_json, write_text
from e3sn_lib.profiles.loading import parse_yaml
from e3sn_lib.training.provenance import environment
from e3sn_study.records import REFERENCE
from e3sn_study.records.entries import Manifest

PAGE = Path(__file__).parent / "report" / "templates" / "notebook.html.j2"
"""How an executed notebook becomes a page."""
EQUATION = r"\$\$(.+?)\$\$|\$(\w[^$\n]*)\$"
"""One on a line of its own, or within a sentence."""


class NotebookRun(NamedTuple):
    """How one notebook ended."""

    name: str
    status: str
    """``passed``, ``failed``, or ``not run`` because an earlier one failed."""
    seconds: float
    error: str = ""
    """One line: the cell, and what went wrong in it."""


def as_list(parameter: Iterable[Any] | str | None) -> list[Any]:
    """Return a parameter that is a list, which papermill's ``-p`` passes as text. None is an empty
    list, as in a file of parameters. Raises InputError if it is something else."""
    values: Any = None
    with suppress(InputError):
        values = parse_yaml(parameter, "a list") if isinstance(parameter, str) else parameter or []
    if not isinstance(values, list | tuple):
        raise InputError(f"'{parameter}' is no list; write one like [1, 4] or ['train.pairs=8']")
    return list(values)


def as_boxes(parameter: Iterable[Any] | str) -> list[list[float]]:
    """Return boxes ``[x, y, width, height]`` of a parameter: of text such as "10,20,30,40", with
    ";" between several boxes; or of a list of four numbers, or of such lists. A list may come as
    text. Raises InputError if the parameter is something else."""
    text = parameter if isinstance(parameter, str) else str(list(parameter))
    parts = re.split(r"[;\]\[]+\s*,?\s*", text)
    boxes = list[list[float]]()
    with suppress(ValueError):
        boxes = [[float(side) for side in part.split(",")] for part in parts if part.strip()]
    if not boxes or any(len(box) != 4 for box in boxes):
        raise InputError(f"'{text}' is no box; write x,y,width,height, or several with ; between")
    return boxes


def run_notebook(source: Path, out: Path, parameters: Mapping[str, Any]) -> NotebookRun:
    """Execute a notebook with this Python, in its own folder, as JupyterLab does.

    `out` gets the executed copy, also if a cell fails. `parameters` replace those of the cell
    tagged ``parameters``.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from papermill.iorw import write_ipynb
    from traitlets.config import Config

    # What papermill warns of is reported below.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    # The kernel "python3" of this Python goes before those that the user has registered.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    source, out, reason = source.resolve(), out.resolve(), ""
    _read(source)  # raises InputError if it is none
    with atomic_path(out) as running, temporary_path(source.with_name("kernel")) as sockets:
        sockets.mkdir()
        # Sockets in files, not open ports: others on the machine cannot read along. Their names are
        # relative to the kernel's folder, because a longer path than 107 characters is refused.
        kernel = {"transport": "ipc", "ip": f"{sockets.name}/kernel"}
        if sys.platform == "win32":  # there are no such sockets
            kernel = {}
        try:
            papermill.execute_notebook(
                source,
                running,
                _plain(parameters),
                kernel_name="python3",
                progress_bar=False,
                cwd=source.parent,
                config=Config({"KernelManager": kernel}),
            )
        except PapermillExecutionError as error:
            reason = f"{error.ename}: {error.evalue}"
        except RuntimeError as error:
            reason = f"{error} (killed, or out of memory?)"
        executed = _read(running)
        executed.metadata.papermill.update(input_path=source.name, output_path=out.name)
        write_ipynb(executed, str(running))
    seconds = round(executed.metadata.papermill.duration, 1)
    if not (where := _stopped_in(executed, failed=bool(reason))):
        return NotebookRun(source.stem, "passed", seconds)
    reason = f"{where}: {reason or 'it called sys.exit'}"
    return NotebookRun(source.stem, "failed", seconds, shorten(reason, 300))


def run_all(
    sources: Sequence[Path], report: Path, parameters: Mapping[str, Any]
) -> list[NotebookRun]:
    """Run notebooks in order until one fails, and print how each ended.

    The folder `report` gets the executed copies in ``notebooks/`` and the list of the runs in
    ``results/manifest.json``, which keeps those of the other notebooks beside `sources`. Every
    notebook gets all `parameters`. Raises InputError if one is no notebook.
    """
    manifest = {"environment": environment(), "parameters": _plain(parameters)}
    path, others = report / "results" / "manifest.json", dict[str, dict[str, Any]]()
    with suppress(InputError):  # it is absent or damaged
        for run in Manifest.read(path).model_dump()["notebooks"]:
            if sources[0].with_name(f"{run['name']}.ipynb").is_file():
                others[run["name"]] = run
    runs = [NotebookRun(source.stem, "not run", 0.0) for source in sources]
    width = max(len(run.name) for run in runs)
    print(f"{'notebook':<{width}}  status   seconds")
    for i, source in enumerate(sources):
        print(f"{source.stem:<{width}}  ", end="", flush=True)
        if all(run.status == "passed" for run in runs[:i]):
            runs[i] = run_notebook(source, report / "notebooks" / source.name, parameters)
        error = f"\n  {runs[i].error}" if runs[i].error else ""
        print(f"{runs[i].status:<7}  {runs[i].seconds:7.1f}{error}", flush=True)
        by_name = others | {run.name: run._asdict() for run in runs}
        write_json(path, {**manifest, "notebooks": [by_name[name] for name in sorted(by_name)]})
    return runs


def record(name: str, values: Mapping[str, Any], report: Path | str) -> pd.DataFrame:
    """Write what a notebook found to ``results/<name>.json`` below `report`, and return it as a
    table to show.

    Numbers that are not finite become null. A value within a group has a row of its own. Raises
    ValueError if a value is neither a number, text, list, dict, array nor path.
    """
    content = _plain(values)
    write_json(Path(report) / "results" / f"{name}.json", content)
    rows: dict[str, Any] = {}
    for key, value in content.items():
        group = value.items() if isinstance(value, dict) else ()
        rows |= {f"{key}, {part}": each for part, each in group} or {key: value}
    return pd.DataFrame({"value": pd.Series(rows, dtype=object)})


def to_html(executed: Path, out: Path) -> None:
    """Write an executed notebook as one HTML file that opens without a network.

    Images are embedded and scripts are left out. Equations become MathML. Links to other notebooks
    lead to their pages, and the link to all of them to the report. Raises InputError if the
    notebook cannot be read.
    """
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter

    style = read_text(REFERENCE / "report.css").splitlines()
    light = "\n".join(line for line in style if not line.startswith("@media (prefers-color"))
    page = read_text(PAGE).replace("STYLE", light)
    exporter = HTMLExporter(embed_images=True, raw_template=page)  # type: ignore[no-untyped-call]
    name = {"metadata": {"name": executed.stem}}
    notebook, equations = _read(executed), dict[str, str]()

    def set_aside(found: re.Match[str]) -> str:
        mark = f"\ue000{len(equations)}\ue001"  # nbconvert would tear MathML apart
        try:
            display = "block" if found[1] else "inline"
            equations[mark] = convert(found[1] or found[2], display=display)
        except Exception:  # the library has a kind of error for each mistake
            equations[mark] = escape(found[0])
        return mark

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(EQUATION, set_aside, cell.source)
    html, _ = exporter.from_notebook_node(notebook, name)
    pictures = [
        output.metadata.get(kind, {}).get("alt", "a figure")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for kind in ("image/png", "image/svg+xml")
        if kind in output.get("data", {})
    ]
    for text in pictures:  # nbconvert drops it
        html = html.replace("No description has been provided for this image", escape(text), 1)
    for mark, equation in equations.items():
        html = html.replace(mark, equation)
    html = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', html)
    html = html.replace('href="README.md"', 'href="../index.html"')
    write_text(out, re.sub(r"data:image/png;base64,([\w+/=\s]+)", _webp_address, html))


def _webp_address(png: re.Match[str]) -> str:
    content, _ = as_webp(io.BytesIO(base64.b64decode(png[1])))
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def _stopped_in(executed: Any, failed: bool) -> str:
    """Name the cell in which an executed notebook stopped, or return "" if it did not.

    Papermill's own marks are not enough. It reports success if a cell calls ``sys.exit``, and it
    marks cells as completed although a dead kernel never reached them.
    """
    cells = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    reached = [cell for cell in cells if cell.metadata.papermill.get("start_time")]
    completed = all(cell.metadata.papermill.get("status") == "completed" for cell in cells)
    failed = failed or bool(executed.metadata.papermill.get("exception"))
    if len(reached) == len(cells) and completed and not failed:
        return ""
    if not reached:
        return "before the first cell"
    line = reached[-1].source.strip().splitlines()[0]
    return f"code cell {len(reached)} of {len(cells)} ({line[:60]})"


def _read(path: Path) -> Any:
    """Return a notebook; its metadata and those of its cells have ``papermill`` and ``tags``."""
    from papermill.iorw import load_notebook_node

    try:
        return load_notebook_node(str(path))
    except Exception as error:  # nbformat raises many kinds of error
        raise InputError(f"cannot read notebook {path}: {shorten(str(error), 200)}") from error


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values in JSON's types, those of numpy and torch too; not finite ones become None."""
    adapter = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="null"))
    return dict(json.loads(adapter.dump_json(values, fallback=lambda each: each.tolist())))
