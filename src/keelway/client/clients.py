"""``Client`` and ``AsyncClient``: the same calls, blocking and awaiting.

Which format and which connection they use, the scheme of the address says: ``http://``, ``https://``, ``grpc://`` or
``grpcs://``. What happens in a call stands in ``exchange.py``; here are only the two ways to wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from random import random
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from keelway.client.exchange import Call, Reply, Send, Step, conduct
from keelway.client.options import Options
from keelway.client.refusals import time_is_over
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata
from keelway.client.retries import Budget, RetryPolicy
from keelway.clock import Clock, SystemClock
from keelway.errors import FailedPrecondition, InvalidInput
from keelway.types import Array

Result = TypeVar("Result")
Rows = Sequence[Mapping[str, Any]] | Mapping[str, Any]
Inputs = Mapping[str, Array | Sequence[Any]]


class Format(Protocol):
    """Makes calls and reads their replies: ``RestFormat``, ``GrpcFormat``."""

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], version: str | None) -> Call[Predictions]: ...

    def infer(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None, version: str | None, id_: str
    ) -> Call[Inference]: ...

    def metadata(self, model: str, version: str | None) -> Call[ModelMetadata]: ...

    def server_metadata(self) -> Call[ServerMetadata]: ...

    def ready(self, model: str | None) -> Call[bool]: ...

    def live(self) -> Call[bool]: ...


class Connection(Protocol):
    def send(self, call: Call[Any], timeout: float) -> Reply: ...

    def close(self) -> None: ...


class AsyncConnection(Protocol):
    async def send(self, call: Call[Any], timeout: float) -> Reply: ...

    async def close(self) -> None: ...


class _Course:
    """What both clients are made of: a format, the rules of retries, and how to connect."""

    def __init__(self, address: str, timeout: float, retries: int, retry_broken: bool) -> None:
        self.address = address.rstrip("/")
        self.clock = SystemClock()
        self.kit = _kit(self.address)
        self.format = self.kit.format(self.address)
        self._timeout = timeout
        self._policy = RetryPolicy(retries, broken=retry_broken)
        self._budget = Budget()

    def steps(self, call: Call[Result], timeout: float | None) -> Generator[Step, Reply | None, Result]:
        limit = self._timeout if timeout is None else timeout
        return conduct(call, limit, self._policy, self._budget, self.clock, random)


class Client:
    """A client of the server at ``address``. Threads may share it.

    ``timeout`` in seconds is for a whole call, retries included; every call may say another. What is left of it travels
    with the request, so that the server does not work for a caller who has given up. ``retries`` is how many more times
    a call is tried when that is safe (``retries.py``); ``retry_broken=False`` leaves out calls whose connection broke,
    which the server may have answered already. ``token`` is sent as a bearer token, ``headers`` with every call (gRPC:
    as metadata). ``ca_certificate``, ``certificate`` and ``private_key`` are PEM files, for TLS and for a certificate
    of the client's own.

    Calls raise the error that the server raised, by its class in ``keelway.errors``: ``InvalidInput``, ``NotFound``,
    ``Unavailable``, ``DeadlineExceeded`` and the others, over both protocols alike.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        retries: int = 2,
        retry_broken: bool = True,
        max_connections: int = 16,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_certificate: str | None = None,
        certificate: str | None = None,
        private_key: str | None = None,
    ) -> None:
        options = Options(max_connections, token, headers or {}, ca_certificate, certificate, private_key)
        self._course = _Course(address, timeout, retries, retry_broken)
        self._connection = self._course.kit.connection(self._course.address, options, self._course.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(
        self, model: str, rows: Rows, *, version: str | None = None, timeout: float | None = None
    ) -> Predictions:
        """Predict ``rows``: mappings of feature names to values, one or many. Bad rows have an entry in ``errors``
        beside the good rows' predictions; if all are bad, the error of the first is raised. ``version`` is a version or
        an alias."""
        return self._call(self._course.format.predict(model, _rows(rows), version), timeout)

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        id: str = "",
        timeout: float | None = None,
    ) -> Inference:
        """Run ``inputs``, arrays by the names of the model's tensors, of exactly its datatypes. Texts are BYTES.
        ``outputs`` names those wanted; ``None`` means all. Succeeds or fails as a whole."""
        return self._call(self._course.format.infer(model, _arrays(inputs), outputs, version, id), timeout)

    def metadata(self, model: str, *, version: str | None = None, timeout: float | None = None) -> ModelMetadata:
        """What the model takes and gives."""
        return self._call(self._course.format.metadata(model, version), timeout)

    def server_metadata(self, *, timeout: float | None = None) -> ServerMetadata:
        return self._call(self._course.format.server_metadata(), timeout)

    def ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Whether the server, or one model of it, can answer. ``Unavailable`` if there is no server."""
        return self._call(self._course.format.ready(model), timeout)

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether the server is there. ``Unavailable`` if it is not."""
        return self._call(self._course.format.live(), timeout)

    def close(self) -> None:
        """Close every connection."""
        self._connection.close()

    def _call(self, call: Call[Result], timeout: float | None) -> Result:
        steps = self._course.steps(call, timeout)
        reply: Reply | None = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, Send):
                    reply = self._connection.send(call, step.timeout)
                else:
                    time.sleep(step.seconds)
                    reply = None
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class AsyncClient:
    """``Client``, to be awaited. It belongs to one event loop. A call that is cancelled gives its connection back."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        retries: int = 2,
        retry_broken: bool = True,
        max_connections: int = 16,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_certificate: str | None = None,
        certificate: str | None = None,
        private_key: str | None = None,
    ) -> None:
        options = Options(max_connections, token, headers or {}, ca_certificate, certificate, private_key)
        self._course = _Course(address, timeout, retries, retry_broken)
        self._connection = self._course.kit.async_connection(self._course.address, options, self._course.clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def predict(
        self, model: str, rows: Rows, *, version: str | None = None, timeout: float | None = None
    ) -> Predictions:
        """As ``Client.predict``."""
        return await self._call(self._course.format.predict(model, _rows(rows), version), timeout)

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        id: str = "",
        timeout: float | None = None,
    ) -> Inference:
        """As ``Client.infer``."""
        return await self._call(self._course.format.infer(model, _arrays(inputs), outputs, version, id), timeout)

    async def metadata(self, model: str, *, version: str | None = None, timeout: float | None = None) -> ModelMetadata:
        """As ``Client.metadata``."""
        return await self._call(self._course.format.metadata(model, version), timeout)

    async def server_metadata(self, *, timeout: float | None = None) -> ServerMetadata:
        return await self._call(self._course.format.server_metadata(), timeout)

    async def ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """As ``Client.ready``."""
        return await self._call(self._course.format.ready(model), timeout)

    async def live(self, *, timeout: float | None = None) -> bool:
        """As ``Client.live``."""
        return await self._call(self._course.format.live(), timeout)

    async def close(self) -> None:
        """Close every connection."""
        await self._connection.close()

    async def _call(self, call: Call[Result], timeout: float | None) -> Result:
        steps = self._course.steps(call, timeout)
        reply: Reply | None = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, Send):
                    reply = await self._sent(call, step.timeout)
                else:
                    await asyncio.sleep(step.seconds)
                    reply = None
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _sent(self, call: Call[Any], timeout: float) -> Reply:
        try:
            async with asyncio.timeout(timeout):
                return await self._connection.send(call, timeout)
        except TimeoutError:
            return Reply(error=time_is_over(self._course.address))


def _rows(rows: Rows) -> Sequence[Mapping[str, Any]]:
    return [rows] if isinstance(rows, Mapping) else rows


def _arrays(inputs: Inputs) -> dict[str, Array]:
    return {name: np.asarray(values) for name, values in inputs.items()}


class _Kit(NamedTuple):
    """What one protocol needs: how calls look, and the two ways to send them."""

    format: Callable[[str], Format]
    connection: Callable[[str, Options, Clock], Connection]
    async_connection: Callable[[str, Options, Clock], AsyncConnection]


def _kit(address: str) -> _Kit:
    """The kit for the scheme of ``address``. ``InvalidInput`` if there is none, ``FailedPrecondition`` without the
    libraries it needs: only those of the protocol in use are imported."""
    scheme, separator, host = address.partition("://")
    try:
        if separator and host and scheme in ("http", "https"):
            from keelway.client import rest_connection
            from keelway.client.rest_format import RestFormat

            return _Kit(RestFormat, rest_connection.RestConnection, rest_connection.AsyncRestConnection)
        if separator and host and scheme in ("grpc", "grpcs"):
            from keelway.client import grpc_connection
            from keelway.client.grpc_format import GrpcFormat

            return _Kit(GrpcFormat, grpc_connection.GrpcConnection, grpc_connection.AsyncGrpcConnection)
    except ImportError as error:
        raise FailedPrecondition(f"this client needs {error.name}", hint='pip install "keelway[client]"') from None
    raise InvalidInput(
        "an address starts with http://, https://, grpc:// or grpcs://", hint="such as http://127.0.0.1:8080"
    )
