"""Rate limits: so many requests or rows in so much time, for each principal, address or model.

What the head of a request tells is counted before a byte of the body is read, its rows when the model is known. Use is
counted in memory (``windows.py``), or in a store that servers share: then a request asks it once, after it was parsed,
and a caller whose limit the store has said to be used up is refused before, from memory, until some of it is back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from keelway.clock import Clock
from keelway.contract.names import fold
from keelway.errors import RateLimited, Unavailable
from keelway.guard.rate_rules import Rule, Subject, left, limit_template, policy_field, room_after
from keelway.guard.windows import Windows
from keelway.ports import Charge, LimitStore, Use
from keelway.types import Peer, Principal

OnFailure = Literal["local", "open", "closed"]
#: The field of an answer, or what will be once the store has said so.
Charged = bytes | Coroutine[Any, Any, bytes]

#: Callers known to have used up their limits, and charges nobody waits for, at once.
_SPENT: Final = 16_384
_BEHIND: Final = 256


class _Counter(msgspec.Struct, frozen=True, eq=False):
    """One rule and its use in this process."""

    rule: Rule
    windows: Windows
    subject: Subject
    counts_rows: bool
    field: bytes
    ceiling: int


class _Plan(msgspec.Struct, frozen=True):
    """What is done for requests to one model: its folded name, and the rules for it that wait for the model."""

    model: str
    late: Sequence[_Counter]


#: What is to be counted: of which rule, for whom, and how much.
_Wanted = tuple[_Counter, str, int]


class _Spent(NamedTuple):
    """What costs ``cost`` or more is refused until ``until``, on the monotonic clock."""

    cost: int
    until: float


class RateLimiter:
    """``most`` callers of each rule are counted apart in memory. With a ``store`` use is counted there; when it is away
    each server counts for itself (``local``), or nobody does (``open``), or nobody is let in (``closed``). ``noted`` is
    told of each refusal."""

    def __init__(
        self,
        rules: Sequence[Rule],
        clock: Clock,
        *,
        most: int,
        store: LimitStore | None = None,
        on_failure: OnFailure = "local",
        noted: Callable[[Rule], None] = lambda rule: None,
    ) -> None:
        counters = [
            _Counter(
                rule,
                Windows(rule.seconds, most),
                rule.subject(),
                rule.unit == "rows",
                limit_template(rule),
                rule.amount + 1,
            )
            for rule in rules
        ]
        self._counters: Sequence[_Counter] = counters
        #: Those whose subject the head tells, and of them those that count requests.
        self._of_heads = [counter for counter in counters if not counter.rule.needs_model]
        self._early = [] if store else [counter for counter in self._of_heads if not counter.counts_rows]
        #: The one rule of most servers, if it is counted when a request enters.
        self._only = self._early[0] if self._early and len(counters) == 1 else None
        self._plans: dict[str, _Plan] = {}
        self._now = clock.monotonic
        self._store = store
        self._on_failure = on_failure
        self._noted = noted
        self._spent: dict[tuple[str, str], _Spent] = {}
        self._behind: set[asyncio.Task[None]] = set()

    @property
    def counted(self) -> Sequence[tuple[Rule, Windows]]:
        """Each rule, and its use in this process."""
        return [(counter.rule, counter.windows) for counter in self._counters]

    def enter(self, principal: Principal, peer: Peer) -> RateLimited | None:
        """Count a request that has shown its head. Why it is refused, if it is."""
        now = self._now()
        if self._spent:
            for counter in self._of_heads:
                refused = self._known(counter, counter.subject(principal, peer, ""), 1, now)
                if refused is not None:
                    return refused
        if (only := self._only) is not None:
            subject = only.subject(principal, peer, "")
            if only.windows.take(subject, now, only.ceiling):
                return None
            return self._refused(only, subject, 1, only.windows.use(subject, now), now)
        return self._taken([(counter, counter.subject(principal, peer, ""), 1) for counter in self._early], now)

    def pass_by(self, principal: Principal, peer: Peer) -> RateLimited | None:
        """As ``enter``, for a request that comes to no model."""
        refused = self.enter(principal, peer)
        if refused is None:
            self._later([counter for counter in self._of_heads if not counter.counts_rows], principal, peer)
        return refused

    def fail(self, principal: Principal, peer: Peer) -> None:
        """Count a request that has entered and failed before its rows could be counted: one row."""
        if self._store is not None:
            self._later(self._of_heads, principal, peer)
            return
        now = self._now()
        for counter in self._of_heads:
            if counter.counts_rows:
                subject = counter.subject(principal, peer, "")
                used = counter.windows.used(subject, now)
                counter.windows.add(subject, 1)
                if used + 2 >= counter.ceiling:  # the next is refused before it is read
                    self._remember(counter.rule, subject, counter.windows.use(subject, now), now)

    def charge(self, principal: Principal, peer: Peer, model: str, rows: int, seconds: float) -> Charged:
        """Count the ``rows`` of a request that has entered, for ``model``; the store is waited for ``seconds`` at most.
        The field ``RateLimit`` of its answer, empty if no rule is for it. Raises ``RateLimited``, or ``Unavailable``
        if nobody can say."""
        now = self._now()
        if (only := self._only) is not None:
            windows = only.windows
            remaining = only.ceiling - windows.used(only.subject(principal, peer, ""), now)
            return only.field % (remaining - 1, windows.ends - now + 1)
        plan = self._plans.get(model) or self._plan(model)
        if self._store is not None and plan.late:
            wanted = [
                (counter, counter.subject(principal, peer, plan.model), rows if counter.counts_rows else 1)
                for counter in plan.late
            ]
            self._raise_known(wanted, now)
            return self._asked(self._store, wanted, seconds)
        taken, least, tightest, room = [], 2.0, None, 0.0
        for counter in plan.late:
            subject = counter.subject(principal, peer, plan.model)
            cost, windows, ceiling = rows if counter.counts_rows else 1, counter.windows, counter.ceiling
            remaining = ceiling - windows.used(subject, now) - cost
            if remaining <= 0:
                raise self._refused(counter, subject, cost, windows.use(subject, now), now)
            taken.append((windows, subject, cost))
            if remaining < least * ceiling:
                least, tightest, room = remaining / ceiling, counter, remaining
        for windows, subject, cost in taken:
            windows.add(subject, cost)
        for counter in self._early:
            remaining = counter.ceiling - counter.windows.used(counter.subject(principal, peer, ""), now)
            if remaining < least * counter.ceiling:
                least, tightest, room = remaining / counter.ceiling, counter, remaining
        return b"" if tightest is None else tightest.field % (room - 1, tightest.windows.ends - now + 1)

    def _plan(self, name: str) -> _Plan:
        model = fold(name)
        late = [
            counter
            for counter in self._counters
            if counter not in self._early and (not counter.rule.model or counter.rule.model == model)
        ]
        plan = self._plans[name] = _Plan(model, late)
        return plan

    async def close(self) -> None:
        for task in self._behind:
            task.cancel()
        if self._store is not None:
            await self._store.close()

    # In memory

    def _taken(self, wanted: Sequence[_Wanted], now: float) -> RateLimited | None:
        """Take all of ``wanted``, or nothing."""
        for counter, subject, cost in wanted:
            if counter.windows.used(subject, now) + cost >= counter.ceiling:
                return self._refused(counter, subject, cost, counter.windows.use(subject, now), now)
        for counter, subject, cost in wanted:
            counter.windows.add(subject, cost)
        return None

    # In the store

    async def _asked(self, store: LimitStore, wanted: Sequence[_Wanted], seconds: float) -> bytes:
        uses = await store.take([_charge(*one) for one in wanted], seconds)
        now = self._now()
        if uses is not None:
            for (counter, subject, cost), use in zip(wanted, uses, strict=True):
                if use is not None:
                    raise self._refused(counter, subject, cost, use, now)
        elif self._on_failure == "closed":
            raise Unavailable("rate limits cannot be checked now; try again", retry_after=1.0)
        elif self._on_failure == "local":
            refused = self._taken(wanted, now)
            if refused is not None:
                raise refused
        return b""

    def _later(self, counters: Sequence[_Counter], principal: Principal, peer: Peer) -> None:
        """Count one of each in the store; nobody waits for it."""
        if self._store is None or not counters or len(self._behind) >= _BEHIND:
            return
        wanted = [(counter, counter.subject(principal, peer, ""), 1) for counter in counters]
        task = asyncio.get_running_loop().create_task(self._counted(self._store, wanted))
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _counted(self, store: LimitStore, wanted: Sequence[_Wanted]) -> None:
        uses = await store.take([_charge(*one) for one in wanted], math.inf)
        now = self._now()
        for (counter, subject, _), use in zip(wanted, uses or (), strict=False):
            if use is not None:
                self._remember(counter.rule, subject, use, now)

    # Refusing

    def _refused(self, counter: _Counter, subject: str, cost: int, use: Use, now: float) -> RateLimited:
        rule = counter.rule
        self._remember(rule, subject, use, now)
        return self._refusal(counter, cost, left(use, rule), room_after(use, rule, cost))

    def _raise_known(self, wanted: Sequence[_Wanted], now: float) -> None:
        for one in wanted if self._spent else ():
            refused = self._known(*one, now)
            if refused is not None:
                raise refused

    def _known(self, counter: _Counter, subject: str, cost: int, now: float) -> RateLimited | None:
        """The refusal of what is known to have no room, without counting again."""
        rule = counter.rule
        spent = self._spent.get((rule.text, subject))
        if spent is None or cost < spent.cost:
            return None
        if now >= spent.until:
            del self._spent[rule.text, subject]
            return None
        return self._refusal(counter, cost, spent.cost - 1, spent.until - now if cost <= rule.amount else math.inf)

    def _remember(self, rule: Rule, subject: str, use: Use, now: float) -> None:
        cost = left(use, rule) + 1
        if len(self._spent) >= _SPENT:
            self._spent = {key: spent for key, spent in self._spent.items() if spent.until > now}
            # To look through them all for each caller more would cost a crowd nothing, and everybody else much.
            if len(self._spent) > _SPENT // 2:
                self._spent.clear()
        self._spent[rule.text, subject] = _Spent(cost, now + room_after(use, rule, cost))

    def _refusal(self, counter: _Counter, cost: int, remaining: int, wait: float) -> RateLimited:
        rule = counter.rule
        self._noted(rule)
        if wait == math.inf:
            wait = float(rule.seconds)
            error = RateLimited(f"the request costs {cost}, more than all of {rule.text}; split it")
        else:
            wait = max(1.0, wait)
            error = RateLimited(f"the limit of {rule.text} is used up", retry_after=wait)
        error.fields = (
            (b"ratelimit", counter.field % (remaining, math.ceil(wait))),
            (b"ratelimit-policy", policy_field(rule)),
        )
        return error


def _charge(counter: _Counter, subject: str, cost: int) -> Charge:
    rule = counter.rule
    return Charge(rule.text, subject, rule.amount, rule.seconds, cost)
