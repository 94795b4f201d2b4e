"""Slices of the sample: the rows of one value of a column, or of one range of its numbers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keelway.checks.plan import SliceRule
from keelway.checks.scoring import Bools
from keelway.contract.sample import column_kind
from keelway.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd


class Slice(NamedTuple):
    """``name`` such as ``region=north``; ``mask``, (rows,)."""

    name: str
    mask: Bools


def slices(frame: pd.DataFrame, rule: SliceRule) -> tuple[list[Slice], list[Slice]]:
    """Those that ``rule`` makes of ``frame``, and those that have too few rows to be judged.

    Raises ``InvalidInput`` if a column is not there."""
    found: list[Slice] = []
    for name in rule.columns:
        if name not in frame.columns:
            raise InvalidInput(f"the sample has no column '{name}' to slice by", field=name)
        found += _of_column(frame[name], rule.bins)
    large = [part for part in found if part.mask.sum() >= rule.min_rows]
    return large, [part for part in found if part.mask.sum() < rule.min_rows]


def _of_column(column: pd.Series[Any], bins: int) -> list[Slice]:
    missing = column.isna().to_numpy()
    parts = [Slice(f"{column.name} missing", missing)] if missing.any() else []
    present = column[~missing]
    if column_kind(column) == "number" and present.nunique() > 2 * bins:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        edges = np.unique(np.quantile(values[~missing], np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
        place = np.searchsorted(edges, values)
        ends = ["", *(f"{edge:.6g}" for edge in edges), ""]
        for number in range(len(edges) + 1):
            low, high = ends[number], ends[number + 1]
            name = f"{column.name} ≤ {high}" if not low else f"{column.name} > {low}"
            name += f" ≤ {high}" if low and high else ""
            parts.append(Slice(name, (place == number) & ~missing))
        return parts
    parts += [Slice(f"{column.name}={value}", (column == value).to_numpy()) for value in sorted(present.unique())]
    return parts
