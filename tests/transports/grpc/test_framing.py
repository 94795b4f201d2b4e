"""gRPC's messages on the wire: one or many, compressed or not, and never more than the limit. # G2 R3"""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.transports.grpc.calls import Collected
from keelway.transports.grpc.errors import CallRefused, Status, percent_encoded
from keelway.transports.grpc.framing import Framing, framed
from keelway.transports.grpc.metadata import timeout_of

PACK = {b"gzip": gzip.compress, b"deflate": zlib.compress}


def prefixed(message: bytes, flag: int) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


@given(messages=st.lists(st.binary(max_size=40), max_size=6), cuts=st.lists(st.integers(0, 300), max_size=6))
def test_messages_of_a_stream_are_found_wherever_it_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    whole, framing, buffer, found = b"".join(map(framed, messages)), Framing(100, b"identity"), bytearray(), []
    for start, end in zip((0, *sorted(cuts)), (*sorted(cuts), None), strict=True):
        buffer += whole[start:end]
        found += iter(partial(framing.take, buffer), None)
    assert found == messages
    assert not buffer


@pytest.mark.parametrize("encoding", PACK)
def test_a_compressed_message_is_unpacked_and_a_plain_one_may_stand_beside(encoding: bytes) -> None:
    framing = Framing(1000, encoding)
    assert framing.message_of(prefixed(PACK[encoding](b"x" * 1000), 1)) == b"x" * 1000
    assert framing.message_of(framed(b"plain")) == b"plain"


@pytest.mark.parametrize("encoding", PACK)
def test_a_bomb_is_refused_without_being_unfolded(encoding: bytes) -> None:
    bomb = prefixed(PACK[encoding](bytes(50_000_000)), 1)
    framing = Framing(100_000, encoding)
    tracemalloc.start()
    try:
        with pytest.raises(CallRefused) as refused:
            framing.message_of(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert refused.value.status is Status.RESOURCE_EXHAUSTED


REFUSED: dict[str, tuple[bytes, bytes, Status]] = {
    "nothing": (b"", b"identity", Status.INVALID_ARGUMENT),
    "half a prefix": (b"\0\0", b"identity", Status.INVALID_ARGUMENT),
    "shorter than it states": (framed(b"abc")[:-1], b"identity", Status.INVALID_ARGUMENT),
    "two of them": (framed(b"abc") * 2, b"identity", Status.INVALID_ARGUMENT),
    "another flag": (prefixed(b"abc", 2), b"identity", Status.INVALID_ARGUMENT),
    "beyond the limit": (framed(bytes(101)), b"identity", Status.RESOURCE_EXHAUSTED),
    "a length beyond the limit": (b"\0\x7f\xff\xff\xff", b"identity", Status.RESOURCE_EXHAUSTED),
    "compressed with nothing": (prefixed(gzip.compress(b"abc"), 1), b"identity", Status.INTERNAL),
    "compressed with something else": (prefixed(zlib.compress(b"abc"), 1), b"gzip", Status.INVALID_ARGUMENT),
    "compressed and cut": (prefixed(gzip.compress(b"abc")[:-4], 1), b"gzip", Status.INVALID_ARGUMENT),
    "compressed and more": (prefixed(gzip.compress(b"abc") + b"x", 1), b"gzip", Status.INVALID_ARGUMENT),
}


@pytest.mark.parametrize(("body", "encoding", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_message(body: bytes, encoding: bytes, status: Status) -> None:
    with pytest.raises(CallRefused) as refused:
        Framing(100, encoding).message_of(body)
    assert refused.value.status is status


@pytest.mark.parametrize("cut", range(5))
def test_a_message_that_states_too_much_is_refused_by_its_prefix(cut: int) -> None:
    collected, prefix = Collected(Framing(100, b"identity")), b"\0\0\0\0\x65"
    collected.add(prefix[:cut])
    with pytest.raises(CallRefused) as refused:
        collected.add(prefix[cut:])
    assert refused.value.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"40m", 0.04), (b"5u", 5e-6), (b"99999999S", 1e8 - 1)],
)
def test_a_timeout_in_each_of_its_units(text: bytes, seconds: float) -> None:
    assert timeout_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1s", b"soon", "١S".encode()])
def test_what_is_no_timeout(text: bytes) -> None:
    with pytest.raises(CallRefused):
        timeout_of(text)


def test_a_message_of_an_error_is_printable_on_the_wire() -> None:
    assert percent_encoded("größe 100%\n") == b"gr%C3%B6%C3%9Fe 100%25%0A"
