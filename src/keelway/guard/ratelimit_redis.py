"""A ``LimitStore`` in Redis or Valkey, counted by the scripts of the library limits: a sliding window of two counters
for each caller of a rule, atomic whoever else counts, by the store's own clock.

Rules are counted side by side, in the time of one round trip. If one of them refuses, a second trip asks it when there
will be room, and gives back what the others have taken; whoever asks knows that then, and need not come again so soon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from keelway.errors import FailedPrecondition
from keelway.ports import Charge, Use
from keelway.remote.redis import RedisLink

if TYPE_CHECKING:
    from limits import RateLimitItem

#: Beginning of every key of ours, with the form of what is kept there.
_PREFIX: Final = "keelway:limit:1"
_LONGEST: Final = 64


class RedisLimitStore:
    """Asks by ``link``, and notes there what it asks: ``take``, ``look`` and ``give_back``. A store that is full or may
    only be read is left alone for the link's pause.

    Raises ``FailedPrecondition`` without the library limits."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        try:
            from limits.aio.storage import RedisStorage
            from limits.aio.strategies import SlidingWindowCounterRateLimiter
        except ImportError:
            raise FailedPrecondition(
                "rate limits in Redis need the library limits", hint='pip install "keelway[redis]"'
            ) from None
        # The address is the pool's; it may hold a password, which nobody else need know.
        self._storage: Any = RedisStorage(
            "async+redis://pool:6379", implementation="redispy", key_prefix=_PREFIX, connection_pool=link.pool
        )
        self._strategy = SlidingWindowCounterRateLimiter(self._storage)
        self._items: dict[tuple[str, int, int], RateLimitItem] = {}

    async def take(self, charges: Sequence[Charge], seconds: float) -> Sequence[Use | None] | None:
        """See ``LimitStore``."""
        link = self._link
        if not link.writes.allows():
            link.skip("take")
            return None
        taken = await link.ask("take", partial(self._hits, charges), seconds)
        if taken is None:
            return None
        if all(taken):
            return [None] * len(charges)
        return await asyncio.gather(
            *[
                (self._give_back if ok else self._look)(charge, seconds)
                for ok, charge in zip(taken, charges, strict=True)
            ]
        )

    async def close(self) -> None:
        await self._link.close()

    async def _hits(self, charges: Sequence[Charge]) -> Sequence[bool]:
        if len(charges) == 1:
            taken = [await self._hit(charges[0])]
        else:
            taken = await asyncio.gather(*map(self._hit, charges))
        self._link.writes.succeeded()  # whether or not somebody still waits to hear it
        return taken

    async def _hit(self, charge: Charge) -> bool:
        return await self._strategy.hit(self._item(charge), _subject(charge), cost=charge.cost)

    async def _look(self, charge: Charge, seconds: float) -> Use:
        """What was used. Where that cannot be said, all of it, a while ago."""
        key = self._item(charge).key_for(_subject(charge))
        seen = await self._link.ask("look", partial(self._storage.get_sliding_window, key, charge.seconds), seconds)
        if seen is None:
            return Use(charge.amount, 0, charge.seconds)
        previous, previous_left, current, current_left = seen
        # What is kept for the next window is kept for two; a window without anything in it has no time of its own.
        return Use(previous, current, previous_left if previous else max(0.0, current_left - charge.seconds))

    async def _give_back(self, charge: Charge, seconds: float) -> None:
        # The library's name for the counter of this window. Should that have ended, the next is a little less.
        window = f"{{{self._item(charge).key_for(_subject(charge))}}}"
        back = partial(self._storage.incr, window, charge.seconds, -charge.cost)
        await self._link.ask("give_back", back, seconds)

    def _item(self, charge: Charge) -> RateLimitItem:
        key = (charge.rule, charge.amount, charge.seconds)
        item = self._items.get(key)
        if item is None:
            from limits import RateLimitItemPerSecond

            item = self._items[key] = RateLimitItemPerSecond(charge.amount, charge.seconds, namespace=charge.rule)
        return item


def _subject(charge: Charge) -> str:
    """Whom it counts for, in a form that a key takes: names may be long, and hold what separates the parts of keys."""
    subject = charge.subject
    if len(subject) <= _LONGEST and subject.isascii() and subject.isprintable() and not set("/{}") & set(subject):
        return subject
    return blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
