"""Who calls: asked when the headers have come, before a byte of the message is taken in, for calls of every kind."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final, Protocol

from keelway.edge.http2.application import Exchange, Response
from keelway.edge.http2.streams import Stream
from keelway.errors import KeelwayError, Unavailable, bare
from keelway.guard.addresses import Proxies
from keelway.guard.auth import Authenticator, Credentials, NotYet
from keelway.guard.gate import Gate
from keelway.guard.introductions import unforeseen
from keelway.transports.grpc.calls import RefusedCall
from keelway.types import Principal

#: Bytes of messages that may wait for it to be known who sends them.
_ROOM: Final = 32 << 20


class Entered(Protocol):
    """What a call of a caller who is known opens. ``seconds`` are those of the call."""

    @property
    def seconds(self) -> float: ...

    def enter(self, stream: Stream, principal: Principal) -> Exchange: ...

    def refused(self, error: KeelwayError) -> Response:
        """The answer to a call that is not let in."""
        ...


class CountedOpening:
    """Calls that come to no model, under the rate limits."""

    def __init__(self, gate: Gate, inner: Entered) -> None:
        self._gate = gate
        self._inner = inner
        self.seconds = inner.seconds

    def enter(self, stream: Stream, principal: Principal) -> Exchange:
        try:
            self._gate.pass_by(principal, stream.peer)
        except KeelwayError as error:
            return RefusedCall(stream, partial(self._inner.refused, bare(error)))
        return self._inner.enter(stream, principal)

    def refused(self, error: KeelwayError) -> Response:
        return self._inner.refused(error)


class Foyer:
    """Room for what has come of the messages of callers who are not known yet, in bytes: theirs all together."""

    def __init__(self, room: int = _ROOM) -> None:
        self.room = room

    def take(self, size: int) -> bool:
        """Whether there was room for ``size`` more."""
        if size > self.room:
            return False
        self.room -= size
        return True


class GuardedOpening:
    """Calls with the same headers, of callers who prove themselves by ``credentials`` and come by ``proxies`` that say
    what was ``forwarded``. Who is not known yet waits in the ``foyer``, ``seconds`` at most."""

    def __init__(
        self,
        authenticator: Authenticator,
        credentials: Credentials,
        proxies: Proxies,
        forwarded: bytes,
        foyer: Foyer,
        seconds: float,
        inner: Entered,
    ) -> None:
        self.authenticator = authenticator
        self.credentials = credentials
        self.foyer = foyer
        self.seconds = min(seconds, inner.seconds)
        self.inner = inner
        self._proxies = proxies
        self._forwarded = forwarded

    def open(self, stream: Stream) -> Exchange:
        stream.peer = self._proxies.behind(stream.peer, self._forwarded)
        try:
            principal = self.authenticator.principal(self.credentials, stream.peer)
        except KeelwayError as error:
            return RefusedCall(stream, partial(self.inner.refused, error))
        except NotYet:
            return Introduction(self, stream)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            return RefusedCall(stream, partial(self.inner.refused, unforeseen(error)))
        return self.inner.enter(stream, principal)


class Introduction:
    """A call of a caller who is not known without waiting. What comes of its message meanwhile is kept: no more than
    the window of a stream holds, which is not given back, and the foyer has room for."""

    __slots__ = ("_call", "_held", "_opening", "_parts", "_stream", "_task", "_whole")

    def __init__(self, opening: GuardedOpening, stream: Stream) -> None:
        self._opening = opening
        self._stream = stream
        self._parts: list[bytes] = []
        self._held = 0
        self._whole = False
        self._call: Exchange | None = None
        self._task = asyncio.get_running_loop().create_task(self._introduced(opening))

    def receive(self, data: bytes) -> None:
        if self._call is not None:
            self._call.receive(data)
        elif not self._keep(data):
            self._stream.respond(self._no_room())

    def finish(self, data: bytes) -> Response | None:
        if self._call is not None:
            return self._call.finish(data)
        if not self._keep(data):
            return self._no_room()
        self._whole = True
        return None

    def cancel(self) -> None:
        if self._call is None:
            self._task.cancel()
            self._taken()
        else:
            self._call.cancel()

    def sweep(self, now: float) -> None:
        if self._call is not None:
            self._call.sweep(now)

    def _keep(self, data: bytes) -> bool:
        """Whether there was room for it."""
        kept = self._opening.foyer.take(len(data))
        if kept:
            self._held += len(data)
            self._parts.append(data)
        return kept

    def _taken(self) -> list[bytes]:
        """What was kept, and is no more."""
        self._opening.foyer.room += self._held
        self._held = 0
        parts, self._parts = self._parts, []
        return parts

    def _no_room(self) -> Response:
        self._task.cancel()
        self._taken()
        return self._opening.inner.refused(Unavailable("too many callers wait to be known; try again", retry_after=1.0))

    async def _introduced(self, opening: GuardedOpening) -> None:
        stream = self._stream
        try:
            principal = await opening.authenticator.later(opening.credentials, stream.peer, opening.seconds)
            call = opening.inner.enter(stream, principal)
        except Exception as error:  # noqa: BLE001 - as above
            self._taken()
            refused = error if isinstance(error, KeelwayError) else unforeseen(error)
            stream.respond(opening.inner.refused(refused))
            return
        self._call, parts = call, self._taken()
        last = parts.pop() if self._whole else None
        for part in parts:
            call.receive(part)
            if stream.exchange is None:  # refused for that part, and over
                return
        if last is not None:
            response = call.finish(last)
            if response is not None:
                stream.respond(response)
