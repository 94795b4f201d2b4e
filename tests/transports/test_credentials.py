"""Credentials over every way into a server: REST's fast lane, its door, and gRPC. # U1"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.credentials import HS, KEYS, Keys, token
from tests.serving import Item, Server, Shelf, Wire, predict_bytes, score, wait_until
from tests.transports.grpc.test_server import GRPC, INFER, Asker, infer_bytes
from tests.wire import Reply

from keelway.dataplane import DataPlane, InferenceCall
from keelway.wire import open_inference_pb2 as wire_pb2
from keelway.wire.health_pb2 import HealthCheckRequest
from keelway.wire.reflection_pb2 import ServerReflectionRequest

SERVICE = "/inference.GRPCInferenceService/"
Way = Callable[..., int]
UNAUTHENTICATED, FORBIDDEN, UNKNOWN, LIMITED = 401, 403, 404, 429
_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.UNAUTHENTICATED: UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: UNKNOWN,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LIMITED,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def server(keys: Keys, audit: Path) -> Iterator[Server]:
    shelf = Shelf().serve("m", score).serve("other_model", score).put("late", "1.0.0", Item(score))
    control = {"allow_model_control": True, "drain_delay": 0.0}
    sections = {"auth": {**KEYS, "max_failures": 1000}, "jwt": HS, "audit": {"file": str(audit)}, "serving": control}
    with Server(shelf, keys=keys, grpc=GRPC, **sections) as running:
        yield running


def rest(server: Server, *headers: tuple[str, str], model: str = "m", query: str = "") -> int:
    with server.wire() as wire:
        return wire.ask(predict_bytes(*headers, path=f"/v1/models/{model}/predict{query}")).status


def lane(server: Server, *headers: tuple[str, str], model: str = "m") -> int:
    """Twice on one connection: the second head is remembered."""
    with server.wire() as wire:
        first, second = (wire.ask(predict_bytes(*headers, path=f"/v1/models/{model}/predict")) for _ in range(2))
        assert first.status == second.status
        return first.status


def door(server: Server, *headers: tuple[str, str], model: str = "m") -> int:
    return rest(server, *headers, model=model, query="?usual")


def call(server: Server, *headers: tuple[str, str], model: str = "m") -> int:
    with Asker(server) as asker:
        statuses = set()
        for _ in range(2):
            try:
                asker.infer(model, metadata=[(name.lower(), value) for name, value in headers])
                statuses.add(200)
            except grpc.RpcError as error:
                statuses.add(_STATUS[error.code()])
        (status,) = statuses
        return status


def until_known(server: Server, key: str) -> None:
    wait_until(lambda: rest(server, bearer(key)) == 200, "the key to be known")


WAYS = pytest.mark.parametrize("way", [lane, door, call], ids=["fast lane", "door", "grpc"])


def bearer(text: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {text}")


@WAYS
def test_who_shows_nothing_is_asked_for_credentials(server: Server, way: Way) -> None:
    assert way(server) == UNAUTHENTICATED


@WAYS
def test_a_key_lets_in_by_either_header(server: Server, keys: Keys, way: Way) -> None:
    key = keys.add("nightly")
    until_known(server, key)
    assert way(server, ("X-API-Key", key)) == 200
    assert way(server, bearer(key), ("X-API-Key", key)) == 200
    assert way(server, ("Authorization", f"bEARER {key}")) == 200


@WAYS
def test_what_is_no_credential_does_not_hold(server: Server, keys: Keys, way: Way) -> None:
    key, other = keys.add("nightly"), keys.add("weekly")
    until_known(server, other)
    wrong = [
        [bearer(key[:-1] + ("A" if key[-1] != "A" else "B"))],
        [bearer("kw_000000000000_" + "A" * 43)],
        [bearer(key + "x")],
        [("Authorization", "Bearer")],
        [("Authorization", key)],
        [("Authorization", "Basic YTpi")],
        [("X-API-Key", "")],
        [("X-API-Key", key + " " + key)],
        [bearer(f"{key}, Bearer {key}")],
        [bearer(key), ("X-API-Key", other)],
        [bearer(key), bearer(other)],
        [bearer(key), bearer(key)],
        [("X-API-Key", key), ("X-API-Key", other)],
        [bearer(token()), ("X-API-Key", key)],
        [bearer("a.b.c")],
        [bearer("a" * 20_000)],
    ]
    assert [way(server, *headers) for headers in wrong] == [UNAUTHENTICATED] * len(wrong)


@WAYS
def test_a_token_lets_in_by_its_scopes(server: Server, way: Way) -> None:
    assert way(server, bearer(token())) == 200
    assert way(server, bearer(token(scope="predict:m"))) == 200
    assert way(server, bearer(token(scope="predict:m")), model="other_model") == UNKNOWN
    assert way(server, bearer(token(exp=1))) == UNAUTHENTICATED
    assert way(server, bearer(token(key="x" * 32))) == UNAUTHENTICATED


@WAYS
def test_a_forbidden_model_looks_like_an_unknown_one_unless_it_is_known(server: Server, way: Way) -> None:
    limited = bearer(token(scope="predict:other-model feedback:m"))
    assert way(server, limited, model="other_model") == 200
    assert way(server, limited, model="nobody") == UNKNOWN
    assert way(server, bearer(token(scope="metrics")), model="m") == UNKNOWN
    assert way(server, limited, model="m") == FORBIDDEN


@WAYS
def test_a_revoked_key_is_refused_although_its_head_is_remembered(server: Server, keys: Keys, way: Way) -> None:
    key = keys.add("nightly")
    until_known(server, key)
    keys.revoke(key)
    began = time.monotonic()
    wait_until(lambda: _tried(way, server, key) == UNAUTHENTICATED, "the key to be gone")
    assert time.monotonic() - began < 2
    assert way(server, bearer(key)) == UNAUTHENTICATED


def _tried(way: Way, server: Server, key: str) -> int:
    try:
        return way(server, bearer(key))
    except (AssertionError, ValueError):  # between two calls of one attempt
        return 0


def test_under_load_a_revoked_key_is_refused_and_another_goes_on(server: Server, keys: Keys) -> None:
    gone, stays = keys.add("gone"), keys.add("stays")
    until_known(server, stays)
    ended, statuses = threading.Event(), {gone: [], stays: []}  # type: ignore[var-annotated]

    def ask(key: str) -> None:
        with server.wire() as wire:
            while not ended.is_set():
                statuses[key].append((time.monotonic(), wire.ask(predict_bytes(bearer(key))).status))

    threads = [threading.Thread(target=ask, args=(key,)) for key in (gone, stays)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    keys.revoke(gone)
    revoked = time.monotonic()
    time.sleep(1.0)
    ended.set()
    for thread in threads:
        thread.join()
    assert {status for _, status in statuses[stays]} == {200}
    assert statuses[gone][-1][1] in (UNAUTHENTICATED, LIMITED)  # its address has failed often by then
    assert max(at for at, status in statuses[gone] if status == 200) < revoked + 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=12), usual=st.lists(st.booleans(), min_size=12))
def test_requests_on_one_connection_never_share_a_principal(
    crowd: tuple[Server, list[str], list[InferenceCall]], order: list[int], usual: list[bool]
) -> None:
    server, texts, calls = crowd
    calls.clear()
    with server.wire() as wire:
        wire.send(
            b"".join(
                predict_bytes(bearer(texts[one]), path="/v1/models/m/predict" + ("?usual" if odd else ""))
                for one, odd in zip(order, usual, strict=False)
            )
        )
        replies = [wire.reply() for _ in order]
    assert [reply.status for reply in replies if reply] == [UNAUTHENTICATED if one == 3 else 200 for one in order]
    assert [asked.principal.name for asked in calls] == [f"key:caller-{one}" for one in order if one != 3]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_calls_on_one_connection_never_share_a_principal(
    crowd: tuple[Server, list[str], list[InferenceCall]], order: list[int]
) -> None:
    server, texts, calls = crowd
    calls.clear()
    with Asker(server) as asker:
        ask = asker.channel.unary_unary(INFER)
        futures = [
            ask.future(infer_bytes("m"), timeout=20, metadata=[("authorization", f"Bearer {texts[one]}")])
            for one in order
        ]
        codes = [future.code() for future in futures]
    ok, refused = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
    assert codes == [refused if one == 3 else ok for one in order]
    names = sorted(asked.principal.name for asked in calls)
    assert names == sorted(f"key:caller-{one}" for one in order if one != 3)


@pytest.fixture(scope="module")
def crowd() -> Iterator[tuple[Server, list[str], list[InferenceCall]]]:
    """A server, three keys that hold and one that does not, and the calls that came down the line."""
    keys, calls, infer = Keys(), [], DataPlane.infer  # type: ignore[var-annotated]
    texts = [keys.add(f"caller-{number}") for number in range(3)]

    def noted(self: DataPlane, asked: InferenceCall) -> Any:
        calls.append(asked)
        return infer(self, asked)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DataPlane, "infer", noted)
        with Server(Shelf().serve("m", score), keys=keys, grpc=GRPC, auth={**KEYS, "max_failures": 10**9}) as running:
            yield running, [*texts, "kw_000000000000_" + "A" * 43], calls


def test_a_permit_is_not_held_and_the_connection_goes_on_after_a_refusal(server: Server, keys: Keys) -> None:
    key = keys.add("nightly")
    until_known(server, key)
    with server.wire() as wire:
        for _ in range(5):
            refused = wire.ask(predict_bytes())
            assert refused.status == UNAUTHENTICATED
            assert refused.headers["www-authenticate"] == 'Bearer realm="keelway"'
            assert wire.ask(predict_bytes(bearer(key))).status == 200
        wrong = wire.ask(predict_bytes(bearer("x.y.z")))
        assert wrong.headers["www-authenticate"] == 'Bearer realm="keelway", error="invalid_token"'
        assert key not in json.dumps(dict(wrong.headers)) + wrong.body.decode()


# Everything else


def get(server: Server, path: str, *scopes: str, method: str = "GET") -> Reply:
    headers = {"Authorization": f"Bearer {token(scope=' '.join(scopes))}"} if scopes else {}
    return server.get(path, **headers) if method == "GET" else server.post(path, {}, **headers)


def test_probes_are_open_and_nothing_else_is(server: Server) -> None:
    for path in ("/health/live", "/health/ready", "/health/startup", "/ping", "/v2/health/live", "/v2/health/ready"):
        assert get(server, path).status == 200, path
    guarded = "/ /docs /docs/ /openapi.json /metrics /v1/models /v1/models/m /v2 /v2/models/m /v2/models/m/ready"
    for path in (*guarded.split(), "/v2/models/m/versions/1.0.0", "/nothing", "/health/live%0A"):
        assert get(server, path).status == UNAUTHENTICATED, path
    for path in ("/v2/repository/index", "/v2/repository/models/late/load", "/v2/repository/models/m/unload"):
        assert get(server, path, method="POST").status == UNAUTHENTICATED, path


def test_a_route_asks_for_its_scope(server: Server) -> None:
    assert get(server, "/metrics", "predict:*").status == FORBIDDEN
    assert get(server, "/metrics%0A", "predict:*").status in (FORBIDDEN, UNKNOWN)
    assert get(server, "/metrics", "metrics").status == 200
    assert get(server, "/metrics", "admin").status == 200
    for path in ("/v2/repository/models/late/load", "/v2/repository/models/late/load%0A"):
        assert get(server, path, "predict:*", method="POST").status in (FORBIDDEN, UNKNOWN)
    assert get(server, "/v2/models/late/ready", "admin").status == UNKNOWN
    assert get(server, "/v2/repository/models/late/load", "admin", method="POST").status == 200
    assert get(server, "/v2/repository/models/late/unload", "predict:*", method="POST").status == FORBIDDEN
    assert get(server, "/v2/repository/models/late/unload", "admin", method="POST").status == 200


def test_one_sees_the_models_that_one_may_use(server: Server) -> None:
    scope = "predict:other_model"
    assert [model["name"] for model in get(server, "/v1/models", scope).json["models"]] == ["other_model"]
    assert {entry["name"] for entry in get(server, "/v2/repository/index", scope, method="POST").json} == {
        "other_model"
    }
    for path in ("/v1/models/m", "/v2/models/m", "/v2/models/m/ready", "/v2/models/m/versions/1.0.0/ready"):
        assert get(server, path, scope).status == UNKNOWN
        assert get(server, path.replace("models/m", "models/other-model"), scope).status == 200
        assert get(server, path, scope).body == get(server, path.replace("models/m", "models/nobody"), scope).body
    document = get(server, "/openapi.json", scope).json
    assert not any("/models/m/" in path for path in document["paths"])
    assert document["components"]["securitySchemes"].keys() == {"apiKey", "bearer", "token"}
    assert document["paths"]["/health/live"]["get"]["security"] == []
    assert "401" in document["paths"]["/v2"]["get"]["responses"]


def test_grpc_asks_for_credentials_and_scopes_too(server: Server) -> None:
    def code(path: str, body: bytes = b"", *scopes: str) -> int:
        metadata = [("authorization", f"Bearer {token(scope=' '.join(scopes))}")] if scopes else []
        with Asker(server) as asker:
            try:
                asker.call(path, body, metadata=metadata)
            except grpc.RpcError as error:
                return _STATUS[error.code()]
        return 200

    name = wire_pb2.ModelMetadataRequest(name="m").SerializeToString()
    load = wire_pb2.RepositoryModelLoadRequest(repository_name="", model_name="late").SerializeToString()
    assert code("/grpc.health.v1.Health/Check", HealthCheckRequest().SerializeToString()) == 200
    assert code(SERVICE + "ServerLive") == code(SERVICE + "ServerReady") == 200
    for path in ("ServerMetadata", "ModelMetadata", "ModelReady", "RepositoryIndex", "RepositoryModelLoad"):
        assert code(SERVICE + path, name if path.startswith("Model") else b"") == UNAUTHENTICATED
    assert code(SERVICE + "ServerMetadata", b"", "metrics") == 200
    assert code(SERVICE + "ModelMetadata", name, "predict:m") == 200
    assert code(SERVICE + "ModelMetadata", name, "predict:other") == UNKNOWN
    assert code(SERVICE + "RepositoryModelLoad", load, "predict:*") == FORBIDDEN
    assert code(SERVICE + "RepositoryModelLoad", load, "admin") == 200
    with Asker(server) as asker:
        ask = asker.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        question = ServerReflectionRequest(list_services="").SerializeToString()
        with pytest.raises(grpc.RpcError) as refused:
            list(ask(iter([question]), timeout=10))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert list(ask(iter([question]), timeout=10, metadata=[("authorization", f"Bearer {token()}")]))


def test_the_audit_log_says_who_did_what_and_never_how_it_was_proved(server: Server, keys: Keys, audit: Path) -> None:
    key = keys.add("nightly", "predict:m")
    # Not by trying it: of one address only so many failures are written.
    wait_until(lambda: "key_added" in audit.read_text(), "the key to be known")
    wrong = "kw_000000000000_" + "A" * 43
    lane(server, bearer(wrong))
    lane(server, bearer(key), model="other_model")
    admin = token(scope="admin")
    server.post("/v2/repository/models/late/load", {}, Authorization=f"Bearer {admin}")
    with Asker(server) as asker:
        body = wire_pb2.RepositoryModelUnloadRequest(model_name="late").SerializeToString()
        asker.call(SERVICE + "RepositoryModelUnload", body, metadata=[("authorization", f"Bearer {admin}")])
    wait_until(lambda: audit.read_text().count("unload"), "the log to be written")
    text = audit.read_text()
    assert not any(secret in text for secret in (key, wrong, admin, key.split("_")[2]))
    events = [json.loads(line) for line in text.splitlines()]
    told = {(e["action"], e["outcome"], e.get("who", ""), e.get("target", ""), e.get("reason", "")) for e in events}
    assert ("key_added", "done", "", f"nightly {key.split('_')[1]}", "") in told
    assert ("authenticate", "failed", "", "", "key") in told
    assert ("predict", "refused", "key:nightly", "other_model", "scope") in told
    assert ("load", "done", "jwt:ada", "late", "") in told
    assert ("unload", "done", "jwt:ada", "late", "") in told
    assert {event["peer"] for event in events if event["action"] != "key_added"} == {"127.0.0.1"}
    assert audit.stat().st_mode & 0o077 == 0


def test_failures_are_counted_by_their_reasons(server: Server) -> None:
    for headers in ([], [bearer("x")], [bearer(token(exp=1))], [bearer(token(aud="other"))]):
        door(server, *headers)
    page = server.get("/metrics", Authorization=f"Bearer {token(scope='metrics')}").body.decode()
    for reason in ("missing", "malformed", "expired", "claims"):
        assert f'ml_auth_failures_total{{reason="{reason}"}} 1.0' in page


@pytest.mark.parametrize("way", [lane, door, call], ids=["fast lane", "door", "grpc"])
def test_an_address_that_fails_too_often_waits_and_those_that_hold_go_on(keys: Keys, way: Way) -> None:
    key = keys.add("nightly")
    sections = {"auth": {**KEYS, "max_failures": 4}, "jwt": HS}
    with Server(Shelf().serve("m", score), keys=keys, grpc=GRPC, **sections) as server:
        good, wrong = bearer(token()), bearer("kw_000000000000_" + "A" * 43)
        assert way(server, good) == 200
        for _ in range(4):
            _tried(way, server, wrong[1].removeprefix("Bearer "))
        assert way(server, wrong) == LIMITED
        assert way(server, good) == 200, "was seen before"
        assert way(server, bearer(key)) == 200, "costs next to nothing to look at"
        assert way(server, bearer(token(sub="eve"))) == LIMITED, "is not verified"
        assert way(server) == UNAUTHENTICATED


def test_public_routes_are_open_to_all_and_the_models_stay_closed(keys: Keys) -> None:
    sections = {"auth": {**KEYS, "public": ["metrics", "docs"]}}
    with Server(Shelf().serve("m", score), keys=keys, **sections) as server:
        assert [get(server, path).status for path in ("/metrics", "/docs", "/openapi.json")] == [200] * 3
        assert "/v1/models/m/predict" in get(server, "/openapi.json").json["paths"]
        assert get(server, "/v1/models").status == lane(server) == UNAUTHENTICATED


def test_two_kinds_may_be_demanded_at_once(keys: Keys) -> None:
    key = keys.add("nightly", "predict:m")
    sections = {"auth": {**KEYS, "require": ["jwt", "key"]}, "jwt": HS}
    with Server(Shelf().serve("m", score), keys=keys, grpc=GRPC, **sections) as server:
        for way in (lane, door, call):
            assert way(server, bearer(token()), ("X-API-Key", key)) == 200
            assert way(server, bearer(token())) == UNAUTHENTICATED
            assert way(server, ("X-API-Key", key)) == UNAUTHENTICATED
            assert way(server, bearer(token(exp=1)), ("X-API-Key", key)) == UNAUTHENTICATED


def test_when_the_registry_is_away_the_keys_that_are_known_hold_on(server: Server, keys: Keys) -> None:
    key = keys.add("nightly")
    until_known(server, key)
    keys.out_of_reach = True
    time.sleep(0.1)
    assert lane(server, bearer(key)) == 200
    later = keys.add("weekly")
    keys.out_of_reach = False
    until_known(server, later)


def test_a_key_that_was_used_is_noted_when_the_server_stops(keys: Keys) -> None:
    key = keys.add("nightly")
    with Server(Shelf().serve("m", score), keys=keys, auth=KEYS) as server:
        assert lane(server, bearer(key)) == 200
    assert abs(keys.used[key.split("_")[1]] - time.time()) < 30


def test_a_megabyte_of_token_is_refused_before_it_is_looked_at(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.send(predict_bytes(bearer("a" * 1_000_000)))
        reply = wire.reply()
        assert reply is not None
        assert reply.status == 431
    with Asker(server, max_metadata_size=4_000_000) as asker, pytest.raises(grpc.RpcError):
        asker.infer(metadata=[("authorization", "Bearer " + "a" * 1_000_000)])
    assert lane(server, bearer(token())) == 200
