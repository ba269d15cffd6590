"""The three losses and their gradients against the public SiamMask code, and the paper's smooth L1 beside its L1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recipe import Reference, largest_deviation, rng_for
from torch import Tensor

from e3sn_lib.losses import classification_loss, mask_loss, mask_windows, regression_loss
from e3sn_lib.model.windows import Cells
from e3sn_lib.profiles.loading import load_profile

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
"""Relative, of losses; gradients: 1e-5 of the largest value."""
GRADIENT = 1e-5
EXACT = torch.float64


@dataclass
class Inputs:
    """The recipe's tensors of one precision; predictions require gradients."""

    cls: Tensor
    loc: Tensor
    mask63: Tensor
    mask127: Tensor
    labels: Tensor
    loc_target: Tensor
    pixel_labels: Tensor
    cells: Cells

    def losses(self) -> dict[str, Tensor]:
        count = torch.ones(len(self.cells.image))
        return {
            "loss_cls": classification_loss(self.cls, self.labels),
            "loss_loc": regression_loss(self.loc, self.loc_target, self.labels, kind="l1"),
            "loss_mask63": mask_loss(self.mask63, self.pixel_labels, count),
            "loss_mask127": mask_loss(self.mask127, self.pixel_labels, count),
        }

    def total(self) -> Tensor:
        """Weighted as the ``siammask`` variant is by default."""
        weights, losses = load_profile("paper", "siammask").loss, self.losses()
        located = weights.cls_weight * losses["loss_cls"] + weights.loc_weight * losses["loss_loc"]
        return located + weights.mask_weight * losses["loss_mask63"]


def class_labels(seed: int) -> NDArray[np.int8]:
    rng, labels = rng_for(seed, "C.label_cls"), np.full((2, 3125), -1, np.int8)
    for image, positives in enumerate((16, 7)):
        order = rng.permutation(3125)
        labels[image, order[:positives]], labels[image, order[positives:64]] = 1, 0
    return labels.reshape(2, 5, 25, 25)


def make_inputs(reference: Reference, kind: torch.dtype) -> Inputs:
    labels = class_labels(reference.seed)
    image, row, column = (torch.from_numpy(index) for index in np.nonzero(labels.max(axis=1) == 1))
    masks = np.stack(
        [np.where(reference.image(f"C.mask{b}", 255)[..., 0] > 127, 1.0, -1.0) for b in (0, 1)]
    )
    cells = Cells(image, row, column)

    def normal(name: str, shape: tuple[int, ...], scale: float) -> Tensor:
        return torch.from_numpy(reference.normal(name, shape, scale)).to(kind)

    return Inputs(
        cls=normal("C.cls", (2, 10, 25, 25), 1.5).unflatten(1, (2, 5)).requires_grad_(),
        loc=normal("C.loc", (2, 20, 25, 25), 0.5).unflatten(1, (4, 5)).requires_grad_(),
        mask63=normal("C.mask63", (2, 3969, 25, 25), 2)[image, :, row, column]
        .unflatten(1, (63, 63))
        .requires_grad_(),
        mask127=normal("C.refine", (len(image), 16129), 2)
        .unflatten(1, (127, 127))
        .requires_grad_(),
        labels=torch.from_numpy(labels),
        loc_target=normal("C.label_loc", (2, 4, 5, 25, 25), 0.5),
        pixel_labels=mask_windows(torch.from_numpy(masks).to(kind), cells, margin=32),
        cells=cells,
    )


@pytest.fixture(scope="module")
def expected(reference: Reference) -> dict[str, NDArray[Any]]:
    return reference.arrays("losses")


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def inputs(request: pytest.FixtureRequest, reference: Reference) -> Inputs:
    return make_inputs(reference, request.param)


def value(expected: dict[str, NDArray[Any]], name: str, kind: torch.dtype) -> float:
    return float(expected[f"{name}_f64" if kind == EXACT else name])


def precision(inputs: Inputs) -> str:
    return str(inputs.cls.dtype).removeprefix("torch.")


def test_the_recipe_gives_the_labels_of_the_set(reference, expected) -> None:
    inputs = make_inputs(reference, torch.float32)
    assert np.array_equal(inputs.labels, expected["label_cls"])
    flat = inputs.cells.image * 625 + inputs.cells.row * 25 + inputs.cells.column
    assert flat.tolist() == expected["selected_cells"].tolist()
    masks = np.stack([reference.image(f"C.mask{b}", 255)[..., 0] > 127 for b in (0, 1)])
    assert np.array_equal(np.packbits(masks), expected["label_mask_bits"])
    assert (2 * masks.sum(axis=(1, 2)) - 255**2).tolist() == expected["label_mask_sum"].tolist()
    for name, scale in (
        ("cls", 1.5),
        ("loc", 0.5),
        ("label_loc", 0.5),
        ("mask63", 2),
        ("refine", 2),
    ):
        assert (
            reference.normal(f"C.{name}", (8,), scale).tolist()
            == expected[f"{name}_first"].tolist()
        )


