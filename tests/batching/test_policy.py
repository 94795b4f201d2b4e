"""Which requests share a run. # T1 T3"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keelway.batching.policy import Share, batches


def share(rows: int, width: int = 2, wanted: tuple[str, ...] = ("y",)) -> Share:
    return Share({"x": np.zeros((rows, width))}, rows, wanted, lambda outcome, run_rows: None, lambda: False)


def sizes(*shares: Share, most: int = 4) -> list[list[int]]:
    return [[one.rows for one in batch] for batch in batches(shares, most)]


def test_requests_share_a_run_up_to_its_limit() -> None:
    assert sizes(share(1), share(2), share(1), share(1)) == [[1, 2, 1], [1]]
    assert sizes(share(3), share(3)) == [[3], [3]]
    assert sizes() == []


def test_a_request_beyond_the_limit_is_a_run_of_its_own() -> None:
    assert sizes(share(1), share(9), share(1)) == [[1], [9], [1]]


def test_other_shapes_and_other_outputs_never_meet() -> None:
    one, other, third = share(1), share(1, width=3), share(1, wanted=("z",))
    assert batches([one, other, third, one], 4) == [[one, one], [other], [third]]


SHARES = st.builds(share, st.integers(1, 6), st.sampled_from([1, 2]), st.sampled_from([("y",), ("z",), ("y", "z")]))


@given(st.lists(SHARES, max_size=12), st.integers(1, 8))
def test_every_request_is_in_one_run_with_its_like_and_in_order(shares: list[Share], most: int) -> None:
    made = batches(shares, most)
    assert sorted(map(id, (one for batch in made for one in batch))) == sorted(map(id, shares))

    def kind(one: Share) -> Any:
        return one.wanted, one.inputs["x"].shape[1:]

    for batch in made:
        assert len(set(map(kind, batch))) == 1
        assert len(batch) == 1 or sum(one.rows for one in batch) <= most
    for wanted in set(map(kind, shares)):
        in_order = [one for one in shares if kind(one) == wanted]
        assert [one for batch in made for one in batch if kind(one) == wanted] == in_order
