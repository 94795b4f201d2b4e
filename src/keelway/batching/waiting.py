"""An answer that is not there yet: a future without its place in the event loop.

A future's callback is an entry of the loop, with a context of its own, and a fast model takes little longer than that.
Here whoever has asked is told where the answer is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from keelway.errors import bare

Answered = TypeVar("Answered")
#: What became of it; ``None``: it was cancelled.
Told = Callable[[Answered | Exception | None], None]

_PENDING: Any = object()


class Waiting(Generic[Answered]):
    """``leave`` may be set until it is settled, and is called (with anything) if it is cancelled before."""

    __slots__ = ("_future", "_outcome", "_then", "leave")

    def __init__(self) -> None:
        self._outcome: Answered | Exception | None = _PENDING
        self._then: Told[Answered] | None = None
        self._future: asyncio.Future[Answered] | None = None
        self.leave: Callable[[Any], object] | None = None

    def then(self, told: Told[Answered]) -> None:
        """Tell ``told`` the outcome, once: now, if it is there. It raises nothing, and is the only one who is told."""
        if self._outcome is _PENDING:
            self._then = told
        else:
            told(self._outcome)

    def settle(self, outcome: Answered | Exception) -> None:
        """This is the outcome, unless there is one already."""
        if self._outcome is _PENDING:
            self._end(outcome)

    def cancel(self, msg: object = None) -> bool:
        """Nobody waits any more; whether it was not settled. As that of a future, message included."""
        if self._outcome is not _PENDING:
            return False
        leave = self.leave
        self._end(None)
        if leave is not None:
            leave(self)
        return True

    def cancelled(self) -> bool:
        # A future tells the loop first that it is cancelled, and this only then.
        return self._outcome is None or (self._future is not None and self._future.cancelled())

    def done(self) -> bool:
        return self._outcome is not _PENDING

    def _end(self, outcome: Answered | Exception | None) -> None:
        self._outcome = outcome
        then, self._then, self._future, self.leave = self._then, None, None, None
        if then is not None:
            then(outcome)

    def future(self) -> asyncio.Future[Answered]:
        """The same to be awaited; it takes the place of ``then``. Cancelled, it cancels this.

        That this is no awaitable itself is on purpose: a task made of one that is cancelled before its first step would
        leave it as it is."""
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._future = future
        future.add_done_callback(self.cancel)
        self.then(partial(_resolve, future))
        return future


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return
    if outcome is None:
        future.cancel()
    elif isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def waiting_for(task: asyncio.Task[Answered]) -> Waiting[Answered]:
    """The result of ``task``, which is cancelled with it."""
    waiting: Waiting[Answered] = Waiting()
    waiting.leave = task.cancel

    def ended(task: asyncio.Task[Answered]) -> None:
        if task.cancelled():
            waiting.cancel()
            return
        error = task.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        waiting.settle(task.result() if error is None else error)

    task.add_done_callback(ended)
    return waiting


def after(
    first: Coroutine[Any, Any, Any], then: Callable[[asyncio.Task[Any]], Answered | Waiting[Answered]]
) -> Waiting[Answered]:
    """What ``then`` makes of ``first`` once it has ended, or of what that waits for in turn. ``then`` is called once,
    with a task that may be cancelled, whose cancellation it lets through, and raises nothing else but ``Exception``."""
    waiting: Waiting[Answered] = Waiting()
    task = asyncio.ensure_future(first)
    waiting.leave = task.cancel

    def ended(task: asyncio.Task[Any]) -> None:
        try:
            answer = then(task)
        except asyncio.CancelledError:
            waiting.cancel()
        except Exception as error:  # noqa: BLE001 - for whoever waits
            waiting.settle(bare(error))
        else:
            _hand_on(waiting, answer)

    task.add_done_callback(ended)
    return waiting


def _hand_on(waiting: Waiting[Answered], answer: Answered | Waiting[Answered]) -> None:
    if not isinstance(answer, Waiting):
        waiting.settle(answer)
    elif waiting.done():  # its caller has left meanwhile
        answer.cancel()
    else:
        waiting.leave = answer.cancel
        answer.then(partial(_outcome, waiting))


def _outcome(waiting: Waiting[Any], outcome: Any) -> None:
    if outcome is None:
        waiting.leave = None
        waiting.cancel()
    else:
        waiting.settle(outcome)
