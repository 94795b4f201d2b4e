"""The floor under REST without a framework: an ``asyncio.Protocol`` on uvloop with httptools, and no feature at all.

``bare_protocol PORT`` answers V2 JSON by the same inference, out of the parser's callback: nothing is checked, counted,
limited or batched, and a client that does not read is not waited for.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools
import uvloop

from benchmarks.servers.asgi import Answer, inference

PATH = b"/v2/models/forest/infer"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    __slots__ = ("_answer", "_body", "_parser", "_path", "_transport")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parser = httptools.HttpRequestParser(self)
        self._path = self._body = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._path = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._path != PATH:
            self._transport.write(NOT_FOUND)
            return
        reply = self._answer(self._body)
        self._transport.write(HEAD % len(reply) + reply)


async def serve(port: int) -> None:
    answer = inference()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
