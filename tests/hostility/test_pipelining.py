"""A thousand requests in one write: answers in their order, and no more memory than the peer has earned. # R3"""

from __future__ import annotations

import re
import threading

import pytest
from tests.hostility.attack import Attack, Peer
from tests.hostility.http_peers import CLOSE
from tests.serving import Wire, predict_bytes, request_bytes

DEPTH = 1000
PATHS = {name: f"/v1/models/{name}/predict" for name in ("m", "later", "gated")}


def numbered(path: str, number: int) -> bytes:
    return predict_bytes(path=path, row={"age": float(number), "income": 0.0})


def sent_while_reading(attack: Attack, data: bytes, requests: int) -> list[tuple[int, list[float] | None]]:
    """Status and predictions of every answer to ``data``, sent in one write."""
    attack.count(connections=1, requests=requests, bytes_sent=len(data))
    with Wire(attack.port) as wire:
        # Sent from a thread of its own, since neither side can keep it all without reading.
        sender = threading.Thread(target=wire.send, args=(data,))
        sender.start()
        answers = []
        for _ in range(requests):
            reply = wire.reply()
            assert reply is not None
            answers.append((reply.status, reply.json.get("predictions")))
        sender.join()
    attack.answered(*(str(status) for status, _ in answers))
    return answers


@pytest.mark.parametrize("models", ["m", "gated", "m m m m m m m m m m m m m later gated"])
def test_a_thousand_requests_in_one_write(attack: Attack, models: str) -> None:
    names = models.split()
    data = b"".join(numbered(PATHS[names[number % len(names)]], number) for number in range(DEPTH))
    answers = sent_while_reading(attack, data, DEPTH)
    assert answers == [(200, [float(number)]) for number in range(DEPTH)]


def test_bad_requests_among_a_thousand(attack: Attack) -> None:
    """Each is answered in its place: unknown models, bodies that are no JSON, wrong types, other methods."""
    bad = (
        (404, predict_bytes(path="/v1/models/nobody/predict")),
        (400, request_bytes("POST", PATHS["m"], b"{")),
        (415, predict_bytes(("Content-Type", "text/csv"))),
        (405, request_bytes("PUT", PATHS["m"], b"{}")),
        (404, request_bytes("GET", "/nowhere")),
    )
    parts, right = [], []
    for number in range(DEPTH):
        status, request = bad[number // 2 % len(bad)] if number % 2 else (200, numbered(PATHS["m"], number))
        parts.append(request)
        right.append((status, [float(number)] if status == 200 else None))
    assert sent_while_reading(attack, b"".join(parts), DEPTH) == right


def test_garbage_behind_five_hundred(attack: Attack) -> None:
    with attack.peer() as peer:
        peer.send(predict_bytes() * 500 + b"\0garbage\r\n\r\n" + predict_bytes() * 500, requests=500)
        statuses = re.findall(rb"HTTP/1\.1 (\d\d\d)", peer.rest())
    assert statuses == [b"200"] * 500


def test_what_stands_behind_a_last_request(attack: Attack) -> None:
    with attack.peer() as peer:
        peer.send(predict_bytes(CLOSE) + predict_bytes() * DEPTH, requests=1 + DEPTH)
        assert len(re.findall(rb"HTTP/1\.1 200 ", peer.rest())) == 1


def test_a_thousand_requests_and_gone(attack: Attack) -> None:
    for path in PATHS.values():
        for leave in [Peer.close, Peer.reset] * 3:
            peer = attack.connect(timeout=0.5)
            peer.send(predict_bytes(path=path) * DEPTH, requests=DEPTH)
            leave(peer)


@pytest.mark.slow
def test_peers_that_pipeline_and_never_read(attack: Attack) -> None:
    """The server stops reading when nobody takes its answers, and ends it in time."""
    peers = [attack.connect(timeout=0.2) for _ in range(20)]
    for peer in peers:
        while peer.send(request_bytes("GET", "/openapi.json") * 200, requests=200):
            pass
    for peer in peers:
        peer.rest()
        peer.close()
