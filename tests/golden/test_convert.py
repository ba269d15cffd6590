"""Published weights into ours and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipe import largest_deviation, rgb_tensor
from torch import Tensor

from e3sn_lib.errors import InputError
from e3sn_lib.model.convert import (
    CONV,
    DAVIS_SETTINGS,
    MEAN,
    SIAMMASK,
    convert_file,
    convert_siammask,
    public_names,
    response_to_mean,
    siammask_profile,
)
from e3sn_lib.model.network import RGB_STD, build_model
from e3sn_lib.model.weights import load_model
from e3sn_study.cli import main

FOLDED = ("features.features.conv1.weight", "features.features.bn1.running_mean")
PYSOT = {
    "features.features.": "backbone.",
    "features.downsample.": "neck.downsample.",
    "rpn_model.": "rpn_head.",
    "mask_model.mask.": "mask_head.",
    "refine_model.": "refine_head.",
}
State = dict[str, Tensor]


def to_siammask(state: State) -> State:
    """Return the inverse of `convert_siammask`, in the names of SiamMask's public code."""
    public = {theirs: state[ours].clone() for ours, theirs in public_names(SIAMMASK).items()}
    weight = state[CONV].double() / RGB_STD.double()[:, None, None]
    public["features.features.bn1.running_mean"] = (
        state[MEAN].double() + response_to_mean(weight)
    ).float()
    public["features.features.conv1.weight"] = weight.flip(1).float()
    return public


@pytest.fixture(scope="module")
def state() -> State:
    """A network with random weights and statistics in the public layout, all 356 keys."""
    torch.manual_seed(0)
    ours = build_model(siammask_profile().model).state_dict()
    for key, value in ours.items():
        if key.endswith("num_batches_tracked"):
            value.fill_(7)
        elif value.dim() == 1:
            value.uniform_(0.5, 1.5)
    return to_siammask(ours)


def in_pysot(state: State) -> State:
    renamed = {}
    for key, value in state.items():
        old, new = next((old, new) for old, new in PYSOT.items() if key.startswith(old))
        renamed[new + key.removeprefix(old)] = value
    return renamed


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items()
    )


@pytest.mark.parametrize("layout", ["SIAMMASK_SHARP", "PYSOT_SIAMMASK"])
def test_keys_and_shapes_are_the_published_ones(layout, state, shared_path) -> None:
    table = shared_path(f"docs/keys/KEYS_{layout}.tsv").read_text().splitlines()
    published = {line.split("\t")[0]: line.split("\t")[1] for line in table}
    ours = state if layout == "SIAMMASK_SHARP" else in_pysot(state)
    assert {key: str(tuple(value.shape)) for key, value in ours.items()} == published
    assert len(published) == 356


