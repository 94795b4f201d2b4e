"""How many requests may be answered at once, learnt from how long they take. Pure; ``admission.py`` keeps the counts.

The fixed cap protects memory. This limit protects the callers' time: when many answers come so late that their callers
have hardly waited for them, fewer are let in, and who is refused hears so at once.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

#: An answer is slow if it took more than this share of the time that its caller gave,
SHARE: Final = 0.8
#: and so many times what the model has been measured to take at best: a caller who gives too little time for any answer
#: says nothing of the load.
TOLERANCE: Final = 1.5
#: The share of slow answers that is too many.
_TOO_MANY: Final = 0.1
_DECREASE: Final = 0.9
#: The limit never falls below: with so few at once it is not their number that makes them slow.
FLOOR: Final = 32


class Window(NamedTuple):
    """What has happened since the last look: requests answered, how many of them were slow, and the most at once."""

    answered: int
    slow: int
    peak: int


def is_slow(seconds: float, allowed: float, minimum: float) -> bool:
    """Whether an answer after ``seconds`` tells of too much load; its caller gave ``allowed`` seconds, and ``minimum``
    is the least that its model was seen to take."""
    return seconds > SHARE * allowed and seconds > TOLERANCE * minimum


def next_limit(limit: int, window: Window, cap: int) -> int:
    """Additive increase, multiplicative decrease, between ``FLOOR`` and ``cap``; a smaller cap is the limit itself.

    The decrease starts from what was really at once: a limit that nobody had reached does not shrink step by step until
    it is felt."""
    floor = min(FLOOR, cap)
    if window.slow > _TOO_MANY * window.answered:
        if window.peak <= floor:
            return limit
        return max(floor, int(min(limit, window.peak) * _DECREASE))
    return min(cap, limit + math.isqrt(limit))
