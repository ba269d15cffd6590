"""The procedural set: a small DAVIS of its own, drawn on the spot, with exact masks; the same bytes for the same seed.

Textured, deforming objects move on their own over moving textured backgrounds; posts and weeds pass before them, look-alikes
beside them, and there is motion blur, defocus, changing light and sensor noise.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.synthetic_art import CREATURES
from e3sn_lib.data.synthetic_clip import Clip, draw_clip
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_json, write_mask, write_text

MARKER = "synthetic.json"
VERSION = 1
"""Rises whenever the same seed gives other pictures; older sets are then made anew."""

_HABITAT = {
    "fish": ("reef", "pond"),
    "beetle": ("leaves", "sand", "meadow"),
    "car": ("street",),
    "balloon": ("sky",),
    "bird": ("sky", "meadow", "pond"),
    "jellyfish": ("reef",),
}


def ensure_synthetic(root: Path, seed: int = 0) -> Path:
    """The procedural set in `root`, made if it is not there or of another seed or version.

    Raises:
        InputError: `root` holds something else.
    """
    root = root.resolve()
    if not _is_current(root, seed):
        synthesise(root, seed)
    return root


def synthesise(root: Path, seed: int = 0, train_clips: int = 24, val_clips: int = 6, frames: tuple[int, int] = (24, 30)) -> None:
    """Draw the set and put it in place as a whole: DAVIS layout, JPEG frames, palette masks, lists for 2016 and 2017.

    Lists of 2016 name the clips with one object; lists of 2017 the clips with two and some with one.

    Args:
        root: replaced if it holds an older procedural set.
        seed: of everything.
        train_clips: all with one object.
        val_clips: of them a third, rounded down, with two objects.
        frames: least and most frames of a clip.

    Raises:
        InputError: `root` holds something else, or cannot be written.
    """
    root = root.resolve()
    if root.exists() and not (root / MARKER).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} holds other files; give an empty or new folder for the procedural set")
    work = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        clips = plan_clips(seed, train_clips, val_clips)
        for number, clip in enumerate(clips):
            rng = np.random.default_rng([seed, VERSION, number])
            for i, (image, ids) in enumerate(draw_clip(clip, rng, int(rng.integers(frames[0], frames[1] + 1)))):
                _write_frame(work, clip.name, i, image, ids)
        _write_lists(work, clips)
        description = [{key: value for key, value in vars(clip).items() if value} for clip in clips]
        note = "drawn by a program, no real video"
        write_json(work / MARKER, {"version": VERSION, "seed": seed, "note": note, "frames": frames, "clips": description})
        _put_in_place(work, root)
    except OSError as error:
        raise InputError(f"cannot write the procedural set to {root}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def plan_clips(seed: int, train_clips: int, val_clips: int) -> list[Clip]:
    """Which clips there are; every creature in turn, difficulties by chance."""
    rng = np.random.default_rng([seed, VERSION])
    kinds, used = list(CREATURES), Counter[str]()
    clips = []
    for number in range(train_clips + val_clips):
        split = "train" if number < train_clips else "val"
        kind = kinds[(number if split == "train" else number - train_clips) % len(kinds)]
        two = split == "val" and number >= train_clips + val_clips - val_clips // 3
        scene = _HABITAT[kind][int(rng.integers(len(_HABITAT[kind])))]
        base = f"{'two-' if two else ''}{kind}-{scene}"
        used[base] += 1
        occluded, alike, moving, soft, lit = (rng.random(5) < (0.45, 0.5, 0.4, 0.25, 0.4)).tolist()
        name = base if two and used[base] == 1 else f"{base}-{used[base]}"
        distractors = int(alike) + int(alike and lit and not two)
        clips.append(Clip(name, split, kind, scene, 1 + two, occluded, distractors, moving, soft, lit))
    return clips


def _write_frame(root: Path, name: str, number: int, image: NDArray[np.uint8], ids: NDArray[np.uint8]) -> None:
    frame = root / "JPEGImages" / "480p" / name / f"{number:05d}.jpg"
    frame.parent.mkdir(parents=True, exist_ok=True)
    frame.write_bytes(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    write_mask(root / "Annotations" / "480p" / name / f"{number:05d}.png", ids)


def _write_lists(root: Path, clips: list[Clip]) -> None:
    for split in ("train", "val"):
        single = [clip.name for clip in clips if clip.split == split and clip.objects == 1]
        several = [clip.name for clip in clips if clip.split == split and clip.objects > 1]
        write_text(root / "ImageSets" / "2016" / f"{split}.txt", "\n".join(single) + "\n")
        both = several + single[: max(len(several), 1)] if split == "val" else single
        write_text(root / "ImageSets" / "2017" / f"{split}.txt", "\n".join(both) + "\n")


def _is_current(root: Path, seed: int) -> bool:
    try:
        made = json.loads((root / MARKER).read_bytes())
        return bool(made["version"] == VERSION and made["seed"] == seed)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _put_in_place(work: Path, root: Path) -> None:
    """Rename the finished folder, unless another process was first with the same set."""

    def is_same() -> bool:
        return (root / MARKER).is_file() and (root / MARKER).read_bytes() == (work / MARKER).read_bytes()

    if is_same():
        return
    if (root / MARKER).is_file():
        older = work.with_suffix(".old.tmp")
        root.rename(older)
        shutil.rmtree(older)
    try:
        work.rename(root)
    except OSError:
        if not is_same():
            raise
