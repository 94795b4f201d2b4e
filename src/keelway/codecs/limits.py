"""The nesting cap on JSON bodies, checked on the bytes before anything is parsed. Called by every JSON codec."""

from __future__ import annotations

import numpy as np

from keelway.errors import MalformedRequest

#: Deeper than any tensor or row needs; a codec is made with another bound where the operator says so.
DEFAULT_MAX_NESTING = 32

# Opening is a step down and closing one up, as signed bytes; texts keep their quotes until they are cut out.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOISE = bytes(set(range(256)) - set(b'[]{}"'))


def check_nesting(body: bytes, limit: int) -> None:
    """Raise ``MalformedRequest`` if arrays and objects in ``body`` nest deeper than ``limit``.

    One pass of NumPy over the brackets that are left once texts are cut out: linear, whatever the body is. A body with
    at most ``limit`` brackets cannot be too deep and costs two counts. Unbalanced brackets are left for the parser to
    report.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    if b"\\" in body:
        # Before anything else is cut out: the n of an escaped line end must not leave its backslash to the next quote.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = body.translate(_STEPS, _NOISE)
    if b'"' in steps:
        steps = b"".join(steps.split(b'"')[::2])
    if np.frombuffer(steps, np.int8).cumsum(dtype=np.int32).max(initial=0) > limit:
        raise MalformedRequest(f"the body nests deeper than {limit} levels")
