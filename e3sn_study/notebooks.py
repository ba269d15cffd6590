"""Notebooks in batch: parameters checked before, completion checked after, records and readable copies kept."""

from __future__ import annotations

import ast
import base64
import difflib
import io
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd

from e3sn_lib.errors import InputError
from e3sn_lib.files import as_webp, atomic_path, write_json, write_text
from e3sn_lib.training.provenance import environment


@dataclass(frozen=True)
class NotebookRun:
    """How one notebook ended."""

    name: str
    status: str
    """``passed``, ``failed``, or ``not run`` because an earlier one failed."""
    seconds: float
    error: str = ""
    """One line: the cell and what went wrong in it."""


def check_parameters(source: Path, parameters: Mapping[str, Any]) -> None:
    """Papermill lets a mistyped parameter pass, and misses some declared ones; this does neither.

    Raises:
        InputError: `source` is no notebook, or its ``parameters`` cell does not declare one of the names.
    """
    known = _declared(source)
    for name in parameters:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}" if known else "it declares none"
            raise InputError(f"notebook {source.name} has no parameter '{name}'; {hint}")


def run_notebook(
    source: Path, out: Path, parameters: Mapping[str, Any], timeout: float | None = None, cwd: Path | None = None
) -> NotebookRun:
    """Execute `source` with this interpreter and write the executed copy, also of a failed notebook, to `out`.

    Args:
        source: the notebook; it stays as it is.
        out: where the executed copy goes.
        parameters: by name; paths become text.
        timeout: seconds for each cell.
        cwd: where it runs; its own folder, as in JupyterLab, unless given.

    Raises:
        InputError: see `check_parameters`. A notebook that fails is no error here but a result.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    check_parameters(source, parameters)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # whatever it warns of is refused above or reported below
    source, out = source.resolve(), out.resolve()
    began, reason = time.perf_counter(), ""
    with atomic_path(out) as running, _this_interpreter():
        try:
            papermill.execute_notebook(
                source,
                running,
                _plain(parameters),
                kernel_name="python3",
                progress_bar=False,
                cwd=(cwd or source.parent).resolve(),
                execution_timeout=math.ceil(timeout) if timeout else None,
            )
        except PapermillExecutionError as error:
            reason = f"{error.ename}: {error.evalue}"
        except TimeoutError:
            reason = f"not finished after {timeout:g} seconds"
        except RuntimeError as error:
            reason = f"{error} (killed, or out of memory?)"
        executed = _read(running)
        executed["metadata"]["papermill"].update(input_path=source.name, output_path=out.name)
        running.write_text(json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
    seconds = round(time.perf_counter() - began, 1)
    where = _stopped_in(executed, failed=bool(reason))
    if not where:
        return NotebookRun(source.stem, "passed", seconds)
    return NotebookRun(source.stem, "failed", seconds, shorten(f"{where}: {reason or 'it called sys.exit'}", 300))


def run_all(
    sources: Sequence[Path], report: Path, parameters: Mapping[str, Any], timeout: float | None = None, cwd: Path | None = None
) -> list[NotebookRun]:
    """Run notebooks in order until one fails; print how each ended and keep it in ``results/manifest.json``.

    Executed copies go to ``notebooks/`` below `report`; every notebook gets all `parameters`. Other arguments as in `run_notebook`.

    Raises:
        InputError: before anything runs, if there is nothing to run or a notebook lacks one of the parameters.
    """
    if not sources:
        raise InputError("there are no notebooks to run")
    for source in sources:
        check_parameters(source, parameters)
    # Folders belong to the machine, not to the record.
    kept = {key: value for key, value in _plain(parameters).items() if not Path(str(value)).is_absolute()}
    manifest = {"environment": environment(), "parameters": kept}
    runs = [NotebookRun(source.stem, "not run", 0.0) for source in sources]
    width = max(len(run.name) for run in runs)
    print(f"{'notebook':<{width}}  status   seconds")
    for i, source in enumerate(sources):
        print(f"{source.stem:<{width}}  ", end="", flush=True)
        if all(run.status == "passed" for run in runs[:i]):
            runs[i] = run_notebook(source, report / "notebooks" / source.name, parameters, timeout, cwd)
        print(f"{runs[i].status:<7}  {runs[i].seconds:7.1f}", *([f"\n  {runs[i].error}"] if runs[i].error else []), flush=True)
        write_json(report / "results" / "manifest.json", {**manifest, "notebooks": [asdict(run) for run in runs]})
    return runs


def record(name: str, values: Mapping[str, Any], report: Path | str) -> pd.DataFrame:
    """Keep what a notebook found in ``results/<name>.json`` below `report`; numbers that are not finite become null.

    Returns:
        The values as a table, for the notebook to show; groups of values are rows of their own.

    Raises:
        TypeError: a value is neither a number, text, list, dict, array nor path.
    """
    content = json.loads(json.dumps(dict(values), default=_as_json), parse_constant=lambda _: None)
    write_json(Path(report) / "results" / f"{name}.json", content)
    rows: dict[str, Any] = {}
    for key, value in content.items():
        rows |= {f"{key}, {part}": each for part, each in value.items()} if isinstance(value, dict) else {key: value}
    return pd.DataFrame({"value": pd.Series(rows, dtype=object)})


def to_html(executed: Path, out: Path) -> None:
    """Write an executed notebook as one HTML file that opens without a network: images embedded, no scripts from elsewhere.

    Without MathJax, equations show as they were typed.

    Raises:
        InputError: an output or a text cell would load something from elsewhere, or the notebook cannot be read.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True, raw_template=_OFFLINE_TEMPLATE)  # type: ignore[no-untyped-call]
    _read(executed)
    html, _ = exporter.from_filename(str(executed))
    html = re.sub(r"data:image/png;base64,([\w+/=\s]+)", _webp_address, html)
    if loads := remote_loads(html):
        raise InputError(f"notebook {executed.name} would load {loads[0]} when it is read; embed it instead")
    write_text(out, html)


