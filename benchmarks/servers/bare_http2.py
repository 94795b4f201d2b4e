"""The floor under gRPC without its library: the frames that one unary method takes, on an ``asyncio.Protocol`` and
uvloop, and no feature at all.

``bare_http2 PORT`` answers ``ModelInfer`` by the same inference. It knows no deadline, metadata, compression, limit or
CONTINUATION, and of flow control what such small replies need: the window of the connection. A connection that wants
more is closed.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import hpack
import uvloop

from benchmarks.servers.bare_grpc import METHOD, SERVICE, inference
from keelway.wire.open_inference_pb2 import ModelInferRequest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = f"/{SERVICE}/{METHOD}".encode()
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
DEFAULT_WINDOW, WINDOW, CREDIT = 65_535, 0x7FFF0000, 1 << 20
Answer = Callable[[bytes], bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2, "big") + value.to_bytes(4, "big")


#: Streams at once, and the window of each; then that of the connection.
GREETING = frame(SETTINGS, 0, 0, setting(3, 4096) + setting(4, WINDOW)) + frame(
    WINDOW_UPDATE, 0, 0, (WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
)


def block(*headers: tuple[str, str]) -> bytes:
    """Headers that leave the table of the other side as it is, so that the same bytes serve every reply."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*header) for header in headers])


REPLY = block((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = block(("grpc-status", "0"))
UNIMPLEMENTED = block((":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12"))


class NotSpoken(Exception):
    """The other side wants more than this floor has."""


class Paths:
    """The path of a block of headers. Equal blocks have equal headers while they leave the table as it is, which those
    of a client do after its first few."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder()
        self._known: dict[bytes, bytes] = {}

    def of(self, headers: bytes) -> bytes:
        path = self._known.get(headers)
        if path is None:
            table = self._decoder.header_table.dynamic_entries
            before = tuple(table)
            path = dict(self._decoder.decode(headers, raw=True))[b":path"]
            if tuple(table) == before:
                self._known[headers] = path
            else:
                self._known.clear()
        return path


class Connection(asyncio.Protocol):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._paths = Paths()
        self._read = b""
        self._greeted = False
        self._streams: dict[int, tuple[bytes, list[bytes]]] = {}
        self._window = DEFAULT_WINDOW
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._uncredited = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        data = self._read + data if self._read else data
        at = 0
        if not self._greeted:
            if len(data) < len(PREFACE):
                self._read = data
                return
            self._greeted, at = True, len(PREFACE)
        out: list[bytes] = []
        try:
            if not data.startswith(PREFACE) and at:
                raise NotSpoken
            while len(data) - at >= 9:
                end = at + 9 + int.from_bytes(data[at : at + 3], "big")
                if end > len(data):
                    break
                stream = int.from_bytes(data[at + 5 : at + 9], "big")
                self._take(data[at + 3], data[at + 4], stream, data[at + 9 : end], out)
                at = end
        except NotSpoken:
            self._transport.close()
        self._read = data[at:]
        if self._uncredited > CREDIT:
            out.append(frame(WINDOW_UPDATE, 0, 0, self._uncredited.to_bytes(4, "big")))
            self._uncredited = 0
        if out:
            self._transport.write(b"".join(out))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, out: list[bytes]) -> None:
        if kind == DATA:
            self._uncredited += len(payload)
            if stream in self._streams:
                self._streams[stream][1].append(unpadded(flags, payload))
                if flags & END_STREAM:
                    self._finish(stream, out)
        elif kind == HEADERS:
            if not flags & END_HEADERS:
                raise NotSpoken
            payload = unpadded(flags, payload)
            self._streams[stream] = self._paths.of(payload[5:] if flags & PRIORITY else payload), []
            if flags & END_STREAM:
                self._finish(stream, out)
        elif kind == SETTINGS:
            if not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0))
        elif kind == PING:
            if not flags & ACK:
                out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            if not stream:
                self._window += int.from_bytes(payload, "big")
                while self._waiting and len(self._waiting[0][1]) <= self._window:
                    self._reply(*self._waiting.popleft(), out)
        elif kind == RESET:
            self._streams.pop(stream, None)
        elif kind == CONTINUATION:
            raise NotSpoken

    def _finish(self, stream: int, out: list[bytes]) -> None:
        path, parts = self._streams.pop(stream)
        if path != PATH:
            out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, UNIMPLEMENTED))
            return
        message = self._answer(b"".join(parts)[5:])
        message = b"\0" + len(message).to_bytes(4, "big") + message
        if self._waiting or len(message) > self._window:
            self._waiting.append((stream, message))
        else:
            self._reply(stream, message, out)

    def _reply(self, stream: int, message: bytes, out: list[bytes]) -> None:
        self._window -= len(message)
        out.append(frame(HEADERS, END_HEADERS, stream, REPLY))
        out.append(frame(DATA, 0, stream, message))
        out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS))


def unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload


def answer_bytes() -> Answer:
    """The function from the bytes of a request message to those of its answer."""
    answer: Callable[[Any], Any] = inference()
    parse = ModelInferRequest.FromString
    return lambda body: answer(parse(body)).SerializeToString()  # type: ignore[no-any-return]


async def serve(port: int) -> None:
    answer = answer_bytes()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
