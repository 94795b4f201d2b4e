"""REST requests over pooled, kept-alive HTTP/1.1 connections, by httpx: for threads and for asyncio.

Thin: a request in, a reply or a ``Failure`` out. What to send, what it means and whether to try again is not known
here. Proxies, certificates and passwords of the environment are not looked at.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from functools import partial
from queue import Empty, LifoQueue
from typing import Any

import httpcore
import httpx

from keelway import __version__
from keelway.client.failures import broken, no_connection_free, not_reached, not_trusted, too_large, too_late
from keelway.client.options import Endpoint, Options
from keelway.client.rest import HttpReply, HttpRequest
from keelway.client.retries import Failure
from keelway.clock import Clock
from keelway.errors import FailedPrecondition

#: Seconds an idle connection is kept, less than the server keeps it (75), so that few are found closed.
_KEEP_ALIVE = 60.0
#: Bytes written at once, between two looks at the deadline.
_PIECE = 1 << 20


class Connections:
    """For threads, any number of them. A connection is one thread's at a time, because httpx's own pool is not sound
    between threads: one that looks for idle connections may close what another has just begun to use."""

    def __init__(self, endpoint: Endpoint, options: Options, clock: Clock) -> None:
        self._address = endpoint.text
        self._clock = clock
        self._connect = partial(_Connection, endpoint, options, _trust(endpoint, options), clock)
        # The one used last is used next; None is a connection that has not been needed yet.
        self._idle: LifoQueue[_Connection | None] = LifoQueue()
        for _ in range(options.max_connections):
            self._idle.put(None)
        self._opened: list[_Connection] = []

    def send(self, request: HttpRequest, seconds: float) -> HttpReply | Failure:
        deadline = self._clock.monotonic() + seconds
        try:
            connection = self._idle.get(timeout=seconds)
        except Empty:
            return no_connection_free(self._address)
        try:
            if connection is None:
                connection = self._connect()
                self._opened.append(connection)
            return connection.send(request, deadline)
        finally:
            self._idle.put(connection)

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


class _Connection:
    """One connection, opened when it is used and again when it has been closed."""

    def __init__(self, endpoint: Endpoint, options: Options, trust: ssl.SSLContext | None, clock: Clock) -> None:
        self._address = endpoint.text
        self._limit = options.max_answer_bytes
        self._deadline = _Deadline(clock)
        transport = _DeadlineTransport(self._deadline, trust)
        self._client = httpx.Client(transport=transport, **_settings(endpoint, options))

    def send(self, request: HttpRequest, deadline: float) -> HttpReply | Failure:
        self._deadline.at = deadline
        try:
            seconds = self._deadline.left(httpcore.ConnectTimeout)
            with self._client.stream(**_arguments(request, seconds)) as response:
                parts = _Parts(self._limit)
                for part in response.iter_raw():
                    if not parts.takes(part):
                        return too_large(self._address, self._limit)
                return parts.reply(response)
        except httpcore.TimeoutException:
            return Failure(too_late(self._address))
        except (httpx.TransportError, OSError) as error:
            return _failure(error, self._address)

    def close(self) -> None:
        self._client.close()


class AsyncConnections:
    """For the tasks of one event loop. A cancelled task gives its connection back, closed."""

    def __init__(self, endpoint: Endpoint, options: Options, clock: Clock) -> None:
        self._address = endpoint.text
        self._limit = options.max_answer_bytes
        most = options.max_connections
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=_KEEP_ALIVE)
        trust = _trust(endpoint, options) or False
        transport = httpx.AsyncHTTPTransport(verify=trust, limits=limits, trust_env=False)
        self._client = httpx.AsyncClient(transport=transport, **_settings(endpoint, options))

    async def send(self, request: HttpRequest, seconds: float) -> HttpReply | Failure:
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(**_arguments(request, seconds)) as response,
            ):
                parts = _Parts(self._limit)
                async for part in response.aiter_raw():
                    if not parts.takes(part):
                        return too_large(self._address, self._limit)
                return parts.reply(response)
        except TimeoutError:
            return Failure(too_late(self._address))
        except (httpx.TransportError, OSError) as error:
            return _failure(error, self._address)

    async def close(self) -> None:
        await self._client.aclose()


class _Parts:
    """The body of a response as it arrives, up to ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def takes(self, part: bytes) -> bool:
        self._parts.append(part)
        self._size += len(part)
        return self._size <= self._limit

    def reply(self, response: httpx.Response) -> HttpReply:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return HttpReply(response.status_code, headers, b"".join(self._parts))


class _Deadline:
    """When the call that a connection carries is over, on the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at = 0.0

    def left(self, exceeded: type[httpcore.TimeoutException]) -> float:
        """Seconds; ``exceeded`` is raised when there are none."""
        seconds = self.at - self._clock.monotonic()
        if seconds <= 0:
            raise exceeded
        return seconds


class _DeadlineTransport(httpx.HTTPTransport):
    """httpx's transport for one connection, with a deadline for the whole exchange: its own timeouts begin anew with
    every read, so that a server that sends a byte now and then could hold a thread for ever."""

    def __init__(self, deadline: _Deadline, trust: ssl.SSLContext | None) -> None:
        super().__init__(verify=False, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=trust,
            max_connections=1,
            keepalive_expiry=_KEEP_ALIVE,
            network_backend=_DeadlineBackend(deadline),
        )


class _DeadlineBackend(httpcore.SyncBackend):
    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.left(httpcore.ConnectTimeout)
        stream = super().connect_tcp(host, port, seconds, local_address, socket_options)
        return _DeadlineStream(stream, self._deadline)


class _DeadlineStream(httpcore.NetworkStream):
    """``stream`` with the time that is left, whatever it is told."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[at : at + _PIECE], self._deadline.left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.left(httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _settings(endpoint: Endpoint, options: Options) -> dict[str, Any]:
    """The arguments of a client, its transport aside."""
    own = {"accept-encoding": "identity", "user-agent": f"keelway/{__version__}"}
    return {"base_url": endpoint.text, "headers": own | options.all_headers(), "trust_env": False}


def _arguments(request: HttpRequest, seconds: float) -> dict[str, Any]:
    # The server learns how long its answer is wanted, and skips what nobody waits for.
    headers = {**request.headers, "x-request-timeout": f"{max(seconds, 0.001):.3f}"}
    return {
        "method": request.method,
        "url": request.path,
        "content": request.body,
        "headers": headers,
        "timeout": seconds,
    }


def _trust(endpoint: Endpoint, options: Options) -> ssl.SSLContext | None:
    """What TLS takes, if the address asks for TLS. ``FailedPrecondition`` if a file cannot be used."""
    if not endpoint.is_secure:
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca_certificate or None)
        if options.certificate:
            context.load_cert_chain(options.certificate, options.private_key)
    except (OSError, ssl.SSLError) as error:
        raise FailedPrecondition("the files of ca_certificate, certificate and private_key make no TLS") from error
    return context


def _failure(error: Exception, address: str) -> Failure:
    if isinstance(error, httpx.PoolTimeout):
        return no_connection_free(address)
    if isinstance(error, httpx.TimeoutException):
        return Failure(too_late(address))
    if _is_about_trust(error):
        return not_trusted(address)
    return not_reached(address) if isinstance(error, httpx.ConnectError) else broken(address)


def _is_about_trust(error: BaseException | None) -> bool:
    """Whether TLS has refused one side, then or when the first bytes came; not that the peer just went away."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return True
        error = error.__cause__ or error.__context__
    return False
