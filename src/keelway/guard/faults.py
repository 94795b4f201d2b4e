"""What can be wrong with credentials, and how often an address may show some that are.

The reasons are for the metrics and the audit log. A caller hears only that its credentials do not hold: which part of
them does not is nobody's business who cannot prove them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keelway.guard.addresses import counted
from keelway.guard.windows import Windows

#: Why a caller is not let in, or not to what it asks for.
REASONS: Final = (
    "missing",  # no credentials, or not all that are required
    "malformed",  # nothing that credentials look like
    "conflict",  # more than one, and not the same
    "key",  # no such key, or not its secret
    "expired",
    "signature",  # not signed by whom it should be, or not in a way that is allowed
    "claims",  # signed, and not for this server or not now
    "signing_keys",  # the issuer's keys are not known
    "limited",  # the address has failed too often, and this was not looked at
    "scope",  # known, and not allowed
)

#: Seconds for which failures are counted, and the addresses that are counted apart.
_WINDOW: Final = 60.0
_ADDRESSES: Final = 10_000


class CredentialFault(Exception):
    """Credentials that do not hold. ``reason`` is one of ``REASONS``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AttemptLimit:
    """Counts failures by address, a bounded number of them apart (``windows.py``): a crowd of addresses washes nobody's
    count away. ``monotonic`` is in seconds."""

    def __init__(self, most: int, monotonic: Callable[[], float], addresses: int = _ADDRESSES) -> None:
        self._most = most
        self._now = monotonic
        self._failures = Windows(_WINDOW, addresses)

    def wait(self, address: str) -> float:
        """Seconds until ``address`` may try again; 0 if it may now."""
        failures, now = self._failures, self._now()
        return max(0.0, failures.ends - now) if failures.used(counted(address), now) >= self._most else 0.0

    def failed(self, address: str) -> None:
        """Count a failure."""
        caller = counted(address)
        self._failures.used(caller, self._now())
        self._failures.add(caller, 1)
