"""A crowd of connections that have asked once and say nothing any more, in a process of its own: the descriptors of one
are not enough for both ends.

``Crowd`` starts ``python -m tests.hostility.idle`` and asks it over its standard input and output.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyperframe.frame import PingFrame
from tests.hostility.grpc_peers import GREETING
from tests.serving import PATIENCE, predict_bytes

#: Descriptors that a process needs besides those of the crowd.
OTHERS = 300
#: Connections that one address of the client's own has ports for, with room for those that are still closing.
PER_ADDRESS = 12_000


class Kind(NamedTuple):
    """What a connection says first, and what it says to see whether it is alive; the ends of the answers."""

    first: bytes
    again: bytes
    answered: Callable[[bytes], bool]


def _greeted(data: bytes) -> bool:
    """Whether the server's own greeting and its answer to the client's are there."""
    return data.count(b"\x04\x01\0\0\0\0") > 0  # SETTINGS, acknowledged


KINDS: Mapping[str, Kind] = {
    "HTTP/1.1": Kind(predict_bytes(), predict_bytes(), lambda data: data.endswith(b"}")),
    "HTTP/2": Kind(GREETING, PingFrame(0, b"anybody?").serialize(), lambda data: _greeted(data) or b"anybody?" in data),
}


def descriptors() -> int:
    """How many a process may have, once it has asked for all it may. Its children inherit that."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Crowd:
    """``count`` connections of ``kind`` to ``port``, for ``with``: all have been answered when it begins."""

    def __init__(self, port: int, kind: str, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostility.idle", json.dumps([port, kind, count])],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Crowd:
        try:
            self.answered = self._heard()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """All close."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def alive(self) -> int:
        """How many are open and are answered when they ask again."""
        assert self._process.stdin is not None
        self._process.stdin.write("alive\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the crowd is gone"
        return int(line)


def connect(port: int, number: int) -> socket.socket:
    source = (f"127.0.0.{1 + number // PER_ADDRESS}", 0)
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=source)


def asked(connections: Sequence[socket.socket], said: bytes, answered: Callable[[bytes], bool]) -> int:
    """How many were answered, some hundred asking at once."""
    count = 0
    for start in range(0, len(connections), 200):
        group = connections[start : start + 200]
        for connection in group:
            connection.sendall(said)
        for connection in group:
            data = b""
            while not answered(data) and (part := connection.recv(65536)):
                data += part
            count += answered(data)
    return count


def main(argument: str) -> None:
    port, name, count = json.loads(argument)
    descriptors()
    kind: Any = KINDS[name]
    connections = []
    for start in range(0, count, 200):
        group = [connect(port, number) for number in range(start, min(start + 200, count))]
        connections += group
        assert asked(group, kind.first, kind.answered) == len(group)
    print(len(connections), flush=True)
    for _ in sys.stdin:
        print(asked(connections, kind.again, kind.answered), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
