"""What a caller may say about a client, besides the address."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Options(msgspec.Struct, frozen=True):
    """Paths are of PEM files. ``max_connections`` is REST's: gRPC needs one for all calls."""

    max_connections: int = 16
    token: str | None = None
    headers: Mapping[str, str] = {}
    ca_certificate: str | None = None
    certificate: str | None = None
    private_key: str | None = None

    def sent_headers(self) -> dict[str, str]:
        """The headers (gRPC: metadata) of every call, in lower case."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        return headers
