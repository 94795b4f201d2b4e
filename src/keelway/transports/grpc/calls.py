"""Calls of all kinds but inference: refused ones, those of one message each way, and those with streams.

Messages are parsed here, so that what is none is the caller's fault and no failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from keelway.edge.http2.application import Exchange, Response
from keelway.edge.http2.streams import Stream
from keelway.errors import DeadlineExceeded, KeelwayError, MalformedRequest, Unavailable
from keelway.guard.addresses import counted
from keelway.observe.request_ids import RequestIds
from keelway.transports.grpc.errors import (
    OK_HEAD,
    OK_TRAILERS,
    CallRefused,
    Status,
    refusal,
    refused_trailers,
)
from keelway.transports.grpc.framing import Framing, framed
from keelway.types import Peer, Principal

Asked = TypeVar("Asked", bound=Message)


class Caller(NamedTuple):
    """Who calls, and by which connection."""

    principal: Principal
    peer: Peer


#: Bytes of a request in, bytes of a reply out.
Answer = Callable[[bytes, Caller], Awaitable[bytes]]
#: The same for streams of them.
Streaming = Callable[[AsyncIterator[bytes]], AsyncGenerator[Message, None]]


def message_call(kind: type[Asked], answer: Callable[[Asked, Caller], Awaitable[Message]]) -> Answer:
    """``answer`` of a message to a message as one of bytes to bytes."""

    async def answered(body: bytes, caller: Caller) -> bytes:
        reply = await answer(parsed(kind, body), caller)
        return reply.SerializeToString()  # type: ignore[no-any-return]

    return answered


def parsed(kind: type[Asked], body: bytes) -> Asked:
    """The message in ``body``. ``MalformedRequest`` if there is none of that kind."""
    try:
        return kind.FromString(body)  # type: ignore[no-any-return]
    except DecodeError:
        raise MalformedRequest(f"the message is not a {kind.DESCRIPTOR.name}") from None


class RefusedOpening:
    """Calls that are refused for what their headers say. ``respond`` makes the answer, anew for each."""

    def __init__(self, respond: Callable[[], Response]) -> None:
        self._respond = respond

    def open(self, stream: Stream) -> Exchange:
        return RefusedCall(stream, self._respond)


class RefusedCall:
    """A call that is answered when it is whole, or as soon as it turns out to be long. Holds nothing."""

    __slots__ = ("_respond", "_stream")

    def __init__(self, stream: Stream, respond: Callable[[], Response]) -> None:
        self._stream = stream
        self._respond = respond

    def receive(self, data: bytes) -> None:
        self._stream.respond(self._respond())

    def finish(self, data: bytes) -> Response:
        return self._respond()

    def cancel(self) -> None:
        """There is nothing to give back."""

    def sweep(self, now: float) -> None:
        self._stream.respond(self._respond())


class Collected:
    """The one message of a call that comes in parts, under the limit on its size."""

    __slots__ = ("_framing", "_parts", "_size")

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """``CallRefused`` as soon as it is known that the message may not be."""
        parts = self._parts
        if len(parts) == 1 and self._size < 5:
            data = parts.pop() + data
            self._size = 0
        if not parts and len(data) >= 5:
            self._framing.check(data)
        parts.append(data)
        self._size += len(data)
        if self._size > self._framing.limit + 5:
            raise CallRefused(Status.INVALID_ARGUMENT, "the call has more than one message")

    def whole(self, data: bytes) -> bytes:
        return b"".join((*self._parts, data))


class UnaryOpening:
    """Calls of one message each way, answered by a task. ``seconds`` and ``patience``: for all of the call, and for
    its message to come."""

    def __init__(self, answer: Answer, framing: Framing, ids: RequestIds, seconds: float, patience: float) -> None:
        self.answer = answer
        self.framing = framing
        self.ids = ids
        self.seconds = seconds
        self.patience = patience

    def enter(self, stream: Stream, principal: Principal) -> Exchange:
        return UnaryExchange(self, stream, Caller(principal, stream.peer))

    def refused(self, error: KeelwayError) -> Response:
        return refusal(error, self.ids.next())


class UnaryExchange:
    __slots__ = ("_caller", "_message", "_opening", "_stream", "_task")

    def __init__(self, opening: UnaryOpening, stream: Stream, caller: Caller) -> None:
        self._caller = caller
        self._opening = opening
        self._stream = stream
        self._message = Collected(opening.framing)
        self._task: asyncio.Task[None] | None = None

    def receive(self, data: bytes) -> None:
        try:
            self._message.add(data)
        except CallRefused as error:
            self._stream.respond(refusal(error, self._opening.ids.next()))
        else:
            self._stream.consumed(len(data))

    def finish(self, data: bytes) -> Response | None:
        request_id = self._opening.ids.next()
        try:
            message = self._opening.framing.message_of(self._message.whole(data))
        except CallRefused as error:
            return refusal(error, request_id)
        self._task = asyncio.get_running_loop().create_task(self._answer(message, request_id))
        return None

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def sweep(self, now: float) -> None:
        if now - self._stream.since > min(self._opening.seconds, self._opening.patience):
            late = DeadlineExceeded("the message did not come in time")
            self._stream.respond(refusal(late, self._opening.ids.next()))

    async def _answer(self, message: bytes, request_id: str) -> None:
        try:
            async with time_limit(self._opening.seconds):
                response = Response(OK_HEAD, framed(await self._opening.answer(message, self._caller)), OK_TRAILERS)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            response = refusal(error, request_id)
        self._stream.respond(response)


class StreamOpening:
    """Calls with a stream of answers, to a stream of messages or to the first alone (``one``). ``seconds`` are those of
    the call, ``patience`` those for a message that has begun. ``live`` has those under way, ``crowd`` counts them where
    it has to be somebody's."""

    def __init__(
        self,
        streaming: Streaming,
        framing: Framing,
        ids: RequestIds,
        seconds: float,
        patience: float,
        live: set[StreamExchange],
        *,
        one: bool = False,
        crowd: Crowd | None = None,
    ) -> None:
        self.streaming = streaming
        self.framing = framing
        self.ids = ids
        self.seconds = seconds
        self.patience = patience
        self.one = one
        self._live = live
        self._crowd = crowd

    def refused(self, error: KeelwayError) -> Response:
        return refusal(error, self.ids.next())

    def enter(self, stream: Stream, principal: Principal) -> Exchange:
        if self._crowd is not None and not self._crowd.join(stream.peer):
            error = Unavailable("as many calls of this kind are open as may be; ask once, without a stream")
            return RefusedCall(stream, partial(self.refused, error))
        exchange = StreamExchange(self, stream)
        self._live.add(exchange)
        exchange.task.add_done_callback(partial(self._over, exchange, stream.peer))
        return exchange

    def _over(self, exchange: StreamExchange, peer: Peer, _: object) -> None:
        self._live.discard(exchange)
        if self._crowd is not None:
            self._crowd.leave(peer)


