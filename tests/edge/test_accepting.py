"""One listening socket, several acceptors: the one with the fewest connections takes the next. # R4"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from keelway.config import HttpSettings
from keelway.edge.accepting import Acceptor, Place, Seats
from keelway.edge.listening import bind, resolve


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind(resolve("127.0.0.1:0", "http.address", anywhere=False)) as listener:
        yield listener


class Counted(asyncio.Protocol):
    def __init__(self, connections: set[asyncio.BaseTransport]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._transport)


def seats_of(count: int) -> tuple[Seats, Seats]:
    """The same seats twice, as two processes have them."""
    first, descriptor = Seats.made(count)
    return first, Seats.inherited(descriptor, count)


def test_a_seat_is_seen_by_the_others_and_a_vacant_one_is_not_waited_for() -> None:
    here, there = seats_of(3)
    assert (here.fewest(), there.fewest()) == (0, 0)
    here.write(0, 5)
    there.write(2, 7)
    assert (here.fewest(), there.fewest()) == (5, 5)
    there.vacate(0)
    assert here.fewest() == 7


async def connected(listener: socket.socket, count: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    sockets = []
    for _ in range(count):
        one = socket.socket()
        one.setblocking(False)
        await loop.sock_connect(one, listener.getsockname())
        sockets.append(one)
        await asyncio.sleep(0.01)
    return sockets


def acceptors(listener: socket.socket, count: int) -> list[tuple[Acceptor, set[asyncio.BaseTransport]]]:
    seats, _ = Seats.made(count)
    made = []
    for seat in range(count):
        connections: set[asyncio.BaseTransport] = set()
        place = Place(listener.dup(), seats, seat)
        made.append((Acceptor(place, connections, partial(Counted, connections), HttpSettings()), connections))
    return made


async def closed(made: list[tuple[Acceptor, set[asyncio.BaseTransport]]], clients: list[socket.socket]) -> None:
    for acceptor, connections in made:
        acceptor.close()
        await acceptor.wait_closed()
        for transport in connections:
            transport.abort()  # type: ignore[attr-defined]
        acceptor._place.listener.close()
    for client in clients:
        client.close()
    await asyncio.sleep(0.01)


def test_connections_are_shared_out_evenly(listener: socket.socket) -> None:
    async def run() -> list[int]:
        made = acceptors(listener, 3)
        for acceptor, _ in made:
            acceptor.open()
        clients = await connected(listener, 12)
        await asyncio.sleep(0.1)
        counts = [len(connections) for _, connections in made]
        await closed(made, clients)
        return counts

    assert asyncio.run(run()) == [4, 4, 4]


def test_a_process_that_does_not_come_for_its_share_is_not_waited_for_long(listener: socket.socket) -> None:
    async def run() -> int:
        made = acceptors(listener, 2)
        (acceptor, connections), _ = made
        made[0][0]._place.seats.write(1, 0)  # the other has none, and sits inside a model
        acceptor.open()
        clients = await connected(listener, 5)
        await asyncio.sleep(0.1)
        count = len(connections)
        await closed(made, clients)
        return count

    assert asyncio.run(run()) == 5


def test_who_has_closed_takes_no_more_and_leaves_the_socket_to_the_others(listener: socket.socket) -> None:
    async def run() -> list[int]:
        made = acceptors(listener, 2)
        for acceptor, _ in made:
            acceptor.open()
        made[0][0].close()
        clients = await connected(listener, 4)
        await asyncio.sleep(0.1)
        counts = [len(connections) for _, connections in made]
        await closed(made, clients)
        return counts

    assert asyncio.run(run()) == [0, 4]


def test_a_count_that_falls_is_seen_without_a_new_connection(listener: socket.socket) -> None:
    async def run() -> None:
        made = acceptors(listener, 1)
        ((acceptor, connections),) = made
        acceptor.open()
        clients = await connected(listener, 3)
        await asyncio.sleep(0.05)
        seats = acceptor._place.seats
        assert seats.fewest() == 3
        for client in clients:
            client.close()
        await asyncio.sleep(0.3)
        assert seats.fewest() == 0
        assert not connections
        await closed(made, [])

    asyncio.run(run())


def test_a_process_without_descriptors_goes_on_when_there_are_some(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from keelway.edge import accepting

    monkeypatch.setattr(accepting, "_EXHAUSTED", 0.05)

    class Exhausted:
        """A listener that first has no descriptor left."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real
            self.refusals = 2

        def fileno(self) -> int:
            return self.real.fileno()

        def close(self) -> None:
            self.real.close()

        def accept(self) -> object:
            if self.refusals:
                self.refusals -= 1
                raise OSError(24, "Too many open files")
            return self.real.accept()

    async def run() -> int:
        made = acceptors(listener, 1)
        ((acceptor, connections),) = made
        acceptor._place = acceptor._place._replace(listener=Exhausted(acceptor._place.listener))  # type: ignore[arg-type]
        acceptor.open()
        clients = await connected(listener, 1)
        await asyncio.sleep(0.3)
        count = len(connections)
        await closed(made, clients)
        return count

    assert asyncio.run(run()) == 1
    assert "no connection can be taken: Too many open files" in caplog.text
