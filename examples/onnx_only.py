"""Masks of boxed objects in a clip, with numpy, OpenCV and ONNX Runtime alone.

python examples/onnx_only.py EXPORT CLIP OUT x,y,w,h [x,y,w,h ...]
EXPORT: a folder that e3sn export made; its README.md explains the steps. CLIP: a video file, or
frames as in frames/%05d.jpg. OUT: a folder for a PNG of object numbers for each frame.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

SETTINGS, GRAPHS = {}, {}
OFFSETS = 8 * (np.arange(25) - 12)
ANCHOR_XY = np.stack(np.meshgrid(OFFSETS, OFFSETS))[:, None]  # from the middle of the crop
HANN = np.outer(np.hanning(25), np.hanning(25))


def run(graph, known):
    found = graph.run(None, {each.name: known[each.name] for each in graph.get_inputs()})
    return {each.name: value for each, value in zip(graph.get_outputs(), found, strict=True)}


def context_side(wh):
    margin = (wh[0] + wh[1]) / 2
    return np.sqrt((wh[0] + margin) * (wh[1] + margin))


def warp(image, scale, offset, size, outside):
    """Scale and move positions; pixel i covers i to i + 1, while OpenCV has its centre at i."""
    matrix = np.hstack([scale * np.eye(2), (offset + scale / 2 - 0.5)[:, None]])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=outside)


class Target:
    def __init__(self, frame, box_xywh):
        self.fill, self.wh = cv2.mean(frame), np.array(box_xywh[2:])
        self.xy = np.array(box_xywh[:2]) + self.wh / 2
        crop, _ = self.crop(frame, 127, 127 / context_side(self.wh))
        self.filters = run(GRAPHS["template"], {"crop": crop})

    def crop(self, frame, pixels, scale):
        offset = pixels / 2 - scale * self.xy
        crop = warp(frame, scale, offset, (pixels, pixels), self.fill)
        return crop[None, ..., ::-1].copy(), offset

    def step(self, frame, move):
        """Return the object's probabilities in a frame, (H, W)."""
        scale, size = 127 / context_side(self.wh), frame.shape[1::-1]
        crop, offset = self.crop(frame, 255, scale)
        maps = run(GRAPHS["search"], self.filters | {"crop": crop})
        row, column = self.find(maps, scale, size) if move else (12, 12)
        windows = {}
        for name, each in SETTINGS["windows"].items():
            padded = np.pad(maps[name], ((0, 0), (0, 0), (16, 16), (16, 16)))
            top, left = (16 + each["first"] + each["step"] * place for place in (row, column))
            windows[name] = padded[:, :, top : top + each["size"], left : left + each["size"]]
        soft = 1 / (1 + np.exp(-run(GRAPHS["mask"], self.filters | windows)["logits"][0]))
        corner = 8 * np.array([column, row]) - 32
        return warp(soft, 1 / scale, (corner - offset) / scale, size, 0)

    def find(self, maps, scale, limit):
        """Move to the best anchor; return its row and column."""
        track, anchor_wh = SETTINGS["track"], np.array(SETTINGS["anchors_wh"]).T[..., None, None]
        cls, loc = maps["cls"][0].astype(float), maps["loc"][0].astype(float)
        score = 1 / (1 + np.exp(cls[0] - cls[1]))
        xy, wh = (loc[:2] * anchor_wh + ANCHOR_XY) / scale, np.exp(loc[2:]) * anchor_wh / scale
        size = context_side(wh) / context_side(self.wh)
        ratio = self.wh[0] / self.wh[1] * wh[1] / wh[0]
        change = np.maximum(size, 1 / size) * np.maximum(ratio, 1 / ratio)
        penalty, share = np.exp(-(change - 1) * track["penalty_k"]), track["window_influence"]
        ranked = penalty * score * (1 - share) + HANN * share
        best = np.unravel_index(ranked.argmax(), score.shape)
        rate = penalty[best] * score[best] * track["size_lr"]
        self.xy = np.clip(self.xy + xy[:, *best], 0, limit)
        self.wh = np.clip((1 - rate) * self.wh + rate * wh[:, *best], 10, limit)
        return best[1:]


if len(sys.argv) < 5 or not (clip := cv2.VideoCapture(sys.argv[2])).isOpened():
    sys.exit(f"no box is given, or CLIP cannot be read\n\n{__doc__}")
boxes = [[float(value) for value in text.split(",")] for text in sys.argv[4:]]
assert all(len(box) == 4 and min(box[2:]) >= 1 for box in boxes), "a box is x,y,width,height"
folder, out = Path(sys.argv[1]), Path(sys.argv[3])
SETTINGS |= json.loads((folder / "export.json").read_text())
assert {SETTINGS["track"][key] for key in ("crop", "score")} == {"exact", "penalised"}, "see README"
for name in ("template", "search", "mask"):
    GRAPHS[name] = onnxruntime.InferenceSession(folder / f"{name}.onnx")
out.mkdir(parents=True, exist_ok=True)
number, targets = 0, []
while (read := clip.read())[0]:
    targets = targets or [Target(read[1], box) for box in boxes]
    soft = np.stack([target.step(read[1], move=number > 0) for target in targets])
    ids = np.where(soft.max(0) > SETTINGS["track"]["mask_threshold"], soft.argmax(0) + 1, 0)
    assert cv2.imwrite(str(out / f"{number:05d}.png"), ids.astype(np.uint8)), f"cannot write {out}"
    number += 1
