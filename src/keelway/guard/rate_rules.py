"""The rules of rate limits as a person writes them, and how much of one is left. Pure.

A rule is a sentence: ``1000 rows/minute per principal on lead_scoring``. Use is counted in windows as long as the rule
says, and what was used in the window before still counts by the share of it that is not past yet: so nobody gets two
whole amounts at once around the end of a window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple

from keelway.contract.names import check_name, fold
from keelway.errors import InvalidInput
from keelway.guard.addresses import counted
from keelway.ports import Use
from keelway.types import Peer, Principal

Unit = Literal["requests", "rows"]
Party = Literal["principal", "address", "model"]

_SENTENCE: Final = re.compile(
    r"(?P<amount>[0-9]{1,12}) (?P<unit>request|row)s?/(?:(?P<count>[0-9]{1,5}) )?(?P<window>second|minute|hour|day)s?"
    r" per (?P<parties>[a-z]+(?: and [a-z]+)*)(?: on (?P<model>\S+))?"
)
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_PARTIES: Final[tuple[Party, ...]] = ("principal", "address", "model")
_EXAMPLE: Final = "write it as `1000 rows/minute per principal`, `20 requests/10 seconds per address on churn`"


#: From the principal, the peer and the folded name of the model to whom a request counts for.
Subject = Callable[[Principal, Peer, str], str]


class Rule(NamedTuple):
    """At most ``amount`` of ``unit`` in any ``seconds``, counted for each combination of ``parties``, and only for
    ``model`` (folded; empty: whichever). ``text`` is the sentence."""

    text: str
    amount: int
    unit: Unit
    seconds: int
    parties: tuple[Party, ...]
    model: str = ""

    @property
    def scope(self) -> str:
        """For whom it counts, in words."""
        return " and ".join(self.parties)

    @property
    def needs_model(self) -> bool:
        """Whether the head of a request does not tell whom it counts for: gRPC names the model in the body."""
        return bool(self.model) or "model" in self.parties

    def subject(self) -> Subject:
        """Who says whom a request counts for."""
        if self.parties == ("address",):
            return _address
        if self.parties == ("principal",):
            return _principal
        return partial(_several, self.parties)


def _address(principal: Principal, peer: Peer, model: str) -> str:
    return counted(peer.address)


def _principal(principal: Principal, peer: Peer, model: str) -> str:
    return principal.name


def _several(parties: Sequence[Party], principal: Principal, peer: Peer, model: str) -> str:
    found = {"principal": principal.name, "address": counted(peer.address), "model": model}
    return "\n".join([found[party] for party in parties])


def parse_rule(text: str) -> Rule:
    """Raises ``InvalidInput`` for what is no rule."""
    sentence = " ".join(text.split())
    match = _SENTENCE.fullmatch(sentence)
    if match is None:
        raise _no_rule("that is no rule")
    parties = match["parties"].split(" and ")
    if len(set(parties)) < len(parties) or not set(parties) <= set(_PARTIES):
        raise _no_rule("a rule counts per principal, address or model, or several of them joined by `and`")
    amount, seconds = int(match["amount"]), int(match["count"] or 1) * _SECONDS[match["window"]]
    if not amount or not seconds:
        raise _no_rule("the amount and the time are at least 1")
    model = match["model"] or ""
    try:
        model = fold(check_name(model)) if model else ""
    except InvalidInput:
        raise _no_rule("what stands behind `on` is no name of a model") from None
    unit: Unit = "rows" if match["unit"] == "row" else "requests"
    return Rule(sentence, amount, unit, seconds, tuple(party for party in _PARTIES if party in parties), model)


def _no_rule(problem: str) -> InvalidInput:
    return InvalidInput(f"settings: rate_limits.rules: {problem}", field="rate_limits.rules", hint=_EXAMPLE)


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Those of ``texts``, each once. Raises ``InvalidInput`` as ``parse_rule``."""
    return tuple({rule.text: rule for rule in map(parse_rule, texts)}.values())


def used(use: Use, seconds: float) -> float:
    """How much counts now of a rule over ``seconds``."""
    return use.previous * use.left / seconds + use.current


def left(use: Use, rule: Rule) -> int:
    """How much is left now."""
    return max(0, rule.amount - math.floor(used(use, rule.seconds)))


def has_room(use: Use, rule: Rule, cost: int) -> bool:
    return used(use, rule.seconds) + cost < rule.amount + 1


def room_after(use: Use, rule: Rule, cost: int) -> float:
    """Seconds until there is room for ``cost`` if nothing more is used; infinity for more than the whole amount."""
    spare, seconds = rule.amount - cost, rule.seconds
    if spare < 0:
        return math.inf
    if use.current <= spare:
        return max(0.0, _faded(use.previous, spare - use.current, use.left, seconds))
    # Not before the window ends, when what was used in it begins to fade.
    return use.left + max(0.0, _faded(use.current, spare, seconds, seconds))


def _faded(amount: int, spare: int, left: float, seconds: float) -> float:
    """Seconds until less than ``spare + 1`` of ``amount`` counts, of which ``left`` seconds count now."""
    return left - seconds * (spare + 1) / amount if amount else 0.0


def limit_template(rule: Rule) -> bytes:
    """The field ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers), into which ``%`` writes how much is left, and in
    how many seconds there will be more."""
    return b'"%b";r=%%d;t=%%d' % rule.text.encode()


def policy_field(rule: Rule) -> bytes:
    """The field ``RateLimit-Policy``: the whole amount, and its window in seconds."""
    return b'"%b";q=%d;w=%d;qu="%b"' % (rule.text.encode(), rule.amount, rule.seconds, rule.unit.encode())
