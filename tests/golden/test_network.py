"""The network with the recipe's weights computes what the public SiamMask code computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recipe import Reference, crc32, largest_deviation, rgb_tensor
from torch import Tensor

from e3sn_lib.model.network import E3SN
from e3sn_lib.model.windows import Cells

RELATIVE = 1e-4
FINE, COARSE = 1e-4, 5e-4
STAGES = ("p0", "p1", "p2", "p3")
PARTS = {  # absolute tolerance and arrays
    "backbone features p0 to p3": (
        FINE,
        [f"{stage}_{part}" for stage in STAGES for part in ("mean", "std", "samples")],
    ),
    "neck and template filters": (
        FINE,
        ["zf", "xf_sub", "kernel_cls", "kernel_loc", "kernel_mask"],
    ),
    "class and box maps": (FINE, ["cls", "loc"]),
    "mask correlation": (COARSE, ["corr_sub", "corr_mean", "corr_std"]),
    "63 px masks of the base head": (FINE, ["mask_pos"]),
    "refined masks": (COARSE, ["refine"]),
    "mask correlation and refined masks on 143 px": (COARSE, ["corr143", "refine143_sub"]),
}


@pytest.fixture(scope="module")
def expected(reference: Reference) -> dict[str, NDArray[Any]]:
    return reference.arrays("net")


@pytest.fixture(scope="module")
@torch.inference_mode()
def maps(
    reference: Reference, siammask: E3SN, expected: dict[str, NDArray[Any]]
) -> dict[str, Tensor]:
    """Everything the set holds, by its names there."""
    images = {
        name: rgb_tensor(reference.image(name, size))
        for name, size in (("z", 127), ("x", 255), ("x143", 143))
    }
    template, search = siammask.encode_template(images["z"]), siammask.encode_search(images["x"])
    small_search = siammask.encode_search(images["x143"])
    template_p3 = siammask.backbone((images["z"] - siammask.mean) / siammask.std).p3
    cls, loc = siammask.locate(template, search)
    (correlation,) = siammask.mask.whole_maps(template, search)
    row, column = torch.from_numpy(expected["positions"]).T
    cells = Cells(torch.zeros_like(row), row, column)
    row, column = torch.arange(9) // 3, torch.arange(9) % 3
    small_cells = Cells(torch.zeros_like(row), row, column)
    found = {
        "zf": siammask.neck(template_p3)[0, :, 4:-4, 4:-4],
        "xf_sub": search.neck[0, :, ::3, ::3],
        "kernel_cls": template.cls[0],
        "kernel_loc": template.loc[0],
        "kernel_mask": template.levels[0][0],
        "cls": cls[0].flatten(0, 1),
        "loc": loc[0].flatten(0, 1),
        "corr_sub": correlation[0, :, ::2, ::2],
        "corr_mean": correlation[0].mean(dim=(1, 2)),
        "corr_std": correlation[0].std(dim=(1, 2), correction=0),
        "mask_pos": siammask.segment_base(template, search, cells).flatten(1),
        "refine": siammask.segment(template, search, cells),
        "corr143": siammask.correlate(template, small_search, small_cells).T.unflatten(1, (3, 3)),
        "refine143_sub": siammask.segment(template, small_search, small_cells)[:, ::6, ::6],
    }
    for stage in STAGES:
        features = getattr(search.features, stage)[0]
        count = features.shape[-1]
        chosen = [0, count // 4, count // 2, count - 1]
        found[f"{stage}_mean"] = features.mean(dim=(1, 2))
        found[f"{stage}_std"] = features.std(dim=(1, 2), correction=0)
        found[f"{stage}_samples"] = features[:, chosen][:, :, chosen]
    return found


def test_the_recipe_gives_the_weights_of_the_set(
    reference, public_weights, record_deviation
) -> None:
    stored = reference.arrays("weights_check")
    values = [public_weights[str(key)].double() for key in stored["keys"]]
    sums = np.array([[float(value.sum()), float(value.abs().sum())] for value in values])
    ends = np.array([[float(value.flatten()[0]), float(value.flatten()[-1])] for value in values])
    off_sum = (
        np.abs(sums - np.stack([stored["sum"], stored["abs_sum"]], 1)).max(axis=1)
        / stored["abs_sum"]
    )
    off_ends = np.abs(ends - np.stack([stored["first"], stored["last"]], 1)).max()
    record_deviation(
        "sums of the recipe's weights, relative", reference.source, off_sum.max(), 1e-6, sums.size
    )
    assert off_sum.max() < 1e-6
    assert off_ends < 1e-6


def test_the_recipe_gives_the_images_of_the_set(reference, expected) -> None:
    for name, size in (("z", 127), ("x", 255), ("x143", 143)):
        assert crc32(reference.image(name, size)) == int(expected[f"{name}_crc32"])


def test_every_array_of_the_set_is_compared(maps, expected) -> None:
    of_images = {name for name in expected if name.partition("_")[0] in ("z", "x", "x143")}
    compared = {name for _, names in PARTS.values() for name in names}
    assert compared == set(maps) == set(expected) - of_images - {"positions"}


@pytest.mark.parametrize("part", PARTS)
def test_part_of_the_network(part, maps, expected, reference, record_deviation) -> None:
    absolute, names = PARTS[part]
    largest = max(largest_deviation(maps[name], expected[name]) for name in names)
    record_deviation(
        part, reference.source, largest, absolute, sum(expected[name].size for name in names)
    )
    for name in names:
        torch.testing.assert_close(
            maps[name],
            torch.from_numpy(expected[name]),
            atol=absolute,
            rtol=RELATIVE,
            msg=lambda text, name=name: f"{name}: {text}",
        )
