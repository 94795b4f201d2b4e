"""Who is found to ask: keys, certificates, what is remembered and for how long. # U1"""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.credentials import HS, SECRET, Keys, auth, token

from keelway.access import AuthSettings, JwtSettings
from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, Unauthenticated
from keelway.guard import keys as keys_module
from keelway.guard.auth import Guarded, OpenToAll
from keelway.guard.faults import REASONS, AttemptLimit, CredentialFault
from keelway.guard.keys import KeyRing, check_scopes, digest_of, make_key, read_secret
from keelway.observe.metrics import METRICS
from keelway.testing import FakeClock
from keelway.types import ANONYMOUS, AuditEvent, Peer, Principal

PEER = Peer("192.0.2.1")
NOW = 1_800_000_000.0


class World:
    """Who finds out, with the time and the keys in the test's hands."""

    def __init__(self, settings: AuthSettings | None = None, jwt: JwtSettings | None = None) -> None:
        self.clock = FakeClock(NOW)
        self.keys = Keys()
        self.failures: list[str] = []
        self.events: list[AuditEvent] = []
        self.guard = Guarded(
            settings or auth(), jwt or JwtSettings(), self.clock, self.failures.append, self.events.append
        )

    def renew(self) -> None:
        self.guard.renew_keys(self.keys.keys())

    def show(self, *headers: tuple[str, str]) -> Any:
        return self.guard.present([(name.encode(), value.encode()) for name, value in headers])

    def asks(self, *headers: tuple[str, str], peer: Peer = PEER) -> str:
        try:
            return self.guard.principal(self.show(*headers), peer).name
        except KeelwayError as error:
            return type(error).__name__


def bearer(text: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {text}")


def test_without_credentials_configured_everybody_is_anonymous() -> None:
    nobody = OpenToAll()
    assert nobody.principal(nobody.present([(b"authorization", b"Bearer x")]), PEER) is ANONYMOUS


def test_a_key_is_its_name_scopes_and_tenant() -> None:
    world = World()
    key = world.keys.add("nightly", "predict:lead_scoring", "metrics", tenant="acme")
    world.renew()
    found = world.guard.principal(world.show(bearer(key)), PEER)
    assert found == Principal("key:nightly", frozenset({"predict:lead-scoring", "metrics"}), "acme")
    assert found.may("predict", "lead_scoring")
    assert found.may("predict", "lead-scoring")
    assert not found.may("predict", "lead")
    assert not found.may("feedback", "lead_scoring")
    assert found.holds("metrics")
    assert not found.holds("admin")


def test_what_was_found_is_remembered_and_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, looked = World(), []
    key = world.keys.add("nightly")
    world.renew()
    shown = world.show(bearer(key))
    first = world.guard.principal(shown, PEER)
    monkeypatch.setattr(Guarded, "_find", lambda *_: looked.append(1))
    assert world.guard.principal(shown, PEER) is first
    assert looked == []
    world.clock.advance(59)
    world.guard.principal(shown, PEER)
    assert looked == []
    world.clock.advance(2)
    world.guard.principal(shown, PEER)
    assert looked == [1]


def test_nothing_is_remembered_when_the_keys_change() -> None:
    world = World()
    key, other = world.keys.add("nightly"), world.keys.add("weekly")
    world.renew()
    shown, others = world.show(bearer(key)), world.show(bearer(other))
    assert world.guard.principal(shown, PEER).name == "key:nightly"
    assert world.guard.principal(others, PEER).name == "key:weekly"
    world.keys.revoke(key)
    world.renew()
    with pytest.raises(Unauthenticated):
        world.guard.principal(shown, PEER)
    assert world.guard.principal(others, PEER).name == "key:weekly"


def test_a_key_expires_to_the_second_although_it_is_remembered() -> None:
    world = World()
    key = world.keys.add("nightly", expires_at=NOW + 10)
    world.renew()
    shown = world.show(bearer(key))
    world.clock.advance(9.5)
    assert world.guard.principal(shown, PEER).name == "key:nightly"
    world.clock.advance(0.6)
    with pytest.raises(Unauthenticated):
        world.guard.principal(shown, PEER)
    assert world.failures == ["expired"]


def test_the_last_use_is_noted_once_a_minute() -> None:
    world = World()
    key = world.keys.add("nightly")
    world.renew()
    shown, public = world.show(bearer(key)), key.split("_")[1]
    world.guard.principal(shown, PEER)
    assert world.guard.take_used() == {public: NOW}
    world.guard.principal(shown, PEER)
    assert world.guard.take_used() == {}
    world.clock.advance(61)
    world.guard.principal(shown, PEER)
    assert world.guard.take_used() == {public: NOW + 61}


def test_keys_are_compared_in_constant_time_and_unknown_ones_as_long_as_known(monkeypatch: pytest.MonkeyPatch) -> None:
    # Structural: the time itself cannot be measured well enough to tell.
    world, compared = World(), []
    key = world.keys.add("nightly")
    world.renew()
    real = hmac.compare_digest
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda one, two: compared.append((len(one), len(two))) or real(one, two)
    )
    assert world.asks(bearer(key)) == "key:nightly"
    assert world.asks(bearer("kw_000000000000_" + "A" * 43)) == "Unauthenticated"
    assert world.asks(bearer(key[:-1] + "!")) == "Unauthenticated"
    assert compared == [(64, 64)] * 2


