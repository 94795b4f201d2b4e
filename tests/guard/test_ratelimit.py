"""Rate limits, whichever store counts: one suite over memory and a real Valkey, and what only memory does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.guard.limited import ACME, BETA, HERE, THERE, Limited
from tests.line import run
from tests.valkey import Valkey

from keelway.clock import SystemClock
from keelway.guard import ratelimit
from keelway.guard.ratelimit import RateLimiter
from keelway.guard.ratelimit_redis import RedisLimitStore
from keelway.ports import Use
from keelway.remote.redis import RedisLink

Made = Callable[..., AsyncIterator[Limited]]


@pytest.fixture(params=["memory", "redis"])
def limited(request: pytest.FixtureRequest, valkey: Valkey) -> object:
    @asynccontextmanager
    async def made(*rules: str) -> AsyncIterator[Limited]:
        clock = SystemClock()
        store = None
        if request.param == "redis":
            patient = {"timeout": 5.0, "failures": 3, "pause": 5.0}
            store = RedisLimitStore(RedisLink(valkey.url, clock, setting="store", what="the store", **patient))
        one = Limited(*rules, clock=clock, store=store, on_failure="closed")
        try:
            yield one
        finally:
            await one.limiter.close()

    return made


def scenario(limited: object, *rules: str) -> Callable[[Callable[[Limited], object]], None]:
    """Runs what it decorates with a limiter of ``rules``."""

    def decorator(body: Callable[[Limited], object]) -> None:
        async def within() -> None:
            async with limited(*rules) as one:  # type: ignore[operator]
                await body(one)  # type: ignore[misc]

        run(within())

    return decorator


def test_requests_cost_one_each_and_only_so_many_pass(limited: object) -> None:
    # W1
    @scenario(limited, "5 requests/minute per principal")
    async def _(one: Limited) -> None:
        assert await one.let_through(9, rows=1000) == 5
        assert await one.let_through(9, principal=BETA) == 5
        assert one.noticed == {"principal": 8}


def test_rows_cost_as_many_as_there_are(limited: object) -> None:
    # W1
    @scenario(limited, "100 rows/minute per principal")
    async def _(one: Limited) -> None:
        assert await one.let_through(5, rows=32) == 3
        assert not await one.ask(rows=5)
        assert await one.let_through(9, rows=1) == 4


def test_each_address_has_its_own(limited: object) -> None:
    # W1
    @scenario(limited, "3 requests/minute per address")
    async def _(one: Limited) -> None:
        assert await one.let_through(5) == 3
        assert await one.let_through(5, principal=BETA) == 0
        assert await one.let_through(5, peer=THERE) == 3


def test_a_rule_on_a_model_counts_that_model_alone(limited: object) -> None:
    # W1
    @scenario(limited, "3 requests/minute per principal on lead_scoring", "5 requests/minute per model")
    async def _(one: Limited) -> None:
        assert await one.let_through(9, model="lead-scoring") == 3
        assert await one.let_through(9, model="lead-scoring", principal=BETA) == 2
        assert await one.let_through(9, model="churn") == 5


def test_a_request_is_refused_by_whichever_of_its_rules_is_used_up(limited: object) -> None:
    # W1
    @scenario(limited, "80 requests/minute per address", "50 rows/minute per principal", "4 requests/day per model")
    async def _(one: Limited) -> None:
        assert await one.let_through(2, rows=20) == 2
        assert not await one.ask(rows=20)
        assert await one.let_through(9, rows=1) == 2
        assert set(one.noticed) == {"principal", "model"}


def test_a_refusal_says_when_to_come_back_and_what_the_limit_is(limited: object) -> None:
    # W1
    @scenario(limited, "5 requests/10 seconds per principal")
    async def _(one: Limited) -> None:
        await one.let_through(5)
        for _ in range(2):  # counted, and known to be used up
            assert not await one.ask()
            assert one.refusal.retry_after is not None
            assert 9 < one.refusal.retry_after <= 12.1, "all of it was used at once"
            fields = dict(one.refusal.fields)
            assert fields[b"ratelimit"].startswith(b'"5 requests/10 seconds per principal";r=0;t=1')
            assert fields[b"ratelimit-policy"] == b'"5 requests/10 seconds per principal";q=5;w=10;qu="requests"'


def test_who_comes_back_when_it_was_told_to_is_let_in(limited: object) -> None:
    # W1
    @scenario(limited, "4 requests/second per principal")
    async def _(one: Limited) -> None:
        assert await one.let_through(6) == 4
        assert one.refusal.retry_after is not None
        await asyncio.sleep(one.refusal.retry_after + 0.3)
        assert await one.ask()


def test_a_request_that_costs_more_than_the_whole_amount_is_told_to_split_itself(limited: object) -> None:
    # W1
    @scenario(limited, "10 rows/minute per principal")
    async def _(one: Limited) -> None:
        assert not await one.ask(rows=11)
        assert one.refusal.retry_after is None
        assert "split it" in one.refusal.message
        assert await one.ask(rows=10), "it has used nothing"


def test_requests_at_once_get_no_more_than_one_after_the_other(limited: object) -> None:
    # W1: counted atomically
    @scenario(limited, "20 rows/minute per principal")
    async def _(one: Limited) -> None:
        let = await asyncio.gather(*(one.ask(rows=2) for _ in range(40)))
        assert sum(let) == 10


def test_requests_at_once_under_two_rules_get_no_more_than_either_allows(limited: object) -> None:
    # W1: each rule is counted atomically, both side by side. A request that one of them refuses gives back what it took
    # of the other, which may come too late for its neighbour.
    @scenario(limited, "20 rows/minute per principal", "30 rows/minute per address")
    async def _(one: Limited) -> None:
        let = await asyncio.gather(*(one.ask(rows=2) for _ in range(40)))
        assert 0 < sum(let) <= 10


def test_names_that_would_break_a_key_are_told_apart(limited: object) -> None:
    # W1
    @scenario(limited, "1 request/minute per principal")
    async def _(one: Limited) -> None:
        for name in ("a", "a/b", "a}", "ä", "a\nb", "x" * 300, "x" * 299 + "y", "\ud800"):
            assert await one.let_through(2, principal=type(ACME)(name)) == 1


def test_a_request_that_failed_costs_a_row(limited: object) -> None:
    # W1: what is no request at all must not be free.
    @scenario(limited, "3 rows/minute per address")
    async def _(one: Limited) -> None:
        for _ in range(3):
            assert one.limiter.enter(ACME, HERE) is None
            one.limiter.fail(ACME, HERE)
            await asyncio.sleep(0.02)
        assert not await one.ask()
        assert one.limiter.enter(ACME, HERE) is not None, "and from then on it is refused before it is parsed"


def test_a_request_to_no_model_costs_a_request(limited: object) -> None:
    # W1
    @scenario(limited, "3 requests/minute per address", "1 rows/minute per address")
    async def _(one: Limited) -> None:
        for _ in range(3):
            assert one.limiter.pass_by(ACME, HERE) is None
            await asyncio.sleep(0.02)
        assert not await one.ask()


# In memory


def test_in_memory_requests_are_counted_before_they_are_parsed() -> None:
    # W1 R3
    one = Limited("3 requests/minute per address", "5 requests/minute per principal and address")
    assert [one.limiter.enter(ACME, HERE) is None for _ in range(5)] == [True] * 3 + [False] * 2
    assert one.limiter.enter(BETA, THERE) is None


def test_rows_that_are_used_up_are_refused_before_they_are_parsed() -> None:
    # W1 R3
    async def scenario() -> None:
        one = Limited("10 rows/minute per principal")
        assert await one.ask(rows=10)
        assert not await one.ask()
        assert one.limiter.enter(ACME, HERE) is not None
        one.clock.advance(119.0)
        assert one.limiter.enter(ACME, HERE) is None

    run(scenario())


def test_what_is_refused_by_one_rule_is_not_taken_from_another() -> None:
    # W1
    async def scenario() -> None:
        one = Limited("10 rows/minute per principal", "20 rows/minute per address")
        assert await one.let_through(9, rows=10) == 1
        assert await one.let_through(9, rows=10, principal=BETA) == 1

    run(scenario())


def test_an_answer_says_how_much_is_left_of_the_tightest_rule() -> None:
    # W1
    async def scenario() -> None:
        one = Limited("100 rows/minute per principal", "4 requests/minute per address")
        assert await one.ask(rows=10)
        assert one.field == b'"4 requests/minute per address";r=3;t=61'
        assert await one.ask(rows=80)
        assert one.field == b'"100 rows/minute per principal";r=10;t=61'
        assert await Limited("5 rows/minute per address on other").ask()

    run(scenario())


def test_what_is_known_to_be_used_up_is_bounded() -> None:
    # W1
    one = Limited("1 request/minute per address", most=10)
    for number in range(40_000):
        one.limiter.enter(ACME, type(HERE)(f"a{number % 20_000}"))
    assert len(one.limiter._spent) <= 16_384


def test_looking_through_those_who_have_nothing_left_is_rare_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # W1: a crowd that is always just above the bound must not have all of it looked through for each of its requests.
    monkeypatch.setattr(ratelimit, "_SPENT", 100)
    one, looked = Limited("1 request/minute per address"), 0
    ((rule, _),) = one.limiter.counted
    for number in range(2_000):
        one.clock.advance(0.7)  # a store has a window for each caller: one is free again as another is refused
        before = one.limiter._spent
        one.limiter._remember(rule, str(number), Use(0, 1, 70.0), one.clock.monotonic())
        looked += one.limiter._spent is not before
    assert looked <= 2_000 // 25


def test_a_limiter_without_rules_lets_everything_through() -> None:
    # W1
    one = RateLimiter([], SystemClock(), most=1)
    assert one.enter(ACME, HERE) is None
    assert one.charge(ACME, HERE, "churn", 10**9, math.inf) == b""
