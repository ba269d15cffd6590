"""Profiles from YAML. A wrong setting is one line: its key, its value, what is allowed."""

from __future__ import annotations

import dataclasses
import os
import re
import reprlib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError, did_you_mean

PROFILE_DIR = Path(__file__).parent
LARGEST_YAML = 2**16
"""Characters of a settings file or override; the shipped profiles have up to 3,000."""


def available_profiles() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(path.stem for path in PROFILE_DIR.glob("*.yaml") if path.stem != "variants")


def available_variants() -> list[str]:
    """Return the names of the variants, those of the paper's method first."""
    return list(_read_yaml(PROFILE_DIR / "variants.yaml"))


def load_profile(
    name: str,
    variant: str = "e3sn",
    overrides: Iterable[str] = (),
    *,
    seed: int = 0,
    data_root: str | Path = "",
) -> Profile:
    """Build a profile: defaults, then the variant, then the profile's file, then the overrides.

    Args:
        name: a shipped profile (``smoke``, ``cpu``, ``paper``) or the path of a YAML file.
        variant: ``e3sn``, ``e3sn-s`` or ``siammask``.
        overrides: ``"train.pairs=1000"``; values are read as YAML.
        seed: of the run, from 0.
        data_root: replaces ``data.root`` unless empty.

    Raises:
        InputError: unknown profile, variant or key, or a value that is not allowed.
    """
    variants = _read_yaml(PROFILE_DIR / "variants.yaml")
    if variant not in variants:
        hint = did_you_mean(variant, variants)
        raise InputError(f"unknown variant {variant!r}{hint}; there are {', '.join(variants)}")
    path = _profile_file(str(name))
    settings = _read_yaml(path)
    by_variant = settings.pop("variants", {})
    whole = isinstance(by_variant, dict) and all(isinstance(v, dict) for v in by_variant.values())
    if not whole:
        raise InputError(
            f"{path.name}: 'variants' must hold settings by variant, "
            f"such as siammask: {{train: {{pairs: 1000}}}}"
        )
    if unknown := [each for each in by_variant if each not in variants]:
        hint = did_you_mean(unknown[0], variants)
        raise InputError(f"{path.name}: settings for unknown variant {unknown[0]!r}{hint}")
    merged = _merge(_merge(variants[variant], settings), by_variant.get(variant, {}))
    for text in overrides:
        merged = _merge(merged, _parse_override(text))
    stages, given = variants[variant]["stages"], merged["stages"]
    if unknown := [each for each in given if each not in stages] if isinstance(given, dict) else []:
        hint = did_you_mean(unknown[0], stages)
        raise InputError(
            f"variant {variant} has no stage {unknown[0]!r}{hint}; there are {', '.join(stages)}"
        )
    merged |= {"name": path.stem, "variant": variant, "seed": seed}
    if data_root:
        merged = _merge(merged, {"data": {"root": str(data_root)}})
    return profile_from_dict(merged)


def profile_from_dict(settings: Mapping[str, Any]) -> Profile:
    """Return the profile of plain settings; the inverse of `Profile.to_dict`.

    Raises:
        InputError: an unknown key, a missing one, or a value that is not allowed.
    """
    try:
        return _PROFILE.validate_python(settings)
    except ValidationError as error:
        raise InputError(_explain(error)) from error


