"""Weights in and out: ImageNet backbones, and models as safetensors files with their settings."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import atomic_path
from e3sn_lib.model.backbone import Backbone, adapt_imagenet_weights
from e3sn_lib.model.device import best_device
from e3sn_lib.model.network import E3SN, build_model
from e3sn_lib.profiles.loading import profile_from_dict


def load_backbone(backbone: Backbone, source: str, data_root: Path = Path()) -> None:
    """Fill a backbone with ImageNet weights: ``none``, ``torchvision`` (downloaded once), or a
    safetensors file in torchvision's names, see `backbone_file`. Raises InputError if there is
    none, or it does not fit."""
    if source == "none":
        return
    if source == "torchvision":
        if backbone.block_layout != "v1.5":
            remedy = "--set model.block_layout=v1.5, or give a file as train.weights"
            raise InputError(f"torchvision's weights are of another block layout; {remedy}")
        published = torchvision.models.get_model_weights(backbone.name)["IMAGENET1K_V1"]
        try:
            weights = published.get_state_dict(progress=True, check_hash=True)
        except Exception as error:  # a network, a file in torch's cache: it may raise anything
            fault = f"cannot get torchvision's weights of {backbone.name} ({error})"
            remedy = f"delete the file in {torch.hub.get_dir()}/checkpoints, or give a file"
            raise InputError(f"{fault}; {remedy} as train.weights") from error
    else:
        weights = read_safetensors(backbone_file(source, data_root))
    strict_load(backbone, adapt_imagenet_weights(weights, backbone), f"backbone weights {source}")


def backbone_file(source: str, data_root: Path) -> Path:
    """Find a file of backbone weights: here, in `data_root`, or in ``weights`` in or beside it.
    Raises InputError if it is in none of these places."""
    folders = [Path(), data_root, data_root / "weights", data_root.parent / "weights"]
    for folder in folders:
        if (folder / source).is_file():
            return folder / source
    searched = ", ".join(str((folder / source).parent) for folder in folders)
    raise InputError(
        f"backbone weights {source} are in none of {searched}; put them there, or use "
        "torchvision's weights, which need two settings: "
        "--set train.weights=torchvision --set model.block_layout=v1.5"
    )


def strict_load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load all keys of a module, floats in any precision; raises InputError if keys or shapes do
    not fit, or a value is not finite. Nothing is loaded then."""
    check_keys(module.state_dict(), state, what)
    _check_finite(state, what)
    module.load_state_dict(dict(state))


def check_keys(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Raise an InputError that names keys that are missing, surplus, misshapen or of a kind of
    number that does not fit."""
    faults = {
        "missing": sorted(wanted.keys() - state.keys()),
        "surplus": sorted(state.keys() - wanted.keys()),
        "misshapen": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
        "of another kind": [
            f"{key} {state[key].dtype}"
            for key in wanted
            if key in state and not _is_alike(state[key], wanted[key])
        ],
    }
    texts = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in faults.items() if keys]
    if texts:
        raise InputError(f"{what} does not fit this network: {'; '.join(texts)}")


def _is_alike(value: Tensor, wanted: Tensor) -> bool:
    """Return whether a tensor is a plain one of 16 bits or more, and whole or real as wanted."""
    is_plain = value.layout is torch.strided and not value.is_meta and value.dtype.itemsize > 1
    return is_plain and value.is_floating_point() == wanted.is_floating_point()


def _check_finite(state: Mapping[str, Tensor], what: str) -> None:
    if bad := [key for key, value in state.items() if not value.isfinite().all()]:
        remedy = "train again with a lower train.lr, or take another file"
        raise InputError(f"weights of {what} are not finite: {_first(bad)}; {remedy}")


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def save_model(path: Path, model: E3SN, profile: Profile, half: bool = False, **notes: str) -> None:
    """Write a model with the settings it was trained with; the same model gives the same bytes.

    With `half`, weights are in half precision, except vectors such as batch-norm statistics. Raises
    InputError if a weight is not finite, as it is or in half precision. `notes` go to the metadata.
    """
    state = {
        key: (value.half() if half and value.dim() > 1 else value).contiguous().cpu()
        for key, value in model.state_dict().items()
    }
    _check_finite(state, f"the model to be saved as {path}")
    metadata = {"format": "e3sn", "profile": json.dumps(profile.to_dict()), **notes}
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


def load_model(path: str | Path, device: str | torch.device | None = None) -> tuple[E3SN, Profile]:
    """Load a trained model; return the network, and the settings it was trained with.

    The network is in evaluation mode, and on a GPU if there is one and no `device` is given. Raises
    InputError if there is no such file, it is no model of this project, or it does not fit.
    """
    path = Path(path)
    profile, state = load_profile_of(path), read_safetensors(path)
    with torch.device("meta"):  # compare shapes before memory is taken for them
        check_keys(build_model(profile.model).state_dict(), state, f"model {path}")
    model = build_model(profile.model)
    strict_load(model, state, f"model {path}")
    return model.to(device or best_device()).eval(), profile


def load_profile_of(path: Path) -> Profile:
    """Return the profile that a model was trained by; raises InputError as `read_metadata`."""
    try:
        settings = json.loads(read_metadata(path)["profile"])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its settings are missing or no JSON") from error
    try:
        return profile_from_dict(settings)
    except InputError as error:
        raise InputError(f"{path} has other settings than this version knows: {error}") from error


def pairs_seen(path: Path) -> int:
    """Return on how many pairs a model was trained, with those of the models that it started from;
    errors are as in `read_metadata`."""
    noted = read_metadata(path).get("pairs", "")
    is_count = noted.isdecimal() and len(noted) < 16
    return int(noted) if is_count else load_profile_of(path).train.pairs


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a model's file says of it: ``profile`` as JSON, perhaps ``run``, ``commit``, and
    ``pairs`` as `pairs_seen` counts. Raises InputError if there is no model of this project."""
    with _readable(path), safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    if metadata.get("format") != "e3sn":
        remedy = "convert it first: e3sn convert siammask"
        raise InputError(f"{path} is not a model of this project (no e3sn metadata); {remedy}")
    return metadata


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read all tensors of a safetensors file; raises InputError if it is missing or damaged."""
    with _readable(path):
        return load_file(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file in it, such as model.safetensors")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file or is damaged: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
