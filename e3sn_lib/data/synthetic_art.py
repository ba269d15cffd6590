"""The pictures of the procedural set: textures, scenes, creatures and occluders, all drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Colour = tuple[float, float, float]

SPRITE = 256
"""Side of a sprite's picture in pixels; its own coordinates u (right) and v (down) run from -1 to 1."""


def noise(rng: Generator, height: int, width: int, cells: tuple[int, ...] = (64, 32, 16, 8), stretch: float = 1.0) -> Floats:
    """Smooth noise (height, width) from 0 to 1: random grids of the given cell sizes, coarse ones strongest; stretched along x."""
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        grid = rng.random((height // cell + 3, int(width / cell / stretch) + 3), np.float32)
        total += np.sqrt(cell) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


def blend(first: Colour, second: Colour, share: NDArray[np.floating[Any]]) -> Floats:
    """Two colours mixed by `share` (H, W); gives (H, W, 3)."""
    return (_rgb(first) + (_rgb(second) - _rgb(first)) * share[..., None]).astype(np.float32)


def _rgb(colour: Colour) -> Floats:
    return np.array(colour, np.float32)


def _corners(points: list[tuple[float, float]]) -> Floats:
    return np.array(points, np.float32)


def jitter(rng: Generator, colour: Colour, amount: float = 18.0) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-amount, amount, 3), 0, 255)
    return float(red), float(green), float(blue)


def _ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, start: float = 0.0, end: float = 2 * np.pi) -> Floats:
    """Corners (64, 2) of an ellipse or of a part of one."""
    turn = np.linspace(start, end, 64)
    u, v = rx * np.cos(turn), ry * np.sin(turn)
    return np.stack([x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)], 1).astype(np.float32)


def _stroke(points: list[tuple[float, float]], width: float, end: float | None = None) -> Floats:
    """Outline of a line through `points`, `width` wide at its start and `end` wide at its end."""
    line = _corners(points)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
    half = np.linspace(width, width if end is None else end, len(line))[:, None] / 2
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]]).astype(np.float32)


