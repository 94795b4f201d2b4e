"""What a sample showed of a model's inputs. Observed, not declared: it flags and describes, it never refuses.

Used for drift, reports and the ``out_of_range`` tags of the request line; ``keelway push`` makes one with ``observe``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from keelway.contract.sample import ColumnKind, column_kind, column_names, numbers
from keelway.contract.signature import Feature
from keelway.errors import InvalidInput
from keelway.types import NUMPY_DTYPES

if TYPE_CHECKING:
    import pandas as pd

#: The most bins of a histogram, and the most categories listed.
MAX_BINS: Final = 20
MAX_CATEGORIES: Final = 1_000

_WORDS: Mapping[ColumnKind, str] = {"number": "numbers", "boolean": "booleans", "text": "text"}


class ObservedFeature(msgspec.Struct, frozen=True, omit_defaults=True):
    """One feature as the sample showed it.

    ``count`` is of present values; null, NaN and infinite ones are ``missing``. ``deviation`` is of the population.
    ``minimum`` and ``maximum`` are over present values of a numeric feature. ``edges`` are increasing quantile edges
    and ``counts`` the number of present values in each of the len(edges) - 1 bins, the last bin closed on the right.
    ``categories`` maps a category to its count; ``categories_cut`` says that only the most frequent are listed.
    """

    name: str
    count: int
    missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    categories: dict[str, int] = {}
    categories_cut: bool = False


class Baseline(msgspec.Struct, frozen=True, omit_defaults=True):
    """``rows`` is the size of the sample; ``features`` are in the signature's order."""

    rows: int
    features: tuple[ObservedFeature, ...]


def observe(frame: pd.DataFrame, features: Sequence[Feature]) -> Baseline:
    """What ``frame`` shows of ``features``, in their order. Columns are found by name (as text); others are ignored.

    Numbers are rounded to the feature's datatype first, because that is what the model and the live histograms see:
    unrounded, the largest float64 of the sample would lie outside its own range once it comes back as float32.
    An infinite value counts as missing: no range or mean survives it, and JSON has no word for it, so ``count`` is of
    finite values and ``count + missing == rows`` always. Booleans are the categories ``false`` and ``true``. A feature
    that is itself a tensor is only counted.

    Raises ``InvalidInput`` if a feature has no column, or a column of another kind than its datatype.
    """
    names = column_names(frame.columns)
    positions = {name: position for position, name in enumerate(names)}
    observed = []
    for feature in features:
        if feature.name not in positions:
            raise InvalidInput(
                f"the sample has no column '{feature.name}'", field=feature.name, hint="give every feature a column"
            )
        observed.append(_observe_column(frame.iloc[:, positions[feature.name]].rename(feature.name), feature))
    return Baseline(rows=len(frame), features=tuple(observed))


def _observe_column(column: pd.Series[Any], feature: Feature) -> ObservedFeature:
    if feature.shape:
        missing = int(column.isna().sum())
        return ObservedFeature(feature.name, count=len(column) - missing, missing=missing)
    if feature.datatype not in ("BOOL", "BYTES"):
        return _observe_numbers(feature.name, numbers(column), NUMPY_DTYPES[feature.datatype])
    expected: ColumnKind = "boolean" if feature.datatype == "BOOL" else "text"
    kind = column_kind(column)
    if kind != expected:
        raise InvalidInput(
            f"column '{feature.name}' holds {_WORDS[kind]} where the model takes {_WORDS[expected]}",
            field=feature.name,
            hint="give the sample the model was trained on, or convert the column",
        )
    present = column[column.notna()].astype(object)
    values = (str(value) if kind == "text" else str(bool(value)).lower() for value in present)
    return _observe_categories(feature.name, Counter(values), len(column))


def _observe_numbers(name: str, values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> ObservedFeature:
    """One numeric feature from ``values`` of shape (rows,), NaN where missing, rounded to ``dtype`` first.

    ``mean`` and ``deviation`` (of the population) are absent where they exceed float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(dtype).astype(np.float64) if dtype.kind == "f" else values
        present = rounded[np.isfinite(rounded)]
        missing = len(values) - len(present)
        if not len(present):
            return ObservedFeature(name, count=0, missing=missing)
        edges = _edges(present)
        return ObservedFeature(
            name,
            count=len(present),
            missing=missing,
            minimum=float(present.min()),
            maximum=float(present.max()),
            mean=_finite(present.mean()),
            deviation=_finite(present.std()),
            edges=tuple(edges.tolist()),
            counts=tuple(np.histogram(present, edges)[0].tolist()) if len(edges) else (),
        )


def _edges(present: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Increasing edges of at most ``MAX_BINS`` bins over finite values, first to last covering them all.

    Quantiles, so that bins hold about equally many values. A value repeated so often that several quantiles fall on it
    gets a bin of its own, and up to ``MAX_BINS`` distinct values get one each: otherwise both values of a yes/no
    column, or the zeros of a column that is mostly zero, would share a bin with others and hide their drift.
    """
    distinct = np.unique(present)
    if len(distinct) == 1:
        only = distinct[0]
        # The narrowest bin that holds it; there is none below the lowest float64.
        return np.array([np.nextafter(only, -np.inf), only]) if only > np.finfo(np.float64).min else np.array([])
    halfway = distinct[:-1] / 2 + distinct[1:] / 2  # halved first: the sum of two neighbours may overflow
    if len(distinct) <= MAX_BINS:
        return np.unique(np.concatenate([distinct[:1], halfway, distinct[-1:]]))
    # Quantiles that are values of the sample: nothing is interpolated.
    quantiles, repeats = np.unique(
        np.quantile(present, np.linspace(0, 1, MAX_BINS + 1), method="inverted_cdf"), return_counts=True
    )
    # Each repeated quantile has freed an edge; it goes halfway to the next value, or before the last one.
    repeated = np.searchsorted(distinct, quantiles[repeats > 1]).clip(max=len(halfway) - 1)
    return np.unique(np.concatenate([quantiles, halfway[repeated]]))


def _observe_categories(name: str, counts: Counter[str], rows: int) -> ObservedFeature:
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    present = sum(counts.values())
    return ObservedFeature(
        name,
        count=present,
        missing=rows - present,
        categories=dict(ordered[:MAX_CATEGORIES]),
        categories_cut=len(ordered) > MAX_CATEGORIES,
    )


def _finite(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
