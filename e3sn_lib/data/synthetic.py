"""The procedural set: a small DAVIS that this program draws, with exact masks.

Textured objects move and bend over a moving background. A post passes in front of some, look-alikes
of the same kind move beside others, and there are motion blur, defocus, changing light and noise.
"""

import colorsys
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from e3sn_lib.errors import InputError
from e3sn_lib.files import read_json, temporary_path, write_json, write_mask, write_text

MARKER = "synthetic.json"
VERSION = 2
"""To be raised whenever a seed gives other pictures; older sets are then made again."""
WIDTH, HEIGHT = 320, 180
SPRITE = 256
"""Side of an object's picture; its coordinates u (right) and v (down) run from -1 to 1."""
EFFECTS = {"post": 0.45, "look_alike": 0.5, "motion_blur": 0.4, "defocus": 0.25, "light": 0.4}
"""How often a clip has each difficulty."""
Floats = NDArray[np.float32]
Colour = tuple[int, int, int]

# An object is painted part by part: colour, "pair" if the part is mirrored at v = 0 too, and its
# outline, which is corners u,v in hundredths, or "oval" with centre and radii.
KINDS = {
    "fish": """trim -45,0 -75,-42 -95,-46 -80,0 -95,46 -75,42; trim -35,-25 -25,-60 0,-68 35,-25;
        trim -5,25 -20,62 0,60 22,25; body oval 12,0 72,42; light oval 58,-10 10,10;
        dark oval 61,-10 5,5""",
    "beetle": """dark pair 25,30 40,68 75,86 47,62 37,30; dark pair -10,30 -8,68 -10,95 2,68 3,30;
        dark pair -42,30 -58,68 -90,86 -50,72 -30,30; dark pair 70,4 86,18 95,34 82,22 68,12;
        dark oval 60,0 25,25; trim oval 42,0 24,36; body oval -12,0 64,52;
        dark -75,-2 45,-3 45,3 -75,2""",
    "car": """body -93,30 -92,0 -80,-10 -50,-14 -32,-48 28,-48 52,-12 86,-4 93,8 93,30;
        glass -40,-14 -27,-40 -6,-40 -6,-14; glass 0,-14 0,-40 24,-40 40,-14;
        trim -91,10 92,12 92,19 -91,17; dark oval -55,30 21,21; light oval -55,30 11,11;
        dark oval 55,30 21,21; light oval 55,30 11,11""",
    "balloon": """dark -36,20 -15,70 -11,70 -31,20; dark 36,20 15,70 11,70 31,20;
        trim -17,66 17,66 14,92 -14,92; body oval 0,-24 68,68;
        body -18,52 -62,2 0,-20 62,2 18,52""",
}
# The scene of each kind, from the far to the near: where a layer begins (share of the height), how
# uneven that edge is (pixels), and its darkest and lightest colour.
SCENES: dict[str, list[tuple[float, float, Colour, Colour]]] = {
    "fish": [(-1, 0, (110, 200, 210), (10, 60, 110)), (0.62, 60, (15, 60, 90), (60, 125, 140)),
             (0.76, 26, (110, 130, 115), (225, 210, 160))],
    "beetle": [(-1, 0, (45, 34, 25), (98, 78, 52))],
    "car": [(-1, 0, (105, 160, 215), (235, 240, 242)), (0.3, 40, (30, 60, 30), (115, 140, 75)),
            (0.5, 3, (80, 82, 60), (155, 155, 108)), (0.56, 0, (62, 62, 68), (130, 128, 125))],
    "balloon": [(-1, 0, (70, 130, 200), (240, 242, 245)),
                (0.7, 46, (70, 105, 120), (135, 165, 160)),
                (0.82, 40, (35, 70, 40), (120, 150, 80))],
}  # fmt: skip
# Corals and leaves in a scene: how many, where they begin, largest radius, colours.
BITS: dict[str, tuple[int, float, float, list[Colour]]] = {
    "fish": (110, 0.74, 16, [(200, 90, 105), (95, 80, 110), (215, 150, 70), (60, 120, 95)]),
    "beetle": (900, 0.0, 15, [(165, 95, 40), (190, 140, 60), (120, 70, 40), (95, 105, 50)]),
}


