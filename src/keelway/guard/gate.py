"""The gate: what a request whose caller is known passes before a byte of its body is read, and gives back in the end.

A permit of the server, a place among those that one principal may hold, and a look at the rate limits. Like
``admission.py`` it lives on the event loop and needs no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keelway.errors import KeelwayError, RateLimited
from keelway.guard.addresses import Proxies
from keelway.guard.admission import Admission, overloaded
from keelway.guard.ratelimit import RateLimiter
from keelway.types import Peer, Principal, Priority

#: Seconds until a principal with too much under way may try again.
_RETRY: Final = 1.0


class Gate:
    """``most`` requests of one principal may be under way at once, 0: as many as there are permits. ``noted`` is told
    of each that was one too many."""

    def __init__(
        self,
        admission: Admission,
        limiter: RateLimiter | None = None,
        proxies: Proxies | None = None,
        most: int = 0,
        noted: Callable[[], None] = lambda: None,
    ) -> None:
        self.admission = admission
        self.limiter = limiter
        #: Tells whose address counts.
        self.proxies = proxies or Proxies()
        self._most = most
        self._noted = noted
        self._under_way: dict[str, int] = {}

    def enter(self, priority: Priority, principal: Principal, peer: Peer) -> KeelwayError | None:
        """Let a request in, to be told by ``leave`` when it has ended, however it has. Why it may not, if so: then
        nothing is held. A request that finds no permit is not counted by the rate limits."""
        if not self.admission.try_enter(priority):
            return overloaded()
        refused = self._place(principal) if self._most else None
        if self.limiter is not None and refused is None:
            refused = self.limiter.enter(principal, peer)
            if refused is not None and self._most:
                self._give_back(principal)
        if refused is not None:
            self.admission.leave()
        return refused

    def leave(self, principal: Principal) -> None:
        """Give back what was held."""
        self.admission.leave()
        if self._most:
            self._give_back(principal)

    def pass_by(self, principal: Principal, peer: Peer) -> None:
        """A request that comes to no model: it takes no permit. Raises ``RateLimited``."""
        refused = None if self.limiter is None else self.limiter.pass_by(principal, peer)
        if refused is not None:
            raise refused

    async def close(self) -> None:
        if self.limiter is not None:
            await self.limiter.close()

    def _place(self, principal: Principal) -> RateLimited | None:
        held = self._under_way.get(principal.name, 0)
        if held >= self._most:
            self._noted()
            return RateLimited(
                f"{self._most} requests of yours are under way, which is as many as may be", retry_after=_RETRY
            )
        self._under_way[principal.name] = held + 1
        return None

    def _give_back(self, principal: Principal) -> None:
        held = self._under_way[principal.name]
        if held > 1:
            self._under_way[principal.name] = held - 1
        else:
            del self._under_way[principal.name]