def _webp_address(png: re.Match[str]) -> str:
    content, _ = as_webp(io.BytesIO(base64.b64decode(png[1])))
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def remote_loads(html: str) -> list[str]:
    """Addresses a browser would fetch when it opens `html`; links that a reader may follow are not among them."""
    finder = _RemoteLoads()
    finder.feed(html)
    finder.close()
    return finder.found


_OFFLINE_TEMPLATE = """{% extends 'index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
"""
_ADDRESS = r"(?:https?:)?//[^\s\"'()<>]+"


class _RemoteLoads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for key, value in attrs:
            if key in ("src", "poster", "data") or (key in ("href", "xlink:href") and tag not in ("a", "area")):
                self.found += re.findall(rf"^\s*({_ADDRESS})", value or "")
            elif key == "srcset":
                self.found += re.findall(rf"(?:^|,\s)\s*({_ADDRESS})", value or "")
            elif key == "style":
                self._style(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self._style(data)
        elif self.inside == "script":
            self.found += re.findall(r"https?://[^\s\"'()<>]+", data)

    def _style(self, css: str) -> None:
        self.found += re.findall(rf"(?:url\(\s*|@import\s+)[\"']?({_ADDRESS})", css)


@contextmanager
def _this_interpreter() -> Iterator[None]:
    """Let the kernel "python3" be the Python that runs this, whatever kernels are registered on the machine."""
    from ipykernel.kernelspec import write_kernel_spec

    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        write_kernel_spec(str(Path(folder) / "kernels" / "python3"), extra_arguments=["--log-level=CRITICAL"])
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            del os.environ["JUPYTER_PATH"]
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


def _stopped_in(executed: Mapping[str, Any], failed: bool) -> str:
    """Name the cell an executed notebook stopped in, or return "".

    Papermill calls a notebook whose cell calls ``sys.exit`` a success, and marks cells that a dead kernel never reached completed.
    """
    cells = [cell for cell in executed["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    states = [cell["metadata"].get("papermill", {}) for cell in cells]
    reached = [i for i, state in enumerate(states) if state.get("start_time")]
    completed = len(reached) == len(cells) and all(state["status"] == "completed" for state in states)
    if completed and not failed and not executed["metadata"]["papermill"].get("exception"):
        return ""
    if not reached:
        return "before the first cell"
    line = "".join(cells[reached[-1]]["source"]).strip().splitlines()[0]
    return f"code cell {reached[-1] + 1} of {len(cells)} ({line[:60]})"


def _declared(source: Path) -> list[str]:
    """Names that the cell tagged ``parameters`` assigns."""
    for cell in _read(source)["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            try:
                tree = ast.parse("".join(cell["source"]))
            except SyntaxError as error:
                raise InputError(f"notebook {source.name}: its parameters cell is not valid Python: {error}") from error
            return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return []


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read notebook {path}: {shorten(str(error), 200)}") from error
    if not (isinstance(content, dict) and content.get("nbformat") == 4 and isinstance(content.get("cells"), list)):
        raise InputError(f"cannot read notebook {path}: it is not in Jupyter's format 4; open and save it in JupyterLab")
    return content


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=_as_json))
    return plain


def _as_json(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy, torch
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}; give numbers, text, lists, dicts, arrays or paths")