_PROFILE = TypeAdapter(Profile)
_MUST = {
    "int_type": "be of type int, a whole number",
    "float_type": "be a number",
    "finite_number": "be a finite number",
    "bool_type": "be true or false",
    "string_type": "be text",
    "string_unicode": "be one line of text",
    "string_pattern_mismatch": "be one line of text",
    "dataclass_type": "be a set of key: value settings",
    "dict_type": "be a set of key: value settings",
    "invalid_key": "have text as its key",
    "greater_than_equal": "be at least {ge:.15g}",
    "greater_than": "be above {gt:.15g}",
    "less_than_equal": "be at most {le:.15g}",
    "less_than": "be below {lt:.15g}",
    "too_short": "have an entry",
    "string_too_short": "have a character",
    "string_too_long": "have at most {max_length} characters",
}
"""What a setting must do, by pydantic's name for the error."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def _explain(error: ValidationError) -> str:
    """Say in one line what is wrong. An unknown key comes first: others may be missing for it."""
    faults = error.errors(include_url=False)
    fault = min(faults, key=lambda each: each["type"] != "unexpected_keyword_argument")
    kind, place, given = fault["type"], fault["loc"], _SHORT.repr(fault["input"])
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    key = key.removeprefix(".")
    if kind == "unexpected_keyword_argument":
        known = list(typing.get_type_hints(_declared(place[:-1])))
        text = f"unknown setting '{key}'{did_you_mean(place[-1], known)}"
    elif kind == "missing":
        text = f"{key} is missing"
    elif kind == "literal_error":
        known = [str(each) for each in typing.get_args(_declared(place))]
        hint = did_you_mean(fault["input"], known)
        text = f"{key} is {given}{hint}; it can be {', '.join(known)}"
    elif kind != "value_error":
        must = _MUST.get(kind, "be something else").format(**fault.get("ctx", {}))
        text = f"{key or 'a profile'} must {must}, not {given}"
    elif not dataclasses.is_dataclass(_declared(place)):
        text = f"{key} is {given}; {fault['ctx']['error']}"
    else:  # a check of a whole section; its text begins with the field
        text = f"{key}.{fault['ctx']['error']}".removeprefix(".")
    return _one_line(text)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _declared(place: Iterable[int | str]) -> Any:
    """Return the declared type of what stands at a place in a profile, without its limits."""
    kind: Any = Profile
    for part in place:
        if dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind)[str(part)]
        else:  # tuple[X, ...] or dict[str, X]
            kind = [each for each in typing.get_args(kind) if each is not ...][-1]
    return kind


def _profile_file(name: str) -> Path:
    known = available_profiles()
    if name in known:
        return PROFILE_DIR / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) and os.path.isfile(name):
        return Path(name)
    raise InputError(
        f"unknown profile {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}, "
        "or give a .yaml file"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = parse_yaml(file.read(LARGEST_YAML + 1), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings (key: value)")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"{text!r} is not of the form key=value, such as train.pairs=1000")
    if key.partition(".")[0] in ("name", "variant", "seed"):
        raise InputError(f"{text!r}: {key} is no setting but an argument of its own")
    tree: Any = parse_yaml(value, f"the value of {key!r}")
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def parse_yaml(text: str, what: str) -> Any:
    """Return what a short YAML document holds: dicts with text as keys, lists, text and numbers.

    Args:
        text: the document.
        what: names it in errors.

    Raises:
        InputError: it is too long, too deep or no YAML, or holds an alias (a few of them can fill
            the memory), a key twice, a key that is not text, or a number in another notation than
            the decimal one.
    """
    if len(text) > LARGEST_YAML:
        raise InputError(f"{what} is longer than {LARGEST_YAML} characters, too long for settings")
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except RecursionError as error:
        raise InputError(f"{what} is nested too deep for settings") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
        raise InputError(_one_line(f"cannot read {what}: {problem}{place}")) from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"cannot read {what}: a character or a value is not valid") from error


class _Loader(yaml.SafeLoader):
    """YAML without what settings do not need, and with 1e-3 as a number."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            problem = "an alias (*name) is not allowed, write its value out;"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            is_text = isinstance(key, yaml.ScalarNode) and key.tag == "tag:yaml.org,2002:str"
            if not is_text or key.value in seen:
                problem = "this key stands twice" if is_text else "a key must be text"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def decimal(self, node: yaml.ScalarNode) -> int:
        digits = str(self.construct_scalar(node)).replace("_", "")
        if not re.fullmatch(r"[-+]?[0-9]{1,20}", digits):
            problem = "a whole number must be up to 20 decimal digits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(digits)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.decimal)
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_.]*[eE][-+]?[0-9]+$")  # PyYAML itself wants 1.0e-3
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("+-0123456789"))
