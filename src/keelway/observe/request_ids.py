"""The ids of requests, for answers, records and logs."""

from __future__ import annotations

from itertools import count
from secrets import token_hex


class RequestIds:
    """Unique without asking the kernel for randomness each time: a random start of the process and a count."""

    def __init__(self) -> None:
        self._prefix = token_hex(8)
        self._numbers = count(1)

    def next(self) -> str:
        return f"{self._prefix}{next(self._numbers):08x}"
