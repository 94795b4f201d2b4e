"""Admission: a bounded number of requests at once, decided from the headers alone, before a byte is parsed."""

from __future__ import annotations

from keelway.errors import Overloaded


class Admission:
    """Counts the requests being answered. It lives on the event loop, which is why it needs no lock."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.in_flight = 0

    def enter(self) -> None:
        """Take a permit, to be given back with ``leave``. Raises ``Overloaded`` when none is left."""
        if self.in_flight >= self._max_in_flight:
            raise Overloaded("the server is answering as many requests as it may; try again", retry_after=1.0)
        self.in_flight += 1

    def try_enter(self) -> bool:
        """Take a permit if one is left; whether it was."""
        if self.in_flight >= self._max_in_flight:
            return False
        self.in_flight += 1
        return True

    def leave(self) -> None:
        self.in_flight -= 1
