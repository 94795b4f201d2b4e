"""Two shares of the same rows compared: how much more often one is right than the other."""

from __future__ import annotations

import math

from keelway.statistics.estimates import Normal


def paired_difference(only_first: int, only_second: int, rows: int) -> Normal:
    """The share of rows of which the first is true less that of which the second is, of independent ``rows``: of
    ``only_first`` of them the first alone is true, of ``only_second`` the second alone.

    D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", Journal of Educational and Behavioral Statistics 37 (2012), 479-488: one added to each kind of
    discordant pair keeps the level down to few of them, where McNemar's own standard error is 0.
    """
    if not only_first and not only_second and rows < 2:
        return Normal(0.0, math.inf)
    first, second = (only_first + 1) / (rows + 2), (only_second + 1) / (rows + 2)
    error = math.sqrt(max(first + second - (first - second) ** 2, 0.0) / (rows + 2))
    return Normal((only_first - only_second) / rows, error, centre=first - second)
