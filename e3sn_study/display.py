"""What a notebook puts on the page: figures, tables, clips that play without a network.

A person can move some of it: boxes on a picture, and a slider above one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path

import anywidget
import cv2
import numpy as np
import pandas as pd
import traitlets
from IPython.display import DisplayHandle, Markdown, Video, display
from IPython.display import Image as ShownImage
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from e3sn_lib.tracking.clip import write_clip
from e3sn_lib.tracking.video import Image, object_colour
from e3sn_study.figures.style import SCREEN_DPI, save_figure
from e3sn_study.tables.cells import to_markdown

COLOURS = ["#{:02x}{:02x}{:02x}".format(*object_colour(number)) for number in range(1, 9)]
"""Of the boxes, in turn."""
LARGEST_CLIP = 1_000_000
"""Bytes; a larger clip is made narrower."""


def show_figure(figure: Figure, path: Path) -> ShownImage:
    """Write a figure as ``PATH.png`` and show just that file; one of synthetic data says so."""
    path = path.with_suffix(".png")
    save_figure(path, figure)
    with PillowImage.open(path) as image:
        width = round(image.width * 96 / SCREEN_DPI)
    content, alt = path.read_bytes(), str(figure.get_label())
    return ShownImage(content, format="png", width=width, alt=alt)  # type: ignore[no-untyped-call]


def live(draw: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], None]:
    """Return a function that draws a growing table anew, always in the same place of the page."""
    shown: list[DisplayHandle] = []

    def update(table: pd.DataFrame) -> None:
        buffer = BytesIO()
        draw(table).savefig(buffer, dpi=SCREEN_DPI / 2)
        picture = ShownImage(data=buffer.getvalue(), format="png")  # type: ignore[no-untyped-call]
        if shown:
            shown[0].update(picture)  # type: ignore[no-untyped-call]
        else:
            shown.append(display(picture, display_id=True))  # type: ignore[no-untyped-call]

    return update


def show_table(table: pd.DataFrame, notes: bool = True) -> Markdown:
    """Return a table with its title above and, if wanted, its notes below."""
    title = f"**{table.attrs['title']}**\n\n" if table.attrs.get("title") else ""
    below = "".join(f"\n{note}\n" for note in table.attrs.get("notes", [])) if notes else ""
    return Markdown(f"{title}{to_markdown(table)}{below}")  # type: ignore[no-untyped-call]


def show_clip(frames: Iterable[Image], path: Path, fps: float = 12.0, width: int = 640) -> Video:
    """Write frames as a short MP4 and show it, inside the notebook itself.

    Raises:
        InputError: there are no frames.
    """
    path, shown = path.with_suffix(".mp4"), [_narrowed(frame, width) for frame in frames]
    write_clip(path, shown, fps)
    while path.stat().st_size > LARGEST_CLIP and shown[0].shape[1] >= 160:
        shown = [_narrowed(frame, round(frame.shape[1] * 0.75)) for frame in shown]
        write_clip(path, shown, fps)
    return Video(  # type: ignore[no-untyped-call]
        data=path.read_bytes(),
        embed=True,
        mimetype="video/mp4",
        width=shown[0].shape[1],
        html_attributes="controls loop muted",
    )


def _narrowed(frame: Image, width: int) -> Image:
    """Return a frame that is at most `width` pixels wide, with even sides."""
    scale = min(width / frame.shape[1], 1.0)
    size = tuple(max(int(side * scale) // 2 * 2, 2) for side in frame.shape[1::-1])
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


DRAW_BOXES = """
function render({ model, el }) {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const picture = new Image();
  canvas.style = "max-width: 100%; cursor: crosshair; touch-action: none";
  el.append(canvas, "Drag a box around the object. Hold Shift to add a box for one more object.");

  let corner = null;  // where the drag began, in frame pixels
  const place = (event) => {
    const shown = canvas.getBoundingClientRect();
    const x = (event.clientX - shown.left) * canvas.width / shown.width;
    const y = (event.clientY - shown.top) * canvas.height / shown.height;
    return [Math.min(Math.max(x, 0), canvas.width), Math.min(Math.max(y, 0), canvas.height)];
  };
  const box = ([x, y]) => [
    Math.min(x, corner[0]), Math.min(y, corner[1]), Math.abs(x - corner[0]), Math.abs(y - corner[1])
  ];
  const draw = (boxes) => {
    pen.drawImage(picture, 0, 0);
    pen.lineWidth = Math.max(2, canvas.width / 300);
    boxes.forEach((each, k) => {
      pen.strokeStyle = model.get("colours")[k % 8];
      pen.strokeRect(...each);
    });
  };
  const kept = (event) => event.shiftKey ? model.get("boxes") : [];

  canvas.onpointerdown = (event) => {
    corner = place(event);
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => corner && draw([...kept(event), box(place(event))]);
  canvas.onpointerup = (event) => {
    const drawn = box(place(event));
    corner = null;
    if (Math.min(drawn[2], drawn[3]) >= 2) {
      model.set("boxes", [...kept(event), drawn.map(Math.round)]);
      model.save_changes();
    }
    draw(model.get("boxes"));
  };
  model.on("change:boxes", () => draw(model.get("boxes")));
  picture.onload = () => {
    [canvas.width, canvas.height] = [picture.width, picture.height];
    draw(model.get("boxes"));
  };
  picture.src = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/jpeg" }));
}
export default { render };
"""

SLIDER = """
function render({ model, el }) {
  const picture = new Image(), slider = document.createElement("input");
  const text = document.createElement("div");
  [slider.type, slider.min, slider.max, slider.step] =
    ["range", model.get("low"), model.get("high"), model.get("step")];
  slider.value = model.get("value");
  slider.style = picture.style = "display: block; width: 100%; max-width: 900px";
  el.append(text, slider, picture);

  const show = () => {
    text.textContent = `${model.get("label")} ${model.get("value")}`;
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(new Blob([model.get("picture")]));
  };
  slider.oninput = () => {
    model.set("value", Number(slider.value));
    model.save_changes();
  };
  model.on("change:picture", show);
  show();
}
export default { render };
"""


class BoxWidget(anywidget.AnyWidget):
    """A frame on which boxes are dragged with the mouse.

    Args:
        frame: (H, W, 3) RGB.
        boxes_frame_xywh: at the start: x, y, width and height of each.
        key: a widget with an equal key starts with the boxes that were drawn last, so that running
            all cells again keeps them.
    """

    _esm = DRAW_BOXES
    _drawn: dict[object, list[list[float]]] = {}  # noqa: RUF012
    picture = traitlets.Bytes().tag(sync=True)
    boxes: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    """x, y, width and height of each box as it is now."""
    colours = traitlets.List(COLOURS).tag(sync=True)

    def __init__(
        self, frame: Image, boxes_frame_xywh: Sequence[Sequence[float]], key: object
    ) -> None:
        boxes = self._drawn.setdefault(key, [list(box) for box in boxes_frame_xywh])
        super().__init__(picture=_encoded(frame), boxes=boxes)
        self.observe(lambda change: self._drawn.update({key: change["new"]}), "boxes")


class SliderWidget(anywidget.AnyWidget):
    """A picture that a slider changes.

    Args:
        draw: gets the slider's value; returns a frame (H, W, 3) RGB or a figure.
        label: what the value is.
        value: at the start.
        low, high, step: the values there are.
    """

    _esm = SLIDER
    picture = traitlets.Bytes().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    value, low, high, step = (traitlets.Float().tag(sync=True) for _ in range(4))

    def __init__(
        self,
        draw: Callable[[float], Image | Figure],
        label: str,
        value: float,
        low: float,
        high: float,
        step: float,
    ) -> None:
        picture = _encoded(draw(value))
        limits = {"low": low, "high": high, "step": step}
        super().__init__(picture=picture, label=label, value=value, **limits)
        self.observe(
            lambda change: self.set_trait("picture", _encoded(draw(change["new"]))), "value"
        )


def _encoded(picture: Image | Figure) -> bytes:
    """Return the bytes of a file, which a browser shows."""
    buffer = BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, dpi=SCREEN_DPI)
    else:
        PillowImage.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
