"""The gate: what it holds for a request, and that it is given back."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.limited import ACME, BETA, HERE, Limited

from keelway.errors import Overloaded, RateLimited
from keelway.guard.admission import Admission
from keelway.guard.gate import Gate
from keelway.types import Principal, Priority

FIRST = Priority.INTERACTIVE


def test_a_principal_may_have_so_many_requests_under_way() -> None:
    # W1
    noticed: list[None] = []
    gate = Gate(Admission(10), most=2, noted=lambda: noticed.append(None))
    assert [gate.enter(FIRST, ACME, HERE) is None for _ in range(3)] == [True, True, False]
    refused = gate.enter(FIRST, ACME, HERE)
    assert isinstance(refused, RateLimited)
    assert refused.retry_after
    assert "2 requests" in refused.message
    assert gate.enter(FIRST, BETA, HERE) is None, "that is another's business"
    assert gate.admission.in_flight == 3
    gate.leave(ACME)
    assert gate.enter(FIRST, ACME, HERE) is None
    assert len(noticed) == 2


def test_who_finds_no_permit_is_not_counted_by_the_rate_limits() -> None:
    # W1 T2
    limited = Limited("1 request/minute per principal")
    gate = Gate(Admission(1), limited.limiter)
    gate.admission.try_enter()
    assert isinstance(gate.enter(FIRST, ACME, HERE), Overloaded)
    gate.admission.leave()
    assert gate.enter(FIRST, ACME, HERE) is None


def test_who_is_limited_holds_nothing() -> None:
    # W1
    gate = Gate(Admission(1), Limited("1 request/minute per principal").limiter, most=1)
    assert gate.enter(FIRST, ACME, HERE) is None
    gate.leave(ACME)
    for _ in range(3):
        assert isinstance(gate.enter(FIRST, ACME, HERE), RateLimited)
    assert gate.admission.in_flight == 0
    assert gate.enter(FIRST, BETA, HERE) is None


def test_a_request_to_no_model_takes_no_permit() -> None:
    # W1
    gate = Gate(Admission(1), Limited("1 request/minute per address").limiter)
    gate.pass_by(ACME, HERE)
    assert gate.admission.in_flight == 0
    with pytest.raises(RateLimited):
        gate.pass_by(ACME, HERE)
    Gate(Admission(1)).pass_by(ACME, HERE)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=80))
def test_whatever_comes_and_goes_no_more_is_held_than_is_under_way(steps: list[tuple[bool, str]]) -> None:
    # W1
    gate, under_way = Gate(Admission(5), most=2), Counter[str]()
    for comes, name in steps:
        principal = Principal(name)
        if comes:
            if gate.enter(FIRST, principal, HERE) is None:
                under_way[name] += 1
        elif under_way[name]:
            under_way[name] -= 1
            gate.leave(principal)
        assert gate._under_way == +under_way
        assert gate.admission.in_flight == under_way.total() <= 5
        assert all(count <= 2 for count in under_way.values())
