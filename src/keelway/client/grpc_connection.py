"""Sending calls over gRPC: one channel, whose one connection carries many calls at once. Blocking and awaiting."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc

from keelway.client.exchange import Call, Reply
from keelway.client.options import Options
from keelway.client.refusals import connection_broke, no_server, refusal, time_is_over
from keelway.clock import Clock
from keelway.errors import Cancelled, ErrorCode, PayloadTooLarge

_REQUEST_ID = "x-request-id"
_FIELD = "keelway-error-field"
_PUSHBACK = "grpc-retry-pushback-ms"

_OPTIONS = (
    # The client decides itself what is tried again.
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The library would wait up to two minutes before it looks for a server that was gone.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class GrpcConnection:
    """``address`` is that of the server with its scheme. Threads may share it."""

    def __init__(self, address: str, options: Options, clock: Clock) -> None:
        self._address = address
        self._metadata = list(options.sent_headers().items())
        target, credentials = _target(address, options)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=_OPTIONS)

    def send(self, call: Call[Any], timeout: float) -> Reply:
        try:
            method = self._channel.unary_unary(call.path)
            return Reply(method(call.body, timeout=timeout, metadata=self._metadata))
        except grpc.RpcError as error:
            return _failed(error, self._address)
        except ValueError:
            return Reply(error=Cancelled("the client is closed"))

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcConnection:
    """The same, to be awaited. The channel belongs to the loop of the first call."""

    def __init__(self, address: str, options: Options, clock: Clock) -> None:
        self._address = address
        self._options = options
        self._metadata = tuple(options.sent_headers().items())
        self._channel: grpc.aio.Channel | None = None

    async def send(self, call: Call[Any], timeout: float) -> Reply:
        if self._channel is None:
            target, credentials = _target(self._address, self._options)
            if credentials is None:
                self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        try:
            method = self._channel.unary_unary(call.path)
            return Reply(await method(call.body, timeout=timeout, metadata=self._metadata))
        except grpc.RpcError as error:
            return _failed(error, self._address)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


def _target(address: str, options: Options) -> tuple[str, grpc.ChannelCredentials | None]:
    scheme, _, target = address.partition("://")
    if scheme == "grpc":
        return target, None

    def read(path: str | None) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    return target, grpc.ssl_channel_credentials(
        read(options.ca_certificate), read(options.private_key), read(options.certificate)
    )


def _failed(error: grpc.RpcError, address: str) -> Reply:
    """The refusal of a keelway server, which has a request id, or what the library says of the connection."""
    code = ErrorCode(error.code().name) if error.code().name in ErrorCode.__members__ else ErrorCode.INTERNAL
    metadata = _text(error.trailing_metadata() or ())
    if _REQUEST_ID in metadata:
        pushback = metadata.get(_PUSHBACK, "")
        retry_after = int(pushback) / 1000 if pushback.isdigit() else None
        return Reply(error=refusal(code, error.details() or "", metadata.get(_FIELD), retry_after))
    if code is ErrorCode.DEADLINE_EXCEEDED:
        return Reply(error=time_is_over(address))
    if code is ErrorCode.RESOURCE_EXHAUSTED:
        return Reply(error=PayloadTooLarge("the message is larger than the server takes"))
    if code is ErrorCode.UNAVAILABLE and "onnect" in (error.details() or ""):
        return Reply(error=no_server(address))
    if code is ErrorCode.UNAVAILABLE:
        return Reply(error=connection_broke(address), broken=True)
    return Reply(error=refusal(code, f"the server answered with status {error.code().name}"))


def _text(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    return {key: value for key, value in metadata if isinstance(value, str)}
