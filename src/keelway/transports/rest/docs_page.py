"""The documentation page: one file with its style and script inside, so that it works without a network."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.responses import Response

# Everything the page uses is inside it; the policy makes sure that it stays so.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def docs_page() -> Response:
    return Response(
        _content(),
        media_type="text/html",
        headers={"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "x-frame-options": "DENY"},
    )


@cache
def _content() -> bytes:
    return files("keelway.transports.rest").joinpath("docs.html").read_bytes()
