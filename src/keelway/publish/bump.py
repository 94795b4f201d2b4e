"""Which version a push becomes: computed by comparing what is pushed with every version that is live.

A version is compared with those below it for whoever goes up to it, and with those above it the other way round. Of a
pre-release nobody expects anything, so that it is compared with only where there is no release. ``release.py`` is the
caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from keelway.contract.compatibility import Promise, Reason, compare, following, needed, says_enough
from keelway.contract.semver import Part, Version
from keelway.errors import FailedPrecondition
from keelway.registry.entering import next_free
from keelway.registry.standing import LiveVersion, Standing

#: Reasons that an error lists.
_LISTED: Final = 8


class Compared(msgspec.Struct, frozen=True):
    """What a caller of the live version ``against`` would notice of the new one, ``aliases`` being those of it."""

    against: str
    aliases: tuple[str, ...]
    part: Part
    reasons: tuple[Reason, ...]


class Bump(msgspec.Struct, frozen=True):
    """``version`` is what the push becomes, and ``computed`` what it would become if nothing was declared."""

    version: str
    computed: str
    compared: tuple[Compared, ...] = ()


#: What the behaviour beside that of a live version asks for.
Behave = Callable[[LiveVersion], Sequence[Reason]]
PromiseOf = Callable[[LiveVersion], Promise]


def compute(
    standing: Standing, promise: Promise, declared: Version | None, promise_of: PromiseOf, behave: Behave
) -> Bump:
    """``promise`` is the new version's, ``promise_of`` that of a live one.

    Raises ``FailedPrecondition``, with the reasons, for a ``declared`` version that says less than is true.
    """
    releases = [live for live in standing.live if not live.number.prerelease]
    bases = releases or list(standing.live)
    if not bases:
        first = next_free([*map(Version.parse, standing.numbers)])
        return Bump(str(declared or first), str(first))
    compared = {live.version.version: _compared(live, promise, promise_of, behave) for live in bases}
    computed = _proposed(standing, bases, compared)
    if declared is None:
        return Bump(str(computed), str(computed), tuple(compared.values()))
    too_little: list[tuple[str, Reason]] = []
    for live in bases:
        found = compared[live.version.version]
        if declared > live.number:
            said = [reason for reason in found.reasons if not says_enough(live.number, declared, reason.part)]
        else:  # somebody who is on the new version will be moved up to this one
            back = (*compare(promise, promise_of(live)), *map(_backwards, behave(live)))
            said = [reason for reason in back if not says_enough(declared, live.number, reason.part)]
        too_little += [(live.version.version, reason) for reason in said]
    if too_little:
        raise _refused(declared, computed, too_little)
    return Bump(str(declared), str(computed), tuple(compared.values()))


def bump_lines(bump: Mapping[str, Any]) -> list[str]:
    """What a version says of how it was computed, for people."""
    lines = []
    for found in bump.get("compared", ()):
        known = f" ({', '.join(found['aliases'])})" if found["aliases"] else ""
        lines.append(f"{found['part']} beside {found['against']}{known}:")
        lines += [f"  {reason['part']}: {reason['message']}" for reason in found["reasons"]]
    if bump.get("compared") and bump["computed"] != bump["version"]:
        lines.append(f"computed was {bump['computed']}; {bump['version']} was declared")
    return lines


def _backwards(reason: Reason) -> Reason:
    """What is said of the answers on the way down, on the way up: they differ as much, and rows that are refused below
    are answered above."""
    return msgspec.structs.replace(reason, part="minor") if reason.part == "major" else reason


def _compared(live: LiveVersion, promise: Promise, promise_of: PromiseOf, behave: Behave) -> Compared:
    reasons = (*compare(promise_of(live), promise), *behave(live))
    return Compared(live.version.version, live.aliases, needed(reasons), reasons)


def _proposed(standing: Standing, bases: Sequence[LiveVersion], compared: Mapping[str, Compared]) -> Version:
    """Above every release there is, and saying enough to each of ``bases``."""
    steps = [following(live.number, compared[live.version.version].part) for live in bases]
    highest = max((number for number in map(Version.parse, standing.numbers) if not number.prerelease), default=None)
    if highest is not None and all(live.number != highest for live in bases):  # it is archived, and keeps its number
        steps.append(following(highest, needed(reason for found in compared.values() for reason in found.reasons)))
    return _free(max(steps), standing)


def _free(version: Version, standing: Standing) -> Version:
    known = {Version.parse(number) for number in standing.numbers}
    while version in known:
        version = version.bump("patch")
    return version


def _refused(declared: Version, computed: Version, found: Sequence[tuple[str, Reason]]) -> FailedPrecondition:
    listed = "; ".join(f"beside {against}: {reason.message} ({reason.part})" for against, reason in found[:_LISTED])
    more = f"; and {len(found) - _LISTED} more reasons" if len(found) > _LISTED else ""
    return FailedPrecondition(
        f"{declared} says too little: {listed}{more}",
        field="version",
        hint=f"push it as {computed}, or leave --version out",
    )
