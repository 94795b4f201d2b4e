"""The documentation page: one file with its style and script inside, so that it works without a network."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from keelway.transports.rest.hosts import host_name, is_address

# Everything the page uses is inside it; the policy makes sure that it stays so.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"

_HEADERS = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer", "x-frame-options": "DENY"}


#: A year.
_TLS_ONLY = {"strict-transport-security": "max-age=31536000"}


def docs_page(request: Request) -> Response:
    headers = _HEADERS | _TLS_ONLY if _has_name_under_tls(request) else _HEADERS
    return Response(_content(), media_type="text/html", headers=headers)


def _has_name_under_tls(request: Request) -> bool:
    """Whether a browser should ask the host over TLS alone from now on. That holds for every port of a name: on a
    developer's own machine it would cut off whatever else listens there."""
    name = host_name(request.headers.get("host", ""))
    return request.url.scheme == "https" and name not in ("", "localhost") and not is_address(name)


@cache
def _content() -> bytes:
    return files("keelway.transports.rest").joinpath("docs.html").read_bytes()
