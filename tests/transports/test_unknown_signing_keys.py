"""Tokens whose signing key has to be fetched first: their callers wait, on every way in, and nobody else does. # U1"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tests.credentials import JWT, KEYS, Keys, Published, jwk, token
from tests.serving import GatedRuntime, Server, Shelf, score, wait_until
from tests.transports.grpc.test_server import GRPC, INFER, Asker, infer_bytes
from tests.transports.test_credentials import Way, bearer, call, door, lane, until_known
from tests.wire import predict_bytes


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def server(issuer: Published, keys: Keys) -> Iterator[Server]:
    jwt = {**JWT, "algorithms": ["RS256"], "jwks_url": issuer.url, "jwks_pause": 0.05}
    shelf = Shelf().serve("m", score).serve("gated", GatedRuntime)
    sections = {"auth": {**KEYS, "max_failures": 10**6}, "jwt": jwt, "runtime": {"inline_below_ms": 0.0}}
    with Server(shelf, keys=keys, grpc=GRPC, **sections) as running:
        wait_until(lambda: issuer.asked, "the first fetch")
        time.sleep(0.1)
        yield running


@pytest.mark.parametrize("way", [lane, door, call], ids=["fast lane", "door", "grpc"])
def test_a_caller_with_a_new_signing_key_waits_and_is_let_in(server: Server, issuer: Published, way: Way) -> None:
    assert way(server, bearer(token("RS256", kid="first"))) == 200
    issuer.document = {"keys": [jwk("RS256", "second", "other")]}
    issuer.delay = 0.2
    assert way(server, bearer(token("RS256", kid="second", name="other"))) == 200
    assert way(server, bearer(token("RS256", kid="first"))) == 401


@pytest.mark.parametrize("way", [lane, door, call], ids=["fast lane", "door", "grpc"])
def test_a_storm_of_unknown_keys_fetches_once_and_holds_up_nobody(
    server: Server, issuer: Published, keys: Keys, way: Way
) -> None:
    key = keys.add("nightly")
    until_known(server, key)
    tokens = server.app._callers.authenticator.tokens  # type: ignore[attr-defined]
    tokens.published._settings = type("Slow", (), {"jwks_pause": 60.0, "jwks_ttl": 600.0, "jwks_timeout": 5.0})()
    tokens.published._tried_at -= 120
    issuer.delay, asked = 0.5, issuer.asked
    with ThreadPoolExecutor(12) as pool, server.wire() as wire:
        storm = [pool.submit(way, server, bearer(token("RS256", kid=f"unknown-{n}"))) for n in range(24)]
        time.sleep(0.1)
        began = time.monotonic()
        assert wire.ask(predict_bytes(bearer(key))).status == 200
        assert time.monotonic() - began < 0.3
        assert {future.result() for future in storm} == {401}
    assert issuer.asked - asked <= 1


def test_who_leaves_while_the_issuer_is_asked_leaves_nothing_behind(server: Server, issuer: Published) -> None:
    issuer.delay = 0.3
    text = token("RS256", kid="unknown")
    with server.wire() as wire:
        wire.send(predict_bytes(bearer(text)))
    with Asker(server) as asker, pytest.raises(grpc.RpcError):
        asker.infer(timeout=0.1, metadata=[("authorization", f"Bearer {text}")])
    time.sleep(0.5)
    assert server.app._admission.in_flight == 0
    issuer.delay = 0.0
    assert lane(server, bearer(token("RS256", kid="first"))) == 200


def test_who_leaves_after_it_was_let_in_cancels_its_work(server: Server, issuer: Published) -> None:
    issuer.document = {"keys": [jwk("RS256", "second", "other")]}
    with server.wire() as wire:
        text = token("RS256", kid="second", name="other")
        wire.send(predict_bytes(bearer(text), path="/v1/models/gated/predict", row=[-1.0, 1.0]))
        wait_until(lambda: server.app._admission.in_flight == 1, "the call to be let in")
    wait_until(lambda: server.app._admission.in_flight == 0, "its permit to be back")
    for model, _, runtime in server.app.fleet._source.opened:  # type: ignore[attr-defined]
        if model == "gated":
            runtime.gate.set()


def test_a_large_message_is_taken_in_after_the_wait(server: Server, issuer: Published) -> None:
    issuer.document = {"keys": [jwk("RS256", "second", "other")]}
    issuer.delay = 0.2
    with Asker(server) as asker:
        body = infer_bytes("m", rows=90_000)
        assert len(body) > 500_000
        text = token("RS256", kid="second", name="other")
        asker.call(INFER, body, metadata=[("authorization", f"Bearer {text}")])
