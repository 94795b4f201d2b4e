"""A client without manners, for what no HTTP library would send, and the requests that most tests of the server send.

``Wire`` is one TCP connection spoken by hand; ``ask`` is one request with the standard library.
"""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: Longest wait for anything in these tests, in seconds: long enough for a busy machine, short enough to notice a hang.
PATIENCE = 20.0

ROW = {"age": 1.0, "income": 2.0}
#: A row that keeps a ``GatedRuntime`` waiting.
BLOCKING = {"age": -1.0, "income": 0.0}
TENSORS = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}


class Reply(NamedTuple):
    """A whole reply. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str,
    method: str,
    document: Any = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Reply:
    """One request with the standard library. ``document`` is sent as JSON, or as it is when it is bytes. ``context`` is
    for TLS."""
    body = document if isinstance(document, bytes) or document is None else json.dumps(document).encode()
    names = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    if body is not None:
        names.setdefault("content-type", "application/json")
    request = urllib.request.Request(url, body, names, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as response:
            return Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


def request_bytes(
    method: str, path: str, body: bytes = b"", *headers: tuple[str, str], host: str = "127.0.0.1", length: bool = True
) -> bytes:
    """A request as bytes. ``length``: with a Content-Length where there is a body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if length and (body or method == "POST"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def predict_bytes(*headers: tuple[str, str], path: str = "/v1/models/m/predict", row: Any = None) -> bytes:
    """A prediction request for one row, as bytes."""
    return request_bytes("POST", path, json.dumps({"instances": [row or ROW]}).encode(), *headers)


class Wire:
    """One TCP connection, with TLS if there is a ``context``. ``reply`` reads the next reply, ``None`` when the server
    has closed in good order."""

    def __init__(self, port: int, timeout: float = PATIENCE, context: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def reset(self) -> None:
        """Leave without a word: the peer sees its connection reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes, method: str = "") -> Reply:
        self.send(data)
        reply = self.reply(method or data.partition(b" ")[0].decode())
        assert reply is not None, "the server closed the connection instead of answering"
        return reply

    def reply(self, method: str = "POST") -> Reply | None:
        line = self._file.readline()
        if not line:
            return None
        assert line.startswith(b"HTTP/1.1 "), line
        status = int(line.split()[1])
        headers = dict(self._headers())
        if status == 100 or method == "HEAD" or status in (204, 304):
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, b"".join(self._chunks()))
        size = int(headers["content-length"])
        body = self._file.read(size)
        assert len(body) == size, "the reply was cut short"
        return Reply(status, headers, body)

    def closed(self) -> bool:
        """Whether the server closes the connection without another byte."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True

    def _headers(self) -> Iterator[tuple[str, str]]:
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            yield name.strip().lower(), value.strip()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            self._file.readline()
        self._file.readline()
