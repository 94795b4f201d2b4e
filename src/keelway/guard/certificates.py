"""What client certificates are worth: identities to principals, by the setting ``auth.mtls``.

Identities are compared as their kind is: hosts and the schemes of URIs without regard to case (RFC 5280, 7.2 to 7.5),
all else as it is written. A common name too: it is no host, and who may sign one may mean another by another case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from keelway.errors import InvalidInput
from keelway.guard.keys import check_scopes
from keelway.types import Principal

#: What begins an identity (``keelway.edge.peers``), and what a rule of that kind has behind it to fit any: ``*`` stands
#: for anything.
_KINDS: Final[Mapping[str, re.Pattern[str]]] = {
    "CN=": re.compile(r".+"),
    "DNS:": re.compile(r"(?!\.)[A-Za-z0-9._*-]+(?<!\.)"),
    "URI:": re.compile(r"\*[!-~]*|[A-Za-z][A-Za-z0-9+.-]*[:*][!-~]*"),
    "email:": re.compile(r"[!-~]*[@*][!-~]*"),
}


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    scopes: frozenset[str]


class Certificates:
    """``rules`` are lines ``IDENTITY -> SCOPE SCOPE``. ``InvalidInput`` for one that is none, or can fit nobody."""

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = [_rule(rule) for rule in rules]
        if len({pattern for pattern, _ in self._rules}) < len(rules):
            raise _refused("auth.mtls has two lines for one identity, of which the second never counts")

    def principal(self, identities: Sequence[str]) -> Principal | None:
        """Who has a certificate with ``identities``, by the first rule that fits one; ``None`` if none does."""
        compared = [_compared(identity) for identity in identities]
        for pattern, scopes in self._rules:
            for identity in compared:
                if pattern.fullmatch(identity):
                    return Principal(f"mtls:{identity}", scopes)
        return None


def _rule(text: str) -> _Rule:
    identity, arrow, scopes = (part.strip() for part in text.partition("->"))
    if not arrow:
        raise _refused("a line of auth.mtls is IDENTITY -> SCOPE")
    kind, value = _kind(identity)
    if not kind:
        raise _refused("an identity of auth.mtls begins with CN=, DNS:, URI: or email:, written so")
    if not value or value != value.strip() or not value.isprintable() or not _KINDS[kind].fullmatch(value):
        raise _refused(f"what a line of auth.mtls has behind {kind} is in no certificate")
    try:
        allowed = frozenset(check_scopes(scopes.split()))
    except InvalidInput as error:
        raise InvalidInput(
            "a line of auth.mtls names no scope, or one that there is not", field="auth.mtls", hint=error.hint
        ) from None
    pattern = "[^\\x00]*".join(map(re.escape, _compared(identity).split("*")))
    return _Rule(re.compile(pattern), allowed)


def _refused(message: str) -> InvalidInput:
    return InvalidInput(message, field="auth.mtls", hint="DNS:batch.internal -> predict:*")


def _kind(identity: str) -> tuple[str, str]:
    """What ``identity`` begins with and what stands behind it; empty if that is no kind of identity."""
    for kind in _KINDS:
        if identity.startswith(kind):
            return kind, identity[len(kind) :]
    return "", identity


def _compared(identity: str) -> str:
    """``identity`` as it is compared, a pattern of some too."""
    kind, value = _kind(identity)
    if kind == "DNS:":
        return kind + value.lower()
    if kind == "email:":
        mailbox, at, host = value.rpartition("@")
        return kind + mailbox + at + (host.lower() if at else host)
    if kind == "URI:":
        scheme, slashes, rest = value.partition("://")
        authority, slash, path = rest.partition("/")
        user, at, host = authority.rpartition("@")
        if slashes:
            return kind + scheme.lower() + slashes + user + at + host.lower() + slash + path
    return identity
