"""Text that depends on settings: where the study differs from the paper, and the report's prose.

Entries of ``reference/*.yaml`` are dicts of templates. ``when`` and ``unless`` choose them by settings, given as
``section.key: value`` or a list of values; ``{section.key}`` in a text is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.profiles.loading import available_profiles, available_variants, load_profile
from e3sn_study.records import reference
from e3sn_study.tables.cells import percent
from e3sn_study.tables.costs import PAPER_PAIRS


def deviations(profile: Profile) -> pd.DataFrame:
    """What the paper says or leaves open, what we did, why, and the likely effect; only rows that hold for this profile."""
    columns = {"item": "Item", "paper": "The paper says", "ours": "We did", "why": "Why", "effect": "Likely effect"}
    table = pd.DataFrame(chosen(reference("deviations"), profile))[list(columns)].rename(columns=columns)
    table.attrs |= {"title": f"Deviations from the paper, and how its gaps were filled (profile {profile.name})", "notes": []}
    return table


def chosen(entries: Iterable[Mapping[str, Any]], profile: Profile) -> list[dict[str, str]]:
    """The entries that hold for a profile, with their texts filled in."""
    settings, words = _flat(profile), _words(profile)
    kept = [each for each in entries if _holds(each, settings)]
    texts = [{key: str(text).format(**words) for key, text in each.items() if key not in ("when", "unless")} for each in kept]
    return [{key: re.sub(r"(?<=\d)%", " %", text) for key, text in each.items()} for each in texts]


def profiles_of(profile: Profile) -> dict[str, Profile]:
    """The profile of each variant; a profile from a file of one's own stands for its own variant only."""
    if profile.name not in available_profiles():
        return {profile.variant: profile}
    return {name: profile if name == profile.variant else load_profile(profile.name, name) for name in available_variants()}


def set_label(config: TrainSetConfig) -> str:
    """``COCO (coco_mini)``."""
    title = KINDS[config.kind].title.format(year=config.year, split=config.split)
    return f"{title} ({Path(config.path[0]).name})"


def _holds(entry: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    def agree(conditions: Mapping[str, Any]) -> bool:
        found = [(settings[key], value) for key, value in conditions.items()]
        return all(setting == value or (isinstance(value, list) and setting in value) for setting, value in found)

    return agree(entry.get("when", {})) and not ("unless" in entry and agree(entry["unless"]))


def _flat(profile: Profile) -> dict[str, Any]:
    sections = {name: value for name, value in profile.to_dict().items() if isinstance(value, dict)}
    flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return flat | {"kinds": " ".join(sorted({each.kind for each in profile.data.train}))}


def _words(profile: Profile) -> dict[str, Any]:
    baseline = profiles_of(profile).get("siammask") or load_profile("paper", "siammask")
    total = sum(each.weight for each in profile.data.train) or 1.0
    sets = [f"{set_label(each)} {percent(each.weight / total)}" for each in profile.data.train]
    loss = SimpleNamespace(**{**vars(baseline.loss), "loc": {"l1": "L1", "smooth_l1": "smooth L1"}[baseline.loss.loc]})
    share = f"{100 * profile.train.pairs / PAPER_PAIRS:.2g} %"
    layers = ", ".join(profile.train.train_layers) or "no layer"
    return vars(profile) | {"baseline": loss, "sets": ", ".join(sets), "share": share, "layers": layers}
