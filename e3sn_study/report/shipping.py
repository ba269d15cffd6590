"""A trained run as something to use: one half-precision file, and a model card made from the files of record."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.data.kinds import KINDS
from e3sn_lib.errors import InputError
from e3sn_lib.files import write_text
from e3sn_lib.model.weights import load_model, save_model
from e3sn_lib.training.state import FINAL
from e3sn_study.records import BENCHMARKS, MEANS, STATISTICS, VARIANTS, Records
from e3sn_study.records.schema import BOUND, MODEL
from e3sn_study.tables.attributes import ATTRIBUTES, with_and_without
from e3sn_study.tables.cells import NONE, NOT_RUN, interval_text, number, percent, to_markdown
from e3sn_study.tables.costs import PAPER_PAIRS, runs
from e3sn_study.tables.deviations import set_label
from e3sn_study.tables.tables import OUTER

LIMITS = (
    "The box of the first frame has to be drawn by hand.",
    "It has seen the data above and nothing else: what it does on other kinds of images is not known.",
)
WORST = 3
"""Sequences and attributes that the card names."""
USES = (
    "Meant for research and teaching: to follow one or a few objects through a short video from boxes in its first frame.",
    "Not meant for decisions about people, for surveillance, or for anything where a wrong mask does harm.",
    "The code is under the MIT licence. The weights were made with the data above, some of it for non-commercial research only, "
    "and are to be used within those terms.",
)


def ship(run: Path, results: Path, out: Path) -> tuple[Path, Path]:
    """Write a run's model as ``out/VARIANT.safetensors`` in half precision, and its card ``out/VARIANT.md``.

    The file carries the settings of inference that the run was evaluated with and no folder of this machine.

    Args:
        run: folder of a finished run.
        results: files of record of the study that evaluated it.
        out: a folder.

    Returns:
        The file and the card.

    Raises:
        InputError: the run is not finished or not on record.
    """
    model, profile = load_model(run / FINAL)
    records = Records(results)
    record = _record(records, run.name)
    track = TrackConfig(**record["track"]) if record["track"] else profile.track
    shipped = replace(profile, track=track, data=replace(profile.data, root=""))
    path = out / f"{profile.variant}.safetensors"
    save_model(path, model, shipped, half=True, notes={"run": run.name, "commit": str(record.get("commit", "unknown"))})
    card = path.with_suffix(".md")
    write_text(card, model_card(records, run.name, shipped, path))
    return path, card


def model_card(records: Records, run: str, profile: Profile, file: Path) -> str:
    """What the shipped model is, in Markdown: data, licences, pairs seen, numbers and where they come from, limits, use.

    Args:
        records: the files of record.
        run: its name there.
        profile: what the run was trained by.
        file: the shipped model, of which the card gives the size and the digest.

    Raises:
        InputError: the run is not on record.
    """
    record, name = _record(records, run), VARIANTS.get(profile.variant, profile.variant)
    content = file.read_bytes()
    seen = f"{record['pairs']:,} pairs of images, {number(100 * record['pairs'] / PAPER_PAIRS, decimals=3)} % of 12 million"
    levels = ", ".join(map(str, profile.model.levels))
    source = runs(records).set_index("Run").loc[run]
    facts = {
        "File": f"`{file.name}`, {len(content) / 1e6:.1f} MB, weights in half precision, read as single precision",
        "SHA-256": f"`{hashlib.sha256(content).hexdigest()}`",
        "Run": f"`{run}`",
        "Command": f"`{source['Command']}`",
        "Seed": record["seed"],
        "Commit": source["Commit"],
        "Machine": f"{source['Machine']}, {source['Training time']}, {source['Precision']}",
        "Network": f"{profile.model.backbone}, {profile.model.channels} channels, masks from levels {levels}",
        "Inference": ", ".join(f"{key} {value}" for key, value in profile.to_dict()["track"].items()),
    }
    imagenet = "ResNet weights trained on ImageNet-1k, whose images are for non-commercial research"
    start = "nothing" if profile.train.weights == "none" else imagenet
    synthetic = (
        "\n**Trained on synthetic data: it shows that the code works and is of no other use.**\n" if records.synthetic else ""
    )
    absent = "".join(f"\nLeft out, because absent: {notice}.\n" for notice in record["absent"])
    return f"""# {name}: masks of an object in a video from one box

