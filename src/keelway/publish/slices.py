"""Parts of a golden sample by what one feature holds: categories, quantile bins of numbers, and what is missing. Pure;
``diff.py`` looks at each by itself, since a mean over all rows hides a part that got worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from keelway.publish.golden import Columns
from keelway.types import Array

#: Categories of a feature that are slices of their own, the most frequent ones, and bins of one that is a number.
MAX_CATEGORIES: Final = 8
BINS: Final = 4


class Slice(NamedTuple):
    """The rows [n] of the sample in which ``feature`` is ``what``."""

    feature: str
    what: str
    rows: Array


def slices(rows: Columns) -> Iterator[Slice]:
    """Those of every feature that is no tensor and does not hold the same everywhere."""
    for name, column in rows.items():
        if column.ndim != 1:
            continue
        found = list(_numbers(column) if column.dtype.kind in "iuf" else _categories(column))
        if len(found) > 1:
            yield from (Slice(name, what, mask) for what, mask in found)


def _categories(column: Array) -> Iterator[tuple[str, Array]]:
    words = np.array(["missing" if value is None else str(value) for value in column.tolist()], object)
    missing = np.array([value is None for value in column.tolist()])
    counts = Counter(words[~missing].tolist())
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    if len(ordered) == len(words):  # identifiers, texts: no two are alike
        return
    for word in ordered[:MAX_CATEGORIES]:
        yield word, (words == word) & ~missing
    rest = ~missing & ~np.isin(words, ordered[:MAX_CATEGORIES])
    if rest.any():
        yield "others", rest
    if missing.any():
        yield "missing", missing


def _numbers(column: Array) -> Iterator[tuple[str, Array]]:
    values = column.astype(np.float64)
    finite = np.isfinite(values)
    distinct = np.unique(values[finite])
    if len(distinct) <= BINS:
        for value in distinct:
            yield f"{value:g}", finite & (values == value)
    else:
        edges = np.unique(np.quantile(values[finite], np.linspace(0, 1, BINS + 1)))
        for place, (low, high) in enumerate(pairwise(edges)):
            last = place == len(edges) - 2
            inside = finite & (values >= low) & ((values <= high) if last else (values < high))
            yield f"{low:.4g} to {'' if last else 'below '}{high:.4g}", inside
    if not finite.all():
        yield "missing", ~finite
