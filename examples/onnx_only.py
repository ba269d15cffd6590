"""Masks of boxed objects in a clip, from an exported folder, with numpy, OpenCV and ONNX Runtime
alone.

python examples/onnx_only.py EXPORT CLIP OUT x,y,w,h [x,y,w,h ...]

CLIP: a video or a folder of frames. OUT gets a PNG of object numbers for each frame. README.md in
EXPORT explains the steps.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

ABOUT, GRAPHS = {}, {}
OFFSETS = 8 * (np.arange(25) - 12)
ANCHOR_XY = np.stack(np.meshgrid(OFFSETS, OFFSETS))[
    :, None
]  # (2, 1, 25, 25) relative to the middle of the crop
HANN = np.outer(np.hanning(25), np.hanning(25))


def read_frames(clip):
    if clip.is_dir():
        yield from (cv2.imread(str(path)) for path in sorted(clip.iterdir()))
    else:
        video = cv2.VideoCapture(str(clip))
        while (read := video.read())[0]:
            yield read[1]


def run(graph, known):
    inputs = {each.name: known[each.name] for each in GRAPHS[graph].get_inputs()}
    return dict(
        zip(
            (each.name for each in GRAPHS[graph].get_outputs()),
            GRAPHS[graph].run(None, inputs),
            strict=True,
        )
    )


def context_side(wh):
    margin = (wh[0] + wh[1]) / 2
    return np.sqrt((wh[0] + margin) * (wh[1] + margin))


def warp(image, scale, offset, size, outside):
    """Scale positions and move them; pixel i covers i to i + 1, while OpenCV has its centre at
    i."""
    matrix = np.hstack([scale * np.eye(2), (offset + scale / 2 - 0.5)[:, None]])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=outside)


class Target:
    def __init__(self, frame, box_xywh):
        self.fill, self.wh = cv2.mean(frame), np.array(box_xywh[2:])
        self.xy = np.array(box_xywh[:2]) + self.wh / 2
        self.filters = run(
            "template", {"crop": self.crop(frame, 127, 127 / context_side(self.wh))[0]}
        )

    def crop(self, frame, pixels, scale):
        offset = pixels / 2 - scale * self.xy
        return warp(frame, scale, offset, (pixels, pixels), self.fill)[
            None, ..., ::-1
        ].copy(), offset

    def step(self, frame, move):
        """Return the object's probabilities in a frame, (H, W)."""
        scale = 127 / context_side(self.wh)
        crop, offset = self.crop(frame, 255, scale)
        maps = run("search", self.filters | {"crop": crop})
        row, column = self.find(maps, scale, frame.shape[1::-1]) if move else (12, 12)
        windows = {}
        for name, each in ABOUT["windows"].items():
            padded = np.pad(maps[name], ((0, 0), (0, 0), (16, 16), (16, 16)))
            top, left = (16 + each["first"] + each["step"] * place for place in (row, column))
            windows[name] = padded[
                :, :, top : top + each["size"], left : left + each["size"]
            ].copy()
        soft = 1 / (1 + np.exp(-run("mask", self.filters | windows)["logits"][0]))
        corner = 8 * np.array([column, row]) - 32
        return warp(soft, 1 / scale, (corner - offset) / scale, frame.shape[1::-1], 0)

    def find(self, maps, scale, limit):
        """Move to the best anchor; return its row and column."""
        settings, anchor_wh = ABOUT["track"], np.array(ABOUT["anchors_wh"]).T[:, :, None, None]
        cls, loc = maps["cls"][0].astype(float), maps["loc"][0].astype(float)
        score = 1 / (1 + np.exp(cls[0] - cls[1]))
        xy, wh = (loc[:2] * anchor_wh + ANCHOR_XY) / scale, np.exp(loc[2:]) * anchor_wh / scale
        size, ratio = (
            context_side(wh) / context_side(self.wh),
            self.wh[0] / self.wh[1] * wh[1] / wh[0],
        )
        change = np.maximum(size, 1 / size) * np.maximum(ratio, 1 / ratio)
        penalty = np.exp(-(change - 1) * settings["penalty_k"])
        share = settings["window_influence"]
        best = np.unravel_index(
            (penalty * score * (1 - share) + HANN * share).argmax(), score.shape
        )
        rate = penalty[best] * score[best] * settings["size_lr"]
        self.xy = np.clip(self.xy + xy[(slice(None), *best)], 0, limit)
        self.wh = np.clip((1 - rate) * self.wh + rate * wh[(slice(None), *best)], 10, limit)
        return best[1:]


folder, clip, out = map(Path, sys.argv[1:4])
ABOUT.update(json.loads((folder / "export.json").read_text()))
GRAPHS.update(
    {
        name: onnxruntime.InferenceSession(folder / f"{name}.onnx")
        for name in ("template", "search", "mask")
    }
)
out.mkdir(parents=True, exist_ok=True)
for number, frame in enumerate(read_frames(clip)):
    if number == 0:
        targets = [
            Target(frame, [float(value) for value in text.split(",")]) for text in sys.argv[4:]
        ]
    soft = np.stack([target.step(frame, move=number > 0) for target in targets])
    ids = np.where(soft.max(axis=0) > ABOUT["track"]["mask_threshold"], soft.argmax(axis=0) + 1, 0)
    cv2.imwrite(str(out / f"{number:05d}.png"), ids.astype(np.uint8))
