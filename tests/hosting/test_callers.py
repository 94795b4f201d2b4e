"""What callers have to show, as the settings say it: where that cannot be had, no server starts. # U1"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import Authority
from tests.credentials import HS, JWT, KEYS, SECRET, Keys
from tests.serving import PATIENCE, Server, Shelf, score, wait_until

from keelway.app import App
from keelway.config import Settings, load_settings
from keelway.errors import KeelwayError
from keelway.guard.auth import Guarded
from keelway.observe.audit import AuditLog
from keelway.supervise.supervisor import Supervisor
from keelway.types import AuditEvent

MTLS = ["DNS:batch.internal -> predict:*"]


def settings(workers: int = 1, **sections: Any) -> Settings:
    return load_settings(None, {}, {**sections, "serving": {"workers": workers}})


def error_at_start(wanted: Settings) -> KeelwayError:
    """Why a server of one process does not start, and that one of several says the same."""
    source = Shelf().serve("m", score)
    with pytest.raises(KeelwayError) as alone:
        App(wanted, source)
    with pytest.raises(KeelwayError) as several:
        Supervisor(wanted, source)
    assert several.value.message == alone.value.message
    return alone.value


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"auth": {"require": ["key"]}}, "asks for key, and auth.key_secret_file is not set"),
        ({"auth": {"require": ["jwt"]}}, "asks for jwt, and the section jwt is not set"),
        ({"auth": {"require": ["mtls"]}}, "asks for mtls, and auth.mtls is not set"),
        ({"auth": {"require": ["key", "jwt"], "key_secret": SECRET}}, "asks for jwt"),
        ({"auth": {"require": ["password"]}}, "auth.require names what there is not"),
        ({"auth": {"mtls": MTLS}}, "auth.mtls needs tls.client_ca"),
        ({"auth": {"mtls": MTLS, "require": ["mtls"]}}, "auth.mtls needs tls.client_ca"),
        ({"auth": {"mtls": MTLS, "key_secret": SECRET}}, "auth.mtls needs tls.client_ca"),
        ({"jwt": JWT}, "tokens need a key that they are verified by"),
        ({"jwt": {"issuer": "https://issuer.example"}}, "tokens need jwt.audience"),
        ({"jwt": {"audience": ["keelway"]}}, "tokens need jwt.issuer"),
        ({"jwt": {"tenant_claim": "org"}}, "tokens need jwt.issuer"),
        ({"jwt": {**HS, "secret": " " * 40}}, "jwt.secret has fewer than 32 bytes"),
        ({"auth": {"key_secret": " " * 40}}, "auth.key_secret has fewer than 32 bytes"),
        ({"auth": {"key_secret_file": "nowhere"}}, "auth.key_secret_file cannot be read"),
        ({"auth": {"key_secret_file": "."}}, "auth.key_secret_file cannot be read"),
        ({"jwt": {**JWT, "key_file": "nowhere"}}, "jwt.key_file cannot be read"),
    ],
)
def test_a_server_that_asks_for_what_it_cannot_know_does_not_start(sections: dict[str, Any], says: str) -> None:
    wanted = settings(**sections)
    assert wanted.demands_credentials
    error = error_at_start(wanted)
    assert says in error.message
    assert "\n" not in f"{error.message} {error.hint}"


@pytest.mark.parametrize("written", [b"", b"\n", b" \t \r\n" * 20])
def test_a_secret_file_without_a_secret_in_it_lets_no_server_start(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(written)
    assert "fewer than 32 bytes" in error_at_start(settings(auth={"key_secret_file": str(file)})).message


def test_a_server_that_asks_for_what_it_knows_is_guarded(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.sign("server", to=tmp_path)
    tls = {"certificate": str(certificate), "private_key": str(key), "client_ca": str(authority.certificate)}
    for sections in (
        {"auth": {"key_secret": SECRET}},
        {"auth": {"key_secret": SECRET, "require": ["key", "jwt"]}, "jwt": HS},
        {"auth": {"mtls": MTLS}, "tls": tls},
    ):
        app = App(settings(**sections), Shelf().serve("m", score))
        assert isinstance(app._callers.authenticator, Guarded)


def test_a_server_of_which_nothing_is_said_asks_for_nothing() -> None:
    assert not settings().demands_credentials
    assert not settings(auth={"public": ["metrics"], "max_failures": 3}).demands_credentials


# The audit log


def reasons(file: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in file.read_text().splitlines()]


def test_lines_that_are_being_written_at_the_drain_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, begun, write = tmp_path / "audit", threading.Event(), AuditLog.write

    def slowly(log: AuditLog, events: Sequence[AuditEvent]) -> None:
        if events and not begun.is_set():
            begun.set()
            time.sleep(0.5)
        write(log, events)

    monkeypatch.setattr(AuditLog, "write", slowly)
    with Server(
        Shelf().serve("m", score), keys=Keys(), auth=KEYS, audit={"file": str(file)}, records={"flush_interval": 0.01}
    ) as server:
        assert server.get("/v2/models/m").status == 401
        assert begun.wait(PATIENCE)
        assert server.get("/v2/models/m").status == 401
    assert reasons(file) == ["missing", "missing"]


def test_lines_that_nobody_has_begun_to_write_at_the_drain_are_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "audit"
    with Server(
        Shelf().serve("m", score), keys=Keys(), auth=KEYS, audit={"file": str(file)}, records={"flush_interval": 60.0}
    ) as server:
        assert server.get("/v2/models/m").status == 401
        assert reasons(file) == []
    assert reasons(file) == ["missing"]


def test_a_full_disk_costs_lines_and_no_request() -> None:
    keys = Keys()
    key = keys.add("nightly", "admin")
    audit, records = {"file": "/dev/full"}, {"flush_interval": 0.01}
    open_metrics = {**KEYS, "public": ["metrics"]}
    with Server(Shelf().serve("m", score), keys=keys, auth=open_metrics, audit=audit, records=records) as server:
        for _ in range(5):
            assert server.get("/v2/models/m").status == 401
            assert server.get("/v2/models/m", **{"X-API-Key": key}).status == 200
        wait_until(lambda: server.metric("ml_audit_dropped_total") == 5, "the count")


def test_nothing_that_a_caller_shows_or_writes_is_in_the_audit_log(tmp_path: Path) -> None:
    file, keys = tmp_path / "audit", Keys()
    key = keys.add("nightly", "predict:other")
    with Server(Shelf().serve("m", score), keys=keys, auth=KEYS, audit={"file": str(file)}) as server:
        for path in ("/v2/models/m", "/v2/models/SENTINEL", "/v2/models/%22%0ASENTINEL?SENTINEL=1"):
            for shown in (
                {"X-API-Key": key},
                {"X-API-Key": "kw_000000000000_" + "SENTINEL" * 5 + "abc"},
                {"Authorization": "Bearer SENTINEL.SENTINEL.SENTINEL"},
                {"Authorization": "Basic SENTINEL"},
                {"X-Forwarded-For": "SENTINEL"},
            ):
                server.get(path, **shown)
    text = file.read_text()
    assert len(text.splitlines()) > 5
    assert "SENTINEL" not in text
    assert key.rpartition("_")[2] not in text
