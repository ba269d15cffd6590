"""Read profiles from YAML. A wrong setting gives one line: its key, its value, what is allowed."""

import dataclasses
import os
import re
import reprlib
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError, did_you_mean
from e3sn_lib.files import read_text

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

    Raises InputError for an unknown profile, variant or key, or a value that is not allowed.

    Args:
        name: a shipped profile, see `available_profiles`, or the path of a YAML file.
        variant: ``e3sn``, ``e3sn-s`` or ``siammask``.
        overrides: ``"train.pairs=1000"``; values are read as YAML.
        seed: of the run, from 0.
        data_root: replaces ``data.root`` unless empty.
    """
    variants = _read_yaml(PROFILE_DIR / "variants.yaml")
    _check_known([variant], variants, "unknown variant")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not os.path.isfile(path):
        _check_known([str(name)], available_profiles(), "unknown profile or .yaml file")
        path = PROFILE_DIR / f"{name}.yaml"
    settings = _read_yaml(path)
    if given := settings.keys() & ARGUMENTS:
        raise InputError(f"{path.name}: {min(given)} is no setting but an argument of its own")
    by_variant = settings.pop("variants", {})
    if not isinstance(by_variant, dict) or not isinstance(by_variant.get(variant, {}), dict):
        raise InputError(f"{path.name}: 'variants' must hold settings by variant")
    _check_known(by_variant, variants, f"{path.name}: settings for unknown variant")
    merged = _merge(_merge(variants[variant], settings), by_variant.get(variant, {}))
    for text in overrides:
        merged = _merge(merged, _parse_override(text))
    if isinstance(merged["stages"], dict):
        _check_known(merged["stages"], variants[variant]["stages"], f"{variant} has no stage")
    merged |= {"name": path.stem, "variant": variant, "seed": seed}
    if data_root:
        merged = _merge(merged, {"data": {"root": str(data_root)}})
    return profile_from_dict(merged)


def profile_from_dict(settings: Mapping[str, Any]) -> Profile:
    """Return the profile of plain settings, the inverse of `Profile.to_dict`; raises InputError if
    a key is unknown or missing, or a value is not allowed."""
    try:
        return PROFILE.validate_python(settings)
    except ValidationError as error:
        raise InputError(_explain(error)) from error


ARGUMENTS = {"name", "variant", "seed"}
"""Arguments of `load_profile`; no file can set them."""
PROFILE = TypeAdapter(Profile)
_MUST = {
    "dataclass_type": "be a set of key: value settings",
    "dict_type": "be a set of key: value settings",
    "invalid_key": "have text as its key",
    "string_pattern_mismatch": "be one line of text",
    "too_short": "have an entry",
}
"""What a setting must do, by pydantic's name for the error, where pydantic's text is unclear."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def _explain(error: ValidationError) -> str:
    """Say in one line what is wrong. An unknown key comes first: where a key is misspelt, the right
    one is missing too."""
    faults = error.errors(include_url=False)
    fault = min(faults, key=lambda each: each["type"] != "unexpected_keyword_argument")
    kind, place, given = fault["type"], fault["loc"], _SHORT.repr(fault["input"])
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    key = "".join(parts).removeprefix(".")
    if kind == "unexpected_keyword_argument":
        return f"unknown setting '{key}'{did_you_mean(place[-1], _settings_of(place[:-1]))}"
    if kind == "missing":
        return f"{key} is missing"
    if kind != "value_error":
        must = _MUST.get(kind) or fault["msg"].partition(" should ")[2]
        hint = did_you_mean(fault["input"], re.findall("'(.*?)'", must))
        return f"{key or 'a profile'} must {must}, not {given}{hint}"
    if isinstance(fault["input"], Mapping):  # of a whole section; the text begins with the field
        return f"{key}.{fault['ctx']['error']}".removeprefix(".")
    return f"{key} is {given}; {fault['ctx']['error']}"


def _settings_of(place: Iterable[int | str]) -> list[str]:
    """Return the names of the settings in a section of a profile."""
    kind: Any = Profile
    for part in place:
        if dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind)[str(part)]
        else:  # tuple[X, ...] or dict[str, X]
            kind = [each for each in typing.get_args(kind) if each is not ...][-1]
    return [each.name for each in dataclasses.fields(kind)]


def _check_known(words: Iterable[Any], known: Collection[str], fault: str) -> None:
    """Raise an InputError that begins with `fault` for the first word that is not known."""
    for word in words:
        if word not in known:
            hint = did_you_mean(word, known)
            raise InputError(f"{fault} {word!r}{hint}; there are {', '.join(known)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    content = parse_yaml(read_text(path, "settings"), str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings (key: value)")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"{text!r} is not of the form key=value, such as train.pairs=1000")
    if key.strip().partition(".")[0] in ARGUMENTS:
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
    """Return what a short YAML document holds; `what` names it in errors. Raises InputError if it
    is no YAML, is too long or too deep, or has an alias or a key twice."""
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
        raise InputError(f"cannot read {what}: {problem}{place}") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"cannot read {what}: a character or a value is not valid") from error


class _Loader(yaml.SafeLoader):
    """YAML without aliases, of which a few can fill the memory, and with 1e-3 as a number."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            problem = "an alias (*name) is not allowed, write its value out;"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        values = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if values.index(key.value) < number:
                problem = "this key stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return mapping

    def decimal(self, node: yaml.ScalarNode) -> int:
        digits = str(self.construct_scalar(node)).replace("_", "")
        if not re.fullmatch(r"[-+]?[0-9]{1,20}", digits):
            problem = "a whole number must be up to 20 decimal digits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(digits)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.decimal)
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_.]*[eE][-+]?[0-9]+$")  # PyYAML itself wants 1.0e-3
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("+-0123456789"))
