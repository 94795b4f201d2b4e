"""One listening socket, several processes: who takes the next connection. Used by the workers of ``supervise``.

Each process writes how many connections it has into a seat that all of them can read. The one with the fewest takes the
next; the others leave it a moment, and take it if it does not. Left to itself, the event loop of whoever wakes first
takes all that is waiting, and connections that live long would stay on one process.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

from keelway.edge.listening import Endpoint

log = logging.getLogger("keelway.edge")

#: Seconds that a busier process leaves a connection to the one with the fewest. A process inside a long run of a model
#: does not come for it.
_COURTESY = 0.002
#: Seconds between two looks at one's own count, which falls without anybody asking.
_COUNTING = 0.1
#: Seconds to wait when no descriptor is left.
_EXHAUSTED = 1.0
_SEAT = struct.Struct("=i")
#: What stands on the seat of a process that takes no connections.
_VACANT = -1


class Seats:
    """One number for each process in memory that they share. A seat is written by its own process, and cleared by the
    supervisor when that has died: there is nothing to lock."""

    def __init__(self, descriptor: int, count: int) -> None:
        """The seats in an inherited ``descriptor``, which is closed here."""
        self._memory = mmap.mmap(descriptor, count * _SEAT.size)
        self._count = count
        os.close(descriptor)

    @classmethod
    def made(cls, count: int) -> tuple[Seats, int]:
        """``count`` vacant seats, and a descriptor for processes to inherit."""
        with tempfile.TemporaryFile() as file:
            file.write(_SEAT.pack(_VACANT) * count)
            file.flush()
            inherited = os.dup(file.fileno())
            return cls(os.dup(file.fileno()), count), inherited

    def write(self, seat: int, connections: int) -> None:
        _SEAT.pack_into(self._memory, seat * _SEAT.size, connections)

    def vacate(self, seat: int) -> None:
        self.write(seat, _VACANT)

    def fewest(self) -> int:
        """The fewest connections of a process that takes some; 0 if none does."""
        taken = [count for (count,) in _SEAT.iter_unpack(self._memory) if count >= 0]
        return min(taken, default=0)


class Berth(NamedTuple):
    """Where one of several processes serves, instead of at addresses of its own.

    ``early``: take connections before the models are loaded, because nobody else answers probes. ``opened`` is set when
    all of the first processes are ready: before that, this one is not ready either, whatever it has loaded. ``grpc`` is
    the address that all share, if gRPC is served.
    """

    listener: socket.socket
    seats: Seats
    seat: int
    early: bool
    opened: asyncio.Event
    grpc: Endpoint | None


class Acceptor:
    """Takes connections from the listener of ``berth``. Stands where uvicorn keeps a server of asyncio."""

    def __init__(self, berth: Berth, connections: Sized, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._berth = berth
        self._connections = connections
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._counter: asyncio.TimerHandle | None = None
        self._listening = False

    def open(self) -> None:
        """Take connections from now on."""
        if not self._listening:
            self._listening = True
            self._keep_count()
            self._loop.add_reader(self._berth.listener, self._readable)

    def close(self) -> None:
        """Take no more. Others do: the socket itself stays open in them."""
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._berth.listener)
            self._berth.seats.vacate(self._berth.seat)
        for timer in (self._timer, self._counter):
            if timer is not None:
                timer.cancel()

    async def wait_closed(self) -> None:
        """Until the connections taken last have their protocols."""
        if self._joining:
            await asyncio.wait(self._joining)

    def _keep_count(self) -> None:
        self._count()
        self._counter = self._loop.call_later(_COUNTING, self._keep_count)

    def _count(self) -> int:
        mine = len(self._connections) + len(self._joining)
        self._berth.seats.write(self._berth.seat, mine)
        return mine

    def _readable(self) -> None:
        if self._count() > self._berth.seats.fewest():
            self._pause(_COURTESY)
        else:
            self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._berth.listener)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._berth.listener, self._readable)
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._berth.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return  # another process has it, or its peer has left
        except OSError as error:
            log.error("no connection can be taken: %s", error.strerror)
            self._pause(_EXHAUSTED)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._join(connection))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        self._count()

    async def _join(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
