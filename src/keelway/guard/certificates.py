"""What client certificates are worth: identities to principals, by the setting ``auth.mtls``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from keelway.errors import InvalidInput
from keelway.guard.keys import check_scopes
from keelway.types import Principal


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    scopes: frozenset[str]


class Certificates:
    """``rules`` are lines ``IDENTITY -> SCOPE SCOPE``. ``InvalidInput`` for one that is none."""

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = [_rule(rule) for rule in rules]

    def principal(self, identities: Sequence[str]) -> Principal | None:
        """Who has a certificate with ``identities``, by the first rule that fits one; ``None`` if none does."""
        for pattern, scopes in self._rules:
            for identity in identities:
                if pattern.fullmatch(identity):
                    return Principal(f"mtls:{identity}", scopes)
        return None


def _rule(text: str) -> _Rule:
    identity, arrow, scopes = text.partition("->")
    kind, colon, rest = _kind(identity.strip())
    if not arrow or not colon or not rest:
        raise InvalidInput(
            "a line of auth.mtls is IDENTITY -> SCOPE", field="auth.mtls", hint="DNS:batch.internal -> predict:*"
        )
    pattern = "[^\\x00]*".join(map(re.escape, (kind + colon + rest).split("*")))
    return _Rule(re.compile(pattern), frozenset(check_scopes(scopes.split())))


def _kind(identity: str) -> tuple[str, str, str]:
    for kind, mark in (("CN", "="), ("DNS", ":"), ("URI", ":"), ("IP", ":"), ("email", ":")):
        if identity.startswith(kind + mark):
            return kind, mark, identity[len(kind + mark) :]
    return identity, "", ""
