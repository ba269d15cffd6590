"""What notebooks show: a figure is the file that is kept, tables carry title and notes, clips play and stay small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import IPython.display
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from e3sn_lib.errors import InputError
from e3sn_study import display


def frames(count: int = 6, noise: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    plain = np.full((90, 160, 3), (200, 40, 40), np.uint8)
    return [
        np.clip(plain + rng.integers(-noise, noise + 1, plain.shape), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def test_a_figure_is_shown_as_the_file_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    displayed: list[Any] = []
    monkeypatch.setattr(display, "display", displayed.append)
    figure = Figure(figsize=(4, 2))
    figure.subplots()
    figure.set_label("Two axes.")
    display.show_figure(figure, tmp_path / "new" / "figure.png")
    (shown,) = displayed  # a figure that is not known has no caption
    assert shown.data == (tmp_path / "new" / "figure.png").read_bytes()
    assert shown.alt == "Two axes."
    with Image.open(tmp_path / "new" / "figure.png") as image:
        assert 1.2 < image.width / shown.width < 1.5
    display.show_figure(figure, tmp_path / "trade_off_synthetic.png")
    caption = displayed[-1].data
    assert caption.startswith("*Synthetic. Speed against the mean of J and F on the procedural")


def test_a_table_has_its_title_above_and_its_notes_below() -> None:
    table = pd.DataFrame({"Method": ["E3SN"], "J": ["73.0"]})
    assert display.show_table(table).data == "| Method | J |\n| --- | ---: |\n| E3SN | 73.0 |\n"
    table.attrs |= {"title": "Table 1", "notes": ["In percent.", "One seed."]}
    text = display.show_table(table).data
    assert text.startswith("**Table 1**\n\n| Method |")
    assert text.endswith("|\n\nIn percent.\n\nOne seed.\n")
    assert "seed" not in display.show_table(table, notes=False).data


def test_a_clip_is_embedded_and_plays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = display.show_clip(iter(frames()), tmp_path / "clip.mp4", fps=5)
    assert shown.embed
    assert "data:video/mp4;base64," in shown._repr_html_()
    assert (tmp_path / "clip.mp4").read_bytes() == shown.data
    video = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    read = [video.read()[1] for _ in range(6)]
    assert video.read()[0] is False
    assert np.abs(read[3][..., ::-1].astype(int) - (200, 40, 40)).max() < 12
    assert capfd.readouterr().err == ""


def test_a_large_clip_is_made_narrower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = [cv2.resize(frame, (301, 171)) for frame in frames(3, noise=120)]
    wide = display.show_clip(noisy, tmp_path / "wide.mp4", width=240)
    assert wide.width == 240
    monkeypatch.setattr(display, "LARGEST_CLIP", len(wide.data) // 2)
    narrow = display.show_clip(noisy, tmp_path / "narrow.mp4", width=240)
    assert narrow.width < 240
    assert len(narrow.data) <= len(wide.data) // 2


def test_a_clip_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no frames"):
        display.show_clip([], tmp_path / "clip.mp4")


def test_a_live_figure_stays_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[list[bytes]] = []

    class Place:
        def __init__(self, picture: IPython.display.Image, display_id: bool) -> None:
            assert display_id
            places.append([picture.data])

        def update(self, picture: IPython.display.Image) -> None:
            places[-1].append(picture.data)

    monkeypatch.setattr("e3sn_study.display.display", Place)

    def draw(table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot(table["loss"])
        return figure

    update = display.live(draw)
    for rows in (1, 2, 3):
        update(pd.DataFrame({"loss": range(rows)}))
    assert len(places) == 1
    assert len(set(places[0])) == 3
