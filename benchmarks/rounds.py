"""Figures of interleaved rounds: their median and spread, and ratios taken round by round. Pure.

A ratio of two medians would mix rounds in which the machine was fast with rounds in which it was slow; here each round
gives one ratio, and the median is taken of those.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of some rounds, and the lowest and highest of them."""

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; ``ValueError`` without any."""
    if not values:
        raise ValueError("no rounds")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """``ours`` divided by ``theirs``, round by round; ``ValueError`` unless both have the same rounds."""
    return spread([our / their for our, their in zip(ours, theirs, strict=True)])


def better_of(*servers: Sequence[float]) -> list[float]:
    """The best rate of each round, whichever server it was of."""
    return [max(rates) for rates in zip(*servers, strict=True)]
