"""What callers have to show, as the settings say it: where that cannot be had, no server starts. # U1"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.certificates import Authority
from tests.credentials import HS, JWT, SECRET
from tests.serving import Shelf, score

from keelway.app import App
from keelway.config import Settings, load_settings
from keelway.errors import KeelwayError
from keelway.guard.auth import Guarded
from keelway.supervise.supervisor import Supervisor

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
