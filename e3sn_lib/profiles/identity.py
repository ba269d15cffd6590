"""What makes two runs the same: the settings that determine their weights, and a short name."""

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e3sn_lib.config import Profile, StageConfig, TrainSetConfig
from e3sn_lib.errors import InputError
from e3sn_lib.profiles.loading import PROFILE

UNTRAINED = (
    *("title", "minutes", "track", "study", "data.root", "data.workers", "data.evaluation"),
    *("train.log_every", "train.checkpoint_every", "train.tensorboard", "train.backup"),
)
"""Settings that change no weights: folders, speed, logging, and what comes after the training."""


def training_settings(profile: Profile) -> dict[str, Any]:
    """Return what determines a run's weights: the settings that differ from their defaults.

    Those of `UNTRAINED` are left out. A field that is added later with a default does not change
    the name of an older run.
    """
    settings: dict[str, Any] = PROFILE.dump_python(profile, mode="json", exclude_defaults=True)
    train, data = settings.get("train", {}), settings.get("data", {})
    for key in UNTRAINED:
        section, _, name = key.rpartition(".")
        (settings.get(section, {}) if section else settings).pop(name, None)
    if source := train.pop("init_weights", ""):  # its content counts, not its place
        train["init_sha256"] = profile.train.init_sha256 or content_hash(Path(source))
    # All fields of a stage and a set are listed, but those that came later only if they are set.
    plain = profile.to_dict()
    settings["stages"] = plain["stages"]
    if "train" in data:
        data["train"] = plain["data"]["train"]
    for stage in settings["stages"].values():
        _drop_defaults(stage, StageConfig(), ("warmup", "sets"))
        for key in ("search_shift", "negative_pairs"):
            if stage[key] is None:
                stage[key] = -1.0  # so was "not set" written when the oldest runs got their names
    for entry in data.get("train", []):
        later = ("masks", "mask_suffix", "mask_kind", "hold_out_share")
        _drop_defaults(entry, TrainSetConfig(entry["kind"], entry["path"]), later)
    return settings


def _drop_defaults(entry: dict[str, Any], defaults: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        if entry[key] == getattr(defaults, key):
            del entry[key]


def content_hash(path: Path) -> str:
    """Return 12 hexadecimal digits of a file's SHA-256; raises InputError if it cannot be read."""
    try:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "there is no such file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        fault = f"train.init_weights: cannot read {path} ({error.strerror})"
        raise InputError(f"{fault}; give the file of a trained model") from error


def config_hash(settings: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that do not depend on the order of keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def run_name(profile: Profile, sets: Any) -> str:
    """Return ``PROFILE-VARIANT-seedN-HASH``.

    The hash is of all settings that training depends on and of the opened sets (`TrainSets`): their
    names, numbers of tracks, weights and frame ranges.
    """
    opened = [
        [tracks.name, len(tracks.tracks), config.weight, config.frame_range]
        for tracks, config in sets.opened
    ]
    digest = config_hash({"settings": training_settings(profile), "sets": opened})
    return f"{profile.name}-{profile.variant}-seed{profile.seed}-{digest}"
