"""How scores differ between sequences with and without each attribute that DAVIS-2016 gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from e3sn_study.records import MEANS, NONE, NOT_RUN, Measured, main_runs, measure, number, read_runs, read_scores
from e3sn_study.tables.cells import titled

ATTRIBUTES = {
    "AC": "appearance change",
    "BC": "background clutter",
    "CS": "camera shake",
    "DB": "dynamic background",
    "DEF": "deformation",
    "EA": "edge ambiguity",
    "FM": "fast motion",
    "HO": "heterogeneous object",
    "IO": "interacting objects",
    "LR": "low resolution",
    "MB": "motion blur",
    "OCC": "occlusion",
    "OV": "out of view",
    "ROT": "rotation",
    "SC": "shape complexity",
    "SV": "scale variation",
}
"""As Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016), name them."""


def attributes(results: Path) -> pd.DataFrame:
    """J and F of E3SN on the sequences with and without each attribute of DAVIS-2016."""
    model = measure(read_scores(results, "davis2016"), main_runs(read_runs(results), "e3sn"))
    labels = read_attributes(results)
    lacking = "needs the db_info.yml of the DAVIS-2016 tool kit in the DAVIS folder" if labels is None else "no E3SN is scored"
    rows, notes = [{"Attribute": NOT_RUN, "Sequences": NOT_RUN}], [f"Not run: {lacking}."]
    if model and labels is not None:
        rows, compared = [], {name: with_and_without(model, labels, name) for name in MEANS}
        for name in compared["J-Mean"].index:
            count, of = compared["J-Mean"].loc[name, ["sequences", "of"]].astype(int)
            row = {"Attribute": f"{name}: {ATTRIBUTES.get(name, 'not known')}", "Sequences": f"{count} of {of}"}
            for statistic, table in compared.items():
                for key in ("with", "without", "difference"):
                    cell = table.loc[name, key]
                    row[f"{statistic[0]} {key}"] = NONE if pd.isna(cell) else number(cell, signed=key == "difference")
            rows.append(row)
        notes = ["Attributes as DAVIS-2016 labels its sequences. Few sequences have each, so no intervals are given."]
    return titled(pd.DataFrame(rows), results, "Attributes", "E3SN on DAVIS-2016 val", "davis2016", *notes)


def read_attributes(results: Path) -> pd.Series | None:
    """Lists of attributes by sequence, if ``davis2016/attributes.csv`` is there (columns sequence, attributes: "AC BC ...")."""
    path = results / "davis2016" / "attributes.csv"
    if not path.is_file():
        return None
    return pd.read_csv(path, dtype=str).fillna("").set_index("sequence")["attributes"].str.split()


def with_and_without(model: Measured, labels: pd.Series, statistic: str) -> pd.DataFrame:
    """Means over scored sequences by attribute: with, without (NaN if all have it), difference; how many of how many have it."""
    values = model.by_sequence(statistic)
    values = values[values.index.isin(labels.index)]
    rows = {}
    for name in sorted({each for names in labels[values.index] for each in names}):
        has = np.array([name in names for names in labels[values.index]])
        inside, outside = values[has].mean(), values[~has].mean()
        rows[name] = [inside, outside, inside - outside, has.sum(), len(has)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["with", "without", "difference", "sequences", "of"])
