"""The OpenAPI document where callers have to prove who they are: how, and what they hear if they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from keelway.transports.rest.access import PROBES

_SCHEMES: Final[dict[str, dict[str, Any]]] = {
    "key": {
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, in the other header for it."},
    },
    "jwt": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A JSON Web Token."}},
    "mtls": {"certificate": {"type": "mutualTLS", "description": "A client certificate."}},
}
_REFUSALS: Final = {
    "401": {"description": "There are no credentials, or they do not hold."},
    "403": {"description": "The credentials hold, and do not allow this."},
    "429": {"description": "Too many attempts with credentials that do not hold. See Retry-After."},
    "503": {"description": "The server has no room now, or cannot tell who asks. See Retry-After."},
}


def secured(document: dict[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """``document`` with the ways of ``methods`` (``key``, ``jwt``, ``mtls``), any of which will do; as it is if there
    are none."""
    if not methods:
        return document
    schemes = {name: scheme for method in methods for name, scheme in _SCHEMES[method].items()}
    paths = {path: item if path in PROBES else _refused(item) for path, item in document["paths"].items()}
    for path in PROBES & paths.keys():
        paths[path] = {method: operation | {"security": []} for method, operation in paths[path].items()}
    components = document["components"] | {"securitySchemes": schemes}
    return document | {"security": [{name: []} for name in schemes], "paths": paths, "components": components}


def _refused(item: dict[str, Any]) -> dict[str, Any]:
    """The operations of a path, with the refusals that they do not name themselves."""
    return {
        method: operation | {"responses": _REFUSALS | operation["responses"]}
        if isinstance(operation, dict) and "responses" in operation
        else operation
        for method, operation in item.items()
    }
