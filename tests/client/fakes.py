"""Servers that misbehave as told, one for each protocol and alike for the tests, and a proxy whose wires can be cut.

A fake answers the question for its metadata; ``script`` says how, call by call, and is empty when it should just
answer. What it was asked is in ``seen``.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc

from keelway.wire.open_inference_pb2 import ServerMetadataResponse

METADATA = {"name": "fake", "version": "1", "extensions": ["e"]}
#: A refusal's words, and the seconds it asks to wait.
WORDS, WAIT = "not now", 1.0
STATUSES = {
    "busy": (503, grpc.StatusCode.UNAVAILABLE),
    "limited": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "wrong": (400, grpc.StatusCode.INVALID_ARGUMENT),
    "late": (504, grpc.StatusCode.DEADLINE_EXCEEDED),
    "failed": (500, grpc.StatusCode.INTERNAL),
    "gone": (499, grpc.StatusCode.CANCELLED),
}
#: Seconds that ``slow`` takes.
SLOW = 1.5


class Seen(NamedTuple):
    """One call: its path, the seconds that it was given, its headers or metadata, the peer it came from."""

    path: str
    seconds: float
    headers: Mapping[str, str]
    peer: str


class Fake:
    """``script``: names of ``STATUSES`` (``busy 1`` asks to wait), ``slow``, ``garbage``, ``large``, ``break``, which
    calls ``on_break``."""

    scheme = ""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.seen: list[Seen] = []
        self.on_break: Any = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def next(self, seen: Seen) -> str:
        self.seen.append(seen)
        behaviour = self.script.pop(0) if self.script else "answer"
        if behaviour == "slow":
            time.sleep(SLOW)
        elif behaviour == "break":
            self.on_break()
        return behaviour

    def close(self) -> None:
        raise NotImplementedError


class FakeRest(Fake):
    scheme = "http"

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__()
        fake = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one segment: in two, the second waits for the acknowledgement of the first.
            wbufsize = -1

            def do_GET(self) -> None:
                fake.answer(self)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A caller that left is part of the tests."""

        self._server = Listener(("127.0.0.1", 0), Answers)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seconds = float(headers["x-request-timeout"])
        behaviour = self.next(Seen(request.path, seconds, headers, str(request.client_address)))
        status, body, more = 200, json.dumps(METADATA).encode(), {}
        name, _, wait = behaviour.partition(" ")
        if name in STATUSES:
            status, body = STATUSES[name][0], json.dumps({"error": WORDS}).encode()
            more = {"x-request-id": "id-1"} | ({"retry-after": wait} if wait else {})
        elif behaviour == "garbage":
            body = b"<html>"
        elif behaviour == "large":
            body = json.dumps(METADATA | {"name": "x" * 6_000_000}).encode()
        request.send_response(status)
        for header, value in more.items():
            request.send_header(header, value)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class FakeRpc(Fake):
    scheme = "grpc"

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        super().__init__()
        fake = self

        class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                metadata = dict(details.invocation_metadata)
                return grpc.unary_unary_rpc_method_handler(
                    lambda body, context: fake.answer(details.method, metadata, context)
                )

        options = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(8), (Methods(),), options=options)
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
            self.scheme = "grpcs"
        self._server.start()

    def answer(self, method: str, metadata: Mapping[str, str], context: Any) -> bytes:
        behaviour = self.next(Seen(method, context.time_remaining(), metadata, context.peer()))
        name, _, wait = behaviour.partition(" ")
        if name in STATUSES:
            trailing = [("x-request-id", "id-1")]
            if wait:
                trailing.append(("grpc-retry-pushback-ms", str(int(float(wait) * 1000))))
            context.set_trailing_metadata(trailing)
            context.abort(STATUSES[name][1], WORDS)
        if behaviour == "garbage":
            return b"\xff\xff\xff"
        name = "x" * 6_000_000 if behaviour == "large" else METADATA["name"]
        return ServerMetadataResponse(**(METADATA | {"name": name})).SerializeToString()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._server.stop(0).wait()


class Proxy:
    """Passes bytes on to a port, until ``cut`` resets every connection. ``accepted`` counts those there were."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                # A reset, and no orderly end; shutdown wakes the thread that reads.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.accepted += 1
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError), source, target:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def listener(answer: bytes, *, pause: float = 0.0, piece: int = 1 << 20) -> Iterator[int]:
    """A port where every connection is answered with ``answer``, in pieces with pauses, then closed."""

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            for at in range(0, len(answer), piece):
                connection.sendall(answer[at : at + piece])
                time.sleep(pause)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(socket_.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as socket_:
        threading.Thread(target=accept, daemon=True).start()
        yield socket_.getsockname()[1]
        # Wakes the thread that waits in accept.
        socket_.shutdown(socket.SHUT_RDWR)