WRAPPINGS: dict[str, Callable[[State], dict]] = {
    "as it is": lambda state: state,
    "state_dict": lambda state: {
        "state_dict": state,
        "epoch": 20,
        "arch": "Custom",
        "best_acc": 0.0,
    },
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "both": lambda state: {
        "epoch": 20,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
    },
    "PySOT": in_pysot,
    "PySOT, module.": lambda state: {
        f"module.{key}": value for key, value in in_pysot(state).items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_same_weights(wrapping, state) -> None:
    assert equal(convert_siammask(WRAPPINGS[wrapping](state)), convert_siammask(state))


def test_counters_of_batches_may_be_absent(state) -> None:
    without = {
        key: value for key, value in state.items() if not key.endswith("num_batches_tracked")
    }
    assert len(without) == 303
    converted = convert_siammask(without)
    assert converted.keys() == convert_siammask(state).keys()
    assert all(
        int(value) == 0 for key, value in converted.items() if key.endswith("num_batches_tracked")
    )


def test_forth_and_back_is_the_identity(state, record_deviation) -> None:
    again = to_siammask(convert_siammask(state))
    assert equal(
        {k: v for k, v in again.items() if k not in FOLDED},
        {k: v for k, v in state.items() if k not in FOLDED},
    )
    off = max(
        largest_deviation(again[key], state[key]) / state[key].abs().max().item() for key in FOLDED
    )
    record_deviation(
        "weights converted forth and back, relative", "identity", off, 1e-6, len(state)
    )
    assert off <= 1e-6


def test_weights_of_the_set_forth_and_back(public_weights, reference, record_deviation) -> None:
    again = to_siammask(convert_siammask(public_weights))
    off = max(
        largest_deviation(again[key], public_weights[key]) / public_weights[key].abs().max().item()
        for key in FOLDED
    )
    record_deviation(
        "the set's weights forth and back, relative",
        reference.source,
        off,
        1e-5,
        len(public_weights),
    )
    assert off <= 1e-5
    assert all(
        torch.equal(again[key], value) for key, value in public_weights.items() if key not in FOLDED
    )


def test_the_first_layer_answers_raw_bgr_alike(public_weights, reference, siammask) -> None:
    bgr = reference.image("x", 255)
    kernel, mean = (public_weights[key].double() for key in FOLDED)
    raw = torch.from_numpy(bgr).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.conv2d(raw, kernel, stride=2) - mean[:, None, None]
    normalised = (rgb_tensor(bgr) - siammask.mean) / siammask.std
    ours = siammask.backbone.conv1(normalised) - siammask.backbone.bn1.running_mean[:, None, None]
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()


def without(*keys: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(keys)}


FAULTS: dict[str, tuple[Callable[[State], dict], str]] = {
    "missing": (
        without("rpn_model.cls.head.3.bias"),
        "x.pth does not fit this network: 1 missing (rpn_model.cls.head.3.bias)",
    ),
    "surplus": (
        lambda state: state | {"features.features.layer4.0.conv1.weight": torch.zeros(1)},
        "x.pth does not fit this network: 1 surplus (features.features.layer4.0.conv1.weight)",
    ),
    "misshapen": (
        lambda state: state | {"rpn_model.cls.head.3.bias": torch.zeros(12)},
        "x.pth does not fit this network: 1 misshapen (rpn_model.cls.head.3.bias (12,) instead of (10,))",
    ),
    "other kind": (
        lambda state: (
            state | {"rpn_model.cls.head.3.bias": torch.zeros(10, dtype=torch.float8_e5m2)}
        ),
        "x.pth does not fit this network: 1 of another kind (rpn_model.cls.head.3.bias torch.float8_e5m2)",
    ),
    "PySOT names": (
        lambda state: without("rpn_head.cls.head.3.bias")(in_pysot(state)),
        "x.pth does not fit this network: 1 missing (rpn_head.cls.head.3.bias)",
    ),
    "no tensor": (
        lambda state: state | {"epoch": 3},
        "x.pth does not fit this network: epoch is no tensor but int",
    ),
    "base network": (
        without("refine_model."),
        "x.pth holds SiamMask's base network, without refinement; give a refined one, such as SiamMask_DAVIS.pth",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named(fault, state) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(InputError) as error:
        convert_siammask(change(state), "x.pth")
    assert str(error.value) == message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 0.4"])
def test_the_command_converts(
    state: State, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = tmp_path / "x.pth", tmp_path / "siammask.safetensors"
    content = {"epoch": 20, "state_dict": state}
    torch.save(content, checkpoint, _use_new_zipfile_serialization=zipped)
    assert main(["convert", "siammask", str(checkpoint), str(out)]) == 0
    assert capsys.readouterr().out == f"model: {out}\n"
    model, profile = load_model(out)
    assert (profile.variant, profile.track) == ("siammask", DAVIS_SETTINGS)
    written, expected = model.state_dict(), convert_siammask(state, "x.pth")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


class Opaque:
    """More than a tensor."""


CONTENTS = {
    "an object": (
        lambda path: torch.save({"model": Opaque()}, path),
        "cannot be read as tensors only",
    ),
    "noise": (lambda path: path.write_bytes(b"\x93noise" * 99), "cannot be read as tensors only"),
    "cut short": (lambda path: path.write_bytes(b"PK\x03\x04"), "cannot be read as tensors only"),
    "a list": (
        lambda path: torch.save([torch.zeros(1)], path),
        "holds a list; it must be a dictionary of tensors",
    ),
    "no state": (
        lambda path: torch.save({"state_dict": None}, path),
        "state_dict is a NoneType; it must be a dictionary of tensors",
    ),
    "nothing": (lambda path: None, "there is no file"),
}


def test_a_checkpoint_is_not_replaced_by_its_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_text("downloaded for an hour")
    with pytest.raises(InputError, match=r"mine\.pth is the checkpoint itself; give another file"):
        convert_file(path, tmp_path / "below" / ".." / "mine.pth")
    assert path.read_text() == "downloaded for an hour"


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(content, tmp_path: Path) -> None:
    write, message = CONTENTS[content]
    checkpoint, out = tmp_path / "checkpoint.pth", tmp_path / "out.safetensors"
    write(checkpoint)
    with pytest.raises(InputError, match=message) as error:
        convert_file(checkpoint, out)
    assert str(checkpoint) in str(error.value)
    assert "\n" not in str(error.value)
    assert not out.exists()
