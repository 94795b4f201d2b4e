"""Every kind of hostile peer at the same time for a while, with neighbours who must not notice. # R3 M2"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from random import Random

import pytest
from tests.hostility.attack import Attack
from tests.hostility.http_peers import PEERS, asks_for_too_much
from tests.hostility.neighbour import Neighbour
from tests.hostility.test_slow_clients import SLOW

SECONDS = 20.0
NEIGHBOURS = 4


@pytest.mark.slow
def test_everything_at_once(attack: Attack) -> None:
    end = time.monotonic() + SECONDS
    random = Random(4711)

    def storm(seed: int) -> None:
        own = Random(seed)
        while time.monotonic() < end:
            with suppress(ConnectionError, TimeoutError):
                own.choice(PEERS)(attack, own)

    def ask_for_too_much() -> None:
        while time.monotonic() < end:
            asks_for_too_much(attack, random)
            time.sleep(0.2)

    def be_slow() -> None:
        while time.monotonic() < end:
            peers = [attack.connect() for _ in range(200)]
            for peer, (first, _) in zip(peers, list(SLOW.values()) * 20, strict=True):
                peer.send(first, requests=1)
            time.sleep(3.0)
            for peer in peers:
                peer.close()

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(6)]
    threads += [threading.Thread(target=ask_for_too_much), threading.Thread(target=be_slow)]
    with ExitStack() as stack:
        neighbours = [stack.enter_context(Neighbour(attack.port)) for _ in range(NEIGHBOURS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [neighbour.harm for neighbour in neighbours] == [[]] * NEIGHBOURS
    assert all(neighbour.answers["200"] > 10 for neighbour in neighbours)
