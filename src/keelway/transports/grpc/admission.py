"""Who calls: asked when the headers have come, before a byte of the message is taken in, for calls of every kind."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from keelway.edge.http2.application import Exchange, Response
from keelway.edge.http2.streams import Stream
from keelway.errors import KeelwayError, Unavailable, bare
from keelway.guard.addresses import Proxies
from keelway.guard.auth import Authenticator, Credentials, NotYet
from keelway.guard.gate import Gate
from keelway.transports.grpc.calls import RefusedCall
from keelway.types import Principal


class Entered(Protocol):
    """What a call of a caller who is known opens."""

    def enter(self, stream: Stream, principal: Principal) -> Exchange: ...

    def refused(self, error: KeelwayError) -> Response:
        """The answer to a call that is not let in."""
        ...


class CountedOpening:
    """Calls that come to no model, under the rate limits."""

    def __init__(self, gate: Gate, inner: Entered) -> None:
        self._gate = gate
        self._inner = inner

    def enter(self, stream: Stream, principal: Principal) -> Exchange:
        try:
            self._gate.pass_by(principal, stream.peer)
        except KeelwayError as error:
            return RefusedCall(stream, partial(self._inner.refused, bare(error)))
        return self._inner.enter(stream, principal)

    def refused(self, error: KeelwayError) -> Response:
        return self._inner.refused(error)


class GuardedOpening:
    """Calls with the same headers, of callers who prove themselves by ``credentials`` and come by ``proxies`` that say
    what was ``forwarded``."""

    def __init__(
        self, authenticator: Authenticator, credentials: Credentials, proxies: Proxies, forwarded: bytes, inner: Entered
    ) -> None:
        self.authenticator = authenticator
        self.credentials = credentials
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
        return self.inner.enter(stream, principal)


class Introduction:
    """A call of a caller who is not known without waiting. What comes of its message meanwhile is kept: no more than
    the window of a stream holds, which is not given back."""

    __slots__ = ("_call", "_parts", "_stream", "_task", "_whole")

    def __init__(self, opening: GuardedOpening, stream: Stream) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._whole = False
        self._call: Exchange | None = None
        self._task = asyncio.get_running_loop().create_task(self._introduced(opening))

    def receive(self, data: bytes) -> None:
        if self._call is None:
            self._parts.append(data)
        else:
            self._call.receive(data)

    def finish(self, data: bytes) -> Response | None:
        if self._call is not None:
            return self._call.finish(data)
        self._parts.append(data)
        self._whole = True
        return None

    def cancel(self) -> None:
        if self._call is None:
            self._task.cancel()
        else:
            self._call.cancel()

    def sweep(self, now: float) -> None:
        if self._call is not None:
            self._call.sweep(now)

    async def _introduced(self, opening: GuardedOpening) -> None:
        stream = self._stream
        try:
            principal = await opening.authenticator.later(opening.credentials, stream.peer)
        except KeelwayError as error:
            stream.respond(opening.inner.refused(error))
            return
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets a status
            stream.respond(opening.inner.refused(Unavailable("who calls cannot be found out now", retry_after=1.0)))
            return
        call = self._call = opening.inner.enter(stream, principal)
        parts, self._parts = self._parts, []
        last = parts.pop() if self._whole else None
        for part in parts:
            call.receive(part)
        if last is not None:
            response = call.finish(last)
            if response is not None:
                stream.respond(response)
