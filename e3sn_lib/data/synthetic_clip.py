"""One clip of the procedural set: who moves where, and the frames with their exact masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from e3sn_lib.data.synthetic_art import CREATURES, PALETTES, SCENES, Floats, jitter, noise, occluder

WIDTH, HEIGHT = 320, 180
_SEEN_FROM_ABOVE = ("beetle", "bird")
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class Clip:
    """What one clip shows."""

    name: str
    split: str
    kind: str
    scene: str
    objects: int = 1
    occluder: bool = False
    distractors: int = 0
    motion_blur: bool = False
    defocus: bool = False
    light: bool = False


@dataclass(frozen=True)
class _Actor:
    """An object of a clip: its picture and where it is, how large and how turned in each of n frames."""

    sprite: Floats
    """(N, N, 4) RGBA, colour times coverage, at most 1.5 times as large as it is shown."""
    kind: str
    object_id: int
    """In the mask; 0 for a look-alike."""
    centre: Floats
    """(n, 2) x, y in frame pixels."""
    radius: Floats
    """(n,) half the sprite's side in frame pixels."""
    angle: Floats
    """(n,) radians, clockwise."""
    mirrored: bool
    phase: Floats
    """(n,) of the creature's own movement, radians."""
    wobble: float


def draw_clip(clip: Clip, rng: Generator, frames: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The frames of a clip: RGB (180, 320, 3) and object ids (180, 320)."""
    time = np.linspace(0, 1, frames, dtype=np.float32)
    canvas = SCENES[clip.scene](rng, HEIGHT + 140, WIDTH + 200)
    camera, camera_angle, camera_zoom = _camera(clip, rng, time)
    actors = _cast(clip, rng, time)
    post = _post(clip, rng, time, next(actor for actor in actors if actor.object_id == 1))
    grain = rng.normal(0, 3.0, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.float32)
    shade = 1 - 0.38 * np.clip(noise(rng, HEIGHT, WIDTH * 2, (160, 96)) * 2.4 - 0.9, 0, 1)
    shade_x = rng.integers(0, WIDTH) * np.abs(time - rng.integers(0, 2))
    beat = np.sin(2 * np.pi * (rng.uniform(0.4, 1.2) * time + rng.random()))
    tint = rng.uniform(-0.12, 0.12, 3).astype(np.float32)
    sharpness = rng.uniform(0, 2 * np.pi)

    for i in range(frames):
        view = cv2.getRotationMatrix2D((canvas.shape[1] / 2, canvas.shape[0] / 2), float(camera_angle[i]), float(camera_zoom[i]))
        view[:, 2] += (WIDTH - canvas.shape[1]) / 2 - camera[i, 0], (HEIGHT - canvas.shape[0]) / 2 - camera[i, 1]
        image = np.asarray(cv2.warpAffine(canvas, view, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT), np.float32)
        if clip.motion_blur:
            image = _smear(image, np.gradient(camera, axis=0)[i] * 0.5)
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        for actor in actors:
            _draw_actor(image, ids, actor, i, clip.motion_blur, ground=clip.scene in ("leaves", "sand", "meadow", "street"))
        if post is not None:
            _draw_post(image, ids, post[0], float(post[1][i]))
        if clip.light:
            left = int(shade_x[i])
            image = image * shade[:, left : left + WIDTH, None] * ((1 + 0.22 * beat[i]) * (1 + tint * beat[i]))
        if clip.defocus:
            sigma = 0.3 + 1.2 * max(0.0, float(np.sin(sharpness + 5 * time[i])))
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
        top, left = rng.integers(0, 64, 2)
        image = image + grain[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(image + 0.5, 0, 255).astype(np.uint8), ids


def _camera(clip: Clip, rng: Generator, time: Floats) -> tuple[Floats, Floats, Floats]:
    """Shift (n, 2) in pixels, turn in degrees and zoom of the view of the background."""
    above = clip.scene in ("leaves", "sand", "meadow", "pond")
    drift = rng.uniform(20, 70) * rng.choice([-1, 1]) * (2 * time - 1)
    across = drift + rng.uniform(2, 8) * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * time + rng.random()))
    down = (rng.uniform(10, 35) if above else rng.uniform(1, 4)) * np.sin(2 * np.pi * (rng.uniform(0.3, 1) * time + rng.random()))
    angle = (5 if above else 1) * np.sin(2 * np.pi * (rng.uniform(0.3, 0.8) * time + rng.random()))
    zoom = 1.08 + (0.08 if above else 0.03) * np.sin(2 * np.pi * (rng.uniform(0.3, 0.8) * time + rng.random()))
    return np.stack([across, down], 1).astype(np.float32), angle.astype(np.float32), zoom.astype(np.float32)


def _cast(clip: Clip, rng: Generator, time: Floats) -> list[_Actor]:
    """Objects and look-alikes in the order they are drawn. They begin apart, each in a band of the frame of its own."""
    count = clip.distractors + clip.objects
    palettes = rng.permutation(len(PALETTES))[:count]
    if clip.distractors and rng.random() < 0.5:
        palettes[0] = palettes[-1]
    bands = rng.permutation(np.linspace(0.22, 0.78, count)) if count > 1 else np.array([rng.uniform(0.42, 0.58)])
    actors: list[_Actor] = []
    for object_id, palette, band in zip([*range(clip.objects, 0, -1), *[0] * clip.distractors], palettes, bands, strict=True):
        picture = CREATURES[clip.kind](rng, *(jitter(rng, colour) for colour in PALETTES[palette]))
        for _ in range(30):
            actor = _actor(clip, rng, time, object_id, picture, float(band))
            gaps = (np.hypot(*(actor.centre[0] - other.centre[0])) - 0.85 * (actor.radius[0] + other.radius[0]) for other in actors)
            if all(gap > 0 for gap in gaps):
                break
        actors.append(actor)
    return sorted(actors, key=lambda actor: float(actor.centre[:, 1].mean())) if clip.kind == "car" else actors[::-1]


def _actor(clip: Clip, rng: Generator, time: Floats, object_id: int, picture: Floats, band: float) -> _Actor:
    size = (rng.uniform(33, 46) if object_id else rng.uniform(28, 40)) * (1.2 if clip.kind in ("car", "fish") else 1)
    radius = size * (1 + rng.uniform(0.05, 0.2) * np.sin(2 * np.pi * (rng.uniform(0.3, 0.9) * time + rng.random())))
    turn = 2 * np.pi * (rng.uniform(0.35, 0.8) * rng.choice([-1, 1]) * time + rng.random())
    mirrored = False
    if clip.kind in _SEEN_FROM_ABOVE:
        x = WIDTH * (0.3 + 0.4 * rng.random()) + rng.uniform(55, 95) * np.cos(turn)
        y = HEIGHT * (0.3 + 0.4 * band) + rng.uniform(25, 50) * np.sin(turn)
        angle = np.unwrap(np.arctan2(np.gradient(y), np.gradient(x)))
    else:
        mirrored = bool(rng.random() < 0.5)
        reach = rng.uniform(0.25, 0.62) * np.array([-1, 1]) / 2 * (-1 if mirrored else 1)
        middle = rng.uniform(0.42, 0.58)
        x = WIDTH * np.interp(time, [0, 1], middle + reach) + rng.uniform(3, 14) * np.sin(turn * 2)
        lane = 0.5 + 0.36 * band if clip.kind == "car" else 0.14 + 0.72 * band
        y = HEIGHT * lane + (1.0 if clip.kind == "car" else rng.uniform(8, 22)) * np.sin(turn * 1.3 + 1)
        tilt = {"car": 0.0, "balloon": 0.12, "jellyfish": 0.3}.get(clip.kind, 0.5)
        angle = tilt * np.sin(turn * 1.3 + (2.6 if clip.kind == "fish" else 0))
    x = np.clip(x, 0.9 * radius, WIDTH - 0.9 * radius)
    y = np.clip(y, 0.8 * radius, HEIGHT - 0.8 * radius)
    side = int(np.ceil(2 * radius.max() * 1.4))
    sprite = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.float32)
    return _Actor(
        sprite,
        clip.kind,
        object_id,
        np.stack([x, y], 1).astype(np.float32),
        radius.astype(np.float32),
        angle.astype(np.float32),
        mirrored,
        (2 * np.pi * (rng.uniform(2.5, 4.5) * time + rng.random())).astype(np.float32),
        0.012 if clip.kind in ("car", "beetle") else 0.045,
    )


def _post(clip: Clip, rng: Generator, time: Floats, target: _Actor) -> tuple[Floats, Floats] | None:
    """What passes before the target in the middle of the clip, and its x in each frame; in the first frame it is beside it."""
    if not clip.occluder:
        return None
    middle = int(len(time) * rng.uniform(0.45, 0.7))
    away = target.radius[0] + 24
    direction = -1 if target.centre[middle, 0] < target.centre[0, 0] else 1
    speed = max(rng.uniform(60, 130), abs(target.centre[0, 0] - target.centre[middle, 0]) + away) / time[middle]
    path = target.centre[middle, 0] - direction * speed * (time - time[middle])
    return occluder(rng, clip.scene, HEIGHT), path.astype(np.float32)


def _move_own(kind: str, u: Floats, v: Floats, phase: float, wobble: float) -> tuple[Floats, Floats]:
    """Where in its sprite a creature's point (u, v) is found while it swims, flaps, pulses or rocks."""
    if kind == "fish":
        v = v + 0.13 * (0.9 - u) / 1.8 * np.sin(3.2 * u + phase)
    elif kind == "bird":
        v = v / (0.8 + 0.2 * np.cos(phase))
        u = u + 0.1 * np.abs(v) * np.sin(phase)
    elif kind == "jellyfish":
        squeeze = 0.14 * np.sin(phase)
        u, v = u * (1 + squeeze * (0.4 + v)), v * (1 - 0.6 * squeeze)
    elif kind == "balloon":
        u = u + 0.05 * v * np.sin(phase / 2)
    return u + wobble * np.sin(3.1 * v + 0.7 * phase), v + wobble * np.sin(3.7 * u + 0.9 * phase)


def _draw_actor(image: Floats, ids: NDArray[np.uint8], actor: _Actor, i: int, blur: bool, ground: bool) -> None:
    """Lay an actor over `image` and its outline into `ids`, in place."""
    (x, y), radius = actor.centre[i], float(actor.radius[i])
    reach = int(np.ceil(radius * 1.25)) + 6
    left, top = int(x) - reach, int(y) - reach
    columns = np.arange(2 * reach, dtype=np.float32)[None] + left + 0.5 - x
    rows = np.arange(2 * reach, dtype=np.float32)[:, None] + top + 0.5 - y
    cosine, sine = np.cos(actor.angle[i]), np.sin(actor.angle[i])
    u, v = (columns * cosine + rows * sine) / radius, (rows * cosine - columns * sine) / radius
    u, v = _move_own(actor.kind, -u if actor.mirrored else u, v, float(actor.phase[i]), actor.wobble)
    side = actor.sprite.shape[0]
    at_u, at_v = (((axis + 1) * side / 2 - 0.5).astype(np.float32) for axis in (u, v))
    layer = np.asarray(cv2.remap(actor.sprite, at_u, at_v, cv2.INTER_LINEAR), np.float32)
    outline = layer[..., 3] > 127.5
    if ground:
        depth = (2, 5) if actor.kind != "car" else (0, 4)
        shadow = np.roll(cv2.GaussianBlur(layer[..., 3:], (0, 0), 2.5), (depth[1], depth[0]), (0, 1))
        _over(image, np.dstack([np.zeros((*shadow.shape, 3), np.float32), 0.5 * shadow]), left, top)
    if blur:
        layer = _smear(layer, np.gradient(actor.centre, axis=0)[i] * 0.6)
    _over(image, layer, left, top)
    _inside(ids, left, top, outline.shape)[_part(outline, left, top)] = actor.object_id


def _draw_post(image: Floats, ids: NDArray[np.uint8], post: Floats, x: float) -> None:
    left = int(np.floor(x)) - post.shape[1] // 2
    shift = np.array([[1, 0, x - np.floor(x)], [0, 1, 0]])
    layer = np.asarray(cv2.warpAffine(post, shift, (post.shape[1], post.shape[0])), np.float32)
    _over(image, layer, left, 0)
    _inside(ids, left, 0, layer.shape)[_part(layer, left, 0)[..., 3] > 127.5] = 0


def _over(image: Floats, layer: Floats, left: int, top: int) -> None:
    """Lay RGBA (colour times coverage, 0..255) over an image at a place that may lie partly outside."""
    below, above = _inside(image, left, top, layer.shape), _part(layer, left, top)
    below *= 1 - above[..., 3:] / 255
    below += above[..., :3]


def _inside(image: NDArray[_T], left: int, top: int, shape: tuple[int, ...]) -> NDArray[_T]:
    return image[max(top, 0) : max(top + shape[0], 0), max(left, 0) : max(left + shape[1], 0)]


def _part(layer: NDArray[_T], left: int, top: int) -> NDArray[_T]:
    return layer[max(-top, 0) : max(HEIGHT - top, 0), max(-left, 0) : max(WIDTH - left, 0)]


def _smear(image: Floats, motion: Floats) -> Floats:
    """Blur along a motion in pixels."""
    steps = int(np.ceil(np.hypot(*motion)))
    if steps < 2:
        return image
    side = steps | 1
    kernel = np.zeros((side, side), np.float32)
    half = motion / 2 / max(np.hypot(*motion), 1e-6) * (side - 1)
    ends = [tuple(round(value * 16) for value in np.array([side // 2, side // 2]) + sign * half) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, 4)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
