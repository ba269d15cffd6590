"""Profiles from YAML: an unknown key or a value of the wrong kind is one clear line, with a suggestion."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from e3sn_lib.config import PRECISIONS, Profile
from e3sn_lib.errors import InputError

PROFILE_DIR = Path(__file__).parent


def available_profiles() -> list[str]:
    return sorted(path.stem for path in PROFILE_DIR.glob("*.yaml") if path.stem != "variants")


def available_variants() -> list[str]:
    return list(_read_yaml(PROFILE_DIR / "variants.yaml"))


def load_profile(
    name: str,
    variant: str = "e3sn",
    overrides: Iterable[str] = (),
    *,
    seed: int = 0,
    data_root: str | Path = "",
) -> Profile:
    """Build a profile: defaults, then the variant, then the profile's file, then ``key=value`` overrides.

    Args:
        name: a shipped profile (``smoke``, ``cpu``, ``paper``) or the path of a YAML file.
        variant: ``e3sn``, ``e3sn-s`` or ``siammask``.
        overrides: ``"train.pairs=1000"``; values are read as YAML.
        seed: of the run.
        data_root: replaces ``data.root`` unless empty.

    Raises:
        InputError: unknown profile, variant or key, or a value of the wrong type.
    """
    variants = _read_yaml(PROFILE_DIR / "variants.yaml")
    if variant not in variants:
        raise InputError(f"unknown variant '{variant}'{_suggest(variant, variants)}; there are {', '.join(variants)}")
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PROFILE_DIR / f"{name}.yaml"
    if not path.is_file() or path.stem == "variants":
        known = available_profiles()
        raise InputError(f"unknown profile '{name}'{_suggest(name, known)}; there are {', '.join(known)}, or give a .yaml file")
    settings = _read_yaml(path)
    by_variant = settings.pop("variants", {})
    if not isinstance(by_variant, dict) or not all(isinstance(value, dict) for value in by_variant.values()):
        raise InputError(f"{path.name}: 'variants' must hold settings by variant, such as siammask: {{train: {{pairs: 1000}}}}")
    if unknown := set(by_variant) - set(variants):
        raise InputError(f"{path.name}: settings for unknown variant '{min(unknown)}'{_suggest(min(unknown), variants)}")
    merged = _merge(_merge(variants[variant], settings), by_variant.get(variant, {}))
    for text in overrides:
        merged = _merge(merged, _parse_override(text))
    stages = variants[variant]["stages"]
    if unknown := set(merged["stages"]) - set(stages):
        raise InputError(
            f"variant {variant} has no stage '{min(unknown)}'{_suggest(min(unknown), stages)}; there are {', '.join(stages)}"
        )
    merged = _merge(merged, {"name": path.stem, "variant": variant, "seed": seed})
    if data_root:
        merged = _merge(merged, {"data": {"root": str(data_root)}})
    return profile_from_dict(merged)


def profile_from_dict(settings: Mapping[str, Any]) -> Profile:
    """The inverse of `Profile.to_dict`; raises InputError for unknown keys and wrong types."""
    profile = _build(Profile, settings, "")
    _check(profile)
    return profile


_CHOICES = {
    "model.backbone": ("resnet50", "resnet18"),
    "model.block_layout": ("v1.5", "v1"),
    "model.fusion": ("softmax", "raw", "fixed"),
    "model.level_scale": ("mean", "sum"),
    "sampler.policy": ("supervised", "all_positive"),
    "loss.loc": ("smooth_l1", "l1"),
    "loss.negatives": ("zero", "background"),
    "train.optimiser": ("sgd", "adamw"),
    "train.precision": PRECISIONS,
    "track.score": ("penalised", "raw"),
    "track.crop": ("exact", "siammask"),
}


def _check(profile: Profile) -> None:
    for key, choices in _CHOICES.items():
        section, name = key.split(".")
        value = getattr(getattr(profile, section), name)
        if value not in choices:
            raise InputError(f"{key} is '{value}'{_suggest(value, choices)}; it can be {', '.join(choices)}")
    if not profile.model.levels or not set(profile.model.levels) <= {2, 3, 4}:
        raise InputError(f"model.levels is {list(profile.model.levels)}; it must name some of 2, 3, 4")
    at_least_one = ("pairs", "batch_size", "accumulate", "log_every", "checkpoint_every")
    for key in (*(f"train.{name}" for name in at_least_one), "sampler.anchor_total"):
        section, name = key.split(".")
        if getattr(getattr(profile, section), name) < 1:
            raise InputError(f"{key} is {getattr(getattr(profile, section), name)}; it must be at least 1")
    if profile.study.seeds < 1:
        raise InputError(f"study.seeds is {profile.study.seeds}; it must be at least 1")
    if not 0 < profile.sampler.positives_per_image <= profile.sampler.samples_per_image:
        raise InputError("sampler.positives_per_image must be at least 1 and at most sampler.samples_per_image")
    for name, stage in profile.stages.items():
        if stage.mask not in ("refine", "base"):
            raise InputError(f"stages.{name}.mask is '{stage.mask}'; it can be refine, base")
        if len(stage.lr or profile.train.lr) != 2:
            raise InputError(f"stages.{name}: a learning rate is two numbers, first and last")
        kinds = {each.kind for each in profile.data.train}
        if unknown := set(stage.sets) - kinds:
            raise InputError(
                f"stages.{name}.sets names '{min(unknown)}'{_suggest(min(unknown), kinds)}; data.train has no such set"
            )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings (key: value)")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"'{text}' is not of the form key=value, such as train.pairs=1000")
    if key.partition(".")[0] in ("name", "variant", "seed"):
        raise InputError(f"'{text}': {key} is no setting but an argument of its own")
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"'{text}': the value cannot be read as YAML") from error
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _build(kind: Any, value: Any, where: str) -> Any:
    """Convert plain YAML values to `kind`, a dataclass, tuple, dict or scalar type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a set of key: value settings, not {value!r}")
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise InputError(f"unknown setting '{where}{'.' if where else ''}{key}'{_suggest(key, hints)}")
        built = {key: _build(hints[key], item, f"{where}{'.' if where else ''}{key}") for key, item in value.items()}
        try:
            return kind(**built)  # type: ignore[operator]
        except TypeError as error:
            raise InputError(f"{where or 'profile'}: {error}") from error
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_build(args[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a set of key: value settings, not {value!r}")
        return {str(key): _build(args[1], item, f"{where}.{key}") for key, item in value.items()}
    return _scalar(kind, value, where)


def _scalar(kind: type | types.UnionType, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as a string
        except ValueError:
            pass
    elif type(value) is kind:
        return value
    raise InputError(f"{where} must be of type {getattr(kind, '__name__', kind)}, not {value!r}")
