"""One attack: every connection it opens, every byte it sends and every answer it gets is counted.

``Attack`` knows an address, not what listens there. ``Totals`` is what a report prints of it.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.wire import PATIENCE

#: Failures of the server. 501 is an answer, 503 and 504 say that there is no room or no time.
FAILURES = frozenset({"500", "502", "505", "INTERNAL", "UNKNOWN", "DATA_LOSS"})
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


class Attack:
    """Against ``port`` of this machine. ``totals`` grows while it runs, from any thread."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.connections = 0
        self.requests = 0
        self.bytes_sent = 0
        self.answers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def connect(self, timeout: float = PATIENCE) -> Peer:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        self.count(connections=1)
        self._open.add(connection)
        return Peer(self, connection)

    @contextmanager
    def peer(self) -> Iterator[Peer]:
        """A connection that is closed at the end."""
        peer = self.connect()
        try:
            yield peer
        finally:
            peer.close()

    def count(self, connections: int = 0, requests: int = 0, bytes_sent: int = 0) -> None:
        with self._lock:
            self.connections += connections
            self.requests += requests
            self.bytes_sent += bytes_sent

    def answered(self, *answers: str) -> None:
        """Statuses, of HTTP or of gRPC."""
        with self._lock:
            self.answers.update(answers)

    def closed(self, connection: socket.socket) -> None:
        self._open.discard(connection)

    def end(self) -> None:
        """Close what a test that failed has left open."""
        while self._open:
            self._open.pop().close()

    def failures(self) -> dict[str, int]:
        return {answer: count for answer, count in self.answers.items() if answer in FAILURES}

    def totals(self) -> dict[str, Any]:
        return {
            "attack": self.name,
            "connections": self.connections,
            "requests": self.requests,
            "bytes": self.bytes_sent,
            "answers": dict(sorted(self.answers.items())),
        }


class Peer:
    """One hostile connection. A server that closes first is no error: it is what most attacks are for."""

    def __init__(self, attack: Attack, connection: socket.socket) -> None:
        self._attack = attack
        self.socket = connection

    def send(self, data: bytes, requests: int = 0) -> bool:
        """Whether all of ``data`` could be sent."""
        self._attack.count(requests=requests)
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        self._attack.count(bytes_sent=len(data))
        return True

    def finish(self) -> None:
        """Say that nothing more comes (FIN)."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def rest(self, pause: float = 0.0) -> bytes:
        """Everything until the server ends the connection, ``TimeoutError`` if it does not; or, with a ``pause`` in
        seconds, until it has said nothing for so long."""
        parts = []
        self.socket.settimeout(pause or PATIENCE)
        try:
            while part := self.socket.recv(1 << 16):
                parts.append(part)
        except TimeoutError:
            if not pause:
                raise
        except ConnectionError:
            pass
        finally:
            self.socket.settimeout(PATIENCE)
        data = b"".join(parts)
        self.answered(data)
        return data

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, none if the connection has ended."""
        with suppress(ConnectionError):
            return self.socket.recv(size)
        return b""

    def answered(self, data: bytes) -> None:
        self._attack.answered(*(status.decode() for status in _STATUS.findall(data)))

    def close(self) -> None:
        self.socket.close()
        self._attack.closed(self.socket)

    def reset(self) -> None:
        """Leave without a word: the server sees its connection reset (RST)."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.close()


def sizes(name: str, quick: int, slow: int) -> pytest.MarkDecorator:
    """A test that runs small with every ``make test`` and large with ``make test-slow``."""
    values = [pytest.param(quick, id="quick"), pytest.param(slow, id="long", marks=pytest.mark.slow)]
    return pytest.mark.parametrize(name, values)


def for_each(examples: int, strategy: st.SearchStrategy[Any], act: Callable[[Any], None]) -> None:
    """``act`` on so many examples of ``strategy``, the same ones in every run."""

    @settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(example: Any) -> None:
        act(example)

    run()
