"""Every case again, twice each, by two servers that share their answers: from the cache they are as exact. # A1 A2"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conformance.cases import CASES, MISTAKES, Case
from tests.conformance.clients import Addresses, Refused
from tests.conformance.exact import assert_exact
from tests.conformance.topologies import Topology, served
from tests.conformance.ways import WAYS, Way, each
from tests.valkey import Valkey
from tests.wire import ask

PLAIN_WAYS = [way for way in WAYS if way.client in ("httpx", "grpcio")]


@pytest.fixture(scope="module")
def servers(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Addresses]]:
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(Valkey(tmp_path_factory.mktemp("valkey")))
        cache = {"enabled": True, "redis_url": valkey.url, "redis_timeout": 2.0, "lease_wait": 2.0}
        settings = {"limits": {"max_rows": 2000}, "cache": cache}
        yield [stack.enter_context(served(topology, **settings)).addresses for _ in range(2)]


@pytest.fixture(scope="module")
def connect_both(servers: list[Addresses]) -> Iterator[Callable[[Way], list[Any]]]:
    opened: dict[Way, list[Any]] = {}
    with contextlib.ExitStack() as stack:

        def connected(way: Way) -> list[Any]:
            if way not in opened:
                opened[way] = [stack.enter_context(contextlib.closing(way.open(server))) for server in servers]
            return opened[way]

        yield connected


@each(PLAIN_WAYS, *CASES)
def test_a_cached_answer_is_as_exact_wherever_it_is_kept(
    way: Way, case: Case, connect_both: Callable[[Way], list[Any]]
) -> None:
    one, other = connect_both(way)
    for number, client in enumerate((one, other, one, other)):
        assert_exact(client.infer(case, f"call {number}"), case, way, f"call {number}")


@each(PLAIN_WAYS, *MISTAKES)
def test_a_refusal_is_the_same_each_time(way: Way, case: Case, connect_both: Callable[[Way], list[Any]]) -> None:
    for client in connect_both(way) * 2:
        with pytest.raises(Refused) as refusal:
            client.infer(case, "")
        assert (refusal.value.code, refusal.value.message) == case.refused


def test_the_cases_were_answered_from_memory_and_from_the_store(servers: list[Addresses]) -> None:
    # What is above would hold without a cache, too.
    pages = [ask(f"{server.http}/metrics", "GET").body.decode() for server in servers]
    for result in ("hit", "miss", "stored"):
        assert any(f'result="{result}"' in page for page in pages)
