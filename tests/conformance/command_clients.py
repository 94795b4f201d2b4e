"""Public clients that are commands, a process for each request: curl, over HTTP/1.1 and, with the framing of gRPC
written out here, over HTTP/2; nghttp, which speaks HTTP/2 only. Both begin with the preface, as gRPC's libraries do."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc
from tests.conformance.cases import Case
from tests.conformance.clients import PLAIN, Addresses, Answered, Options, Refused
from tests.conformance.grpc_clients import MessageClient, path_of
from tests.conformance.rest_clients import exchange

from keelway.errors import ErrorCode

PATIENCE = 20
CALL_HEADERS = {"Content-Type": "application/grpc", "TE": "trailers"}
_STATUSES: Mapping[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_RECEIVED = re.compile(rb"recv \(stream_id=\d+\) ([a-z0-9:-]+): (.*)")


class Said(NamedTuple):
    """What came back over HTTP/2: headers and trailers in one, whose names are lower-case, and the body."""

    headers: Mapping[str, str]
    body: bytes


class Folder:
    """Where a command finds the body to send and leaves what it got."""

    def __init__(self) -> None:
        self._folder = Path(mkdtemp(prefix="keelway-conformance-"))
        self.sent, self.head, self.body = (self._folder / name for name in ("sent", "head", "body"))

    def close(self) -> None:
        shutil.rmtree(self._folder)


def run(command: Sequence[str]) -> bytes:
    """What ``command`` printed. ``AssertionError`` with its words if it failed."""
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE + 10, check=False)
    assert done.returncode == 0, done.stderr.decode() or done.stdout.decode(errors="replace")
    return done.stdout


def curl(folder: Folder, url: str, body: bytes, headers: Mapping[str, str], *options: str) -> Said:
    """POST ``body``. The headers of the last reply count: before it may be one with status 100."""
    folder.sent.write_bytes(body)
    folder.body.write_bytes(b"")  # curl makes no file for an empty body
    named = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    files = ["--data-binary", f"@{folder.sent}", "-D", str(folder.head), "-o", str(folder.body)]
    run(["curl", "-sS", "--max-time", str(PATIENCE), *options, *named, *files, url])
    lines = folder.head.read_bytes().decode("latin-1").splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("HTTP/")]
    found = {":status": lines[starts[-1]].split()[1]}
    for line in lines[starts[-1] + 1 :]:
        name, _, value = line.partition(":")
        found[name.strip().lower()] = value.strip()
    return Said(found, folder.body.read_bytes())


def nghttp(folder: Folder, url: str, body: bytes, headers: Mapping[str, str], *options: str) -> Said:
    """POST ``body``, twice: it prints headers and trailers between frames, or the body as it is."""
    folder.sent.write_bytes(body)
    named = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["nghttp", "-t", str(PATIENCE), *options, *named, "-d", str(folder.sent)]
    log = run([*command, "-v", "-n", url])
    found = {name.decode(): value.decode("latin-1").strip() for name, value in _RECEIVED.findall(log)}
    return Said(found, run([*command, url]) if found.get("grpc-status") == "0" else b"")


class CurlClient:
    """curl over HTTP/1.1."""

    def __init__(self, addresses: Addresses, binary: bool) -> None:
        self.binary = binary
        self._url = addresses.http
        self._trust = ["--cacert", str(addresses.trust)] if addresses.trust else []
        self._folder = Folder()

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        said = curl(self._folder, self._url + path, body, headers, *self._trust)
        # The protocol written out by hand asks for this one in the case that it was sent in.
        named = {name.title(): value for name, value in said.headers.items()}
        return int(said.headers[":status"]), named, said.body

    def infer(self, case: Case, request_id: str) -> Answered:
        return exchange(self, case, request_id)

    def close(self) -> None:
        self._folder.close()


class CommandMessageClient(MessageClient):
    """gRPC by a command that only knows HTTP/2: ``curl`` or ``nghttp``."""

    def __init__(self, addresses: Addresses, raw: bool, command: str) -> None:
        super().__init__(raw)
        self._url = f"{'https' if addresses.trust else 'http'}://{addresses.grpc}"
        self._command = command
        self._folder = Folder()

    def call(self, method: str, request: Any, reply: Any, options: Options = PLAIN) -> Any:
        headers = {"grpc-timeout": f"{round(options.timeout * 1000)}m", **dict(map(header_of, options.metadata))}
        if options.gzip:
            headers |= {"grpc-encoding": "gzip", "grpc-accept-encoding": "gzip"}
        said = self.say(method, framed(request.SerializeToString(), options.gzip), headers)
        raise_status(said.headers)
        return reply.FromString(unframed(said, options.gzip))

    def say(self, method: str, body: bytes, headers: Mapping[str, str] | None = None, *options: str) -> Said:
        """POST ``body``, frame and all, as a call, whatever comes back."""
        url, named = self._url + path_of(method), {**CALL_HEADERS, **(headers or {})}
        if self._command == "curl":
            return curl(self._folder, url, body, named, "--http2-prior-knowledge", *options)
        return nghttp(self._folder, url, body, named, *options)

    def close(self) -> None:
        self._folder.close()


def framed(message: bytes, compressed: bool = False) -> bytes:
    """A message as gRPC sends it: a flag and the length before it."""
    data = gzip.compress(message) if compressed else message
    return bytes([compressed]) + len(data).to_bytes(4, "big") + data


def unframed(said: Said, may_be_compressed: bool = False) -> bytes:
    """The only message of a reply. It is compressed as the headers say, and only where the caller can read that."""
    body = said.body
    assert int.from_bytes(body[1:5], "big") == len(body) - 5, "not one message"
    if body[0]:
        assert may_be_compressed
        assert said.headers["grpc-encoding"] == "gzip"
        return gzip.decompress(body[5:])
    return body[5:]


def header_of(item: tuple[str, str | bytes]) -> tuple[str, str]:
    """An item of metadata as a header: binary ones in base64, without padding, as libraries send them."""
    name, value = item
    return name, value if isinstance(value, str) else b64encode(value).decode().rstrip("=")


def raise_status(headers: Mapping[str, str]) -> None:
    """``Refused`` unless the call succeeded."""
    assert (headers[":status"], headers["content-type"]) == ("200", "application/grpc")
    if headers["grpc-status"] != "0":
        code = ErrorCode[_STATUSES[int(headers["grpc-status"])]]
        # The standard's percent-encoding; curl has read latin-1 from the wire, and ASCII is all there is.
        raise Refused(code, unquote(headers.get("grpc-message", "")))


def version(command: str) -> str:
    """``curl 7.88.1 (…)`` and ``nghttp nghttp2/1.52.0`` → the number. ``h2load`` is of the latter kind."""
    found = re.search(r"\d+\.\d+\.\d+", run([command, "--version"]).decode().splitlines()[0])
    assert found is not None
    return found[0]
