"""gRPC requests over a few channels, each of which carries many calls at once, by grpcio: for threads and for asyncio.

Thin: a request in, a reply out, whatever its status. What to send, what it means and whether to try again is not known
here: gRPC's own retries are switched off. Proxies of the environment are not looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from keelway import __version__
from keelway.client.options import Endpoint, Options, read_file
from keelway.client.rpc import RpcReply, RpcRequest
from keelway.clock import Clock

#: Calls at once on one connection before another is opened: many servers take no more.
_CALLS_PER_CONNECTION = 100
#: Milliseconds between two attempts to connect, at first and at most, so that a server that is back is soon found.
_FIRST_RECONNECT, _LAST_RECONNECT = 100, 2000


class Connections:
    """For threads, any number of them."""

    def __init__(self, endpoint: Endpoint, options: Options, clock: Clock) -> None:
        self._metadata = tuple(options.all_headers().items())
        self._channels = _Channels(_opener(grpc, endpoint, options), options.max_connections)

    def send(self, request: RpcRequest, seconds: float) -> RpcReply:
        with self._channels.taken() as channel:
            try:
                body = channel.unary_unary(request.method)(request.body, timeout=seconds, metadata=self._metadata)
            except grpc.RpcError as error:
                return _status(error)
            return RpcReply(body)

    def close(self) -> None:
        for channel in self._channels.all():
            channel.close()


class AsyncConnections:
    """For the tasks of one event loop. A cancelled task cancels its call."""

    def __init__(self, endpoint: Endpoint, options: Options, clock: Clock) -> None:
        self._metadata = tuple(options.all_headers().items())
        self._channels = _Channels(_opener(grpc.aio, endpoint, options), options.max_connections)

    async def send(self, request: RpcRequest, seconds: float) -> RpcReply:
        with self._channels.taken() as channel:
            try:
                body = await channel.unary_unary(request.method)(request.body, timeout=seconds, metadata=self._metadata)
            except grpc.RpcError as error:
                return _status(error)
            return RpcReply(body)

    async def close(self) -> None:
        for channel in self._channels.all():
            await channel.close()


class _Channels:
    """At most ``most`` channels, each opened when all before it are busy."""

    def __init__(self, opened: Callable[[], Any], most: int) -> None:
        self._opened = opened
        self._most = most
        self._lock = threading.Lock()
        self._channels: list[Any] = []
        self._calls: list[int] = []

    @contextmanager
    def taken(self) -> Iterator[Any]:
        """The channel with the fewest calls under way, for one more."""
        with self._lock:
            place = self._least_busy()
            self._calls[place] += 1
        try:
            yield self._channels[place]
        finally:
            with self._lock:
                self._calls[place] -= 1

    def all(self) -> list[Any]:
        return self._channels

    def _least_busy(self) -> int:
        least = min(self._calls, default=_CALLS_PER_CONNECTION)
        if least < _CALLS_PER_CONNECTION or len(self._calls) == self._most:
            return self._calls.index(least)
        self._channels.append(self._opened())
        self._calls.append(0)
        return len(self._calls) - 1


def _opener(library: Any, endpoint: Endpoint, options: Options) -> Callable[[], Any]:
    """Opens a channel of ``library``: grpc's or grpc.aio's."""
    settings = [
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT),
        ("grpc.max_reconnect_backoff_ms", _LAST_RECONNECT),
        ("grpc.max_receive_message_length", options.max_answer_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.primary_user_agent", f"keelway/{__version__}"),
        # Channels would share one connection otherwise, with each other and with other clients in the process.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if not endpoint.is_secure:
        return lambda: library.insecure_channel(endpoint.authority, options=settings)
    credentials = _credentials(options)
    return lambda: library.secure_channel(endpoint.authority, credentials, options=settings)


def _credentials(options: Options) -> grpc.ChannelCredentials:
    authorities = read_file(options.ca_certificate, "ca_certificate") if options.ca_certificate else None
    if not options.certificate:
        return grpc.ssl_channel_credentials(authorities)
    key = read_file(options.private_key, "private_key")
    return grpc.ssl_channel_credentials(authorities, key, read_file(options.certificate, "certificate"))


def _status(error: Any) -> RpcReply:
    metadata = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    return RpcReply(status=error.code().name, details=error.details() or "", metadata=metadata)
