"""Notebook 08 as a person uses it: JupyterLab in a browser, a box dragged with the mouse, and the clip plays."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BOX = (40, 30, 60, 50)
"""x, y, width and height in frame pixels of what is dragged."""

pytestmark = pytest.mark.notebook


@pytest.fixture
def notebook(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the notebook about a clip of five frames, in a folder of its own."""
    content = json.loads((CHECKOUT / "notebooks" / "08_your_video.ipynb").read_text())
    clip = sorted((data_root / "synthetic" / "JPEGImages" / "480p").iterdir())[0]
    more = f'\nvideo, out, box = "{clip}", "{tmp_path / "results"}", "5,5,20,20"'
    content["cells"][2]["source"].append(more)
    # else JupyterLab asks for a kernel, sooner or later than the test looks for the question
    content["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    path = tmp_path / "lab" / "08.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def address(notebook: Path) -> Iterator[str]:
    """JupyterLab that shows the notebook."""
    pytest.importorskip("jupyterlab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # the answer to "Select Kernel", which a busy JupyterLab asks, and which covers the page
    settings = notebook.parent.with_name("settings")
    tracker = settings / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"autoStartDefaultKernel": true}')
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"),
            *("--IdentityProvider.token=", f"--ServerApp.root_dir={notebook.parent}"),
            *("--ServerApp.disable_check_xsrf=True", f"--LabApp.user_settings_dir={settings}"),
        ],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            time.sleep(0.2)
            try:
                urllib.request.urlopen(f"{url}/api").close()
                break
            except OSError:
                assert server.poll() is None, "JupyterLab has ended"
        # a kernel that runs already, so that the page need not wait for one
        session = {"path": notebook.name, "name": "", "type": "notebook"}
        body = json.dumps(session | {"kernel": {"name": "python3"}}).encode()
        urllib.request.urlopen(f"{url}/api/sessions", body).close()
        yield f"{url}/lab/tree/{notebook.name}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser: {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 2400})
        page.set_default_timeout(120_000)
        dialog = page.locator(".jp-Dialog")

        def accept() -> None:
            while dialog.count():  # one may follow another
                print("JupyterLab asks:", dialog.first.inner_text())
                dialog.first.locator(".jp-mod-accept").click()
                page.wait_for_timeout(500)

        page.add_locator_handler(dialog, accept, no_wait_after=True)
        yield page
        browser.close()


def run_all(page: Any) -> None:
    """Run all cells; again, if no cell has begun after ten seconds: a busy page loses clicks."""
    timeout = pytest.importorskip("playwright.sync_api").TimeoutError
    for _ in range(3):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            page.locator(".jp-InputPrompt", has_text="*").first.wait_for(timeout=10_000)
        except timeout:
            continue
        return


def drag(page: Any, box_frame_xywh: tuple[int, int, int, int]) -> None:
    canvas = page.locator("canvas[style*=crosshair]")
    canvas.scroll_into_view_if_needed()
    shown = canvas.bounding_box()
    scale = shown["width"] / canvas.evaluate("each => each.width")
    x, y, width, height = (side * scale for side in box_frame_xywh)
    page.mouse.move(shown["x"] + x, shown["y"] + y)
    page.mouse.down()
    page.mouse.move(shown["x"] + x + width / 2, shown["y"] + y + height / 2)
    page.mouse.move(shown["x"] + x + width, shown["y"] + y + height)
    page.mouse.up()


def test_a_dragged_box_is_followed_and_the_clip_plays(
    page: Any, address: str, notebook: Path, tmp_path: Path
) -> None:
    page.goto(address)
    page.locator(".jp-Notebook").wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    tracks = tmp_path / "results"

    # as it is opened: the box of the parameters
    run_all(page)
    try:
        page.locator("video").wait_for()
    except pytest.importorskip("playwright.sync_api").TimeoutError:
        pytest.fail(f"there is no clip; the page says: {page.locator('body').inner_text()}")
    first = pd.read_csv(next(tracks.rglob("tracks.csv"))).iloc[0]
    assert first[["x", "y", "width", "height"]].tolist() == [5, 5, 20, 20]

    # drag another, and run all again: it is kept
    drag(page, BOX)
    next(tracks.rglob("tracks.csv")).unlink()
    run_all(page)
    page.wait_for_function(
        "document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status == 'idle'"
    )
    for _ in range(600):
        if found := list(tracks.rglob("tracks.csv")):
            break
        page.wait_for_timeout(200)
    first = pd.read_csv(found[0]).iloc[0]
    assert first[["x", "y", "width", "height"]].tolist() == pytest.approx(BOX, abs=1.5)

    # the clip plays, and the slider shows another frame
    video = page.locator("video").first
    video.evaluate("each => each.play()")
    page.wait_for_function("document.querySelector('video').currentTime > 0")
    picture = "img.widget-image"
    before = page.locator(picture).first.get_attribute("src")
    page.locator(".widget-slider .noUi-handle").first.press("ArrowRight")
    page.wait_for_function(
        "([picture, src]) => (each => each && each.src != src)(document.querySelector(picture))",
        arg=[picture, before],
    )
    page.screenshot(path=tmp_path / "seen.png", full_page=True)
