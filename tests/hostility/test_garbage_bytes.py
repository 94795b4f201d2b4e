"""Bytes that are no request, or nearly one: each is refused or answered, none is a failure. # R3"""

from __future__ import annotations

from hypothesis import strategies as st
from tests.hostility.attack import Attack, for_each, sizes
from tests.hostility.http_peers import RIGHT, WORDS, says, slips


@sizes("examples", quick=80, slow=2000)
def test_random_bytes(attack: Attack, examples: int) -> None:
    sizes_first = st.integers(0, 3000).flatmap(lambda size: st.binary(min_size=size, max_size=size))
    for_each(examples, sizes_first, lambda data: says(attack, data))


@sizes("examples", quick=80, slow=2000)
def test_words_of_http_in_any_order(attack: Attack, examples: int) -> None:
    words = st.lists(st.sampled_from(WORDS) | st.binary(max_size=3), max_size=40).map(b"".join)
    for_each(examples, words, lambda data: says(attack, data))


@sizes("examples", quick=120, slow=3000)
def test_right_requests_with_slips(attack: Attack, examples: int) -> None:
    for_each(examples, slips(), lambda data: says(attack, data))


@sizes("step", quick=11, slow=1)
def test_every_byte_of_a_request_replaced(attack: Attack, step: int) -> None:
    for data in RIGHT.values():
        for position in range(0, len(data), step):
            for byte in (b"\0", b"\n", b"\xff", b" ")[position // step % 4 :][: 1 if step > 1 else 4]:
                says(attack, data[:position] + byte + data[position + 1 :])
