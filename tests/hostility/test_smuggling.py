"""Request smuggling: a request that two readers could end at two places is refused whole, and the connection with it.
What is smuggled asks for a model of its own, ``later``, so that it would be seen among the answers and in the metrics.
# R3
"""

from __future__ import annotations

import itertools

import pytest
from tests.hostility.attack import Attack, sizes
from tests.hostility.http_peers import BODY, CLOSE, PREDICT, RIGHT, chunked, says
from tests.hostility.served import Attacked
from tests.serving import ask, predict_bytes, request_bytes

START = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n".encode()
SMUGGLED = predict_bytes(path="/v1/models/later/predict")

#: How the two headers that say where a body ends can be written. ``{}`` is the length.
LENGTHS = (
    b"Content-Length: %d",
    b"content-length:%d",
    b"Content-Length:\t%d",
    b"Content-Length: %d ",
    b"Content-Length: 0%d",
    b"Content-Length: +%d",
    b"Content-Length: %d.0",
    b"Content-Length: %d,%d",
    b"Content-Length: %d %d",
    b"Content-Length : %d",
    b"Content-Length\t: %d",
    b"Content-Length\0: %d",
    b"\tContent-Length: %d",
    b" Content-Length: %d",
    b"Content-Length:\r\n %d",
    b"Content-Length:\n %d",
    b"Content-Length: %d\0",
    b"Content-Length: \xa0%d",
    b"Content-Length:\x0b%d",
    b"Content-Length: %d;",
    b'Content-Length: "%d"',
    b"X: 1\rContent-Length: %d",
    b"X: 1\nContent-Length: %d",
)
ENCODINGS = (
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding: , chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: chunked;q=1",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunk",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: \x00chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding:\x0cchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding:\n chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"X: 1\nTransfer-Encoding: chunked",
    b"X: 1\rTransfer-Encoding: chunked",
)
#: Those that every reader of RFC 9112 reads alike; a server may take them, alone.
PLAIN = frozenset((*LENGTHS[:5], *ENCODINGS[:5]))
#: A chunked body to a reader of Transfer-Encoding, twice as long to a reader of Content-Length.
BODIES = {"CL.TE": chunked(BODY) + SMUGGLED, "TE.CL": chunked(SMUGGLED, 1000)}


def with_length(header: bytes, length: int) -> bytes:
    return header % ((length,) * header.count(b"%d"))


def seen(attacked: Attacked) -> str:
    """The metrics of the model that only smuggled requests ask for."""
    page = ask(attacked.url + "/metrics", "GET").body.decode()
    return "\n".join(line for line in page.splitlines() if line.startswith("ml_requests_total") and '"later"' in line)


@sizes("step", quick=5, slow=1)
@pytest.mark.parametrize("form", BODIES)
def test_two_readings_of_where_a_body_ends(attack: Attack, attacked: Attacked, form: str, step: int) -> None:
    before = seen(attacked)
    body = BODIES[form]
    for length, encoding in itertools.islice(itertools.product(LENGTHS, ENCODINGS), 0, None, step):
        for size in {len(body), len(BODY), 4}:
            headers = [with_length(length, size), encoding]
            for first, second in (headers, headers[::-1]):
                data = START + first + b"\r\n" + second + b"\r\n\r\n" + body
                answer = says(attack, data)
                assert answer.startswith(b"HTTP/1.1 400 "), data
                assert answer.count(b"HTTP/1.1 ") == 1, data
    assert seen(attacked) == before


def test_one_header_is_read_by_the_letter_or_refused(attack: Attack, attacked: Attacked) -> None:
    before = seen(attacked)
    for header in (*LENGTHS, *ENCODINGS):
        body = BODY if header in LENGTHS else chunked(BODY)
        answer = says(attack, START + with_length(header, len(body)) + b"\r\n\r\n" + body + RIGHT["health"])
        assert answer.count(b"HTTP/1.1 200 ") == (2 if header in PLAIN else 0), header
        assert answer.count(b"HTTP/1.1 ") == (2 if header in PLAIN else 1), header
        # With a length of 0 the body would be read as the next request.
        says(attack, START + with_length(header, 0) + b"\r\n\r\n" + (SMUGGLED if header not in PLAIN else b""))
    assert seen(attacked) == before


CHUNKS = (
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"5;\nhello\r\n0\r\n\r\n",
    b"5;x\n\r\nhello\r\n0\r\n\r\n",
    b'5;x="\r\n"\r\nhello\r\n0\r\n\r\n',
    b"5;\0\r\nhello\r\n0\r\n\r\n",
    b"7fffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"00000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
    b"0\r\nX: 1\n\r\n",
    b"0\r\nX : 1\r\n\r\n",
    b"0\r\n Content-Length: 5\r\n\r\n",
    b"0\r\nContent-Length: 200\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
)


def test_chunks_that_two_readers_could_end_at_two_places(attack: Attack, attacked: Attacked) -> None:
    before = seen(attacked)
    for chunks in CHUNKS:
        answer = says(attack, START + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        # What the parser takes is no JSON, so both are refused; what counts is that nothing of it is a request.
        assert b"HTTP/1.1 2" not in answer, chunks
        assert answer.count(b"HTTP/1.1 ") <= 1, chunks
    assert seen(attacked) == before


TARGETS = (
    ("http://localhost/health/live", "localhost", 200),
    ("http://evil.example/health/live", "localhost", 400),
    ("http://localhost/health/live", "evil.example", 400),
    ("//localhost/health/live", "localhost", 404),
    ("/health/live#fragment", "localhost", 200),
    ("/health/%6cive", "localhost", 200),
    ("/health/../health/live", "localhost", 404),
    ("/health//live", "localhost", 404),
    ("/health/live/..;/", "localhost", 404),
    ("/health/live?a=%00&%ff", "localhost", 200),
    ("*", "localhost", 404),
    ("localhost:80", "localhost", 400),
)


def test_forms_of_the_target(attack: Attack) -> None:
    for target, host, status in TARGETS:
        answer = says(attack, request_bytes("GET", target, b"", CLOSE, host=host))
        assert answer.startswith(b"HTTP/1.1 %d " % status), (target, host, answer)
