"""Floods of connections: more than the server takes are told so, and those who had one before keep it. # R3"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest
from tests.hostility.attack import Attack, Peer, sizes
from tests.hostility.http_peers import RIGHT, connects_and_leaves
from tests.hostility.served import SETTINGS
from tests.serving import predict_bytes, request_bytes

LIMIT = SETTINGS["http"]["max_connections"]


@sizes("count", quick=1500, slow=30_000)
def test_connections_opened_and_closed(attack: Attack, count: int) -> None:
    random = Random(1)
    for _ in range(count):
        connects_and_leaves(attack, random)


@sizes("count", quick=400, slow=10_000)
def test_rapid_reconnects_with_a_request_each(attack: Attack, count: int) -> None:
    for _ in range(count):
        with attack.peer() as peer:
            peer.send(RIGHT["rows"], requests=1)
            assert peer.rest().startswith(b"HTTP/1.1 200 ")


def test_more_idle_connections_than_the_server_takes(attack: Attack) -> None:
    peers = [attack.connect() for _ in range(LIMIT + 300)]
    time.sleep(0.5)
    refused = Counter(peer.rest(0.0001)[9:12] for peer in peers)
    # The neighbour has one of them.
    assert refused[b"503"] in (300, 301)
    assert refused[b""] == len(peers) - refused[b"503"]
    for peer in peers:
        peer.close()


def test_kept_connections_take_turns(attack: Attack) -> None:
    """All the connections there are, each used again and again, as many at once as may be answered at once."""
    peers = [attack.connect() for _ in range(LIMIT - 50)]
    at_once = SETTINGS["limits"]["max_in_flight"] - 50
    for start in (*range(0, len(peers), at_once),) * 3:
        group = peers[start : start + at_once]
        for peer in group:
            peer.send(predict_bytes(), requests=1)
        for peer in group:
            answer = peer.read(4096)
            while not answer.endswith(b"}"):
                answer += peer.read(4096)
            peer.answered(answer)
            assert answer.startswith(b"HTTP/1.1 200 ")
    for peer in peers:
        peer.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("may_shed")
def test_every_kind_of_flood_from_many_threads(attack: Attack) -> None:
    def storm(seed: int) -> None:
        random = Random(seed)
        for _ in range(250):
            with suppress(ConnectionError, TimeoutError):
                random.choice(FLOODS)(attack, random)

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def holds(attack: Attack, random: Random) -> None:
    peers: list[Peer] = [attack.connect() for _ in range(random.randrange(60))]
    for peer in peers:
        (peer.reset if random.random() < 0.5 else peer.close)()


def asks_without_reading(attack: Attack, random: Random) -> None:
    peer = attack.connect()
    peer.send(request_bytes("GET", "/metrics") * random.randrange(1, 20), requests=1)
    peer.reset()


FLOODS: tuple[Callable[[Attack, Random], None], ...] = (connects_and_leaves, holds, asks_without_reading)
