"""Small made-up folders of results, whose tables can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from e3sn_lib.profiles.identity import config_hash
from e3sn_study.records import STATISTICS, reference
from e3sn_study.records.schema import SESSIONS

VAL = reference("val_sequences")["davis2016"]


def add_run(
    results: Path,
    variant: str = "e3sn",
    seed: int = 0,
    *,
    pairs: int = 12_000,
    seconds: float = 3600.0,
    memory: float = 1000.0,
    overrides: Sequence[str] = (),
    data: str = "coco",
    machine: str = "a processor",
    title: str = "a made-up profile",
    stages: Sequence[str] = ("end_to_end",),
    **more: object,
) -> str:
    """Write the record of a training run; returns its name."""
    name = (
        f"made-{variant}-seed{seed}-{config_hash({'overrides': list(overrides), 'pairs': pairs})}"
    )
    record = {
        "run": name,
        "variant": variant,
        "profile": "made",
        "title": title,
        "seed": seed,
        "pairs": pairs,
        "seconds": seconds,
        "peak_memory_mb": memory,
        "replaced_files": 0,
        "skipped_steps": 1,
        "overrides": list(overrides),
        "data": [{"name": data, "tracks": 1500, "weight": 1.0}],
        "absent": [],
        "environment": {
            "cpu": machine,
            "cores": 2,
            "threads": 1,
            "commit": "0123456789abcdef",
            "dirty": False,
            "date": "2026-01-01",
        },
    }
    folder = results / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record | more))
    log = pd.DataFrame({"step": range(len(stages)), "stage": stages})
    log["pairs"] = pairs * (log["step"] + 1) // len(stages)
    log = log.assign(seconds=seconds, peak_memory_mb=memory, data_share=0.0)
    log = log.assign(pairs_per_second=pairs / seconds, w4=1.0)
    log.to_csv(folder / f"{name}_log.csv", index=False)
    return name


def add_scores(
    results: Path,
    run: str,
    j: float | Mapping[str, float],
    f: float | Mapping[str, float] = 0.5,
    *,
    method: str = "mask",
    benchmark: str = "davis2016",
    sequences: Sequence[str] = VAL,
    objects: Mapping[str, int] | None = None,
) -> None:
    """Write scores, 0 to 1, the same for each object of a sequence; recall is the mean, decay a tenth. Run "": a baseline."""
    rows = []
    for name in sequences:
        pair = [each[name] if isinstance(each, Mapping) else each for each in (j, f)]
        values = dict(
            zip(STATISTICS, [value * share for value in pair for share in (1, 1, 0.1)], strict=True)
        )
        for number in range(1, (objects or {}).get(name, 1) + 1):
            variant = run.removeprefix("made-").split("-seed")[0]
            labels = {
                "benchmark": benchmark,
                "variant": variant,
                "seed": int(run.split("-seed")[1][0]) if run else None,
                "run": run,
                "method": method,
            }
            rows.append(labels | {"sequence": name, "object": number} | values | {"frames": 48})
    path = results / benchmark / f"{run or 'baselines'}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, mode="a", header=not path.exists(), index=False)


def add_costs(
    results: Path,
    training: Mapping[str, Sequence[float]],
    tracking: Mapping[str, float],
    whole: Mapping[str, Sequence[float]] = {},
) -> None:
    """Write seconds per pair of each variant's stages (of two the second has a quarter of the pairs), and per object-frame."""
    rows, parts = [], {"training": training, "training with whole maps": whole or training}
    for part, times in parts.items():
        for variant, seconds in times.items():
            shares = (1.0,) if len(seconds) == 1 else (0.75, 0.25)
            for number, (share, each) in enumerate(zip(shares, seconds, strict=True)):
                rows.append([variant, part, f"stage{number}", "frozen", share, each])
    rows += [[variant, "tracking", "", "", 1.0, seconds] for variant, seconds in tracking.items()]
    table = pd.DataFrame(rows, columns=["variant", "part", "stage", "backbone", "share", "seconds"])
    results.mkdir(parents=True, exist_ok=True)
    table.assign(batch=8, machine="a processor").to_csv(results / "variant_costs.csv", index=False)


def add_speed(
    results: Path,
    run: str,
    per_second: float,
    benchmark: str = "davis2016",
    sequences: Sequence[str] = VAL,
) -> None:
    """Write timing of 50 frames of two objects each, so that 98 object-frames take 98 / `per_second` seconds."""
    rows = [
        {
            "run": run,
            "sequence": name,
            "frames": 50,
            "objects": 2,
            "seconds_reading": 1.0,
            "seconds_tracking": 98 / per_second,
        }
        for name in sequences
    ]
    pd.DataFrame(rows).to_csv(results / benchmark / f"{run}_speed.csv", index=False)


def add_sessions(results: Path, run: str) -> None:
    """Write scores of int8 graphs: with all additions 2 points of J better than with one step."""
    columns = ["contender", "J-Mean", "F-Mean", "fps", "steps"]
    names = list(SESSIONS)
    rows = [(names[0], 0.68, 0.67, 35, 1), (names[-2], 0.7, 0.66, 28, 1.234)]
    table = pd.DataFrame(rows, columns=columns)
    table = table.assign(run=run, machine="a processor", sequences=len(VAL), threads=2)
    table.to_csv(results / "sessions.csv", index=False)


def add_exports(results: Path, run: str) -> None:
    """Write scores of a model and its graphs: int8 is 1 point better than torch and 3 times as fast."""
    rows = [("torch fp32", 0.67, 0.66, 12, 0.721), ("ONNX int8", 0.68, 0.67, 35, 0.719)]
    table = pd.DataFrame(rows, columns=["contender", "J-Mean", "F-Mean", "fps", "J_bound"])
    table = table.assign(run=run, machine="a processor", sequences=len(VAL), threads=2)
    table.to_csv(results / "exports.csv", index=False)
