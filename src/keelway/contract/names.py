"""The names of models and aliases, and references such as ``churn@1.2.0``, ``churn@^1.2`` or ``churn@champion``.

Pure text: whether anything of that name exists is the registry's business. The registry, the command line and the
server's configuration call it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from keelway.contract.semver import Range, Version, is_range
from keelway.errors import InvalidInput

MAX_NAME_LENGTH: Final = 63

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_RULE = "use 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or digit"
_RESERVED_ALIASES = frozenset({"latest"})


@dataclass(frozen=True, slots=True)
class Reference:
    """A model, and which of its versions: an exact ``version``, an ``alias``, the highest of a ``range``, or none of
    these (the default one)."""

    name: str
    version: str | None = None
    alias: str | None = None
    range: str | None = None

    @property
    def selector(self) -> str | None:
        """What follows the ``@``."""
        return self.version or self.alias or self.range

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}" if self.selector else self.name


def check_name(name: str) -> str:
    """``name`` itself if it is a valid model name, else ``InvalidInput``."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("the model name is not valid", field="name", hint=_RULE)
    return name


def fold(name: str) -> str:
    """The form in which names are unique: ``lead_scoring`` and ``lead-scoring`` are one name."""
    return name.replace("_", "-")


def check_alias(alias: str) -> str:
    """``alias`` itself if it is a valid alias, else ``InvalidInput``.

    An alias is spelled like a name and is never mistaken for a version: not digits alone, which read as one, and not
    ``latest``, which nobody moves and everybody misreads.
    """
    if not _NAME.fullmatch(alias) or alias.isdigit():
        raise InvalidInput("the alias is not valid", field="alias", hint=f"{_RULE}; not digits alone")
    if alias in _RESERVED_ALIASES:
        raise InvalidInput(
            "'latest' cannot be an alias", field="alias", hint="name an exact version, or an alias such as champion"
        )
    return alias


def parse_reference(text: str) -> Reference:
    """``name``, ``name@version``, ``name@range`` or ``name@alias`` as a ``Reference``. ``InvalidInput`` for anything
    else."""
    name, separator, chosen = text.partition("@")
    check_name(name)
    if not separator:
        return Reference(name)
    if is_range(chosen):
        return Reference(name, range=str(Range.parse(chosen)))
    # No alias has a dot and every version has, so an error is told in the words of what was meant.
    if "." in chosen:
        return Reference(name, version=str(Version.parse(chosen)))
    return Reference(name, alias=check_alias(chosen))


def name_from_file(path: str | PurePath) -> str:
    """A model name for a file or folder: its stem in lower case, runs of other characters turned into one ``-``.

    Raises ``InvalidInput`` if nothing is left of it.
    """
    stem = PurePath(path).stem.lower()
    name = re.sub(r"[^a-z0-9_]+", "-", stem).lstrip("-_")[:MAX_NAME_LENGTH].rstrip("-_")
    if not name:
        raise InvalidInput("no model name can be made from the file's name", field="name", hint=f"give one; {_RULE}")
    return name
