"""Convert published SiamMask weights: the same tensors under other names, for another input.

SiamMask reads BGR from 0 to 255. This network reads RGB and normalises it. The first convolution
has no padding, so its weights and the mean of its batch-norm can hold this difference exactly.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.errors import InputError, printable
from e3sn_lib.model.network import RGB_MEAN, RGB_STD, build_model
from e3sn_lib.model.weights import check_keys, save_model, strict_load
from e3sn_lib.profiles.loading import load_profile

DAVIS_SETTINGS = TrackConfig(mask_threshold=0.35, crop="siammask")
"""Inference as in SiamMask's own DAVIS evaluation."""

PREFIXES = (  # ours, SiamMask's public code, PySOT; the first match counts
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
    """Return SiamMask's network with the settings of its DAVIS evaluation."""
    return dataclasses.replace(load_profile("paper", "siammask"), track=DAVIS_SETTINGS)


def convert_siammask(state: Mapping[str, Any], what: str = "checkpoint") -> dict[str, Tensor]:
    """Convert SiamMask's tensors for the ``siammask`` variant of this network.

    They have the names of SiamMask's public code or of PySOT, perhaps below the key ``state_dict``,
    with or without the prefix ``module.`` and ``num_batches_tracked``. Raises InputError if keys
    are missing, surplus or misshapen, or if there is no refinement.
    """
    state = state.get("state_dict", state)
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise InputError(f"{what}: state_dict is a {kind}; it must be a dictionary of tensors")
    found = {str(key).removeprefix("module."): value for key, value in state.items()}
    for key, value in found.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise InputError(f"{what} does not fit this network: {key} is no tensor but {kind}")
    is_pysot = any(key.startswith("backbone.") for key in found)
    names = public_names(PYSOT if is_pysot else SIAMMASK)
    wanted = {names[key]: value for key, value in shapes().items()}
    for key, value in wanted.items():
        if key.endswith(".num_batches_tracked"):  # unknown to torch 0.4, whose files these may be
            found.setdefault(key, torch.zeros_like(value, device="cpu"))
    refinement = {theirs for ours, theirs in names.items() if ours.startswith("refine.")}
    if wanted.keys() - found.keys() == refinement:
        remedy = "give a refined one, such as SiamMask_DAVIS.pth"
        raise InputError(f"{what} holds SiamMask's base network, without refinement; {remedy}")
    check_keys(wanted, found, what)

    converted = {ours: found[theirs].clone() for ours, theirs in names.items()}
    weight = converted[CONV].double().flip(1)  # BGR to RGB
    converted[MEAN] = (converted[MEAN].double() - response_to_mean(weight)).float()
    converted[CONV] = (weight * RGB_STD.double()[:, None, None]).float()
    return converted


def convert_file(checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint of SiamMask or PySOT to a model for `load_model` and the tracker; raises
    InputError if the file is missing, holds more than tensors, or does not fit."""
    if not checkpoint.is_file():
        raise InputError(f"there is no file {checkpoint}")
    if os.path.realpath(out) == os.path.realpath(checkpoint):
        raise InputError(f"{out} is the checkpoint itself; give another file for the model")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # by its own documentation, unpickling may raise anything
        fault = f"{checkpoint} cannot be read as tensors only ({type(error).__name__})"
        raise InputError(f"{fault}; it is damaged or no checkpoint of weights") from error
    what = f"checkpoint {checkpoint}"
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise InputError(f"{what} holds a {kind}; it must be a dictionary of tensors")
    profile = siammask_profile()
    model = build_model(profile.model)
    strict_load(model, convert_siammask(content, what), what)
    save_model(out, model, profile, source=printable(checkpoint.name))


def response_to_mean(weight: Tensor) -> Tensor:
    """Return what a first convolution for RGB from 0 to 255 gives on the mean colour, (64,)."""
    return (weight * RGB_MEAN.double()[:, None, None]).sum(dim=(1, 2, 3))


def shapes() -> dict[str, Tensor]:
    """Return the keys of the ``siammask`` variant, with tensors that have a shape but no values."""
    with torch.device("meta"):
        return build_model(siammask_profile().model).state_dict()


def public_names(layout: int) -> dict[str, str]:
    """Return the name of each of our keys in another project: `SIAMMASK` or `PYSOT`."""
    names = {}
    for key in shapes():
        prefixes = next(row for row in PREFIXES if key.startswith(row[0]))
        names[key] = prefixes[layout] + key.removeprefix(prefixes[0])
    return names
