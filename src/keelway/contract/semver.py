"""Semantic versions by SemVer 2.0.0 (semver.org): parse, print, compare, bump; and ranges of them.

Which bump a change of a model needs is decided elsewhere, by comparing signatures (``compatibility.py``) and behaviour.
The registry and the command line are the callers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering
from typing import Final, Literal

from keelway.errors import InvalidInput

#: The longest version text accepted; the specification sets none, a database column does.
MAX_LENGTH: Final = 128

Part = Literal["major", "minor", "patch"]

_NUMBER = r"0|[1-9][0-9]*"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_PATTERN = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<prerelease>{_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+(?P<build>[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)
#: What a range begins with, and no version, alias or name does.
_SIGNS: Final = ("^", "~", "<", ">", "=")
_COMPARATOR = re.compile(
    rf"(?P<sign>\^|~|<=?|>=?|=)(?P<major>{_NUMBER})"
    rf"(?:\.(?P<minor>{_NUMBER})(?:\.(?P<patch>{_NUMBER})(?:-(?P<prerelease>{_IDENTIFIER}(?:\.{_IDENTIFIER})*))?)?)?"
)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """One version. Ordered, equal and hashed by precedence (SemVer 2.0.0, item 11), so build metadata never counts:
    ``1.0.0+a == 1.0.0+b``. ``prerelease`` and ``build`` are their dot-separated parts without the sign before them.
    """

    major: int
    minor: int
    patch: int
    prerelease: str = ""
    build: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """``text`` as a version, strictly: three numbers without leading zeros, no ``v``. Else ``InvalidInput``."""
        match = _PATTERN.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if match is None:
            raise InvalidInput(
                "the version is not a semantic version", field="version", hint="write it like 1.4.0 or 2.0.0-rc.1"
            )
        return cls(
            int(match["major"]),
            int(match["minor"]),
            int(match["patch"]),
            match["prerelease"] or "",
            match["build"] or "",
        )

    def __str__(self) -> str:
        prerelease = f"-{self.prerelease}" if self.prerelease else ""
        build = f"+{self.build}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{prerelease}{build}"

    def __eq__(self, other: object) -> bool:
        return self.precedence == other.precedence if isinstance(other, Version) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self.precedence < other.precedence if isinstance(other, Version) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.precedence)

    def bump(self, part: Part) -> Version:
        """The next release in ``part``, always of higher precedence than this one.

        A pre-release moves to the release it announces where that is such a step: 2.0.0-rc.1 becomes 2.0.0 by each of
        the three, 1.4.0-rc.1 becomes 1.4.0 by ``minor`` and ``patch`` and 2.0.0 by ``major``.
        """
        ahead = bool(self.prerelease)
        if part == "major":
            return Version(self.major + (not (ahead and self.minor == self.patch == 0)), 0, 0)
        if part == "minor":
            return Version(self.major, self.minor + (not (ahead and self.patch == 0)), 0)
        return Version(self.major, self.minor, self.patch + (not ahead))

    @property
    def precedence(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        """Sorts as item 11 says: a release after its pre-releases, numbers before words, the shorter list first."""
        parts = self.prerelease.split(".") if self.prerelease else []
        identifiers = tuple((False, int(part), "") if part.isdigit() else (True, 0, part) for part in parts)
        return self.major, self.minor, self.patch, not parts, identifiers


@dataclass(frozen=True, slots=True)
class Range:
    """The versions from ``low`` on, if it is not ``None``, and below ``high``, if that is not.

    Written as Cargo and npm have it, several parts separated by commas meaning all of them:

    - ``^2.1``: what is compatible with 2.1.0, that is below 3.0.0; ``^0.2.1`` below 0.3.0 and ``^0.0.3`` below 0.0.4,
      since before 1.0.0 the first number that is not 0 is the one that breaks.
    - ``~2.1.3`` and ``~2.1``: below 2.2.0; ``~2``: below 3.0.0.
    - ``>=1.2``, ``>1.2``, ``<2``, ``<=1.4``, ``=1.4``: what is left out of a version stands for all there is of it, so
      ``<=1.4`` holds 1.4.7 and ``>1.2`` does not hold 1.2.9.

    A pre-release is in a range only if a part of it names a pre-release of the same three numbers: ``^2.1`` never holds
    2.2.0-rc.1, nor 3.0.0-rc.1, although both are in between; ``^2.2.0-rc.1`` holds 2.2.0-rc.2, 2.2.0 and 2.3.0, but not
    2.3.0-rc.1.
    """

    text: str
    low: Version | None
    high: Version | None
    prereleases: frozenset[tuple[int, int, int]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Range:
        """``text`` as a range. ``InvalidInput`` for anything else, and for one that can hold no version."""
        parts = [_COMPARATOR.fullmatch(part) for part in text.split(",")] if len(text) <= MAX_LENGTH else [None]
        lows: list[Version] = []
        highs: list[Version] = []
        named: set[tuple[int, int, int]] = set()
        for match in parts:
            if match is None:
                raise InvalidInput(
                    "the range of versions is not one", field="version", hint="write it like ^2.1, ~2.1.3 or >=1.2,<2"
                )
            low, high = _bounds(match)
            lows += [low] if low else []
            highs += [high] if high else []
            if match["prerelease"]:
                named.add((int(match["major"]), int(match["minor"]), int(match["patch"])))
        lowest, highest = max(lows, default=None), min(highs, default=None)
        if lowest is not None and highest is not None and lowest >= highest:
            raise InvalidInput("the range of versions is empty", field="version", hint="no version is in all its parts")
        return cls(text, lowest, highest, frozenset(named))

    def __str__(self) -> str:
        return self.text

    def __contains__(self, version: Version) -> bool:
        if version.prerelease and (version.major, version.minor, version.patch) not in self.prereleases:
            return False
        return (self.low is None or self.low <= version) and (self.high is None or version < self.high)

    def highest(self, versions: Iterable[Version]) -> Version | None:
        """The highest of ``versions`` that is in the range."""
        return max((version for version in versions if version in self), default=None)


def is_range(text: str) -> bool:
    """Whether ``text`` is meant as a range: no version, alias or name begins as one does."""
    return text.startswith(_SIGNS)


def by_precedence(versions: Iterable[str]) -> list[str]:
    """Texts of versions, the lowest first: 1.9.0 before 1.10.0."""
    return sorted(versions, key=Version.parse)


def _bounds(match: re.Match[str]) -> tuple[Version | None, Version | None]:
    """The first version that one comparator holds, and the first above it that it does not."""
    major, minor, patch = int(match["major"]), int(match["minor"] or 0), int(match["patch"] or 0)
    first = Version(major, minor, patch, match["prerelease"] or "")
    # What follows everything that the text stands for.
    if match["patch"] is not None:
        after = Version(major, minor, patch + 1, "0") if not first.prerelease else _after(first)
    else:
        after = Version(major, minor + 1, 0, "0") if match["minor"] is not None else Version(major + 1, 0, 0, "0")
    match match["sign"]:
        case ">=":
            return first, None
        case ">":
            return after, None
        case "<":
            return None, first
        case "<=":
            return None, after
        case "=":
            return first, after
        case "~":
            return first, Version(major + 1, 0, 0) if match["minor"] is None else Version(major, minor + 1, 0)
    if major or match["minor"] is None:
        return first, Version(major + 1, 0, 0)
    if minor or match["patch"] is None:
        return first, Version(0, minor + 1, 0)
    return first, Version(0, 0, patch + 1)


def _after(version: Version) -> Version:
    """The very next version: nothing sorts between a pre-release and the same with one more, lowest part."""
    return Version(version.major, version.minor, version.patch, f"{version.prerelease}.0")
