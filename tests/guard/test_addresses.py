"""Whose address counts, behind proxies and without, whatever a caller writes into its headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.errors import InvalidInput
from keelway.guard.addresses import Proxies, counted
from keelway.types import Peer

PROXY, STRANGER = Peer("10.0.0.1"), Peer("203.0.113.5")


def behind(
    peer: Peer, *values: bytes, trusted: tuple[str, ...] = ("10.0.0.0/8",), header: str = "x-forwarded-for"
) -> str:
    proxies = Proxies(trusted, header)  # type: ignore[arg-type]
    return proxies.behind(peer, proxies.forwarded([(header.encode(), value) for value in values])).address


def test_a_header_counts_only_if_a_trusted_proxy_has_sent_it() -> None:
    # W1: spoofed X-Forwarded-For
    assert behind(PROXY, b"198.51.100.9") == "198.51.100.9"
    assert behind(STRANGER, b"198.51.100.9") == STRANGER.address
    assert behind(PROXY, b"198.51.100.9", trusted=()) == PROXY.address
    assert behind(PROXY) == PROXY.address


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ([b"1.1.1.1, 198.51.100.9"], "198.51.100.9"),
        ([b"1.1.1.1, 198.51.100.9, 10.2.3.4"], "198.51.100.9"),
        ([b"1.1.1.1", b"198.51.100.9", b"10.2.3.4,10.0.0.9"], "198.51.100.9"),
        ([b"10.2.3.4, 10.2.3.5"], "10.2.3.4"),
        ([b"198.51.100.9:4711"], "198.51.100.9"),
        ([b'"198.51.100.9"'], "198.51.100.9"),
        ([b"2001:db8::1"], "2001:db8::1"),
        ([b"[2001:db8::1]:443"], "2001:db8::1"),
        ([b"::ffff:198.51.100.9"], "198.51.100.9"),
        # What is no address ends the chain: the one who has reported it is the last who is known.
        ([b"1.1.1.1, unknown"], "10.0.0.1"),
        ([b"1.1.1.1, unknown, 10.2.3.4"], "10.2.3.4"),
        ([b"1.1.1.1,"], "10.0.0.1"),
        ([b"\xff\xfe"], "10.0.0.1"),
        ([b""], "10.0.0.1"),
        ([b"1.1.1.1," + b"9," * 1000], "10.0.0.1"),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_s_counts(values: list[bytes], address: str) -> None:
    # W1
    assert behind(PROXY, *values) == address


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"for=198.51.100.9", "198.51.100.9"),
        (b"for=1.1.1.1, for=198.51.100.9;proto=https;by=10.0.0.1", "198.51.100.9"),
        (b'proto=https;For="[2001:db8::1]:443"', "2001:db8::1"),
        (b"for=1.1.1.1, for=_hidden", "10.0.0.1"),
        (b"for=1.1.1.1, proto=https", "10.0.0.1"),
        (b'for="1.1.1.1, for=198.51.100.9', "198.51.100.9"),
        (b'for="1.1.1.1", for="198.51.100.9:4711" ; proto=https', "198.51.100.9"),
        (b'for=198.51.100.9, for="10.2.3.4";host="a,b"', "198.51.100.9"),
        # A proxy quotes what a caller has written: its Host, here.
        (b'for=198.51.100.9;host="x,for=1.1.1.1"', "198.51.100.9"),
        (b'for=198.51.100.9;host="x\\",for=1.1.1.1"', "198.51.100.9"),
        (b'for=198.51.100.9;host="x\\\\"', "198.51.100.9"),
        (b'host="x;for=1.1.1.1;y=";for=198.51.100.9', "198.51.100.9"),
        (b'for=1.1.1.1;x=", for=198.51.100.9;host="x\\"y"', "198.51.100.9"),
        # Which of them the proxy has written cannot be told.
        (b"for=198.51.100.9;host=x;for=1.1.1.1", "10.0.0.1"),
        (b"for=198.51.100.9;host=x y", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_where_the_proxies_write_it(value: bytes, address: str) -> None:
    # W1
    assert behind(PROXY, value, header="forwarded") == address


def test_the_header_that_the_proxies_do_not_write_is_not_looked_at() -> None:
    # W1: they let it through as a caller has written it.
    proxies = Proxies(["10.0.0.0/8"], "x-forwarded-for")
    headers = [(b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-for", b"198.51.100.9"), (b"x-real-ip", b"1.1.1.1")]
    assert proxies.behind(PROXY, proxies.forwarded(headers)).address == "198.51.100.9"


def test_what_the_connection_has_proved_stays() -> None:
    # W1
    peer = Peer("10.0.0.1", ("CN=proxy",))
    assert Proxies(["10.0.0.1"]).behind(peer, b"198.51.100.9") == Peer("198.51.100.9", ("CN=proxy",))


@given(st.binary(max_size=200))
def test_whatever_stands_there_the_rightmost_is_the_proxy_s_own_word(written: bytes) -> None:
    # W1: a caller writes anything, the proxy adds whom it has seen.
    assert behind(PROXY, written + b", 198.51.100.9") == "198.51.100.9"
    assert behind(PROXY, written + b', for=198.51.100.9;host="a,b"', header="forwarded") == "198.51.100.9"
    behind(PROXY, written)
    behind(PROXY, written, header="forwarded")
    counted(written.decode("latin-1"))


def test_what_is_remembered_of_headers_is_bounded() -> None:
    # W1: 100,000 distinct addresses
    proxies = Proxies(["10.0.0.0/8"])
    for number in range(100_000):
        address = f"192.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        assert proxies.behind(PROXY, address.encode()).address == address
        counted(f"2001:db8:{number:x}::1")
    assert len(proxies._known) <= 4096


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_long_headers_are_not_kept(header: str) -> None:
    # W1: 4096 of them would be as many times 32 KiB.
    proxies = Proxies(["10.0.0.0/8"], header)  # type: ignore[arg-type]
    for number in range(100):
        long = b"for=1.1.1.1, " * 2000 + b'for="198.51.100.%d"' % number
        if header == "x-forwarded-for":
            long = long.replace(b"for=", b"")
        assert proxies.behind(PROXY, long).address == f"198.51.100.{number}"
    assert sum(len(value) for _, value in proxies._known) < 100 * 512


@pytest.mark.parametrize("text", ["proxy.internal", "10.0.0.0/33", "", "*"])
def test_a_proxy_that_is_no_network_is_refused(text: str) -> None:
    # W1
    with pytest.raises(InvalidInput, match=r"rate_limits\.trusted_proxies"):
        Proxies([text])