def test_losses(inputs, expected, reference, record_deviation) -> None:
    kind = inputs.cls.dtype
    losses = inputs.losses() | {"loss_total": inputs.total()}
    off = {
        name: abs(loss.item() / value(expected, name, kind) - 1) for name, loss in losses.items()
    }
    record_deviation(
        f"losses, relative ({precision(inputs)})",
        reference.source,
        max(off.values()),
        TOLERANCE[kind],
        len(off),
    )
    assert max(off.values()) <= TOLERANCE[kind], off


def test_losses_of_single_windows(inputs, expected, reference, record_deviation) -> None:
    ours, theirs = [], []
    for name, logits in (("per_cell_mask63", inputs.mask63), ("per_cell_mask127", inputs.mask127)):
        alone = torch.eye(len(logits))
        ours += [mask_loss(logits, inputs.pixel_labels, only).item() for only in alone]
        theirs += expected[name].tolist()
    largest = float(np.abs(np.array(ours) / theirs - 1).max())
    record_deviation(
        f"mask losses of single windows, relative ({precision(inputs)})",
        reference.source,
        largest,
        1e-5,
        len(ours),
    )
    assert largest <= 1e-5


def test_gradients(inputs, expected, reference, record_deviation) -> None:
    cls, loc, mask63 = torch.autograd.grad(inputs.total(), (inputs.cls, inputs.loc, inputs.mask63))
    (mask127,) = torch.autograd.grad(inputs.losses()["loss_mask127"], inputs.mask127)
    ours = {
        "grad_cls": cls.flatten(1, 2),
        "grad_loc": loc.flatten(1, 2),
        "grad_mask63_sel": mask63.flatten(1)[:, ::31],
        "grad_mask127": mask127.flatten(1)[:, ::127],
    }
    off = {
        name: largest_deviation(found, expected[name]) / np.abs(expected[name]).max()
        for name, found in ours.items()
    }
    norm = abs(mask63.norm().item() / value(expected, "grad_mask63_norm", mask63.dtype) - 1)
    cases = sum(expected[name].size for name in ours)
    record_deviation(
        f"gradients of the losses, of their largest ({precision(inputs)})",
        reference.source,
        max(off.values()),
        GRADIENT,
        cases,
    )
    assert max(off.values()) <= GRADIENT, off
    assert norm <= GRADIENT


def test_edges(inputs, expected, reference, record_deviation) -> None:
    kind, labels = inputs.cls.dtype, inputs.labels
    none = torch.zeros(len(inputs.cells.image))
    ours = {
        "edge_cls_no_positive": classification_loss(
            inputs.cls, labels.masked_fill(labels == 1, -1)
        ),
        "edge_cls_no_negative": classification_loss(
            inputs.cls, labels.masked_fill(labels == 0, -1)
        ),
        "edge_mask_no_cell": mask_loss(inputs.mask63, inputs.pixel_labels, none),
        "edge_loc_zero_weight": regression_loss(
            inputs.loc, inputs.loc_target, labels.masked_fill(labels == 1, -1), kind="l1"
        ),
    }
    off = {name: abs(loss.item() - value(expected, name, kind)) for name, loss in ours.items()}
    allowed = {name: TOLERANCE[kind] * value(expected, name, kind) for name in ours}
    check = f"losses where a kind of label is absent ({precision(inputs)})"
    record_deviation(check, reference.source, max(off.values()), max(allowed.values()), len(off))
    assert all(off[name] <= allowed[name] for name in ours), off


def test_a_batch_without_cells_costs_nothing(inputs) -> None:
    nothing = mask_loss(inputs.mask63[:0], inputs.pixel_labels[:0], torch.ones(0))
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, inputs.mask63)[0].eq(0).all()


def test_smooth_l1_is_l1_less_half_its_bend_where_offsets_are_large(inputs, expected) -> None:
    kind = inputs.loc.dtype
    target = inputs.loc.detach() + torch.where(inputs.loc_target < 0, -3.0, 3.0).to(kind)
    smooth = regression_loss(inputs.loc, target, inputs.labels, kind="smooth_l1", beta=1.0)
    plain = regression_loss(inputs.loc, target, inputs.labels, kind="l1")
    assert smooth.item() == pytest.approx(plain.item() - 4 * 0.5, rel=1e-5)
    sharp = regression_loss(
        inputs.loc, inputs.loc_target, inputs.labels, kind="smooth_l1", beta=1e-6
    )
    assert sharp.item() == pytest.approx(value(expected, "loss_loc", kind), rel=2e-5)
