"""Hostile peers over HTTP/1.1, one function each: what one connection does, drawn from ``random`` or from a strategy.

The tests send one kind at a time; ``test_everything_at_once`` sends them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random

import numpy as np
from hypothesis import strategies as st
from tests.hostility.attack import Attack, Peer
from tests.serving import ROW, TENSORS, predict_bytes, request_bytes

CLOSE = ("Connection", "close")
CHUNKED = ("Transfer-Encoding", "chunked")
PREDICT = "/v1/models/m/predict"
BODY = json.dumps({"instances": [ROW]}).encode()
_HEAD = json.dumps(
    {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}
).encode()


def chunked(body: bytes, size: int = 7) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def chunked_request(body: bytes, path: str = PREDICT) -> bytes:
    return request_bytes("POST", path, b"", CHUNKED, CLOSE, length=False) + chunked(body)


#: Right requests of every kind, each the last of its connection.
RIGHT: Mapping[str, bytes] = {
    "rows": predict_bytes(CLOSE),
    "chunked rows": chunked_request(BODY),
    "tensors": request_bytes("POST", "/v2/models/m/infer", json.dumps(TENSORS).encode(), CLOSE),
    "binary tensors": request_bytes(
        "POST",
        "/v2/models/m/infer",
        _HEAD + np.array([1, 2], np.float32).tobytes(),
        CLOSE,
        ("Inference-Header-Content-Length", str(len(_HEAD))),
    ),
    "TensorFlow's": request_bytes("POST", "/v1/models/m:predict", BODY, CLOSE),
    "the repository": request_bytes("POST", "/v2/repository/index", b'{"ready": true}', CLOSE),
    "health": request_bytes("GET", "/health/ready", b"", CLOSE),
    "metadata": request_bytes("GET", "/v2/models/m", b"", CLOSE),
    "an awaited model": predict_bytes(CLOSE, path="/v1/models/later/predict"),
    "a worker thread": predict_bytes(CLOSE, path="/v1/models/gated/predict"),
}

#: Bytes that mean something to a parser of HTTP.
WORDS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b"\x80", b"\xff", b" ", b"\t", b":", b";", b",", b"/", b"?", b"#", b"%", b"%00"),
    *(b"0\r\n\r\n", b"FFFFFFFFFFFFFFFF\r\n", b"-1", b"1e9", b"HTTP/0.9", b"HTTP/2.0", b"GET ", b"POST ", b"CONNECT "),
    *(b"Host: a\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"X-Request-Timeout: 1ms\r\n", b"{", b"}", b"[", b"]", b'"'),
)


@st.composite
def slips(draw: st.DrawFn) -> bytes:
    """A right request, or two behind each other, with up to five slips: bytes changed, lost, doubled or put in."""
    data = draw(st.sampled_from(list(RIGHT.values()))) * draw(st.integers(1, 2))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        new = draw(st.one_of(st.sampled_from(WORDS), st.binary(max_size=8), st.just(data[start:end] * 2)))
        data = data[:start] + new + data[end:]
    return data


#: Seconds until a peer that was not answered says that nothing more comes. Said at once, it would count as leaving.
PATIENT = 0.05


def says(attack: Attack, data: bytes) -> bytes:
    """Say ``data`` and, after a moment, that this is all; the server has to end the connection."""
    with attack.peer() as peer:
        peer.send(data, requests=1)
        first = peer.rest(PATIENT)
        peer.finish()
        return first + peer.rest()


def leaves(peer: Peer, random: Random) -> None:
    """By FIN or by RST."""
    (peer.reset if random.random() < 0.5 else peer.close)()


# One connection each


def sends_noise(attack: Attack, random: Random) -> None:
    says(attack, random.randbytes(random.randrange(2000)))


def sends_a_slip(attack: Attack, random: Random) -> None:
    data = bytearray(random.choice(list(RIGHT.values())))
    for _ in range(random.randrange(1, 4)):
        start = random.randrange(len(data))
        data[start : start + random.randrange(4)] = random.choice(WORDS)
    says(attack, bytes(data))


def leaves_in_a_request(attack: Attack, random: Random) -> None:
    data = random.choice(list(RIGHT.values()))
    peer = attack.connect()
    peer.send(data[: random.randrange(len(data))], requests=1)
    leaves(peer, random)


def leaves_in_an_answer(attack: Attack, random: Random) -> None:
    peer = attack.connect()
    peer.send(random.choice(list(RIGHT.values())), requests=1)
    peer.read(random.randrange(1, 300))
    leaves(peer, random)


def connects_and_leaves(attack: Attack, random: Random) -> None:
    leaves(attack.connect(), random)


def pipelines_and_leaves(attack: Attack, random: Random) -> None:
    path = random.choice([PREDICT, "/v1/models/later/predict", "/v1/models/gated/predict"])
    count = random.randrange(2, 200)
    peer = attack.connect(timeout=1.0)
    peer.send(predict_bytes(path=path) * count, requests=count)
    peer.answered(peer.read(1000))
    leaves(peer, random)


def asks_for_too_much(attack: Attack, random: Random) -> None:
    """16 MB, of which it reads little."""
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    peer = attack.connect()
    peer.send(request_bytes("POST", "/v2/models/large/infer", body), requests=1)
    peer.answered(peer.read(1000))
    leaves(peer, random)


PEERS: tuple[Callable[[Attack, Random], None], ...] = (
    sends_noise,
    sends_a_slip,
    leaves_in_a_request,
    leaves_in_an_answer,
    connects_and_leaves,
    pipelines_and_leaves,
)
