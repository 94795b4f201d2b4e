"""An open loop: requests leave when they are due, whether or not those before them were answered, and their time counts
from when they were due. A server that is slow is not asked less (no coordinated omission)."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import deque
from typing import NamedTuple

import numpy as np

CONNECTIONS = 1024
#: Seconds after the last request in which answers are waited for.
_PATIENCE = 2.0
#: Seconds by which a request may leave late at most; its time counts from when it was due.
_TICK = 0.001


class Answered(NamedTuple):
    """``seconds`` of each good answer, from when its request was due; ``statuses`` of all answers; ``unsent`` found no
    connection, ``lost`` no answer."""

    seconds: tuple[float, ...]
    statuses: dict[int, int]
    unsent: int
    lost: int

    def percentile(self, share: float) -> float:
        """In milliseconds; infinite without a good answer."""
        return float(np.percentile(self.seconds, share) * 1000) if self.seconds else float("inf")


class _Connection(asyncio.Protocol):
    def __init__(self, client: _Client) -> None:
        self._client = client
        self._received = b""
        self.due: float | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(rest) >= length:
            self._received = rest[length:]
            self._client.answered(self, int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.gone(self)


class _Client:
    def __init__(self) -> None:
        self.counted_from = 0.0
        self.free: deque[_Connection] = deque()
        self.seconds: list[float] = []
        self.statuses: dict[int, int] = {}
        self.waiting = self.lost = 0
        self._now = asyncio.get_running_loop().time

    def send(self, request: bytes, due: float) -> bool:
        if not self.free:
            return False
        connection = self.free.popleft()
        connection.due = due
        self.waiting += 1
        assert connection.transport is not None
        connection.transport.write(request)
        return True

    def answered(self, connection: _Connection, status: int) -> None:
        assert connection.due is not None
        self.waiting -= 1
        if connection.due >= self.counted_from:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 200:
                self.seconds.append(self._now() - connection.due)
        connection.due = None
        self.free.append(connection)

    def gone(self, connection: _Connection) -> None:
        if connection.due is not None:
            self.waiting -= 1
            self.lost += 1
        elif connection in self.free:
            self.free.remove(connection)


async def drive(
    port: int, request: bytes, rate: float, seconds: float, connections: int = CONNECTIONS, warm_up: float = 0.0
) -> Answered:
    """Send ``request`` to ``port`` at random, ``rate`` times a second on average, for ``seconds`` behind ``warm_up``
    seconds, which do not count but for requests without an answer."""
    loop, dice = asyncio.get_running_loop(), random.Random(0)
    client = _Client()
    opened: list[asyncio.Transport] = []
    for _ in range(connections):
        transport, connection = await loop.create_connection(lambda: _Connection(client), "127.0.0.1", port)
        opened.append(transport)
        client.free.append(connection)
    # A collection here would stop all answers for longer than they take, and be counted against the server.
    gc.collect()
    gc.disable()
    unsent, due = 0, loop.time()
    client.counted_from = due + warm_up
    ends = client.counted_from + seconds
    while due < ends:
        if due > loop.time():
            # No shorter: timers count in milliseconds, and a sleep of less than one is a spin on the server's core.
            await asyncio.sleep(max(due - loop.time(), _TICK))
        while due <= loop.time() and due < ends:
            unsent += not client.send(request, due) and due >= client.counted_from
            due += dice.expovariate(rate)
    patience = loop.time() + _PATIENCE
    while client.waiting and loop.time() < patience:  # noqa: ASYNC110 - an event would cost each answer a little
        await asyncio.sleep(0.01)
    gc.enable()
    lost = client.lost + client.waiting
    for transport in opened:
        transport.close()
    await asyncio.sleep(0)
    return Answered(tuple(client.seconds), client.statuses, unsent, lost)
