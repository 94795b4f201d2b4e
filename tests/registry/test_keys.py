# U1: API keys as rows: what is stored, their history, rotation, last use
from __future__ import annotations

import json

import pytest
from tests.credentials import SECRET

from keelway.errors import AlreadyExists, InvalidInput, NotFound
from keelway.guard.keys import digest_of, make_key
from keelway.registry.store import Registry
from keelway.testing import FakeClock
from keelway.types import StoredKey

WHO = {"who": "ada", "why": "a test"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_700_000_000.0)


def key(name: str = "nightly", *scopes: str, expires_at: float | None = None) -> StoredKey:
    made = make_key()
    digest = digest_of(made.text.encode(), SECRET.encode())
    return StoredKey(made.id, name, digest, scopes or ("predict:*",), "acme", expires_at)


def test_a_key_is_kept_as_it_was_entered(registry: Registry, clock: FakeClock) -> None:
    made = key(expires_at=clock.now() + 60)
    entered = registry.keys.create(made, **WHO)
    assert registry.keys.holding() == (made,)
    assert registry.keys.list() == (entered,)
    assert (entered.created_by, entered.tenant, entered.last_used_at) == ("ada", "acme", None)
    assert entered.holds(clock.now())
    assert not entered.holds(clock.now() + 61)


def test_a_name_has_one_key_at_a_time(registry: Registry, clock: FakeClock) -> None:
    registry.keys.create(key(expires_at=clock.now() + 60), **WHO)
    with pytest.raises(AlreadyExists):
        registry.keys.create(key(), **WHO)
    registry.keys.create(key("weekly"), **WHO)
    clock.advance(61)
    registry.keys.create(key(), **WHO)
    assert [stored.name for stored in registry.keys.holding()].count("nightly") == 1


def test_a_key_that_has_expired_is_not_made(registry: Registry, clock: FakeClock) -> None:
    with pytest.raises(InvalidInput):
        registry.keys.create(key(expires_at=clock.now()), **WHO)
    with pytest.raises(InvalidInput):
        registry.keys.create(key("No Name"), **WHO)
    assert registry.keys.list() == ()


def test_a_rotated_key_holds_until_the_overlap_is_over(registry: Registry, clock: FakeClock) -> None:
    old, new = key("nightly", "predict:m", "metrics"), key()
    registry.keys.create(old, **WHO)
    clock.advance(5)
    entered = registry.keys.rotate("nightly", new, 60, **WHO)
    assert (entered.scopes, entered.tenant, entered.expires_at) == (("predict:m", "metrics"), "acme", None)
    assert {stored.id for stored in registry.keys.holding()} == {old.id, new.id}
    clock.advance(61)
    assert {stored.id for stored in registry.keys.holding()} == {new.id}


def test_a_rotation_gives_no_key_more_time_than_it_had(registry: Registry, clock: FakeClock) -> None:
    old, new = key(expires_at=clock.now() + 30), key()
    registry.keys.create(old, **WHO)
    clock.advance(10)
    entered = registry.keys.rotate("nightly", new, 3600, **WHO)
    assert entered.expires_at == pytest.approx(clock.now() + 30)
    clock.advance(21)
    assert [stored.id for stored in registry.keys.holding()] == [new.id]


def test_no_overlap_ends_the_old_key_at_once(registry: Registry) -> None:
    old, new = key(), key()
    registry.keys.create(old, **WHO)
    registry.keys.rotate("nightly", new, 0, **WHO)
    assert [stored.id for stored in registry.keys.holding()] == [new.id]


def test_a_revoked_name_has_no_key(registry: Registry) -> None:
    old, new = key(), key()
    registry.keys.create(old, **WHO)
    registry.keys.rotate("nightly", new, 60, **WHO)
    assert set(registry.keys.revoke("nightly", **WHO)) == {old.id, new.id}
    assert registry.keys.holding() == ()
    for change in (
        lambda: registry.keys.revoke("nightly", **WHO),
        lambda: registry.keys.rotate("nightly", key(), 1, **WHO),
    ):
        with pytest.raises(NotFound):
            change()


def test_every_change_is_in_the_history_and_moves_the_token_and_a_use_does_not(registry: Registry) -> None:
    made = key()
    tokens = [registry.state_token()]
    registry.keys.create(made, **WHO)
    tokens.append(registry.state_token())
    registry.keys.rotate("nightly", key(), 60, **WHO)
    tokens.append(registry.state_token())
    registry.keys.revoke("nightly", **WHO)
    tokens.append(registry.state_token())
    assert len(set(tokens)) == 4
    registry.keys.note_used({made.id: 12.0})
    assert registry.state_token() == tokens[-1]
    entries = registry.history()
    assert [entry.action for entry in entries] == ["key_revoke", "key_rotate", "key_create"]
    assert all(entry.who == "ada" and entry.evidence and entry.evidence["key"] == "nightly" for entry in entries)
    assert made.digest not in json.dumps([entry.evidence for entry in entries])


def test_the_last_use_only_grows(registry: Registry) -> None:
    made = key()
    registry.keys.create(made, **WHO)
    for at in (50.0, 40.0):
        registry.keys.note_used({made.id: at, "unknown": 1.0})
    assert registry.keys.list()[0].last_used_at == 50.0
