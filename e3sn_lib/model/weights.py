"""Weights in and out: ImageNet backbones, and models as safetensors files that carry their own configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from e3sn_lib.config import ModelConfig, Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path
from e3sn_lib.model.backbone import Backbone, adapt_imagenet_weights
from e3sn_lib.model.device import best_device
from e3sn_lib.model.network import E3SN, build_model
from e3sn_lib.profiles.loading import profile_from_dict


def load_backbone(backbone: Backbone, source: str, config: ModelConfig, data_root: Path = Path()) -> None:
    """Fill a backbone with ImageNet weights.

    Args:
        backbone: to be filled.
        source: ``torchvision`` (downloaded once by torchvision), ``none``, or a safetensors file in torchvision's names, absolute,
            relative to the working directory, to `data_root`, or to a folder ``weights`` beside or in it.
        config: which ResNet.
        data_root: where data lie.

    Raises:
        InputError: no such file, or it does not fit.
    """
    if source == "none":
        return
    if source == "torchvision":
        weights = torchvision.models.get_model_weights(config.backbone)["IMAGENET1K_V1"].get_state_dict(
            progress=True, check_hash=True
        )
    else:
        weights = read_safetensors(backbone_file(source, data_root))
    strict_load(backbone, adapt_imagenet_weights(weights, backbone), f"backbone weights {source}")


def backbone_file(source: str, data_root: Path) -> Path:
    """Where a file of backbone weights lies, see `load_backbone`; raises InputError if it does not."""
    places = [Path(source), data_root / source, data_root / "weights" / source, data_root.parent / "weights" / source]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"backbone weights {source} are in none of {', '.join(str(place.parent) for place in places)}; put them there, or take "
        "torchvision's, whose blocks are laid out otherwise: --set train.weights=torchvision --set model.block_layout=v1.5"
    )


def strict_load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load every key or none; raises InputError as `check_keys` does."""
    check_keys(module.state_dict(), state, what)
    module.load_state_dict(dict(state))


def check_keys(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Compare keys and shapes.

    Raises:
        InputError: naming missing, surplus and misshapen keys.
    """
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    faults = {"missing": missing, "surplus": surplus, "misshapen": shapes}
    if any(faults.values()):
        text = "; ".join(
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" for kind, keys in faults.items() if keys
        )
        raise InputError(f"{what} does not fit this network: {text}")


def save_model(path: Path, model: E3SN, profile: Profile, half: bool = False, notes: Mapping[str, str] | None = None) -> None:
    """Write a model with the profile it was trained by; the same model gives the same bytes.

    Args:
        path: of the safetensors file.
        model: any device.
        profile: its settings, which the file carries.
        half: store weights in half precision, except vectors, such as batch-norm statistics.
        notes: further metadata.

    Raises:
        InputError: `half`, and a value is not finite then.
    """
    state = {}
    for key, value in model.state_dict().items():
        shrink = half and value.dim() > 1
        state[key] = (value.half() if shrink else value).contiguous().cpu()
        if half and not state[key].isfinite().all():
            raise InputError(f"{key} is not finite in half precision, so no model can be written; train it again")
    metadata = {"format": "e3sn", "profile": json.dumps(profile.to_dict()), **(notes or {})}
    with atomic_path(path) as temporary:
        temporary.write_bytes(_ordered(save(state, metadata)))


def _ordered(content: bytes) -> bytes:
    """Return a safetensors file with sorted metadata, which the library writes in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)  # tensors begin at a multiple of 8 bytes
    return len(written).to_bytes(8, "little") + written + content[end:]


def load_network(model: E3SN, path: Path) -> None:
    """Fill a whole network with the weights of a model of this project.

    Raises:
        InputError: no such file, or keys or shapes that do not fit.
    """
    strict_load(model, _floats(read_safetensors(path)), f"model {path}")


def load_model(path: str | Path, device: str | torch.device | None = None) -> tuple[E3SN, Profile]:
    """A trained model in evaluation mode, on `device` or on a GPU if there is one, and the profile it was trained by.

    Raises:
        InputError: no such file, not a model of this project, or keys that do not fit.
    """
    path = Path(path)
    state = read_safetensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != "e3sn":
        raise InputError(f"{path} is not a model of this project (no e3sn metadata); convert it first: e3sn convert siammask")
    profile = profile_from_dict(json.loads(metadata["profile"]))
    model = build_model(profile.model)
    strict_load(model, _floats(state), f"model {path}")
    return model.to(device or best_device()).eval(), profile


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return single precision for half."""
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def read_safetensors(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file; raises InputError if it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file or is damaged: {error}") from error
