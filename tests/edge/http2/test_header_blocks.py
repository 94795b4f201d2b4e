"""Header blocks: what is written can be read by the library, and what is kept is kept only while it means the same."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from keelway.edge.http2.frames import ConnectionFailure
from keelway.edge.http2.header_blocks import BlockReader, written

NAMES = st.sampled_from([b":status", b"content-type", b"grpc-status", b"x" * 126, b"x" * 127, b"x" * 300])
VALUES = st.sampled_from([b"", b"200", b"404", b"application/grpc", b"v" * 127, b"v" * 254, b"v" * 20_000])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_any_peer_reads_what_is_written(headers: list[tuple[bytes, bytes]]) -> None:
    decoder = Decoder(1 << 20)
    assert [tuple(header) for header in decoder.decode(written(headers), raw=True)] == headers
    assert not decoder.header_table.dynamic_entries


@given(
    st.lists(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([b"1", b"2", b"3" * 3000]))), max_size=8)
)
def test_a_kept_block_means_what_it_meant(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, reader = Encoder(), BlockReader[list[tuple[bytes, bytes]]](1 << 20)
    for headers in blocks:
        block = encoder.encode(headers)
        kept = reader.kept(block)
        if kept is None:
            kept = [tuple(header) for header in reader.read(block)]
            reader.keep(block, kept)
        assert kept == headers


def test_a_block_that_changes_the_table_is_not_kept_and_forgets_the_others() -> None:
    reader = BlockReader[str](1000)
    plain, changing = written([(b"a", b"1")]), b"\x40\x01b\x012"
    reader.read(plain)
    reader.keep(plain, "kept")
    assert reader.kept(plain) == "kept"
    reader.read(changing)
    reader.keep(changing, "wrong")
    assert reader.kept(changing) is None
    assert reader.kept(plain) is None


@pytest.mark.parametrize("block", [b"\xff\xff\x7f", b"\x00\x85\xff\xff\xff\xff\xff\x00", b"\x40", b"\x80"])
def test_what_is_no_block_is_a_failure_of_the_connection(block: bytes) -> None:
    with pytest.raises(ConnectionFailure):
        BlockReader[str](1000).read(block)
