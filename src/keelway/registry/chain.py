"""The hash chain of the history: each entry's hash covers its content and the hash of the entry before it.

Pure. Whoever changes, reorders or removes an entry breaks the chain, unless every later hash is made anew; that, and
a cut at the end, is found by a signed head that was kept elsewhere (``anchors.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

#: What the first entry has in place of the hash before it.
GENESIS: Final = "0" * 64

_CONTENT: Final = (
    "id", "at", "who", "action", "model", "version", "alias", "from_version", "to_version", "why", "evidence",
)  # fmt: skip


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was written. ``id`` is the entry it shows at, ``None`` where it is no single one."""

    id: int | None
    what: str


class Link(msgspec.Struct, frozen=True):
    """One entry as far as a chain is concerned: its ``id`` and its ``hash``, 64 hex digits."""

    id: int
    hash: str


def entry_hash(previous: str, entry: Mapping[str, Any]) -> str:
    """SHA-256, in hex, over the canonical JSON (sorted keys, no spaces) of the entry's columns and ``previous``.

    ``at`` is in microseconds, as stored. ``evidence`` is hashed as it comes back from JSON.
    """
    content = {name: entry[name] for name in _CONTENT}
    # Exactly what a reader of the database will have: tuples are lists there, keys are strings.
    stored = msgspec.json.decode(msgspec.json.encode({**content, "previous": previous}))
    return hashlib.sha256(msgspec.json.encode(stored, order="sorted")).hexdigest()


def check(entries: Iterable[Mapping[str, Any]], findings: list[Finding]) -> list[Link]:
    """Walk the chain from its first entry, in the order of ids; what is wrong is added to ``findings``.

    After a break it goes on from what is stored, so that each damaged place is told once. Answers every link.
    """
    links: list[Link] = []
    last = GENESIS
    for entry in entries:
        if entry["previous"] != last:
            what = "entries before it were removed, added or put in another order"
            findings.append(Finding(entry["id"], what))
        if entry_hash(entry["previous"], entry) != entry["hash"]:
            findings.append(Finding(entry["id"], "it was changed after it was written"))
        last = entry["hash"]
        links.append(Link(entry["id"], last))
    return links