@given(st.binary(max_size=80))
def test_no_other_bytes_are_a_key(text: bytes) -> None:
    ring = KeyRing(SECRET.encode(), Keys().keys())
    with pytest.raises(CredentialFault):
        ring.find(text, NOW)


def test_a_key_has_a_public_part_and_256_secret_bits() -> None:
    first, second = make_key(), make_key()
    assert first != second
    prefix, public, secret = first.text.split("_", 2)
    assert (prefix, public, len(secret)) == ("kw", first.id, 43)
    assert digest_of(first.text.encode(), b"a" * 32) != digest_of(first.text.encode(), b"b" * 32)


def test_scopes_are_checked_folded_and_sorted() -> None:
    assert check_scopes(["predict:lead_scoring", "admin", "predict:lead-scoring"]) == ("admin", "predict:lead-scoring")
    for wrong in ("", "predict", "predict:", "predict:A B", "write:*", "admin:*", "predict:*x", "metrics:m"):
        with pytest.raises(InvalidInput):
            check_scopes([wrong])
    with pytest.raises(InvalidInput):
        check_scopes([])


def test_a_secret_is_long_and_given_once(tmp_path: Any) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"s" * 32 + b"\n")
    assert read_secret("", str(file), "auth.key_secret") == b"s" * 32
    for text, name in (("s" * 31, ""), ("s" * 32, str(file)), ("", str(tmp_path / "none"))):
        with pytest.raises(FailedPrecondition):
            read_secret(text, name, "auth.key_secret")


# Certificates

RULES = (
    *("DNS:batch.Internal -> predict:lead_scoring", "CN=Ops * -> admin", "DNS:*.internal -> predict:* metrics"),
    *("email:Ada@example.com -> metrics", "URI:spiffe://CLUSTER.local/ns/A* -> predict:*"),
)


@pytest.mark.parametrize(
    ("identities", "name"),
    [
        (("CN=x", "DNS:batch.internal"), "mtls:DNS:batch.internal"),
        (("DNS:other.internal",), "mtls:DNS:other.internal"),
        (("CN=Ops Team",), "mtls:CN=Ops Team"),
        (("DNS:internal",), "Unauthenticated"),
        (("DNS:batch.internal.example",), "Unauthenticated"),
        (("DNS:batchxinternal",), "Unauthenticated"),
        (("CN=DNS:batch.internal",), "Unauthenticated"),
        (("DNS:Batch.INTERNAL",), "mtls:DNS:batch.internal"),
        (("email:Ada@Example.COM",), "mtls:email:Ada@example.com"),
        (("email:ada@example.com",), "Unauthenticated"),
        (("URI:SPIFFE://Cluster.Local/ns/A",), "mtls:URI:spiffe://cluster.local/ns/A"),
        (("URI:spiffe://cluster.local/ns/a",), "Unauthenticated"),
        (("CN=ops Team",), "Unauthenticated"),
        ((), "Unauthenticated"),
    ],
)
def test_a_certificate_is_worth_what_the_first_rule_that_fits_says(identities: tuple[str, ...], name: str) -> None:
    world = World(AuthSettings(mtls=RULES))
    assert world.asks(peer=Peer("192.0.2.1", identities)) == name


def test_what_one_certificate_was_worth_is_not_remembered_for_another_connection() -> None:
    world = World(AuthSettings(mtls=RULES))
    shown = world.show()
    batch, ops = Peer("192.0.2.1", ("DNS:batch.internal",)), Peer("192.0.2.1", ("CN=Ops Team",))
    for _ in range(3):
        assert world.guard.principal(shown, batch).name == "mtls:DNS:batch.internal"
        assert world.guard.principal(shown, ops).name == "mtls:CN=Ops Team"
        with pytest.raises(Unauthenticated):
            world.guard.principal(shown, PEER)


