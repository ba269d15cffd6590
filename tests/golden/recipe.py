"""The published recipe of the SiamMask reference sets: weights, images and label tensors from a seed, with numpy alone.

A set is a folder ``siammask_seed<N>`` of .npz files with what the public SiamMask code computes from them.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

GAINS = (  # the first pattern that matches the whole key counts
    (r"features\.features\.conv1\.weight", 1 / 16),
    (r".*\.bn3\.weight", 1 / 4),
    (r"features\.downsample\.downsample\.1\.weight", 1 / 2),
    (r".*\.conv_kernel\.1\.weight", 1 / 5),
    (r".*\.head\.0\.weight", 1 / 2),
    (r"rpn_model\.cls\.head\.3\.weight", 1 / 8),
    (r"rpn_model\.loc\.head\.3\.weight", 1 / 16),
    (r"mask_model\.mask\.head\.3\.weight", 1 / 2),
    (r"refine_model\.deconv\.weight", 1 / 4),
    (r".*", 1.0),
)


@dataclass(frozen=True)
class Reference:
    """One set."""

    folder: Path

    @property
    def seed(self) -> int:
        return int(self.folder.name.removeprefix("siammask_seed"))

    @property
    def source(self) -> str:
        return f"foolwood/SiamMask at a2b3ce3, seed {self.seed}"

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        with np.load(self.folder / f"{name}.npz") as stored:
            return dict(stored)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The public code's keys, ``num_batches_tracked`` aside."""
        stored = self.arrays("weights_check")
        return {
            str(key): tuple(int(n) for n in str(shape).split(","))
            for key, shape in zip(stored["keys"], stored["shapes"], strict=True)
        }

    def weights(self) -> dict[str, Tensor]:
        return {
            key: torch.from_numpy(make_weight(self.seed, key, shape))
            for key, shape in self.shapes().items()
        }

    def image(self, name: str, size: int) -> NDArray[np.uint8]:
        """(size, size, 3) BGR."""
        return noise_image(self.seed, name, size, size)

    def normal(self, name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
        return (scale * rng_for(self.seed, name).standard_normal(shape)).astype(np.float32)


def find_references(folder: Path) -> list[Reference]:
    return [
        Reference(path)
        for path in sorted(folder.glob("siammask_seed*"))
        if re.fullmatch(r"siammask_seed\d+", path.name)
    ]


def rng_for(seed: int, name: str) -> Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def make_weight(seed: int, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor of one checkpoint key."""
    rng = rng_for(seed, key)
    gain = next(factor for pattern, factor in GAINS if re.fullmatch(pattern, key))
    if key.endswith("running_mean") or key.endswith("bias"):
        values = 0.1 * rng.standard_normal(shape)
    elif key.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = gain * rng.uniform(0.5, 1.5, shape)
    else:
        transposed = (
            key == "refine_model.deconv.weight"
        )  # (in, out, 15, 15): each output pixel sees `in` products
        axes, fan_in = ((0,), shape[0]) if transposed else ((1, 2, 3), int(np.prod(shape[1:])))
        values = rng.standard_normal(shape)
        values = gain * np.sqrt(2 / fan_in) * (values - values.mean(axis=axes, keepdims=True))
    return values.astype(np.float32)


def smooth_noise(rng: Generator, height: int, width: int, cell: int) -> NDArray[np.int64]:
    """(height, width, 3) bilinear value noise in integer arithmetic."""
    rows, columns = (height + cell - 1) // cell + 1, (width + cell - 1) // cell + 1
    grid = rng.integers(0, 256, (rows, columns, 3)).astype(np.int64)
    row, down = np.divmod(np.arange(height)[:, None], cell)
    column, right = np.divmod(np.arange(width)[None, :], cell)
    total = sum(
        grid[row + i, column + j]
        * ((down if i else cell - down) * (right if j else cell - right))[..., None]
        for i in (0, 1)
        for j in (0, 1)
    )
    return (total + cell * cell // 2) // (cell * cell)


def noise_image(seed: int, name: str, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3) BGR."""
    rng = rng_for(seed, name)
    return (
        (smooth_noise(rng, height, width, 32) + smooth_noise(rng, height, width, 8)) // 2
    ).astype(np.uint8)


def frames(
    seed: int, case: int, semi_axes: tuple[int, int], centres: NDArray[np.int64]
) -> list[NDArray[np.uint8]]:
    """Two BGR frames of 360 x 480: a textured ellipse at the first, then the second of `centres` (x, y)."""
    a, b = semi_axes
    rng = rng_for(seed, f"bg{case}")
    background = (2 * smooth_noise(rng, 360, 480, 64) + smooth_noise(rng, 360, 480, 16)) // 3
    texture = smooth_noise(rng_for(seed, f"tex{case}"), 2 * b + 1, 2 * a + 1, 6)
    y, x = np.mgrid[0:360, 0:480]
    drawn = []
    for cx, cy in centres:
        rows, columns = np.nonzero((x - cx) ** 2 * b * b + (y - cy) ** 2 * a * a <= a * a * b * b)
        frame = background.copy()
        frame[rows, columns] = texture[rows - cy + b, columns - cx + a]
        drawn.append(frame.astype(np.uint8))
    return drawn


def rgb_tensor(bgr: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) BGR to (1, 3, H, W) RGB."""
    return torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None]


def crc32(array: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def largest_deviation(actual: Any, expected: Any) -> float:
    """Of all values, absolute; shapes must agree."""
    actual, expected = (np.asarray(values, np.float64) for values in (actual, expected))
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max(initial=0))