class Crowd:
    """How many streams there are that anybody may open: ``most`` at once, and ``each`` from one address."""

    def __init__(self, most: int, each: int) -> None:
        self._left = most
        self._each = each
        self._by_address: Counter[str] = Counter()

    def join(self, peer: Peer) -> bool:
        """Whether there is room for one more, which is then taken until ``leave``."""
        address = counted(peer.address)
        if not self._left or self._by_address[address] >= self._each:
            return False
        self._left -= 1
        self._by_address[address] += 1
        return True

    def leave(self, peer: Peer) -> None:
        address = counted(peer.address)
        self._left += 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class StreamExchange:
    """A task that takes messages as they come; the peer may send ahead as much as its window holds, which stays packed
    until it is asked for. It may take its time, too: who asks for a stream wants to keep it. Nothing is kept of what
    comes when no message is asked for any more."""

    __slots__ = (
        "_broken",
        "_buffer",
        "_done",
        "_ended",
        "_opening",
        "_owed",
        "_short_since",
        "_stream",
        "_waiting",
        "task",
    )

    def __init__(self, opening: StreamOpening, stream: Stream) -> None:
        self._opening = opening
        self._stream = stream
        self._buffer = bytearray()
        self._owed = 0
        self._ended = self._done = False
        self._short_since: float | None = None
        self._broken: KeelwayError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self.task = asyncio.get_running_loop().create_task(self._answer())

    def receive(self, data: bytes) -> None:
        if self._done:
            return
        self._owed += len(data)
        self._buffer += data
        self._wake()
        self._pay()

    def finish(self, data: bytes) -> None:
        self.receive(data)
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Take no more messages: an idle stream must not hold up a drain."""
        self._ended = True
        self._wake()

    def cancel(self) -> None:
        self.task.cancel()

    def sweep(self, now: float) -> None:
        if not self._buffer or not self._opening.framing.is_short(self._buffer):
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        elif now - self._short_since > self._opening.patience:
            self._broken = DeadlineExceeded("the message did not come in time")
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _pay(self) -> None:
        """Give the window back, but not while a message waits to be asked for."""
        if self._owed and self._opening.framing.is_short(self._buffer):
            owed, self._owed = self._owed, 0
            self._stream.consumed(owed)

    async def _asked(self) -> AsyncIterator[bytes]:
        while True:
            while (message := self._opening.framing.take(self._buffer)) is not None:
                self._short_since = None
                if self._opening.one:
                    self._ask_no_more()
                self._pay()
                yield message
            if self._broken is not None:
                raise self._broken
            if self._ended:
                if self._buffer:
                    raise CallRefused(Status.INVALID_ARGUMENT, "the message is shorter than it states")
                return
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def _ask_no_more(self) -> None:
        self._done = True
        self._buffer.clear()

    async def _answer(self) -> None:
        stream, started = self._stream, False
        try:
            async with (
                time_limit(self._opening.seconds),
                contextlib.aclosing(self._opening.streaming(self._asked())) as answers,
            ):
                async for message in answers:
                    if not started:
                        started = True
                        stream.start(OK_HEAD)
                    stream.send(framed(message.SerializeToString()))
                    await stream.drained()
        except Exception as error:  # noqa: BLE001 - as above
            trailers = refused_trailers(error, self._opening.ids.next())
        else:
            trailers = OK_TRAILERS
        self._ask_no_more()
        if started:
            stream.end(trailers)
        else:
            stream.respond(Response(OK_HEAD + trailers, b"", b""))


@contextlib.asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """``DeadlineExceeded`` if what is inside takes longer."""
    try:
        async with asyncio.timeout(None if seconds == math.inf else seconds) as timer:
            yield
    except TimeoutError:
        if timer.expired():
            raise DeadlineExceeded("the deadline passed before the call was answered") from None
        raise
