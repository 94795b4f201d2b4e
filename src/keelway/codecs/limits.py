"""The nesting cap on JSON bodies, checked on the bytes before anything is parsed. Called by every JSON codec."""

from __future__ import annotations

from keelway.errors import MalformedRequest

#: Deeper than any tensor or row needs; a codec is made with another bound where the operator says so.
DEFAULT_MAX_NESTING = 32

_STRUCTURE = bytes.maketrans(b"{}", b"[]")
_NOISE = bytes(set(range(256)) - set(b'[]{}"'))


def check_nesting(body: bytes, limit: int) -> None:
    """Raise ``MalformedRequest`` if arrays and objects in ``body`` nest deeper than ``limit``.

    Runs at the speed of ``bytes.translate`` and ``bytes.replace``: strings are cut out, then innermost pairs are
    removed once per level. A body with at most ``limit`` brackets cannot be too deep and costs two counts. Unbalanced
    brackets are left for the parser to report.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    if b"\\" in body:
        # Before anything else is cut out: the n of an escaped line end must not leave its backslash to the next quote.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    left = body.translate(_STRUCTURE, _NOISE)
    if b'"' in left:
        left = b"".join(left.split(b'"')[::2])
    too_deep = b"[" * (limit + 1)
    for _ in range(limit):
        if too_deep in left:
            break
        shorter = left.replace(b"[]", b"")
        if len(shorter) == len(left):
            return
        left = shorter
    if b"[" in left:
        raise MalformedRequest(f"the body nests deeper than {limit} levels")