@dataclass(frozen=True)
class Clip:
    """What one clip shows."""

    name: str
    split: str
    kind: str
    objects: int = 1
    effects: tuple[str, ...] = ()  # some of `EFFECTS`


def ensure_synthetic(root: Path, whole: bool = False) -> Path:
    """Return the procedural set in `root`. Make it if it is absent, if its seed or version differs,
    or if `whole` asks for a complete set and it is incomplete. Raises InputError as `synthesise`.
    """
    made = _marker(root)
    is_known = (made.get("version"), made.get("seed")) == (VERSION, 0)
    if not is_known or (whole and made.get("bytes") != _size(root)):
        synthesise(root)
    return root.resolve()


def synthesise(
    root: Path,
    seed: int = 0,
    train_clips: int = 24,
    val_clips: int = 6,
    frames: tuple[int, int] = (24, 30),
) -> None:
    """Draw the set in DAVIS layout: JPEG frames, palette masks, lists; the same bytes for a seed.

    An older procedural set in `root` is replaced as a whole. `frames`: the least and the largest
    number of frames of a clip. A third of `val_clips`, rounded down, has two objects; all other
    clips have one. Lists of 2016 name the clips with one object; ``val`` of 2017 begins with clips
    with two. Raises InputError if `root` holds something else, or cannot be written.
    """
    root = Path(os.path.realpath(root))
    foreign = not root.is_dir() or (any(root.iterdir()) and not (root / MARKER).is_file())
    if root.exists() and foreign:
        raise InputError(f"{root} holds other files; give a new folder for the procedural set")
    try:
        with temporary_path(root) as work:
            _draw(work, seed, plan_clips(seed, train_clips, val_clips), frames)
            _put_in_place(work, root)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write the procedural set to {root}: {reason}") from error


def _draw(root: Path, seed: int, clips: list[Clip], frames: tuple[int, int]) -> None:
    for number, clip in enumerate(clips):
        rng = np.random.default_rng([seed, VERSION, number])
        count = int(rng.integers(frames[0], frames[1] + 1))
        pictures = root / "JPEGImages" / "480p" / clip.name
        masks = root / "Annotations" / "480p" / clip.name
        pictures.mkdir(parents=True)
        for i, (image, ids) in enumerate(draw_clip(clip, rng, count)):
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (pictures / f"{i:05d}.jpg").write_bytes(encoded.tobytes())
            write_mask(masks / f"{i:05d}.png", ids)
    _write_lists(root, clips)
    about = {"note": "drawn by a program, no real video", "version": VERSION, "seed": seed}
    about |= {"frames": frames, "clips": [vars(clip) for clip in clips], "bytes": _size(root)}
    write_json(root / MARKER, about)


def plan_clips(seed: int, train_clips: int, val_clips: int) -> list[Clip]:
    """Choose the clips: every kind in turn, difficulties by chance."""
    rng, used, clips = np.random.default_rng([seed, VERSION]), Counter[str](), []
    places = [("train", i) for i in range(train_clips)] + [("val", i) for i in range(val_clips)]
    for split, i in places:
        kind = list(KINDS)[i % len(KINDS)]
        objects = 2 if split == "val" and i >= val_clips - val_clips // 3 else 1
        base = f"two-{kind}" if objects == 2 else kind
        used[base] += 1
        effects = tuple(name for name, share in EFFECTS.items() if rng.random() < share)
        clips.append(Clip(f"{base}-{used[base]}", split, kind, objects, effects))
    return clips


