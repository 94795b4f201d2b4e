"""A ``CacheStore`` in Redis or Valkey. Slow, stopped, full or full of other things, it costs a request one timeout and
then, behind a breaker, nothing: it never raises.

A look is one script, so that it is one round trip: the value or, if there is none, the lease. Writing is done behind
the caller's back.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import Any, Final

from keelway.ports import Looked
from keelway.remote.redis import RedisLink

# Reads at most one byte more than a value may have, whatever lies there, and takes what never expires for nobody's.
_LOOK: Final = """
local value = redis.pcall('GETRANGE', KEYS[1], 0, ARGV[1])
if type(value) == 'string' and #value > 0 then
  local left = redis.call('PTTL', KEYS[1])
  if left > tonumber(ARGV[2]) then return {value, left, 0} end
end
local taken = redis.pcall('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[4])
if type(taken) == 'table' and taken.ok then return {'', 0, 1} end
if type(taken) == 'table' and taken.err then return {'', 0, 2} end
return {'', 0, 0}
"""
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_TAKEN, _NO_LEASE = 1, 2

#: Beginning of every key of ours, with the form of what is kept there.
_PREFIX: Final = "keelway:1:"
#: Writes under way at once; a store that falls behind loses the others.
_WRITES: Final = 256

_ALONE: Final = Looked(None, 0.0, b"")


class RedisStore:
    """Asks by ``link``, and notes there what it asks: ``look`` and ``keep``."""

    def __init__(self, link: RedisLink, max_value_bytes: int) -> None:
        from redis.asyncio import Redis

        self._link = link
        self._client: Any = Redis.from_pool(link.pool)
        self._max_value_bytes = max_value_bytes
        self._look = self._client.register_script(_LOOK)
        self._release = self._client.register_script(_RELEASE)
        self._writing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def look(self, key: bytes, lease: float, min_ttl: float = 0.0) -> Looked:
        """See ``CacheStore``. A value of more than ``max_value_bytes`` is none."""
        token = secrets.token_bytes(16)
        asked = (self._max_value_bytes, round(min_ttl * 1000), token, max(1, round(lease * 1000)))
        try:
            reply = await self._link.ask("look", partial(self._look, keys=_names(key), args=asked))
        except asyncio.CancelledError:
            self.keep(key, None, 0.0, token)  # it may have been given to a caller who has left
            raise
        match reply:
            case [bytes(value), int(left), 0] if value:
                return Looked(value if len(value) <= self._max_value_bytes else None, left / 1000, b"")
            case [_, _, int(lease_state)]:
                return Looked(None, 0.0, {_TAKEN: token, _NO_LEASE: b""}.get(lease_state))
        return _ALONE

    def keep(self, key: bytes, value: bytes | None, ttl: float, token: bytes) -> None:
        """See ``CacheStore``."""
        if value is not None and len(value) > self._max_value_bytes:
            value = None
        if self._is_closed or (value is None and not token):
            return
        if len(self._writing) >= _WRITES:
            self._link.skip("keep")
            return
        task = asyncio.get_running_loop().create_task(self._keep(key, value, ttl, token))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Let the writes under way end, for as long as one may take."""
        self._is_closed = True
        if self._writing:
            await asyncio.wait(self._writing, timeout=self._link.timeout)
        for task in self._writing:
            task.cancel()
        await self._client.aclose()

    async def _keep(self, key: bytes, value: bytes | None, ttl: float, token: bytes) -> None:
        value_name, lease_name = _names(key)
        link = self._link
        if value is not None and link.writes.allows():
            write = partial(self._client.set, value_name, value, px=max(1, round(ttl * 1000)))
            if await link.ask("keep", write) is True:
                link.writes.succeeded()
        if token:
            await link.ask("keep", partial(self._release, keys=[lease_name], args=[token]))


def _names(key: bytes) -> tuple[str, str]:
    """The names of the value and of the lease; the braces keep them on one node of a cluster."""
    return f"{_PREFIX}{{{key.hex()}}}", f"{_PREFIX}{{{key.hex()}}}:lease"
