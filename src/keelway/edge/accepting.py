"""Taking connections from a listening socket: TLS, where there is any, and whose turn it is among several processes.

The workers of ``supervise`` inherit one socket for each port. Each writes how many connections it has into a seat that
all of them can read. The one with the fewest takes the next; the others leave it a moment, and take it if it does not.
Left to itself, the event loop of whoever wakes first takes all that is waiting, and connections that live long would
stay on one process.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

from keelway.config import HttpSettings
from keelway.edge.tls import FAREWELL

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

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    @classmethod
    def inherited(cls, descriptor: int, count: int) -> Seats:
        """The ``count`` seats in an inherited ``descriptor``, which is closed here."""
        memory = mmap.mmap(descriptor, count * _SEAT.size)
        os.close(descriptor)
        return cls(memory)

    @classmethod
    def made(cls, count: int) -> tuple[Seats, int]:
        """``count`` vacant seats, and a descriptor for processes to inherit."""
        with tempfile.TemporaryFile() as file:
            file.write(_SEAT.pack(_VACANT) * count)
            file.flush()
            inherited = os.dup(file.fileno())
            return cls.inherited(os.dup(file.fileno()), count), inherited

    def write(self, seat: int, connections: int) -> None:
        _SEAT.pack_into(self._memory, seat * _SEAT.size, connections)

    def vacate(self, seat: int) -> None:
        self.write(seat, _VACANT)

    def fewest(self) -> int:
        """The fewest connections of a process that takes some; 0 if none does."""
        taken = [count for (count,) in _SEAT.iter_unpack(self._memory) if count >= 0]
        return min(taken, default=0)


class Place(NamedTuple):
    """A listening socket, and the seat of this process among those that share it."""

    listener: socket.socket
    seats: Seats
    seat: int

    @classmethod
    def alone(cls, listener: socket.socket) -> Place:
        """Nobody else takes connections from ``listener``."""
        return cls(listener, Seats(mmap.mmap(-1, _SEAT.size)), 0)


class Berth(NamedTuple):
    """Where one of several processes serves, instead of at addresses of its own.

    ``early``: take connections before the models are loaded, because nobody else answers probes. ``opened`` is set when
    all of the first processes are ready: before that, this one is not ready either, whatever it has loaded. ``grpc`` is
    there if gRPC has a port of its own.
    """

    http: Place
    early: bool
    opened: asyncio.Event
    grpc: Place | None


class Acceptor:
    """Takes connections from the listener of ``place``. Stands where uvicorn keeps a server of asyncio.

    ``context`` gives the newest context of TLS, which a peer has the time for a request head to agree on. Those that
    have not are counted among the ``connections`` that ``settings`` allow."""

    def __init__(
        self,
        place: Place,
        connections: Sized,
        protocol: Callable[[], asyncio.Protocol],
        settings: HttpSettings,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._place = place
        self._connections = connections
        self._protocol = protocol
        self._settings = settings
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._counter: asyncio.TimerHandle | None = None
        self._listening = False

    @property
    def busy(self) -> bool:
        """Whether connections were taken that have no protocol yet."""
        return bool(self._joining)

    def open(self) -> None:
        """Take connections from now on."""
        if not self._listening:
            self._listening = True
            self._keep_count()
            self._loop.add_reader(self._place.listener, self._readable)

    def close(self) -> None:
        """Take no more. Others do: the socket itself stays open in them."""
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._place.listener)
            self._place.seats.vacate(self._place.seat)
        for timer in (self._timer, self._counter):
            if timer is not None:
                timer.cancel()

    def cut_off(self) -> None:
        """End the connections that have no protocol yet: their peers have asked for nothing."""
        for task in self._joining:
            task.cancel()

    async def wait_closed(self) -> None:
        """Until the connections taken last have their protocols."""
        if self._joining:
            await asyncio.wait(self._joining)

    def _keep_count(self) -> None:
        self._count()
        self._counter = self._loop.call_later(_COUNTING, self._keep_count)

    def _count(self) -> int:
        mine = len(self._connections) + len(self._joining)
        self._place.seats.write(self._place.seat, mine)
        return mine

    def _readable(self) -> None:
        if self._count() > self._place.seats.fewest():
            self._pause(_COURTESY)
        else:
            self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._place.listener)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._place.listener, self._readable)
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._place.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return  # another process has it, or its peer has left
        except OSError as error:
            log.error("no connection can be taken: %s", error.strerror)
            self._pause(_EXHAUSTED)
            return
        if self._context is not None and self._count() >= self._settings.max_connections:
            connection.close()  # busy, which it would only understand behind a handshake
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._join(connection))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        self._count()

    async def _join(self, connection: socket.socket) -> None:
        try:
            if self._context is None:
                await self._loop.connect_accepted_socket(self._protocol, connection)
                return
            await self._loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=self._settings.header_timeout,
                ssl_shutdown_timeout=FAREWELL,
            )
        except OSError as error:
            # Of TLS too: whoever speaks something else, or shows no certificate. Anybody can make it happen at will.
            log.debug("a connection is not taken: %s", type(error).__name__)
            connection.close()