def draw_clip(
    clip: Clip, rng: Generator, frames: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield the frames of a clip: RGB (180, 320, 3) and object ids (180, 320), uint8."""
    time = np.linspace(0, 1, frames, dtype=np.float32)
    scene = _scene(rng, clip.kind, HEIGHT + 140, WIDTH + 200)
    middle = scene.shape[1] / 2, scene.shape[0] / 2
    across, down = _wave(rng, time, 15, 45), _wave(rng, time, 2, 14)
    turn, zoom = _wave(rng, time, 1, 3), 1.1 + _wave(rng, time, 0.01, 0.06)
    shade = 1 - 0.5 * np.clip(3 * _noise(rng, HEIGHT, 2 * WIDTH, (160, 96)) - 1, 0, 1)[..., None]
    shine, tint = _wave(rng, time, 0.1, 0.3), rng.uniform(0.8, 1.2, 3).astype(np.float32)
    grain = 3 * rng.standard_normal((HEIGHT + 64, WIDTH + 64, 3), np.float32)
    blur = 0.5 if "motion_blur" in clip.effects else 0.0
    drawn_ids = [0] * ("look_alike" in clip.effects) + list(range(clip.objects, 0, -1))
    actors = _cast(rng, clip.kind, time, len(drawn_ids))
    post = _post(rng, time, actors[-1][0]) if "post" in clip.effects else []
    for i in range(frames):
        view = cv2.getRotationMatrix2D(middle, float(turn[i]), float(zoom[i]))
        view[:, 2] -= middle[0] - WIDTH / 2 + across[i], middle[1] - HEIGHT / 2 + down[i]
        image: Any = cv2.warpAffine(scene, view, (WIDTH, HEIGHT))
        image = _smeared(image, blur * np.gradient(across)[i])
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        for object_id, (x, layers) in zip(drawn_ids, actors, strict=True):
            ids[layers[i][..., 3] > 127.5] = object_id
            image = _over(image, _smeared(layers[i], blur * np.gradient(x)[i]))
        if post:
            ids[post[i][..., 3] > 127.5] = 0
            image = _over(image, post[i])
        if "light" in clip.effects:
            left = int(0.4 * WIDTH * time[i])
            image = image * shade[:, left : left + WIDTH] * (1 + shine[i] * tint)
        if "defocus" in clip.effects:
            image = cv2.GaussianBlur(image, (0, 0), 0.4 + abs(6 * float(shine[i])))
        top, left = rng.integers(0, 64, 2)
        image = image + grain[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(image + 0.5, 0, 255).astype(np.uint8), ids


def _noise(
    rng: Generator, height: int, width: int, cells: tuple[int, ...] = (64, 32, 16, 8, 4, 2)
) -> Floats:
    """Return smooth noise (height, width), 0 to 1: a sum of random grids of these cell sizes."""
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        grid = rng.random((height // cell + 3, width // cell + 3), np.float32)
        total += cell**0.6 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return (total - total.min()) / (total.max() - total.min())


def _blend(dark: ArrayLike, light: ArrayLike, share: ArrayLike) -> Floats:
    """Mix two colours by a share (H, W) of the second; gives (H, W, 3)."""
    first, second = np.asarray(dark, np.float32), np.asarray(light, np.float32)
    return first + (second - first) * np.asarray(share, np.float32)[..., None]


def _wave(rng: Generator, time: Floats, least: float, most: float) -> Floats:
    """Return a slow wave (n,) with an amplitude between `least` and `most`."""
    wave = np.sin(2 * np.pi * (rng.uniform(0.3, 0.9) * time + rng.random()))
    return (rng.uniform(least, most) * wave).astype(np.float32)


def _scene(rng: Generator, kind: str, height: int, width: int) -> Floats:
    """Paint a background (height, width, 3)."""
    rows = np.linspace(0, 1, height)[:, None]
    scene = np.zeros((height, width, 3), np.float32)
    for top, uneven, dark, light in SCENES[kind]:
        edge = top + uneven / height * (_noise(rng, 1, width) - 0.5)
        tint = rng.uniform(0.85, 1.15, 3)
        share = 0.65 * _noise(rng, height, width) + 0.35 * rows
        scene[rows > edge] = _blend(dark * tint, light * tint, share)[rows > edge]
    count, begin, most, colours = BITS.get(kind, (0, 0, 0, []))
    for y in np.sort(rng.uniform(begin * height, height, count)):
        x, size, angle = rng.uniform(0, width), rng.uniform(most / 3, most), rng.uniform(0, 180)
        colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.6, 1.2)
        flat = rng.uniform(0.4, 0.9)
        # its shadow, itself, a light on it
        for low, part, shine in ((2, 1, 0.45), (0, 1, 1), (-size / 5, 0.5, 1.25)):
            at = int(x + low / 2), int(y + low)
            axes = int(part * size), int(part * size * flat)
            shade = (colour * shine).tolist()
            cv2.ellipse(scene, at, axes, angle, 0, 360, shade, -1, cv2.LINE_AA)
    return scene


def _sprite(rng: Generator, kind: str, hue: float) -> Floats:
    """Paint an object, RGBA (SPRITE, SPRITE, 4), colour times coverage, shaded like a cushion."""
    main = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.75, rng.uniform(0.6, 0.95)))
    second = 255 * np.array(colorsys.hsv_to_rgb(hue + rng.uniform(0.1, 0.6), 0.35, 0.95))
    axis = (np.arange(SPRITE, dtype=np.float32) + 0.5) / SPRITE * 2 - 1
    bands, grain = _noise(rng, SPRITE, SPRITE, (64, 32)), _noise(rng, SPRITE, SPRITE)
    stripes = np.clip(1.5 * np.sin(rng.uniform(7, 12) * axis + 6 * bands), -1, 1) / 2 + 0.5
    colours: dict[str, Any] = {
        "body": _blend(main, second, stripes) * (0.75 + 0.5 * grain[..., None]),
        "trim": _blend(second, main, grain),
        "glass": _blend((70, 95, 120), (190, 215, 230), grain),
        "dark": (34, 31, 33),
        "light": (238, 236, 225),
    }
    rgb, alpha = np.zeros((SPRITE, SPRITE, 3), np.float32), np.zeros((SPRITE, SPRITE), np.float32)
    for part in KINDS[kind].split(";"):
        colour, *words = part.split()
        outline = np.array([word.split(",") for word in words if "," in word], float) / 100
        if "oval" in words:
            turn = np.linspace(0, 2 * np.pi, 60)
            outline = outline[0] + outline[1] * np.stack([np.cos(turn), np.sin(turn)], 1)
        for side in (1, -1) if "pair" in words else (1,):
            corners = (outline * (1, side) + 1) / 2 * SPRITE - 0.5
            drawn = np.zeros((SPRITE, SPRITE), np.uint8)
            cv2.fillPoly(drawn, [np.round(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
            cover = drawn / np.float32(255)
            rgb += (colours[colour] - rgb) * cover[..., None]
            alpha = np.maximum(alpha, cover)
    inside = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    height = cv2.GaussianBlur(np.sqrt(np.minimum(inside / 45, 1)), (0, 0), 5)
    slope = 0.7 * cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)
    light = np.clip(0.84 + 0.22 * height + 1.6 * slope, 0.35, 1.3)[..., None]
    return np.dstack([np.clip(rgb * light, 0, 255) * alpha[..., None], 255 * alpha])


def _cast(rng: Generator, kind: str, time: Floats, count: int) -> list[tuple[Floats, list[Floats]]]:
    """Draw several objects, each in a band of the frame; neighbours begin at opposite sides."""
    bands = np.linspace(0.2, 0.8, count) if count > 1 else rng.uniform(0.4, 0.6, 1)
    hue, way = rng.random(), int(rng.choice([-1, 1]))
    return [
        _actor(rng, kind, time, hue + place / count, float(bands[place]), way * (-1) ** place)
        for place in rng.permutation(count).tolist()
    ]


def _actor(
    rng: Generator, kind: str, time: Floats, hue: float, band: float, way: int
) -> tuple[Floats, list[Floats]]:
    """Send an object across its band of the frame: x (n,) and n layers, RGBA (180, 320, 4)."""
    radius = rng.uniform(34, 46) * (1 + _wave(rng, time, 0.05, 0.2))
    x = WIDTH * (0.5 + way * rng.uniform(0.2, 0.32) * (2 * time - 1)) + _wave(rng, time, 4, 16)
    y = HEIGHT * (0.15 + 0.7 * band) + _wave(rng, time, 8, 22)
    angle = _wave(rng, time, 0.1, 0.4)
    if kind == "car":
        y, angle = HEIGHT * (0.55 + 0.3 * band) + 0.05 * y, 0.1 * angle
    x, y = np.clip(x, radius, WIDTH - radius), np.clip(y, 0.8 * radius, HEIGHT - 0.8 * radius)
    if kind == "beetle":  # seen from above, it turns to where it goes
        angle = np.unwrap(np.arctan2(np.gradient(y), np.gradient(x)))
    phase = 2 * np.pi * (rng.uniform(2.5, 4.5) * time + rng.random())
    side = int(2.8 * radius.max())  # at most 1.4 times as large as it is shown, against aliasing
    sprite = cv2.resize(_sprite(rng, kind, hue), (side, side), interpolation=cv2.INTER_AREA)
    bend, wobble = {"fish": (0.07, 0.03), "balloon": (0, 0.05)}.get(kind, (0, 0.012))
    columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) + 0.5 for n in (WIDTH, HEIGHT)))
    layers = []
    for i in range(len(time)):
        right, down = (columns - x[i]) / radius[i], (rows - y[i]) / radius[i]
        u = right * np.cos(angle[i]) + down * np.sin(angle[i])
        v = down * np.cos(angle[i]) - right * np.sin(angle[i])
        u = -u if way < 0 and kind != "beetle" else u
        v = v + bend * (0.9 - u) * np.sin(3.2 * u + phase[i])  # the tail swings
        sway = wobble * np.sin(3.1 * v + 0.7 * phase[i]), wobble * np.sin(3.7 * u + 0.9 * phase[i])
        at_u, at_v = ((axis + 1) * side / 2 - 0.5 for axis in (u + sway[0], v + sway[1]))
        layers.append(np.asarray(cv2.remap(sprite, at_u, at_v, cv2.INTER_LINEAR), np.float32))
    return x, layers


def _post(rng: Generator, time: Floats, target_x: Floats) -> list[Floats]:
    """Draw a post in each frame, RGBA (180, 320, 4): beside the target first, later before it."""
    middle = max(int(len(time) * rng.uniform(0.45, 0.7)), 1)
    first, met = target_x[0], target_x[middle]
    speed = max(rng.uniform(60, 130), abs(first - met) + 70) / time[middle]
    rows, half = np.arange(HEIGHT)[:, None], rng.uniform(8, 14)
    lean = WIDTH / 2 + 6 * np.sin(rows / rng.uniform(22, 40))
    across = (np.arange(WIDTH) - lean) / half
    alpha = np.clip((1 - np.abs(across)) * half + 0.5, 0, 1)[..., None]
    light = 0.4 - 0.35 * across - 0.3 * across**2 + 0.7 * _noise(rng, HEIGHT, 1, (16, 8, 4, 2))
    colour = rng.uniform(100, 190) + rng.uniform(-25, 25, 3)
    post = np.dstack([_blend((50, 42, 34), colour, np.clip(light, 0, 1)) * alpha, 255 * alpha])
    path = met - np.sign(met - first) * speed * (time - time[middle]) - WIDTH / 2
    moves = [np.array([[1, 0, x], [0, 1, 0]], np.float32) for x in path]
    return [cv2.warpAffine(post, move, (WIDTH, HEIGHT)).astype(np.float32) for move in moves]


def _over(image: Floats, layer: Floats) -> Floats:
    """Lay RGBA, colour times coverage, over an image."""
    return np.asarray(image * (1 - layer[..., 3:] / 255) + layer[..., :3], np.float32)


def _smeared(image: Any, pixels: float) -> Any:
    """Blur an image sideways over so many pixels."""
    return cv2.blur(image, (2 * int(abs(pixels) / 2) + 1, 1))


def _write_lists(root: Path, clips: list[Clip]) -> None:
    for split in ("train", "val"):
        single = [clip.name for clip in clips if clip.split == split and clip.objects == 1]
        several = [clip.name for clip in clips if clip.split == split and clip.objects > 1]
        both = several + single[: max(len(several), 1)] if split == "val" else single
        for year, names in ((2016, single), (2017, both)):
            write_text(root / "ImageSets" / str(year) / f"{split}.txt", "\n".join(names) + "\n")


def _marker(root: Path) -> dict[str, Any]:
    """Return the content of a procedural set's marker file; {} of a folder that has none."""
    try:
        return read_json(root / MARKER)
    except InputError:
        return {}


def _size(root: Path) -> int:
    """Return how many bytes the files of a set have."""
    return sum(path.stat().st_size for path in root.rglob("*.*") if path.name != MARKER)


def _put_in_place(work: Path, root: Path) -> None:
    """Rename the finished folder, unless another process has put the same complete set there."""
    if _marker(root) == _marker(work) and _size(root) == _size(work):
        return
    shutil.rmtree(root, ignore_errors=True)
    try:
        work.rename(root)
    except OSError:
        if _marker(root) != _marker(work):
            raise
