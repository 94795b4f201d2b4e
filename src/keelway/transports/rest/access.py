"""Which routes anybody may have where callers have to prove who they are.

What is not named here asks for credentials, a route that does not exist among them. The paths are compared as they
are: one that a router would take for another is not open.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from keelway.errors import InvalidInput

#: Probes: whoever starts and stops the server asks them, and has no credentials.
PROBES: Final = frozenset(
    {"/health/live", "/health/ready", "/health/startup", "/ping", "/v2/health/live", "/v2/health/ready"}
)
#: What the rate limits do not count: whoever watches the server must not be locked out when callers are.
EXEMPT: Final = PROBES | {"/metrics"}
#: What ``auth.public`` can open, by its names.
PUBLIC: Final = {"metrics": frozenset({"/metrics"}), "docs": frozenset({"/", "/docs", "/openapi.json"})}


def open_paths(public: Collection[str]) -> frozenset[str]:
    """The paths that anybody may have. ``InvalidInput`` if ``public`` names what cannot be opened."""
    if set(public) - PUBLIC.keys():
        raise InvalidInput("auth.public may name metrics and docs", field="auth.public")
    return PROBES.union(*(PUBLIC[name] for name in public))