@pytest.mark.parametrize(
    "rule",
    [
        *("", "DNS:a", "DNS:a ->", "-> admin", "DNS: -> admin", "nobody -> admin", "CN=a -> x"),
        *("DN:foo -> admin", "dns:a -> admin", "cn=a -> admin", "CN:a -> admin", "IP:192.0.2.1 -> admin"),
        *("CN= -> admin", "CN= a -> admin", "CN=a\0b -> admin", "DNS:a b -> admin", "DNS:a. -> admin"),
        *("DNS:https://a -> admin", "DNS:b\u00fcro -> admin", "URI:batch.internal -> admin", "email:ada -> admin"),
    ],
)
def test_a_rule_that_is_none_or_fits_nobody_is_refused_in_one_line(rule: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        World(AuthSettings(mtls=(rule,)))
    assert refused.value.field == "auth.mtls"
    assert "auth.mtls" in refused.value.message
    assert "\n" not in refused.value.message


def test_a_second_rule_for_one_identity_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two lines"):
        World(AuthSettings(mtls=("DNS:a.internal -> predict:*", "DNS:A.internal -> admin")))


@pytest.mark.parametrize(
    "rule", ["URI:* -> admin", "URI:spiffe://* -> admin", "URI:urn:x:Y -> admin", "DNS:* -> admin"]
)
def test_a_rule_may_leave_open_as_much_as_it_likes(rule: str) -> None:
    World(AuthSettings(mtls=(rule,)))


# Several


def test_bad_credentials_are_not_saved_by_a_good_certificate() -> None:
    world = World(auth(mtls=RULES))
    assert world.asks(bearer("kw_000000000000_" + "A" * 43), peer=Peer("a", ("CN=Ops Team",))) == "Unauthenticated"


def test_the_first_that_is_required_says_who_asks() -> None:
    world = World(auth(mtls=RULES, require=("mtls", "key")))
    key = world.keys.add("nightly")
    world.renew()
    ops = Peer("192.0.2.1", ("CN=Ops Team",))
    assert world.asks(bearer(key), peer=ops) == "mtls:CN=Ops Team"
    assert world.asks(bearer(key)) == world.asks(peer=ops) == "Unauthenticated"


def test_a_key_comes_before_a_certificate() -> None:
    world = World(auth(mtls=RULES))
    key = world.keys.add("nightly")
    world.renew()
    assert world.asks(bearer(key), peer=Peer("a", ("CN=Ops Team",))) == "key:nightly"


@pytest.mark.parametrize("require", [("jwt",), ("key", "mtls"), ("password",)])
def test_what_is_not_configured_cannot_be_required(require: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        World(auth(require=require))


def test_a_token_is_no_key_and_a_key_no_token() -> None:
    only_tokens = World(AuthSettings(), JwtSettings(**HS))
    assert only_tokens.asks(bearer("kw_000000000000_" + "A" * 43)) == "Unauthenticated"
    only_keys = World()
    assert only_keys.asks(bearer(token())) == "Unauthenticated"
    assert (only_tokens.failures, only_keys.failures) == (["key"], ["malformed"])


# Failures


def test_failures_are_forgotten_after_a_minute() -> None:
    world = World(auth(max_failures=3))
    wrong = bearer("kw_000000000000_" + "A" * 43)
    assert [world.asks(wrong) for _ in range(5)] == ["Unauthenticated"] * 3 + ["RateLimited"] * 2
    assert world.asks(wrong, peer=Peer("192.0.2.2")) == "Unauthenticated"
    assert world.asks() == "Unauthenticated", "who shows nothing tries nothing"
    world.clock.advance(61)
    assert world.asks(wrong) == "Unauthenticated"
    assert {"key", "limited", "missing"} == set(world.failures) <= set(REASONS)


def test_the_addresses_that_are_remembered_are_bounded_and_a_crowd_washes_nobody_away() -> None:
    clock = FakeClock()
    limit = AttemptLimit(2, clock.monotonic, addresses=100)
    for _ in range(2):
        limit.failed("192.0.2.1")
    for number in range(100_000):
        limit.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(limit._failures) == 100
    assert limit.wait("192.0.2.1") > 0
    clock.advance(121.0)
    assert limit.wait("192.0.2.1") == 0


def test_a_network_of_ipv6_counts_as_one() -> None:
    limit = AttemptLimit(2, FakeClock().monotonic)
    limit.failed("2001:db8::1")
    limit.failed("2001:db8::ffff:1")
    assert limit.wait("2001:db8::2") > 0
    assert limit.wait("2001:db8:0:1::1") == 0


def test_every_reason_is_documented_with_its_metric() -> None:
    (metric,) = (metric for metric in METRICS if metric.name == "ml_auth_failures_total")
    assert all(f"`{reason}`" in metric.help for reason in REASONS)


def test_what_a_caller_wrote_is_not_in_the_audit_log_unless_it_is_a_name() -> None:
    world = World()
    for target in ("lead_scoring", "x" * 500, "a\nb", "<script>", "/metrics"):
        world.guard.denied(Principal("key:a"), PEER, "predict", target)
    assert [event.target for event in world.events] == ["lead_scoring", "", "", "", ""]
