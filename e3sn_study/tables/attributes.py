"""Scores on sequences with and without each attribute that DAVIS-2016 gives them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from e3sn_study.records import MEANS, Records, reference
from e3sn_study.records.averages import Measured
from e3sn_study.tables.cells import NONE, NOT_RUN, note, number, titled

ATTRIBUTES: dict[str, str] = reference("tables")["attributes"]


def attributes(records: Records) -> pd.DataFrame:
    """J and F of E3SN on the sequences with and without each attribute of DAVIS-2016."""
    model = records.measure("davis2016", records.main_runs("e3sn"))
    labels, rows = records.attributes("davis2016"), []
    if model and labels is not None:
        compared = {name: with_and_without(model, labels, name) for name in MEANS}
        for name, counts in compared["J-Mean"][["sequences", "of"]].astype(int).iterrows():
            row = {"Attribute": f"{name}: {ATTRIBUTES.get(str(name), 'not known')}"}
            row["Sequences"] = f"{counts['sequences']} of {counts['of']}"
            for statistic, table in compared.items():
                for key in ("with", "without", "difference"):
                    cell = table.loc[name, key]
                    text = NONE if pd.isna(cell) else number(cell, signed=key == "difference")
                    row[f"{statistic[0]} {key}"] = text
            rows.append(row)
    key = "no_attributes" if labels is None else "attributes" if model else "no_model"
    table = pd.DataFrame(rows or [{"Attribute": NOT_RUN, "Sequences": NOT_RUN}])
    return titled(table, records, "attributes", note(key))


def with_and_without(model: Measured, labels: pd.Series, statistic: str) -> pd.DataFrame:
    """Return means over scored sequences by attribute.

    Args:
        model: its scores.
        labels: lists of attributes by sequence.
        statistic: such as ``J-Mean``.

    Returns:
        By attribute: with, without (NaN if all sequences have it), difference, sequences (which
        have it), of (how many).
    """
    values = model.by_sequence(statistic)
    values = values[values.index.isin(labels.index)]
    rows = {}
    for name in sorted({each for names in labels[values.index] for each in names}):
        has = np.array([name in names for names in labels[values.index]])
        inside, outside = values[has].mean(), values[~has].mean()
        rows[name] = [inside, outside, inside - outside, has.sum(), len(has)]
    columns = ["with", "without", "difference", "sequences", "of"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
