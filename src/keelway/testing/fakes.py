"""A runtime made of a function and a clock that stands still: what most tests of the request line need.

Both keep the promises of the real protocols (``keelway.ports.Runtime``, ``keelway.clock.Clock``) and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from keelway.types import Array, TensorSpec


class FakeRuntime:
    """A ``Runtime`` that answers ``function(inputs)``, a mapping of output name to array.

    With a ``delay`` in seconds above 0 the answer is awaitable and comes that much later; with 0 it is direct.
    ``calls`` lists the outputs each run was asked for; ``closed`` counts the calls of ``close``.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        function: Callable[[Mapping[str, Array]], Mapping[str, Array]],
        delay: float = 0,
        thread_safe: bool = False,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.thread_safe = thread_safe
        self.calls: list[tuple[str, ...]] = []
        self.closed = 0
        self._function = function
        self._delay = delay

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array] | Awaitable[Sequence[Array]]:
        self.calls.append(tuple(outputs))
        return self._answer_later(inputs, outputs) if self._delay > 0 else self._answer(inputs, outputs)

    def close(self) -> None:
        self.closed += 1

    def _answer(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        answered = self._function(inputs)
        return [answered[name] for name in outputs]

    async def _answer_later(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        await asyncio.sleep(self._delay)
        return self._answer(inputs, outputs)


class FakeClock:
    """A ``Clock`` that moves only by ``advance``. ``now`` starts at ``start``, seconds since the Unix epoch."""

    def __init__(self, start: float = 0.0) -> None:
        self._start = start
        self._elapsed = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    def now(self) -> float:
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``, 0 or more. Raises ``ValueError`` if negative: no clock of ours goes back."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._elapsed += seconds