{name} of *E3SN: Efficient End-to-End Siamese Network for Video Object Segmentation* (Lan, Zhang, Xu, Zhang), trained anew by an
independent study; the authors' own weights were never published. This card is generated from the study's files of record.
{synthetic}
```bash
e3sn track VIDEO --box x,y,w,h --out out/      # --weights {file.name} where it lies elsewhere
```

{to_markdown(pd.DataFrame({"": list(facts), "This model": list(facts.values())}))}
## Data

Seen: {seen}, the length of SiamMask's first stage (the paper does not give its own). The backbone started from
{start}.

{to_markdown(_data(profile, record["absent"]))}
No sequence of a benchmark's validation set was used for training, and no setting was chosen by scores on them.
{absent}
## Scores

{to_markdown(_scores(records, run))}
{_bullets(_scores(records, run).attrs["notes"])}
## Limits

{_bullets([*LIMITS, *_failures(records, run)])}
## Use

{_bullets(USES)}"""


def _record(records: Records, run: str) -> dict[str, Any]:
    found = records.rows([run])
    if found.empty:
        remedy = "evaluate it first with e3sn reproduce, or name its --report"
        raise InputError(f"run {run} is not on record in {records.folder}; {remedy}")
    return {str(key): value for key, value in found.iloc[0].to_dict().items()}


def _data(profile: Profile, absent: list[str]) -> pd.DataFrame:
    gone = [
        any(notice.startswith(f"training set {each.kind} ({each.path[0]})") for notice in absent) for each in profile.data.train
    ]
    total = sum(each.weight for each, is_gone in zip(profile.data.train, gone, strict=True) if not is_gone)
    rows = [
        {
            "Training set": set_label(each),
            "Share of pairs": "absent" if is_gone else percent(each.weight / total),
            "Held out for choices": ", ".join(each.hold_out) or NONE,
            "Terms": KINDS[each.kind].terms,
        }
        for each, is_gone in zip(profile.data.train, gone, strict=True)
    ]
    return pd.DataFrame(rows)


def _scores(records: Records, run: str) -> pd.DataFrame:
    rows, notes = (
        [],
        [
            "Percent, by the official protocol, from the bounding rectangle of the first mask; brackets hold the 95 % "
            "bootstrap interval over sequences."
        ],
    )
    for benchmark, title in BENCHMARKS.items():
        methods = {"this model": records.measure(benchmark, [run])}
        methods |= {name: records.measure(benchmark, method=name) for name in OUTER}
        for label, measured in methods.items():
            if measured is None:
                values = dict.fromkeys(STATISTICS, NOT_RUN)
            else:
                values = {key: number(measured.value(key)) for key in STATISTICS}
                values |= {key: interval_text(measured.interval(key)) for key in MEANS}
            if measured or label == "this model":
                rows.append({"Benchmark": f"{title} val", "Method": label} | values)
        if extent := records.scope(benchmark):
            notes.append(f"{title}: {extent}.")
        elif reason := records.reason_not_run(benchmark):
            notes.append(f"{title}: not run: {reason.rstrip('.')}.")
    table = pd.DataFrame(rows)
    table.attrs["notes"] = notes
    return table


def _failures(records: Records, run: str) -> list[str]:
    """Where the model is at its worst on DAVIS-2016, and what perfect boxes would gain."""
    model, bound = (records.measure("davis2016", [run], method) for method in (MODEL, BOUND))
    if model is None:
        return []
    worst = model.by_sequence("J-Mean").nsmallest(WORST)
    lines = [f"The lowest J on DAVIS-2016: {', '.join(f'{name} {number(value)}' for name, value in worst.items())}."]
    labels = records.attributes("davis2016")
    if labels is not None:
        found = with_and_without(model, labels, "J-Mean")["difference"].nsmallest(WORST)
        named = ", ".join(f"{ATTRIBUTES.get(str(name), name)} {number(value, signed=True)}" for name, value in found.items())
        lines.append(f"J on sequences with an attribute against those without it, the largest losses: {named}.")
    if bound:
        gains = " and ".join(f"{name[0]} {number(bound.minus(model, name).mean, signed=True)}" for name in MEANS)
        lines.append(f"In true boxes its masks would score {gains}: what tracking loses. The rest is lost by the masks themselves.")
    return lines


def _bullets(lines: tuple[str, ...] | list[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)
