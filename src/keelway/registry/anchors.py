"""Signed heads of the history: what it ended with at some moment, kept where whoever can write to the database cannot.

One file holds any number of them, one JSON document a line. A head says how many entries there were and the hash of
the last; since that covers all before it, a history that was changed, reordered, cut or written anew is another one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from keelway.artifacts.signing import Signature, SigningKey, TrustedKeys, from_text, to_text
from keelway.errors import FailedPrecondition, KeelwayError, Unavailable
from keelway.registry.chain import Finding, Link

PAYLOAD_TYPE: Final = "application/vnd.keelway.history-head+json"

#: Anchored once a minute, a year of heads is a third of this.
_MAX_BYTES: Final = 256 * 1024 * 1024


class Head(msgspec.Struct, frozen=True):
    """The end of the history: ``entries`` in number, the last with ``id`` and ``hash``. ``at`` is RFC 3339, UTC."""

    entries: int
    id: int
    hash: str
    at: str


class Anchor(msgspec.Struct, frozen=True):
    """A head, and the signature over its canonical JSON."""

    head: Head
    key_id: str
    signature: str


def append(path: Path, head: Head, key: SigningKey) -> Anchor:
    """Sign ``head`` and add it to the file, on the disk when this returns. Raises ``Unavailable``."""
    signed = key.sign(PAYLOAD_TYPE, _payload(head))
    anchor = Anchor(head, signed.key_id, to_text(signed.signature))
    try:
        with path.open("ab") as file:
            file.write(msgspec.json.encode(anchor) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Unavailable(f"the file of anchors cannot be written: {error.strerror}", field="anchor") from error
    return anchor


def read(path: Path) -> tuple[Anchor, ...]:
    """All anchors of the file, the oldest first. ``FailedPrecondition`` if it cannot be read or has none."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES).splitlines()
        anchors = tuple(msgspec.json.decode(line, type=Anchor) for line in lines if line.strip())
    except OSError as error:
        raise FailedPrecondition(f"the file of anchors cannot be read: {error.strerror}", field="against") from None
    except msgspec.DecodeError:
        raise FailedPrecondition("a line of the file is no anchor", field="against") from None
    if not anchors:
        raise FailedPrecondition(
            "the file has no anchor in it", field="against", hint="write one: keelway history --anchor FILE"
        )
    return anchors


def compare(anchors: Sequence[Anchor], links: Sequence[Link], trusted: TrustedKeys, findings: list[Finding]) -> None:
    """Add to ``findings`` each anchor whose signature does not hold, and each that tells of another history."""
    position = {link.id: number for number, link in enumerate(links, 1)}
    hashes = {link.id: link.hash for link in links}
    for number, anchor in enumerate(anchors, 1):
        try:
            signature = Signature(anchor.key_id, from_text(anchor.signature))
            trusted.verify(PAYLOAD_TYPE, _payload(anchor.head), signature)
        except KeelwayError as error:
            findings.append(Finding(None, f"anchor {number} proves nothing: {error.message}"))
            continue
        head = anchor.head
        if head.id == 0:  # of an empty history, which any may follow
            continue
        if head.id not in hashes:
            findings.append(Finding(head.id, f"the history was cut: it had this entry at {head.at}"))
        elif (hashes[head.id], position[head.id]) != (head.hash, head.entries):
            findings.append(Finding(head.id, f"the history up to here is another one than at {head.at}"))


def _payload(head: Head) -> bytes:
    return msgspec.json.encode(head, order="sorted")