def _cover(shape: tuple[int, ...], corners: NDArray[np.floating[Any]]) -> Floats:
    """How much of each pixel a polygon covers, 0 to 1; corners in pixels."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round((corners - 0.5) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return (mask / 255).astype(np.float32)


class _Easel:
    """A sprite in the making: RGB and coverage."""

    def __init__(self) -> None:
        self.rgb = np.zeros((SPRITE, SPRITE, 3), np.float32)
        self.alpha = np.zeros((SPRITE, SPRITE), np.float32)
        axis = (np.arange(SPRITE, dtype=np.float32) + 0.5) / SPRITE * 2 - 1
        self.u, self.v = np.meshgrid(axis, axis)

    def paint(self, corners: Floats, colour: Colour | NDArray[np.floating[Any]]) -> None:
        """Lay a polygon in one colour, or cut from a picture (SPRITE, SPRITE, 3), over what is there."""
        cover = _cover(self.alpha.shape, (corners + 1) / 2 * SPRITE)
        self.rgb += (np.asarray(colour, np.float32) - self.rgb) * cover[..., None]
        self.alpha = np.maximum(self.alpha, cover)

    def finish(self, relief: float = 1.0) -> Floats:
        """Shade as if the outline were a cushion lit from the upper left; gives RGBA (SPRITE, SPRITE, 4), colour times coverage."""
        inside = cv2.distanceTransform((self.alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        height = cv2.GaussianBlur(np.sqrt(np.minimum(inside / 45, 1)), (0, 0), 5)
        slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * 0.7 + cv2.Sobel(height, cv2.CV_32F, 0, 1)
        light = np.clip(0.84 + 0.22 * height + 1.6 * relief * slope, 0.35, 1.3)
        rgb = np.clip(self.rgb * light[..., None], 0, 255) * self.alpha[..., None]
        return np.dstack([rgb, self.alpha * 255]).astype(np.float32)


PALETTES: tuple[tuple[Colour, Colour], ...] = (
    ((238, 120, 40), (250, 235, 215)),
    ((40, 110, 205), (245, 205, 60)),
    ((190, 45, 60), (245, 190, 150)),
    ((75, 150, 70), (225, 225, 110)),
    ((130, 75, 165), (235, 165, 205)),
    ((225, 185, 50), (110, 60, 30)),
    ((45, 155, 160), (235, 240, 240)),
    ((95, 95, 110), (220, 90, 60)),
)
"""Pairs of colours that go together; an object and its look-alikes draw from them."""


def fish(rng: Generator, main: Colour, second: Colour) -> Floats:
    easel = _Easel()
    fin = blend(main, second, 0.5 + 0.5 * np.sin(26 * easel.v + 8 * easel.u))
    easel.paint(_corners([(-0.45, 0), (-0.75, -0.42), (-0.95, -0.46), (-0.8, 0), (-0.95, 0.46), (-0.75, 0.42)]), fin)
    easel.paint(_corners([(-0.3, -0.28), (-0.25, -0.6), (0.0, -0.68), (0.3, -0.3)]), fin)
    easel.paint(_corners([(-0.05, 0.3), (-0.2, 0.62), (0.0, 0.6), (0.22, 0.28)]), fin)
    bands = noise(rng, SPRITE, SPRITE, (64, 32))
    stripes = np.clip(2.2 * np.sin(rng.uniform(6, 11) * easel.u + 5 * bands + rng.uniform(0, 6)), -1, 1) / 2 + 0.5
    body = blend(main, second, stripes.astype(np.float32))
    belly = np.clip(easel.v * 2.4 - 0.25, 0, 0.75)[..., None]
    easel.paint(_ellipse(0.12, 0, 0.72, 0.42), body + (_rgb((245, 240, 225)) - body) * belly)
    easel.paint(_ellipse(0.12, 0.08, 0.16, 0.1, 0.5), jitter(rng, main))
    easel.paint(_ellipse(0.58, -0.1, 0.095, 0.095), (250, 250, 250))
    easel.paint(_ellipse(0.6, -0.1, 0.052, 0.052), (15, 15, 20))
    return easel.finish()


def beetle(rng: Generator, main: Colour, second: Colour) -> Floats:
    easel = _Easel()
    dark = (35.0, 30.0, 32.0)
    for side in (-1, 1):
        for x, reach in ((0.3, 0.3), (-0.05, -0.02), (-0.35, -0.35)):
            easel.paint(
                _stroke([(x, side * 0.3), (x + reach * 0.6, side * 0.68), (x + reach * 1.5, side * 0.86)], 0.13, 0.06), dark
            )
        easel.paint(_stroke([(0.7, side * 0.08), (0.86, side * 0.18), (0.95, side * 0.3)], 0.06, 0.04), dark)
    easel.paint(_ellipse(0.62, 0, 0.24, 0.25), dark)
    easel.paint(_ellipse(0.42, 0, 0.26, 0.36), jitter(rng, (70, 60, 60)))
    shell = blend(main, jitter(rng, main, 45), noise(rng, SPRITE, SPRITE, (64, 32, 16)))
    easel.paint(_ellipse(-0.12, 0, 0.64, 0.52), shell)
    for _ in range(int(rng.integers(3, 6))):
        x, y, size = rng.uniform(-0.6, 0.3), rng.uniform(0.12, 0.36), rng.uniform(0.07, 0.13)
        for side in (-1, 1):
            easel.paint(_ellipse(x, side * y, size, size * 0.9), second)
    easel.paint(_stroke([(-0.74, 0), (0.0, 0), (0.48, 0)], 0.035), dark)
    return easel.finish(1.3)


def car(rng: Generator, main: Colour, second: Colour) -> Floats:
    easel = _Easel()
    paint = blend(main, jitter(rng, main, 30), np.clip(easel.v + 0.5, 0, 1))
    roof = rng.uniform(-0.05, 0.15)
    hull = [(-0.92, 0.3), (-0.92, 0.0), (-0.8, -0.1), (-0.55 + roof, -0.14), (-0.35 + roof, -0.48), (0.28, -0.48), (0.52, -0.12)]
    easel.paint(_corners([*hull, (0.84, -0.04), (0.93, 0.08), (0.93, 0.3)]), paint)
    glass = blend((175, 205, 225), (70, 90, 115), np.clip(easel.v * 2 + 1 + 0.25 * np.sin(9 * (easel.u + easel.v)), 0, 1))
    easel.paint(_corners([(-0.43 + roof, -0.14), (-0.29 + roof, -0.4), (-0.06, -0.4), (-0.06, -0.14)]), glass)
    easel.paint(_corners([(0.0, -0.14), (0.0, -0.4), (0.24, -0.4), (0.4, -0.14)]), glass)
    easel.paint(_corners([(-0.9, 0.08), (0.92, 0.1), (0.92, 0.17), (-0.9, 0.15)]), second)
    easel.paint(_ellipse(0.85, 0.05, 0.06, 0.05), (255, 240, 170))
    easel.paint(_ellipse(-0.88, 0.03, 0.04, 0.06), (190, 30, 30))
    for x in (-0.55, 0.55):
        easel.paint(_ellipse(x, 0.3, 0.21, 0.21), (28, 28, 32))
        easel.paint(_ellipse(x, 0.3, 0.11, 0.11), (170, 172, 178))
    return easel.finish(0.6)


def balloon(rng: Generator, main: Colour, second: Colour) -> Floats:
    easel = _Easel()
    for x in (-0.13, 0.13):
        easel.paint(_stroke([(x * 2, 0.3), (x * 1.4, 0.5), (x, 0.7)], 0.035), (70, 55, 40))
    weave = 0.5 + 0.5 * np.sin(60 * easel.u) * np.sin(60 * easel.v)
    easel.paint(_corners([(-0.17, 0.66), (0.17, 0.66), (0.14, 0.9), (-0.14, 0.9)]), blend((120, 80, 45), (175, 125, 75), weave))
    round_part = _ellipse(0, -0.22, 0.68, 0.68, start=np.pi * 0.9, end=np.pi * 2.1)
    width = np.sqrt(np.maximum(0.68**2 - (easel.v + 0.22) ** 2, 0.06))
    gore = np.arcsin(np.clip(easel.u / width, -1, 1))
    stripes = np.clip(4 * np.sin(int(rng.integers(5, 9)) * gore + 0.8), -1, 1) / 2 + 0.5
    easel.paint(
        np.concatenate([round_part, _corners([(0.2, 0.46), (-0.2, 0.46)])]), blend(main, second, stripes.astype(np.float32))
    )
    if rng.random() < 0.5:
        easel.paint(_ellipse(0, -0.2, 0.66, 0.13, start=0, end=2 * np.pi), jitter(rng, second, 40))
    return easel.finish(1.2)


def bird(rng: Generator, main: Colour, second: Colour) -> Floats:
    easel = _Easel()
    feathers = blend(main, second, np.clip(1.5 * np.abs(easel.v) - 0.3 + 0.3 * np.sin(24 * easel.u + 6 * np.abs(easel.v)), 0, 1))
    for side in (-1, 1):
        wing = [(0.32, 0.1), (0.3, 0.45), (0.08, 0.78), (-0.2, 0.94), (-0.24, 0.84), (-0.17, 0.72), (-0.28, 0.68), (-0.2, 0.55)]
        wing += [(-0.3, 0.46), (-0.22, 0.34), (-0.3, 0.1)]
        easel.paint(_corners([(x, side * y) for x, y in wing]), feathers)
    easel.paint(_corners([(-0.4, -0.08), (-0.9, -0.25), (-0.84, 0), (-0.9, 0.25), (-0.4, 0.08)]), jitter(rng, main))
    easel.paint(_ellipse(0.02, 0, 0.52, 0.19), blend(jitter(rng, main), second, noise(rng, SPRITE, SPRITE, (32, 16))))
    easel.paint(_corners([(0.66, -0.06), (0.92, 0), (0.66, 0.06)]), (240, 165, 40))
    easel.paint(_ellipse(0.56, 0, 0.18, 0.15), jitter(rng, second))
    for side in (-1, 1):
        easel.paint(_ellipse(0.62, side * 0.09, 0.035, 0.035), (15, 15, 20))
    return easel.finish(1.1)


def jellyfish(rng: Generator, main: Colour, second: Colour) -> Floats:
    easel = _Easel()
    for x in np.linspace(-0.42, 0.42, 5):
        y, sway = np.linspace(-0.15, rng.uniform(0.68, 0.92), 14), rng.uniform(0, 6)
        line = [(float(x * (1 - 0.2 * v) + 0.06 * np.sin(7 * v + sway)), float(v)) for v in y]
        easel.paint(_stroke(line, 0.17, 0.07), jitter(rng, second))
    turn = np.linspace(0, np.pi, 50)
    hem = np.stack([0.74 * np.cos(turn), 0.02 + 0.07 * np.abs(np.sin(5 * turn))], 1)
    glow = np.clip(1.15 - np.hypot(easel.u, easel.v + 0.3) * 1.4, 0, 1) * 0.7
    spots = np.clip(noise(rng, SPRITE, SPRITE, (32, 16)) * 5 - 2.6, 0, 1) * 0.6
    bell = np.concatenate([_ellipse(0, 0.02, 0.74, 0.82, start=np.pi, end=2 * np.pi), hem.astype(np.float32)])
    easel.paint(bell, blend(main, second, np.maximum(glow, spots).astype(np.float32)))
    return easel.finish(1.1)


CREATURES: dict[str, Callable[[Generator, Colour, Colour], Floats]] = {
    "fish": fish, "beetle": beetle, "car": car, "balloon": balloon, "bird": bird, "jellyfish": jellyfish,
}  # fmt: skip


def reef(rng: Generator, height: int, width: int) -> Floats:
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None] + np.zeros((1, width), np.float32)
    scene = blend(jitter(rng, (95, 190, 205)), jitter(rng, (15, 70, 120)), rows)
    columns = np.arange(width, dtype=np.float32)[None]
    rays = np.clip(np.sin(columns / 23 + rows * 3) * np.sin(columns / 61 + rows * 5 + rng.uniform(0, 6)), 0, 1) * (1 - rows)
    scene += rays[..., None] * _rgb((50, 50, 35)) + (noise(rng, height, width)[..., None] - 0.5) * 34
    ground = height * 0.74 + 26 * (noise(rng, 1, width, (96, 48))[0] - 0.5)
    sand = blend((120, 140, 120), (215, 200, 150), noise(rng, height, width, (32, 8, 4, 2), 3.0))
    scene = np.where(np.arange(height)[:, None, None] > ground[None, :, None], sand * 0.85, scene)
    for _ in range(26):
        x, y, size = rng.uniform(0, width), height * rng.uniform(0.72, 1.0), rng.uniform(6, 22)
        colour = jitter(rng, ((200, 90, 105), (95, 80, 110), (215, 150, 70), (60, 120, 95))[int(rng.integers(4))], 25)
        for _ in range(int(rng.integers(2, 6))):
            _blob(scene, rng, x + rng.normal(0, size / 2), y - rng.uniform(0, size), size * rng.uniform(0.3, 0.6), colour)
    return scene.astype(np.float32)


def meadow(rng: Generator, height: int, width: int) -> Floats:
    scene = blend(jitter(rng, (55, 95, 40)), jitter(rng, (130, 165, 70)), noise(rng, height, width))
    _blades(scene, rng, 2600, ((60, 110, 45), (105, 150, 60), (150, 180, 85), (45, 85, 40)))
    for _ in range(60):
        colour = ((245, 240, 235), (240, 205, 70), (215, 110, 150), (150, 130, 220))[int(rng.integers(4))]
        x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(2, 4.5)
        for turn in np.arange(5) * 2 * np.pi / 5:
            cv2.circle(
                scene, (int(x + size * np.cos(turn)), int(y + size * np.sin(turn))), int(size * 0.6) + 1, colour, -1, cv2.LINE_AA
            )
        cv2.circle(scene, (int(x), int(y)), int(size / 2) + 1, (225, 170, 50), -1, cv2.LINE_AA)
    return scene


def sand(rng: Generator, height: int, width: int) -> Floats:
    warp = noise(rng, height, width, (96, 48, 24))
    rows = np.arange(height, dtype=np.float32)[:, None]
    ripples = 0.5 + 0.5 * np.sin(rows / rng.uniform(3.0, 5.0) + 14 * warp)
    scene = blend(jitter(rng, (180, 145, 100)), jitter(rng, (230, 205, 155)), 0.6 * ripples + 0.4 * warp)
    scene += rng.normal(0, 7, (height, width, 1)).astype(np.float32)
    for _ in range(60):
        shade = rng.uniform(90, 190)
        colour = jitter(rng, (shade, shade * 0.95, shade * 0.88), 12)
        _blob(scene, rng, rng.uniform(0, width), rng.uniform(0, height), rng.uniform(2, 8), colour)
    return scene.astype(np.float32)


def leaves(rng: Generator, height: int, width: int) -> Floats:
    scene = blend((50, 38, 28), (95, 75, 50), noise(rng, height, width))
    hues = ((165, 95, 40), (190, 140, 60), (120, 70, 40), (140, 130, 60), (95, 105, 50), (170, 70, 40))
    for _ in range(900):
        x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * np.pi)
        size, colour = rng.uniform(6, 15), np.array(jitter(rng, hues[int(rng.integers(len(hues)))], 22)) * rng.uniform(0.6, 1.0)
        centre, axes = (int(x), int(y)), (int(size), int(size * rng.uniform(0.35, 0.55)))
        cv2.ellipse(scene, (centre[0] + 1, centre[1] + 2), axes, np.degrees(angle), 0, 360, tuple(colour * 0.45), -1, cv2.LINE_AA)
        cv2.ellipse(scene, centre, axes, np.degrees(angle), 0, 360, tuple(colour), -1, cv2.LINE_AA)
        tip = (int(x + size * np.cos(angle)), int(y + size * np.sin(angle)))
        cv2.line(scene, (int(2 * x - tip[0]), int(2 * y - tip[1])), tip, tuple(colour * 1.25), 1, cv2.LINE_AA)
    return scene


def street(rng: Generator, height: int, width: int) -> Floats:
    kerb = int(height * 0.47)
    scene = blend((75, 75, 80), (120, 118, 116), noise(rng, height, width, (64, 16, 4, 2), 3.0))
    bricks = blend(jitter(rng, (150, 80, 60), 30), jitter(rng, (195, 125, 95), 30), noise(rng, kerb, width, (32, 8, 4)))
    for row, y in enumerate(range(0, kerb, 9)):
        cv2.line(bricks, (0, y), (width, y), (205, 195, 180), 1)
        for x in range((row % 2) * 10, width, 20):
            cv2.line(bricks, (x, y), (x, y + 9), (205, 195, 180), 1)
    for x in range(int(rng.integers(10, 60)), width - 40, int(rng.integers(70, 110))):
        cv2.rectangle(bricks, (x - 3, 27), (x + 37, kerb - 34), (225, 220, 205), -1)
        cv2.rectangle(bricks, (x, 30), (x + 34, kerb - 37), jitter(rng, (70, 95, 125), 30), -1)
        cv2.line(bricks, (x + 17, 30), (x + 17, kerb - 37), (225, 220, 205), 2)
        cv2.line(bricks, (x, 30 + (kerb - 67) // 2), (x + 34, 30 + (kerb - 67) // 2), (225, 220, 205), 2)
    scene[:kerb] = bricks
    scene[kerb : kerb + 20] = blend((150, 148, 140), (185, 182, 172), noise(rng, 20, width, (16, 4, 2)))
    scene[kerb + 20 : kerb + 24] = (95, 94, 92)
    for x in range(0, width, 56):
        cv2.rectangle(scene, (x, int(height * 0.8)), (x + 30, int(height * 0.8) + 4), (225, 222, 205), -1)
    return scene


def sky(rng: Generator, height: int, width: int) -> Floats:
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None] + np.zeros((1, width), np.float32)
    scene = blend(jitter(rng, (70, 130, 200)), jitter(rng, (190, 215, 235)), rows)
    clouds = np.clip(noise(rng, height, width, (96, 48, 24, 12), 1.8) * 3.2 - 1.6, 0, 1)
    scene += (blend((215, 220, 230), (255, 253, 248), np.roll(clouds, 6, 0)) - scene) * clouds[..., None] * 0.92
    for step, base in enumerate((0.72, 0.82)):
        ridge = height * base + 46 * (noise(rng, 1, width, (128, 64, 16))[0] - 0.5)
        woods = blend((45, 80, 50), (110, 140, 75), noise(rng, height, width, (32, 8, 4)))
        haze = woods + (_rgb((150, 175, 200)) - woods) * (0.5 - 0.4 * step)
        scene = np.where(np.arange(height)[:, None, None] > ridge[None, :, None], haze, scene)
    return scene.astype(np.float32)


def pond(rng: Generator, height: int, width: int) -> Floats:
    scene = blend(jitter(rng, (30, 75, 75)), jitter(rng, (85, 135, 115)), noise(rng, height, width, (96, 48, 24, 12), 2.0))
    glints = np.clip(noise(rng, height, width, (24, 12, 6), 4.0) * 4 - 2.6, 0, 1)
    scene += glints[..., None] * _rgb((70, 80, 75))
    for _ in range(22):
        x, y, size, start = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(9, 20), rng.uniform(0, 360)
        colour = jitter(rng, (85, 140, 60), 22)
        for shift, shade in ((2, 0.4), (0, 1.0)):
            tint = tuple(value * shade for value in colour)
            cv2.ellipse(scene, (int(x), int(y) + shift), (int(size), int(size * 0.75)), start, 25, 360, tint, -1, cv2.LINE_AA)
        if rng.random() < 0.35:
            _blob(scene, rng, x, y, size * 0.35, jitter(rng, (235, 185, 210)))
    return scene


SCENES: dict[str, Callable[[Generator, int, int], Floats]] = {
    "reef": reef, "pond": pond, "meadow": meadow, "sand": sand, "leaves": leaves, "street": street, "sky": sky,
}  # fmt: skip


def occluder(rng: Generator, scene: str, height: int) -> Floats:
    """A post, trunk or weed that stands before everything: RGBA (height, 64, 4), colour times coverage."""
    width = 64
    rows = np.arange(height, dtype=np.float32)
    wavy = scene in ("reef", "pond", "meadow")
    thick = rng.uniform(14, 20) if wavy or scene == "sky" else rng.uniform(17, 28)
    sway = (9 if wavy else 0 if scene in ("street", "sky") else 1.5) * np.sin(rows / rng.uniform(22, 40) + rng.uniform(0, 6))
    half = (
        thick / 2 * (1 + 0.12 * np.sin(rows / rng.uniform(7, 15))) if scene not in ("street", "sky") else np.full(height, thick / 2)
    )
    across = (np.arange(width, dtype=np.float32)[None] - width / 2 - sway[:, None]) / half[:, None]
    alpha = np.clip((1 - np.abs(across)) * half[:, None] + 0.5, 0, 1)
    light, dark = {"street": ((170, 175, 170), (60, 66, 64)), "sky": ((205, 200, 190), (95, 90, 85))}.get(
        scene, ((120, 150, 65), (40, 70, 35)) if wavy else ((135, 105, 75), (60, 45, 32))
    )
    grain = noise(rng, width, height, (16, 8, 4, 2), 5.0).T
    round_light = np.clip(0.75 - 0.45 * across - 0.4 * across**2, 0, 1)
    rgb = blend(dark, light, np.clip(0.65 * round_light + 0.35 * grain, 0, 1).astype(np.float32))
    return np.dstack([rgb * alpha[..., None], alpha * 255]).astype(np.float32)


def _blob(scene: Floats, rng: Generator, x: float, y: float, size: float, colour: Colour) -> None:
    """A stone: an uneven ellipse with a shadow below and a light spot above."""
    axes = (max(int(size), 1), max(int(size * rng.uniform(0.6, 0.95)), 1))
    angle = rng.uniform(0, 180)
    for (dx, dy), shade, share in (((1, 2), 0.45, 1.0), ((0, 0), 1.0, 1.0), ((-0.25 * size, -0.3 * size), 1.22, 0.5)):
        tint = tuple(min(value * shade, 255.0) for value in colour)
        part = (max(int(axes[0] * share), 1), max(int(axes[1] * share), 1))
        cv2.ellipse(scene, (int(x + dx), int(y + dy)), part, angle, 0, 360, tint, -1, cv2.LINE_AA)


def _blades(scene: Floats, rng: Generator, count: int, colours: tuple[Colour, ...]) -> None:
    height, width = scene.shape[:2]
    x, lean, length = rng.uniform(0, width, count), rng.normal(0, 4, count), rng.uniform(7, 18, count)
    for i, y in enumerate(np.sort(rng.uniform(0, height + 10, count))):
        colour = jitter(rng, colours[int(rng.integers(len(colours)))], 15)
        cv2.line(scene, (int(x[i]), int(y)), (int(x[i] + lean[i]), int(y - length[i])), colour, 1, cv2.LINE_AA)
