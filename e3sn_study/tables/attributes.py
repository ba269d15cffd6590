"""Scores on sequences with and without each attribute that DAVIS-2016 gives them."""

from __future__ import annotations

import pandas as pd

from e3sn_study.records import MEANS, Records, reference
from e3sn_study.records.averages import Measured
from e3sn_study.tables.cells import NONE, note, number, titled

ATTRIBUTES: dict[str, str] = reference("tables")["attributes"]


def attributes(records: Records) -> pd.DataFrame:
    """J and F of E3SN on the sequences with and without each attribute of DAVIS-2016."""
    model = records.measure("davis2016", records.main_runs("e3sn"))
    labels = records.attributes("davis2016")
    if labels is None or model is None:
        reason = "no_attributes" if labels is None else "no_model"
        return titled([], records, "attributes", note(reason))
    rows = []
    compared = {name[0]: with_and_without(model, labels, name) for name in MEANS}
    for name, counts in compared["J"][["sequences", "of"]].iterrows():
        row = {"Attribute": f"{name}: {ATTRIBUTES.get(str(name), 'not known')}"}
        row["Sequences"] = f"{counts['sequences']} of {counts['of']}"
        for statistic, table in compared.items():
            for key in ("with", "without", "difference"):
                cell = table.loc[name, key]
                text = NONE if pd.isna(cell) else number(cell, signed=key == "difference")
                row[f"{statistic} {key}"] = text
        rows.append(row)
    return titled(rows, records, "attributes", note("attributes"))


def with_and_without(model: Measured, labels: pd.Series, statistic: str) -> pd.DataFrame:
    """Return means over scored sequences by attribute.

    Args:
        model: its scores.
        labels: attributes by sequence, with spaces between them.
        statistic: such as ``J-Mean``.

    Returns:
        By attribute: with, without (NaN if all sequences have it), difference, sequences (which
        have it), of (how many).
    """
    values = model.by_sequence(statistic)
    values = values[values.index.isin(labels.index)]
    has = labels[values.index].str.get_dummies(" ").astype(bool)
    means = {name: (values[own].mean(), values[~own].mean()) for name, own in has.items()}
    table = pd.DataFrame.from_dict(means, orient="index", columns=["with", "without"])
    difference = table["with"] - table["without"]
    return table.assign(difference=difference, sequences=has.sum(), of=len(has))
