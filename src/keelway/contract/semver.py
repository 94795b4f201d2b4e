"""Semantic versions by SemVer 2.0.0 (semver.org): parse, print, compare, bump.

Only single versions; which bump a change of a model needs is decided elsewhere, by comparing signatures and behaviour.
The registry and the command line are the callers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final, Literal

from keelway.errors import InvalidInput

#: The longest version text accepted; the specification sets none, a database column does.
MAX_LENGTH: Final = 128

_NUMBER = r"0|[1-9][0-9]*"
_PATTERN = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<prerelease>(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+(?P<build>[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
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
        return self._precedence == other._precedence if isinstance(other, Version) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._precedence < other._precedence if isinstance(other, Version) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._precedence)

    def bump(self, part: Literal["major", "minor", "patch"]) -> Version:
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
    def _precedence(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        """Sorts as item 11 says: a release after its pre-releases, numbers before words, the shorter list first."""
        parts = self.prerelease.split(".") if self.prerelease else []
        identifiers = tuple((False, int(part), "") if part.isdigit() else (True, 0, part) for part in parts)
        return self.major, self.minor, self.patch, not parts, identifiers
