"""API keys on their way from the registry to the door. # U1"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from tests.credentials import KEYS, Keys
from tests.serving import PATIENCE, Item, Server, Shelf, score, wait_until
from tests.wire import predict_bytes

from keelway.clock import SystemClock
from keelway.errors import FailedPrecondition, InvalidInput, Unavailable
from keelway.hosting.keys import KeyFollower
from keelway.types import AuditEvent, StoredKey


def test_changes_are_handed_over_and_noted_and_an_outage_changes_nothing() -> None:
    keys, handed, noted = Keys(), [], []  # type: ignore[var-annotated]
    first = keys.add("first")

    def publish(current: Sequence[StoredKey]) -> None:
        handed.append([key.name for key in current])

    async def scene() -> None:
        follower = KeyFollower(keys, publish, noted.append, SystemClock())
        await follower.start()
        task = asyncio.create_task(follower.follow(0.01))
        keys.add("second")
        await asyncio.sleep(0.1)
        keys.out_of_reach = True
        keys.revoke(first)
        await asyncio.sleep(0.1)
        assert handed[-1] == ["first", "second"]
        keys.out_of_reach = False
        await asyncio.sleep(0.1)
        task.cancel()

    asyncio.run(scene())
    assert handed == [["first"], ["first", "second"], ["second"]]
    told: list[AuditEvent] = noted
    assert [(event.action, event.target.split()[0]) for event in told] == [
        ("key_added", "second"),
        ("key_gone", "first"),
    ]


def test_a_start_without_the_registry_fails() -> None:
    keys = Keys()
    keys.out_of_reach = True
    with pytest.raises(Unavailable), Server(Shelf().serve("m", score), keys=keys, auth=KEYS):
        pass


def test_a_key_is_revoked_while_a_model_takes_its_time_to_load() -> None:
    keys, loading = Keys(), threading.Event()
    key = keys.add("nightly")
    shelf = Shelf().serve("m", score)

    def slow() -> object:
        loading.set()
        assert go_on.wait(PATIENCE)
        return score()

    go_on = threading.Event()
    shelf.put("m", "2.0.0", Item(slow))  # type: ignore[arg-type]
    with Server(shelf, keys=keys, auth=KEYS) as server, server.wire() as wire:
        assert wire.ask(predict_bytes(("X-API-Key", key))).status == 200
        shelf.want("m", "2.0.0")
        assert loading.wait(PATIENCE)
        keys.revoke(key)
        wait_until(lambda: wire.ask(predict_bytes(("X-API-Key", key))).status == 401, "the key to be gone", 2.0)
        go_on.set()


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"auth": {"key_secret": "short"}}, FailedPrecondition),
        ({"auth": {**KEYS, "require": ["jwt"]}}, InvalidInput),
        ({"auth": {**KEYS, "public": ["everything"]}}, InvalidInput),
        ({"auth": {"mtls": ["nonsense"]}}, InvalidInput),
        ({"jwt": {"secret": "h" * 32}}, InvalidInput),
    ],
)
def test_settings_that_do_not_fit_are_said_at_the_start(sections: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error), Server(Shelf().serve("m", score), keys=Keys(), **sections):  # type: ignore[arg-type]
        pass


def test_with_credentials_the_server_listens_beyond_loopback_and_without_it_says_how() -> None:
    with pytest.raises(FailedPrecondition) as refused, Server(Shelf(), http={"address": "0.0.0.0:0"}):
        pass
    assert "auth.key_secret_file" in str(refused.value.hint)
    assert "--insecure" in str(refused.value.hint)
    with Server(Shelf().serve("m", score), keys=Keys(), auth=KEYS, http={"address": "0.0.0.0:0"}):
        pass
