"""Rules as people write them, and how much of one is left."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.errors import InvalidInput
from keelway.guard.rate_rules import (
    Rule,
    has_room,
    left,
    limit_template,
    parse_rule,
    parse_rules,
    policy_field,
    room_after,
    used,
)
from keelway.ports import Use
from keelway.types import Peer, Principal

ACME, HOME = Principal("acme"), Peer("192.0.2.7")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1000 rows/minute per principal", ("rows", 1000, 60, ("principal",), "")),
        ("1 request/second per address", ("requests", 1, 1, ("address",), "")),
        ("20 requests/10 seconds per address on churn_2", ("requests", 20, 10, ("address",), "churn-2")),
        ("5 rows/2 hours per model", ("rows", 5, 7200, ("model",), "")),
        ("5 rows/day per model and principal", ("rows", 5, 86_400, ("principal", "model"), "")),
        ("  5  rows/day   per address ", ("rows", 5, 86_400, ("address",), "")),
    ],
)
def test_a_rule_is_a_sentence(text: str, rule: tuple[object, ...]) -> None:
    # W1
    parsed = parse_rule(text)
    assert (parsed.unit, parsed.amount, parsed.seconds, parsed.parties, parsed.model) == rule
    assert parse_rule(parsed.text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1000",
        "1000/minute",
        "rows/minute per principal",
        "0 rows/minute per principal",
        "-1 rows/minute per principal",
        "1e3 rows/minute per principal",
        "5 rows/0 seconds per principal",
        "5 rows/fortnight per principal",
        "5 rows/minute",
        "5 rows/minute per tenant",
        "5 rows/minute per principal and principal",
        "5 rows/minute per principal on Churn",
        "5 rows/minute per principal on churn and more",
        '5 rows/minute per principal on "x"',
        "5 rows/minute per principal\r\nx: y",
    ],
)
def test_what_is_no_rule_is_refused_without_being_repeated(text: str) -> None:
    # W1
    with pytest.raises(InvalidInput, match=r"rate_limits\.rules") as refused:
        parse_rule(text)
    assert refused.value.field == "rate_limits.rules"
    assert refused.value.hint is not None
    assert not text or text not in refused.value.message


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    # W1
    with contextlib.suppress(InvalidInput):
        parse_rule(text)


def test_the_same_rule_twice_is_one() -> None:
    # W1: it would count everything twice.
    assert len(parse_rules(["5 rows/day per address", "5  rows/day per address", "6 rows/day per address"])) == 2


@pytest.mark.parametrize(
    ("parties", "subject"),
    [
        ("principal", "acme"),
        ("address", "192.0.2.7"),
        ("model", "churn"),
        ("principal and model", "acme\nchurn"),
        ("address and principal", "acme\n192.0.2.7"),
    ],
)
def test_a_request_counts_for_whom_the_rule_says(parties: str, subject: str) -> None:
    # W1
    assert parse_rule(f"5 rows/day per {parties}").subject()(ACME, HOME, "churn") == subject


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    # W1
    subject = parse_rule("5 rows/day per address").subject()
    same = {subject(ACME, Peer(f"2001:db8:1:2::{host:x}"), "") for host in range(1, 500)}
    assert same == {"2001:db8:1:2::/64"}
    assert subject(ACME, Peer("2001:db8:1:3::1"), "") != subject(ACME, Peer("2001:db8:1:2::1"), "")
    assert subject(ACME, Peer("::ffff:192.0.2.7"), "") == "192.0.2.7"
    assert subject(ACME, Peer("fe80::1%eth0"), "") == "fe80::/64"


def rule(amount: int = 10, seconds: int = 60) -> Rule:
    return parse_rule(f"{amount} rows/{seconds} seconds per principal")


def test_what_was_used_in_the_window_before_fades() -> None:
    # W1
    assert used(Use(8, 1, 60.0), 60) == 9
    assert used(Use(8, 1, 15.0), 60) == 3
    assert left(Use(8, 1, 15.0), rule()) == 7
    assert left(Use(80, 1, 60.0), rule()) == 0


@given(
    st.integers(1, 50),
    st.integers(1, 100),
    st.integers(0, 60),
    st.integers(0, 60),
    st.floats(0, 1),
    st.integers(1, 60),
)
def test_there_is_room_when_it_was_said_and_not_before(
    amount: int, seconds: int, previous: int, current: int, share: float, cost: int
) -> None:
    # W1: what Retry-After says
    one = rule(amount, seconds)
    use = Use(previous, current, share * seconds)
    wait = room_after(use, one, cost)
    if cost > amount:
        assert wait == math.inf
        return
    assert 0 <= wait <= 2 * seconds
    assert has_room(at(use, wait + 1e-6, seconds), one, cost)
    if wait > 0.01:
        assert not has_room(at(use, wait - 0.01, seconds), one, cost)


def at(use: Use, later: float, seconds: float) -> Use:
    """``use`` after ``later`` seconds in which nothing is used."""
    if later < use.left:
        return Use(use.previous, use.current, use.left - later)
    if later < use.left + seconds:
        return Use(use.current, 0, use.left + seconds - later)
    return Use(0, 0, seconds)


def test_the_fields_of_the_draft() -> None:
    # W1
    assert limit_template(rule()) % (3, 4) == b'"10 rows/60 seconds per principal";r=3;t=4'
    assert policy_field(rule()) == b'"10 rows/60 seconds per principal";q=10;w=60;qu="rows"'
