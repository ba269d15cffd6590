"""What makes two runs the same: the settings that determine their weights, and a short name for them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from e3sn_lib.config import Profile, StageConfig


def training_settings(profile: Profile) -> dict[str, Any]:
    """What determines a run's weights: settings that differ from their defaults, without those that only say where or how fast.

    A field that is added later with a default does not change the name of an older run.
    """
    settings = _differences(profile)
    for path in (
        "title",
        "minutes",
        "track",
        "study",
        "data.root",
        "data.workers",
        "data.evaluation",
        "train.log_every",
        "train.checkpoint_every",
        "train.tensorboard",
    ):
        section, _, key = path.rpartition(".")
        (settings.get(section, {}) if section else settings).pop(key, None)
    for stage in settings.get("stages", {}).values():  # listed whole, unlike other sections
        for key in ("warmup", "sets"):
            if stage[key] == getattr(StageConfig(), key):
                del stage[key]
    return settings


def _differences(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, as plain values."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(value):
            found[item.name] = _differences(value)
        elif value != item.default:
            found[item.name] = dataclasses.asdict(config)[item.name]
    return json.loads(json.dumps({key: value for key, value in found.items() if value != {}}))


def config_hash(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that do not depend on the order of keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def run_name(profile: Profile, sets: Any) -> str:
    """``PROFILE-VARIANT-seedN-HASH``; the hash is of all settings that training depends on, and of the sets that are there."""
    opened = [[tracks.name, len(tracks.tracks), config.weight, config.frame_range] for tracks, config in sets.opened]
    digest = config_hash({"settings": training_settings(profile), "sets": opened})
    return f"{profile.name}-{profile.variant}-seed{profile.seed}-{digest}"
