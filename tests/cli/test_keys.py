"""``keelway keys``, and the commands that send one: what is shown, kept and never shown. # U1"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.cli.conftest import Keelway
from tests.credentials import KEYS, SECRET, Keys
from tests.serving import Server, Shelf, score

from keelway.cli.keys import seconds
from keelway.clock import SystemClock
from keelway.errors import InvalidInput
from keelway.guard.keys import KeyRing
from keelway.hosting.keys import RegistryKeys
from keelway.registry.store import Registry


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    monkeypatch.setenv("KEELWAY_AUTH_KEY_SECRET_FILE", str(secret))
    return tmp_path


def ring(home: Path) -> KeyRing:
    registry = Registry.open(f"sqlite:///{home}/.keelway/registry.db", clock=SystemClock())
    with closing(registry):
        return KeyRing(SECRET.encode(), RegistryKeys(registry).keys())


def stored(home: Path) -> str:
    with closing(sqlite3.connect(home / ".keelway" / "registry.db")) as connection:
        return "\n".join(connection.iterdump())


def test_a_key_is_shown_once_and_holds(keelway: Keelway, home: Path) -> None:
    made = keelway("keys", "create", "nightly", "--scope", "predict:lead_scoring", "--expires", "90d")
    key = made.out.strip()
    assert (made.code, made.out.count("\n")) == (0, 1)
    assert key not in made.err
    found, principal = ring(home).find(key.encode(), SystemClock().now())
    assert (found.name, principal.name) == ("nightly", "key:nightly")
    assert key not in stored(home)
    assert key.split("_", 2)[2] not in stored(home)
    for arguments in (("list",), ("list", "--json"), ("list", "--all", "--json")):
        ran = keelway("keys", *arguments)
        assert (ran.code, "nightly" in ran.out, key.split("_", 2)[2] in ran.out) == (0, True, False)


def test_a_key_is_rotated_and_revoked(keelway: Keelway, home: Path) -> None:
    old = keelway("keys", "create", "nightly", "--scope", "metrics").out.strip()
    new = json.loads(keelway("keys", "rotate", "nightly", "--overlap", "1h", "--json").out)
    assert new["scopes"] == ["metrics"]
    now = SystemClock().now()
    for key in (old, new["key"]):
        assert ring(home).find(key.encode(), now)[1].name == "key:nightly"
    assert keelway("keys", "revoke", "nightly", "--why", "it was in a log").code == 0
    assert keelway("keys", "list", "--json").out.count("nightly") == 0
    listed = json.loads(keelway("keys", "list", "--all", "--json").out)["keys"]
    assert [entry["holds"] for entry in listed] == [False, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "x", "--scope", "write:*"), "no scope"),
        (("create", "X Y", "--scope", "admin"), "name"),
        (("create", "x", "--scope", "admin", "--expires", "soon"), "no time"),
        (("create", "x", "--scope", "admin", "--expires", "0s"), "expired"),
        (("create", "x", "--scope", "admin", "--expires", "999999999d"), "--expires is more than a hundred years"),
        (("create", "x", "--scope", "admin", "--expires", "9999999d"), "--expires is more than a hundred years"),
        (("rotate", "x", "--overlap", "999999999d"), "--overlap is more than a hundred years"),
        (("rotate", "nobody"), "no key of that name"),
        (("revoke", "nobody"), "no key of that name"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    keelway: Keelway, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    ran = keelway("keys", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_without_a_secret_no_key_is_made(keelway: Keelway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEELWAY_AUTH_KEY_SECRET_FILE", raising=False)
    ran = keelway("keys", "create", "x", "--scope", "admin")
    assert ran.code == 1
    assert "keelway keys secret" in ran.err


def test_a_secret_is_new_each_time_and_long_enough(keelway: Keelway) -> None:
    first, second = (keelway("keys", "secret").out.strip() for _ in range(2))
    assert first != second
    assert len(first) >= 32


@pytest.mark.parametrize(("text", "length"), [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("0s", 0)])
def test_times_are_read(text: str, length: float) -> None:
    assert seconds(text, "expires") == length


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1w", "1.5h", "9" * 20 + "d", "1d\n"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        seconds(text, "expires")


def test_predict_sends_the_key_of_the_environment_or_of_a_file(
    keelway: Keelway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys()
    key = keys.add("nightly")
    (tmp_path / "rows.json").write_text('[{"age": 1, "income": 2}]')
    (tmp_path / "key").write_text(key + "\n")
    with Server(Shelf().serve("m", score), keys=keys, auth=KEYS) as server:
        arguments = ("predict", server.url, "--input", "rows.json", "--json")
        refused = keelway(*arguments)
        assert (refused.code, "KEELWAY_API_KEY" in refused.err) == (1, True)
        assert keelway(*arguments, "--api-key-file", "key").code == 0
        monkeypatch.setenv("KEELWAY_API_KEY", key)
        assert keelway(*arguments).code == 0
        assert keelway("health", server.url).code == 0
        assert keelway(*arguments, "--api-key-file", "nowhere").code == 1


def test_secrets_are_not_shown_where_settings_are_printed() -> None:
    from keelway.config import load_settings

    variables = {
        "KEELWAY_AUTH_KEY_SECRET": "sentinel-1" * 4,
        "KEELWAY_JWT_SECRET": "sentinel-2" * 4,
        "KEELWAY_CACHE_REDIS_URL": "redis://:sentinel-3@host",
        "KEELWAY_REGISTRY_STORE": "postgresql+psycopg://u:sentinel-4@host/db",
    }
    settings = load_settings(None, variables)
    assert "sentinel" not in f"{settings} {settings!r}"
    assert settings.auth.key_secret == "sentinel-1" * 4
    assert os.environ.get("KEELWAY_AUTH_KEY_SECRET") is None
