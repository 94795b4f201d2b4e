"""The ways in which the suite reaches the server: a client, a transport and an encoding each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import metadata
from platform import python_version
from typing import Any, NamedTuple

import pytest
from tests.conformance import (
    command_clients,
    environments,
    grpc_clients,
    grpc_libraries,
    process_clients,
    rest_clients,
)
from tests.conformance.cases import Case
from tests.conformance.clients import Addresses, Encoding


class Way(NamedTuple):
    """``version`` is the client's. ``slow``: it needs an environment of its own, made on demand, or
    a command that has to be installed. ``asks``: it can ask
    about the server too, as an ``Operator``."""

    client: str
    transport: str
    encoding: Encoding
    version: Callable[[], str]
    open: Callable[[Addresses], Any]
    slow: bool = False
    asks: bool = False
    #: Cases that the client itself cannot send or read.
    cannot: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        return f"{self.client} {self.encoding}"

    def can_say(self, case: Case) -> bool:
        """Whether the encoding has a form for the case: FP16 has no typed list, and JSON no bytes that are no text."""
        if case.id in self.cannot:
            return False
        if self.encoding == "typed":
            return all(sent.datatype != "FP16" for sent in case.inputs)
        if self.encoding == "json":
            return not any(sent.datatype == "BYTES" and b"\xff\xfe" in sent.array for sent in case.inputs)
        return True


def of(package: str) -> Callable[[], str]:
    return partial(metadata.version, package)


TRITON, HTTPX, GRPCIO, GRPCLIB = of("tritonclient"), of("httpx"), of("grpcio"), of("grpclib")
CURL, NGHTTP = partial(command_clients.version, "curl"), partial(command_clients.version, "nghttp")
TRITON_HTTP, TRITON_GRPC = rest_clients.TritonClient, grpc_clients.TritonClient
TRITON_AIO = partial(TRITON_HTTP, asynchronous=True)
KSERVE, JAVASCRIPT = environments.kserve_version, environments.javascript_version


def kserve(transport: str, encoding: Encoding, *cannot: str) -> Way:
    opening = partial(process_clients.kserve, transport=transport, encoding=encoding)
    return Way("kserve", transport, encoding, KSERVE, opening, slow=True, cannot=frozenset(cannot))


def javascript(encoding: Encoding, asks: bool) -> Way:
    opening = partial(process_clients.javascript, encoding=encoding)
    return Way("@grpc/grpc-js", "gRPC", encoding, JAVASCRIPT, opening, slow=True, asks=asks)


def command(name: str, version: Callable[[], str], encoding: Encoding, asks: bool = False) -> Way:
    opening = partial(command_clients.CommandMessageClient, raw=encoding == "raw", command=name)
    return Way(name, "gRPC", encoding, version, opening, slow=True, asks=asks)


WAYS: Sequence[Way] = [
    Way("tritonclient.http", "REST", "json", TRITON, partial(TRITON_HTTP, binary=False), asks=True),
    Way("tritonclient.http", "REST", "binary", TRITON, partial(TRITON_HTTP, binary=True)),
    Way("tritonclient.http.aio", "REST", "json", TRITON, partial(TRITON_AIO, binary=False), asks=True),
    Way("tritonclient.http.aio", "REST", "binary", TRITON, partial(TRITON_AIO, binary=True)),
    Way("httpx", "REST", "json", HTTPX, partial(rest_clients.HttpxClient, binary=False)),
    Way("httpx", "REST", "binary", HTTPX, partial(rest_clients.HttpxClient, binary=True)),
    Way("urllib", "REST", "json", python_version, partial(rest_clients.UrllibClient, binary=False)),
    Way("urllib", "REST", "binary", python_version, partial(rest_clients.UrllibClient, binary=True)),
    Way("tritonclient.grpc", "gRPC", "raw", TRITON, TRITON_GRPC, asks=True),
    Way("tritonclient.grpc.aio", "gRPC", "raw", TRITON, partial(TRITON_GRPC, asynchronous=True), asks=True),
    Way("grpcio", "gRPC", "typed", GRPCIO, partial(grpc_libraries.GrpcioClient, raw=False), asks=True),
    Way("grpcio", "gRPC", "raw", GRPCIO, partial(grpc_libraries.GrpcioClient, raw=True)),
    Way("grpc.aio", "gRPC", "typed", GRPCIO, partial(grpc_libraries.GrpcAioClient, raw=False), asks=True),
    Way("grpc.aio", "gRPC", "raw", GRPCIO, partial(grpc_libraries.GrpcAioClient, raw=True)),
    Way("grpclib", "gRPC", "typed", GRPCLIB, partial(grpc_libraries.GrpclibClient, raw=False), asks=True),
    Way("grpclib", "gRPC", "raw", GRPCLIB, partial(grpc_libraries.GrpclibClient, raw=True)),
    Way("curl", "REST", "json", CURL, partial(command_clients.CurlClient, binary=False), slow=True),
    Way("curl", "REST", "binary", CURL, partial(command_clients.CurlClient, binary=True), slow=True),
    command("curl", CURL, "typed", asks=True),
    command("curl", CURL, "raw"),
    # It calls twice for one answer, so it is not asked to load or unload.
    command("nghttp", NGHTTP, "typed"),
    command("nghttp", NGHTTP, "raw"),
    # KServe's own code sends no FP16 as JSON, takes every BYTES outside raw contents for text, and reads those of a
    # binary reply over REST so too.
    kserve("REST", "json", "identity of FP16"),
    kserve("REST", "binary", "bytes that are no text"),
    kserve("gRPC", "typed", "bytes that are no text"),
    kserve("gRPC", "raw"),
    javascript("typed", asks=True),
    javascript("raw", asks=False),
]

#: Those that the suite can tell whom to trust. curl agrees on HTTP/1.1 where both are spoken, nghttp trusts everybody.
OVER_TLS = [way for way in WAYS if way.client != "kserve" and (way.transport, way.client) != ("gRPC", "curl")]

#: The gRPC clients, each once.
CALLERS = [way for way in WAYS if (way.transport, way.encoding) == ("gRPC", "raw")]
#: Those that can leave a call under way, and follow a stream.
BEGINNERS = [way for way in CALLERS if way.client in ("grpcio", "grpc.aio", "grpclib", "@grpc/grpc-js")]

#: For what no client would send: clients that take any body, and any message.
JSON_BY_HAND = [way for way in WAYS if way.client in ("httpx", "urllib") and way.encoding == "json"]
BYTES_BY_HAND = [way for way in WAYS if way.client in ("httpx", "urllib") and way.encoding == "binary"]
TYPED_MESSAGES, RAW_MESSAGES = (way for way in WAYS if way.client == "grpcio")


def each(ways: Iterable[Way], *cases: Any) -> pytest.MarkDecorator:
    """A test over ``way``, or over ``way`` and each ``case``; a ``Case`` only where the way can say it."""
    if not cases:
        return pytest.mark.parametrize("way", [parameter(way, way.id) for way in ways])
    pairs = [(way, case) for way in ways for case in cases if not isinstance(case, Case) or way.can_say(case)]
    return pytest.mark.parametrize(
        ("way", "case"), [parameter(way, f"{way.id}-{case.id}", case) for way, case in pairs]
    )


def parameter(way: Way, id: str, *more: Any) -> Any:
    return pytest.param(way, *more, id=id, marks=[pytest.mark.slow] if way.slow else [])
