"""Callers that leave at every byte of a request and of an answer, in good order (FIN) and in bad (RST). # R3 M2"""

from __future__ import annotations

from tests.hostility.attack import Attack, Peer, sizes
from tests.hostility.http_peers import RIGHT

STEP = sizes("step", quick=23, slow=1)


@STEP
def test_requests_cut_at_every_byte(attack: Attack, step: int) -> None:
    for data in RIGHT.values():
        for end in range(0, len(data), step):
            for leave in (Peer.finish, Peer.close, Peer.reset):
                peer = attack.connect()
                peer.send(data[:end], requests=1)
                leave(peer)
                if leave is Peer.finish:
                    assert b"HTTP/1.1 200" not in peer.rest()
                    peer.close()


@STEP
def test_answers_cut_at_every_byte(attack: Attack, step: int) -> None:
    for data in RIGHT.values():
        with attack.peer() as peer:
            peer.send(data, requests=1)
            size = len(peer.rest())
        for end in range(1, min(size, 600), step):
            for leave in (Peer.close, Peer.reset):
                peer = attack.connect()
                peer.send(data, requests=1)
                peer.read(end)
                leave(peer)
