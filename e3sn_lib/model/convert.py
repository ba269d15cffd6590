"""Published SiamMask weights into ours and back: other names for the same tensors, and other units for the input.

SiamMask reads BGR from 0 to 255; this network reads RGB and normalises it. As the first convolution is not padded, the difference
goes exactly into its weights and into the running mean of the batch-norm after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import RGB_MEAN, RGB_STD, build_model
from e3sn_lib.model.weights import check_keys, save_model, strict_load
from e3sn_lib.profiles.loading import load_profile

DAVIS_SETTINGS = TrackConfig(penalty_k=0.04, window_influence=0.40, size_lr=1.0, mask_threshold=0.35, crop="siammask")
"""Inference as in SiamMask's own DAVIS evaluation."""

PREFIXES = (  # ours, SiamMask's public code, PySOT; the first that fits counts
    ("backbone.", "features.features.", "backbone."),
    ("neck.", "features.downsample.downsample.", "neck.downsample.downsample."),
    ("rpn.cls_head.", "rpn_model.cls.head.", "rpn_head.cls.head."),
    ("rpn.loc_head.", "rpn_model.loc.head.", "rpn_head.loc.head."),
    ("rpn.", "rpn_model.", "rpn_head."),
    ("mask.levels.4.", "mask_model.mask.", "mask_head."),
    ("base_head.", "mask_model.mask.head.", "mask_head.head."),
    ("refine.", "refine_model.", "refine_head."),
)
SIAMMASK, PYSOT = 1, 2
CONV, MEAN = "backbone.conv1.weight", "backbone.bn1.running_mean"


def siammask_profile() -> Profile:
    """SiamMask's network with the settings of its DAVIS evaluation."""
    return dataclasses.replace(load_profile("paper", "siammask"), track=DAVIS_SETTINGS)


def convert_siammask(state: Mapping[str, Any], what: str = "checkpoint") -> dict[str, Tensor]:
    """SiamMask's tensors for the ``siammask`` variant of this network.

    Args:
        state: tensors in the names of SiamMask's public code or of PySOT, as such or under ``state_dict``, with or without a
            ``module.`` prefix and ``num_batches_tracked``.
        what: names the source in errors.

    Raises:
        InputError: naming missing, surplus and misshapen keys; or these are the base network's, which has no refinement.
    """
    found = {str(key).removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{what} does not fit this network: {key} is of type {type(value).__name__}, not a tensor")
    names = _public_names(PYSOT if any(key.startswith("backbone.") for key in found) else SIAMMASK)
    wanted = {names[key]: value for key, value in _shapes().items()}
    for key, value in wanted.items():
        if key.endswith(".num_batches_tracked"):  # unknown to torch 0.4, whose files these may be
            found.setdefault(key, torch.zeros_like(value, device="cpu"))
    if wanted.keys() - found.keys() == {theirs for ours, theirs in names.items() if ours.startswith("refine.")}:
        raise InputError(
            f"{what} holds SiamMask's base network, without refinement; give a refined one, such as SiamMask_DAVIS.pth"
        )
    check_keys(wanted, found, what)

    converted = {ours: found[theirs].clone() for ours, theirs in names.items()}
    weight = converted[CONV].double().flip(1)  # BGR to RGB
    converted[MEAN] = (converted[MEAN].double() - _response_to_mean(weight)).float()
    converted[CONV] = (weight * RGB_STD.double()[:, None, None]).float()
    return converted


def to_siammask(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `convert_siammask`, in the names of SiamMask's public code.

    Raises:
        InputError: these are not tensors of the ``siammask`` variant.
    """
    check_keys(_shapes(), state, "the model")
    public = {theirs: state[ours].clone() for ours, theirs in _public_names(SIAMMASK).items()}
    weight = state[CONV].double() / RGB_STD.double()[:, None, None]
    public["features.features.bn1.running_mean"] = (state[MEAN].double() + _response_to_mean(weight)).float()
    public["features.features.conv1.weight"] = weight.flip(1).float()
    return public


def convert_file(checkpoint: Path, out: Path) -> None:
    """Convert a SiamMask or PySOT checkpoint to a model that `load_model` and the tracker use.

    Raises:
        InputError: the file is missing, holds more than tensors, or does not fit.
    """
    if not checkpoint.is_file():
        raise InputError(f"there is no file {checkpoint}")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # by its own documentation, unpickling may raise anything
        raise InputError(
            f"{checkpoint} cannot be read as tensors only ({type(error).__name__}); it is damaged or no checkpoint of weights"
        ) from error
    what = f"checkpoint {checkpoint}"
    if not isinstance(content, Mapping):
        raise InputError(f"{what} holds a {type(content).__name__}; it must be a dictionary of tensors")
    profile = siammask_profile()
    model = build_model(profile.model)
    strict_load(model, convert_siammask(content, what), what)
    save_model(out, model, profile, notes={"source": checkpoint.name})


def _response_to_mean(weight: Tensor) -> Tensor:
    """What the first convolution, for unnormalised RGB, answers to the mean colour, (64,)."""
    return (weight * RGB_MEAN.double()[:, None, None]).sum(dim=(1, 2, 3))


def _shapes() -> dict[str, Tensor]:
    """The keys of the ``siammask`` variant, with tensors that hold nothing but a shape."""
    with torch.device("meta"):
        return build_model(siammask_profile().model).state_dict()


def _public_names(layout: int) -> dict[str, str]:
    """What each of our keys is called elsewhere."""
    names = {}
    for key in _shapes():
        row = next(row for row in PREFIXES if key.startswith(row[0]))
        names[key] = row[layout] + key.removeprefix(row[0])
    return names
