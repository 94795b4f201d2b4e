"""Joined, run, checked and taken apart. # T3"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keelway.batching.policy import Share
from keelway.batching.together import Part, run_together
from keelway.errors import InvalidInput, RowsRefused
from keelway.types import Array

REFUSED = -1.0


def refusing(inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
    """Sums, or a refusal of the rows that are ``REFUSED``, by their places in the run."""
    bad = {int(row): InvalidInput("no picture") for row in np.flatnonzero(inputs["x"][:, 0] == REFUSED)}
    if bad:
        raise RowsRefused.of(bad)
    return [inputs["x"].sum(axis=1)]


def share(*values: float, abandoned: bool = False) -> Share:
    rows = np.array(values).reshape(-1, 1)
    return Share({"x": rows}, len(rows), ("y",), lambda outcome: None, lambda: abandoned)


def test_refused_rows_are_named_by_their_places_in_their_own_request() -> None:
    large = share(0, 1, 2, REFUSED, 4, REFUSED)
    parts = [Part(share(7), 0, 1), Part(large, 3, 3), Part(share(8, 9), 0, 2)]
    one, refused, two = run_together(refusing, parts)
    assert isinstance(refused, RowsRefused)
    assert sorted(refused.errors) == [3, 5]
    assert [outcome[0].tolist() for outcome in (one, two)] == [[7], [8, 9]]  # type: ignore[index]


def test_who_leaves_while_a_failed_run_is_repeated_is_left_out() -> None:
    gone, here = share(1, abandoned=True), share(2)
    outcomes = run_together(refusing, [Part(gone, 0, 1), Part(here, 0, 1), Part(share(REFUSED), 0, 1)])
    assert outcomes[0] == ()
    assert outcomes[1][0].tolist() == [2]  # type: ignore[index]
    assert isinstance(outcomes[2], RowsRefused)
