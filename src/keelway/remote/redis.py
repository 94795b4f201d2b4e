"""A Redis or Valkey that may be slow, stopped, full or something else: asking it costs one timeout at most and then,
behind a breaker, nothing, and it never raises.

What is asked and what it means is the business of who asks: the cache and the rate limits.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from keelway.clock import Clock
from keelway.errors import FailedPrecondition
from keelway.remote.breaker import Breaker

log = logging.getLogger("keelway.remote")

_CONNECTIONS: Final = 32


class RedisLink:
    """``timeout`` is for each question, connecting included, in seconds. After ``failures`` in a row nothing is asked
    for ``pause`` seconds. ``noted`` is told the operation and how it went: ``ok``, ``timeout``, ``error``, ``refused``
    (full, read-only) or ``skipped``. ``turned`` is told of openings of the breaker (true) and closings. ``setting`` and
    ``what`` name the URL and the service in messages.

    Raises ``FailedPrecondition`` without redis-py, and for a ``url`` that is none."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        timeout: float,
        failures: int,
        pause: float,
        setting: str,
        what: str,
        noted: Callable[[str, str], None] = lambda operation, outcome: None,
        turned: Callable[[bool], None] = lambda is_open: None,
    ) -> None:
        self.pool = _pool(url, timeout, setting, what)
        self.timeout = timeout
        self._pause = pause
        self._what = what
        self._noted = noted
        self._told = turned
        self._breaker = Breaker(failures, pause, clock, self._turned)
        #: A service that is full refuses writes at once and can still be read.
        self.writes = Breaker(1, pause, clock)
        #: What the last failure was: who may not log in has to be told apart from a service that is away.
        self._fault = ""
        #: Questions under way that callers in a hurry have asked.
        self._hurried: set[asyncio.Task[Any]] = set()

    def skip(self, operation: str) -> None:
        """What would be asked is not, and need not be."""
        self._noted(operation, "skipped")

    async def ask(self, operation: str, command: Callable[[], Awaitable[Any]], seconds: float = math.inf) -> Any:
        """The reply to ``command``, which is made only if it is asked; ``None`` if there is none worth having, for
        whatever reason. It is waited for ``seconds`` at most, which says nothing of the service: how a question goes
        is judged by the link's own timeout."""
        if not self._breaker.allows():
            self.skip(operation)
            return None
        if seconds >= self.timeout:
            return await self._reply(operation, command)
        # Not cut short: a service that hangs must be found out although all callers are in a hurry.
        asking = asyncio.get_running_loop().create_task(self._reply(operation, command))
        self._hurried.add(asking)
        asking.add_done_callback(self._hurried.discard)
        await asyncio.wait((asking,), timeout=max(0.0, seconds))
        return asking.result() if asking.done() and not asking.cancelled() else None

    async def close(self) -> None:
        for asking in self._hurried:
            asking.cancel()
        await self.pool.aclose()

    async def _reply(self, operation: str, command: Callable[[], Awaitable[Any]]) -> Any:
        from redis.exceptions import OutOfMemoryError, ReadOnlyError
        from redis.exceptions import TimeoutError as LateReply

        try:
            async with asyncio.timeout(self.timeout):
                reply = await command()
        except asyncio.CancelledError:  # whoever asked has left
            self._breaker.left()
            raise
        except (OutOfMemoryError, ReadOnlyError):
            outcome, reply = "refused", None
            self._breaker.succeeded()
            self.writes.failed()
        except Exception as error:  # noqa: BLE001 - whatever a client raises, the request goes on
            outcome, reply = "timeout" if isinstance(error, TimeoutError | LateReply) else "error", None
            self._fault = type(error).__name__
            self._breaker.failed()
        else:
            outcome = "ok"
            self._breaker.succeeded()
        self._noted(operation, outcome)
        return reply

    def _turned(self, is_open: bool) -> None:
        self._told(is_open)
        if is_open:
            log.warning(
                "%s does not answer (%s); going on without it, asking again each %g s",
                self._what,
                self._fault,
                self._pause,
            )
        else:
            log.info("%s answers again", self._what)


def _pool(url: str, timeout: float, setting: str, what: str) -> Any:
    try:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise FailedPrecondition(f"{what} in Redis needs redis-py", hint='pip install "keelway[redis]"') from None
    try:
        return BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            # Ours cuts short whatever it is. The library's costs a task for each question, and in Python 3.11 one that
            # swallows the cancellation of a caller who leaves at the wrong moment.
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except (ValueError, TypeError):
        # Not the text of the error: the URL may hold a password.
        raise FailedPrecondition(
            f"the setting {setting} is not an address of Redis", hint="write it as redis://host:6379/0"
        ) from None
