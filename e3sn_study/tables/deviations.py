"""Texts that depend on the settings: where the study differs from the paper, texts of the report.

``reference/deviations.yaml`` and ``report.yaml`` hold entries of Jinja2 texts. An entry holds if
its expression ``when`` is true or absent. Settings stand in texts and expressions by their names.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from e3sn_lib.config import Profile, TrainSetConfig
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.profiles.loading import available_profiles, load_profile
from e3sn_study.records import reference
from e3sn_study.tables.cells import NONE, PAPER_PAIRS, note, percent

COLUMNS = {"item": "Item", "paper": "The paper says", "ours": "We did", "why": "Why"}
COLUMNS["effect"] = "Likely effect"
_TEXTS = Environment(undefined=StrictUndefined)  # noqa: S701 plain text, which the page escapes
_TEXTS.filters |= {"count": "{:,}".format, "plain": "{:g}".format, "percent": percent}


def deviations(profile: Profile, compared: Profile | None = None) -> pd.DataFrame:
    """Return the deviations that hold for a profile: item, the paper, ours, why, likely effect.

    `compared` is the profile of the networks in Tables 3 and 4. Its rows follow, if they differ.
    """
    compared = compared or profile
    rows, others = (chosen(reference("deviations"), each) for each in (profile, compared))
    different = [each for each in others if each not in rows]
    items = {each["item"] for each in others}
    absent = ", ".join(each["item"] for each in rows if each["item"] not in items) or NONE
    notes = [note("compared", profile=compared.name, absent=absent)] if different else []
    rows += [each | {"item": f"{each['item']}, Tables 3 and 4"} for each in different]
    table = pd.DataFrame(rows)[list(COLUMNS)]
    title = f"Deviations from the paper, and how its gaps were filled (profile {profile.name})"
    table.attrs |= {"title": title, "notes": notes}
    return table.rename(columns=COLUMNS)


def chosen(entries: Iterable[Mapping[str, Any]], profile: Profile) -> list[dict[str, str]]:
    """Return the entries that hold for a profile, with their texts filled in; raises
    jinja2.UndefinedError if a text or a condition names a setting that does not exist."""
    words = _words(profile)
    return [
        {key: _TEXTS.from_string(text).render(words) for key, text in each.items() if key != "when"}
        for each in entries
        if _TEXTS.compile_expression(each.get("when", "true"), undefined_to_none=False)(words)
    ]


def set_label(config: TrainSetConfig) -> str:
    """Return the name of a training set: ``COCO (coco_mini)``."""
    title = KINDS[config.kind].title.format(year=config.year, split=config.split)
    return f"{title} ({Path(config.path[0]).name})"


def sets_seen(profile: Profile, absent: Iterable[str]) -> list[TrainSetConfig]:
    """Return the training sets of a run that its notices do not call absent."""
    told = " ".join(absent)
    sets = profile.data.train
    return [each for each in sets if f"training set {each.kind} ({each.path[0]})" not in told]


SET_COLUMNS = ["Training set", "Share of pairs", "Frames apart", "Smallest object"]
SET_COLUMNS += ["Held out for choices", "Terms", "From"]


def training_sets(profile: Profile, absent: Iterable[str] = ()) -> pd.DataFrame:
    """Return the training sets of a run; those that its notices call absent have no share."""
    seen, rows = sets_seen(profile, absent), []
    total = sum(each.weight for each in seen) or 1.0
    for each in profile.data.train:
        kind, row = KINDS[each.kind], {"Training set": set_label(each)}
        row["Share of pairs"] = percent(each.weight / total) if each in seen else "absent"
        row["Frames apart"] = f"at most {each.frame_range}" if each.frame_range > 1 else NONE
        row["Smallest object"] = f"{each.min_area:,.0f} pixels" if kind.has_masks else NONE
        share = f"{percent(each.hold_out_share)} of the images" if each.hold_out_share else NONE
        row["Held out for choices"] = ", ".join(each.hold_out) or share
        row |= {"Terms": kind.terms, "From": kind.origin.format(year=each.year, split=each.split)}
        rows.append(row)
    return pd.DataFrame(rows, columns=SET_COLUMNS)


def _words(profile: Profile) -> dict[str, Any]:
    """Return what texts and conditions can name: settings by section, and words made of them."""
    known = profile.name if profile.name in available_profiles() else "paper"
    siammask = profile if profile.variant == "siammask" else load_profile(known, "siammask")
    baseline = vars(siammask.loss)
    total = sum(each.weight for each in profile.data.train) or 1.0
    limits = sorted({each.min_area for each in profile.data.train if KINDS[each.kind].has_masks})
    sets = [f"{set_label(each)} {percent(each.weight / total)}" for each in profile.data.train]
    return vars(profile) | {
        "baseline": baseline | {"loc": {"l1": "L1", "smooth_l1": "smooth L1"}[baseline["loc"]]},
        "kinds": " ".join(sorted({each.kind for each in profile.data.train})),
        "sets": ", ".join(sets),
        "smallest": " or ".join(f"{each:,.0f}" for each in limits),
        "share": f"{100 * profile.train.pairs / PAPER_PAIRS:.2g} %",
        "layers": ", ".join(profile.train.train_layers) or "no layer",
    }
