"""Every case over every client that can be told whom to trust, both transports over TLS on one port. # R1 G1 G2"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.certificates import Authority
from tests.conformance.cases import CASES, MISTAKES, Case
from tests.conformance.clients import Addresses, Refused
from tests.conformance.conftest import CLIENT
from tests.conformance.exact import assert_exact
from tests.conformance.server import ServerProcess
from tests.conformance.ways import OVER_TLS, Way, each


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Addresses]:
    certificate, key = authority.sign("one-port")
    tls = {"certificate": str(certificate), "private_key": str(key)}
    with ServerProcess(grpc={"address": ""}, tls=tls, limits={"max_rows": 2000}) as running:
        yield running.addresses._replace(trust=authority.certificate)


@pytest.fixture(scope="module")
def connect_over_tls(secured: Addresses) -> Iterator[Callable[[Way], Any]]:
    opened: dict[Way, Any] = {}
    with contextlib.ExitStack() as stack:

        def connected(way: Way) -> Any:
            if way not in opened:
                opened[way] = stack.enter_context(contextlib.closing(way.open(secured)))
            return opened[way]

        yield connected


@pytest.fixture
def tls_client(way: Way, connect_over_tls: Callable[[Way], Any], record_property: Callable[[str, object], None]) -> Any:
    record_property(CLIENT, ["one port with TLS", way.client, way.version(), f"{way.transport} {way.encoding}"])
    return connect_over_tls(way)


@each(OVER_TLS, *CASES)
def test_a_request_is_answered_exactly(way: Way, case: Case, tls_client: Any) -> None:
    assert_exact(tls_client.infer(case, "call 7"), case, way, "call 7")


@each(OVER_TLS, *MISTAKES)
def test_a_refusal_that_every_client_can_cause(case: Case, tls_client: Any) -> None:
    with pytest.raises(Refused) as refusal:
        tls_client.infer(case, "")
    assert (refusal.value.code, refusal.value.message) == case.refused
