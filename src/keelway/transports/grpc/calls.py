"""What every call goes through: a request id, errors as statuses, and bytes as messages.

Messages are parsed here and not by the library, which answers what it cannot parse with an internal error.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from keelway.errors import KeelwayError, MalformedRequest
from keelway.observe.request_ids import RequestIds
from keelway.transports.grpc.errors import STATUS, trailing_metadata

log = logging.getLogger("keelway.grpc")

Asked = TypeVar("Asked", bound=Message)
#: What a call with a stream of answers is asked with: one message, or a stream of them, in bytes.
Streamed = TypeVar("Streamed")


class Context(Protocol):
    """What is used of ``grpc.aio.ServicerContext``."""

    def time_remaining(self) -> float | None: ...

    def invocation_metadata(self) -> Any: ...

    def set_trailing_metadata(self, trailing_metadata: Any) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> None: ...


#: Bytes of a request in, bytes of a reply out.
UnaryCall = Callable[[bytes, Context], Awaitable[bytes]]
Answer = Callable[[bytes, Context, str], Awaitable[bytes]]


def guarded(answer: Answer, ids: RequestIds) -> UnaryCall:
    """``answer`` with a request id, and with what it raises as the status of the call."""

    async def call(body: bytes, context: Context) -> bytes:
        request_id = ids.next()
        try:
            return await answer(body, context, request_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            await refuse(context, error, request_id)

    return call


async def refuse(context: Context, error: Exception, request_id: str) -> NoReturn:
    """End the call with the status of ``error``; of an unknown one the caller learns nothing but the request id."""
    if not isinstance(error, KeelwayError):
        log.error("a call failed with %s", type(error).__name__, exc_info=error, extra={"request_id": request_id})
        error = KeelwayError("internal error")
    await context.abort(STATUS[error.code], error.message, trailing_metadata(error, request_id))
    raise AssertionError("abort raises")


def guarded_stream(
    stream: Callable[[Streamed], AsyncIterator[Message]], ids: RequestIds
) -> Callable[[Streamed, Context], AsyncIterator[bytes]]:
    """The same for a call that answers with a stream."""

    async def call(asked: Streamed, context: Context) -> AsyncIterator[bytes]:
        request_id = ids.next()
        try:
            async for message in stream(asked):
                yield message.SerializeToString()
        except Exception as error:  # noqa: BLE001 - as above
            await refuse(context, error, request_id)

    return call


def message_call(kind: type[Asked], answer: Callable[[Asked], Awaitable[Message]]) -> Answer:
    """``answer`` of a message to a message as one of bytes to bytes."""

    async def answered(body: bytes, context: Context, request_id: str) -> bytes:
        reply = await answer(parsed(kind, body))
        return reply.SerializeToString()  # type: ignore[no-any-return]

    return answered


def parsed(kind: type[Asked], body: bytes) -> Asked:
    """The message in ``body``. ``MalformedRequest`` if there is none of that kind."""
    try:
        return kind.FromString(body)  # type: ignore[no-any-return]
    except DecodeError:
        raise MalformedRequest(f"the message is not a {kind.DESCRIPTOR.name}") from None
