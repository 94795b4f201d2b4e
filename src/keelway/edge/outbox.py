"""Replies of one turn of the event loop, written together at its end.

A client on another core sleeps until a reply comes. Written one by one, between the work for others, each reply wakes
it, and it is asleep again before the next; waking it costs the writer more than the write.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

#: Turns with one reply each, after which replies are written at once, and one in how many of those then waits for the
#: end of its turn to see whether others come with it.
_LONELY_TURNS, _LOOK_EVERY = 8, 16


class Addressee(Protocol):
    def deliver(self, reply: bytes) -> None:
        """Write ``reply`` now."""
        ...


class Outbox:
    """One for all connections of an event loop."""

    __slots__ = ("_lonely", "_replies", "_until_look")

    def __init__(self) -> None:
        self._replies: list[tuple[Addressee, bytes]] = []
        self._lonely = 0
        self._until_look = 0

    def put(self, addressee: Addressee, reply: bytes) -> bool:
        """Deliver ``reply`` at the end of this turn; ``False``, and it is not taken, where replies come alone."""
        replies = self._replies
        if not replies:
            if self._lonely >= _LONELY_TURNS:
                self._until_look -= 1
                if self._until_look > 0:
                    return False
                self._until_look = _LOOK_EVERY
            asyncio.get_running_loop().call_soon(self.flush)
        replies.append((addressee, reply))
        return True

    def flush(self) -> None:
        """Deliver all there is now."""
        replies, self._replies = self._replies, []
        if replies:
            self._lonely = self._lonely + 1 if len(replies) == 1 else 0
            for addressee, reply in replies:
                addressee.deliver(reply)
