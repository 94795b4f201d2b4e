"""The rows of the registry as its callers see them: frozen, typed, without a word of SQL.

Times are seconds since the Unix epoch, UTC, to the microsecond; ``keelway.clock.rfc3339`` prints them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from keelway.artifacts.signing import Signature
from keelway.registry.chain import Finding

if TYPE_CHECKING:
    from keelway.contract.anomaly import Detector
    from keelway.contract.baseline import Baseline

#: The alias that is served when a caller names neither a version nor an alias.
CHAMPION: Final = "champion"

State = Literal["available", "archived"]
Action = Literal[
    "push",
    "sign",
    "alias",
    "policy",
    "check",
    "archive",
    "restore",
    "collect",
    "gc",
    "key_create",
    "key_rotate",
    "key_revoke",
]


class RegisteredModel(msgspec.Struct, frozen=True):
    """A name under which versions are kept."""

    name: str
    created_at: float
    created_by: str


class VersionSummary(msgspec.Struct, frozen=True):
    """One version as listings show it. All of it is fixed when it is pushed, except ``state``.

    ``model_digest`` is ``sha256:`` and 64 hex digits: the hash of its manifest. An archived version keeps its number
    and its files, but is not resolved and takes no alias.
    """

    model: str
    version: str
    model_digest: str
    created_at: float
    created_by: str
    state: State


class ModelVersion(VersionSummary, frozen=True):
    """One version with what its push recorded beside the manifest, which may be large.

    ``report`` tells how the artifact was proved, ``metadata`` where it comes from (lineage); both are JSON objects.
    ``baseline`` is what the sample showed, ``None`` if there was no sample; ``detector`` what its rows look like
    together, ``None`` if they are too few or no numbers.
    """

    report: dict[str, Any]
    baseline: Baseline | None
    metadata: dict[str, Any]
    detector: Detector | None = None


class VersionSignature(Signature, frozen=True):
    """A signature of a version, and who has brought it when. It has not been verified."""

    created_at: float
    created_by: str


class Alias(msgspec.Struct, frozen=True):
    """A name that points to one version of one model, and can be moved."""

    model: str
    alias: str
    version: str


class CheckRecord(msgspec.Struct, frozen=True):
    """What ``keelway check`` has found of one version with one digest. ``against`` is the version it was compared with;
    ``document`` the whole report, a JSON object (``keelway.checks.gate.Report``)."""

    id: int
    model: str
    version: str
    model_digest: str
    at: float
    who: str
    passed: bool
    against: str | None
    document: dict[str, Any]


class ApiKey(msgspec.Struct, frozen=True):
    """An API key as its owner sees it, without what it is worth. ``last_used_at`` is as coarse as a minute or two."""

    id: str
    name: str
    scopes: tuple[str, ...]
    tenant: str | None
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None

    def holds(self, now: float) -> bool:
        """Whether callers are let in by it at ``now``."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class HistoryEntry(msgspec.Struct, frozen=True):
    """One change, never altered afterwards. ``id`` grows with each change of the whole registry.

    ``push``, ``sign``, ``policy``, ``check``, ``archive``, ``restore`` and ``collect`` say the ``version``; ``alias``
    says the ``alias`` and moves it from ``from_version`` to ``to_version``, either of which may be ``None``.
    ``evidence`` is JSON: what was decided on, and what the rows hold that were entered (``keelway.registry.evidence``).
    ``hash`` covers all of the entry and the hash of the one before it (``keelway.registry.chain``). ``key_create``,
    ``key_rotate`` and ``key_revoke`` have an empty ``model``, and name the key there; so has ``gc``, with how much was
    removed.
    """

    id: int
    at: float
    who: str
    action: Action
    model: str
    why: str
    version: str | None = None
    alias: str | None = None
    from_version: str | None = None
    to_version: str | None = None
    evidence: dict[str, Any] | None = None
    hash: str = ""


class Audit(msgspec.Struct, frozen=True):
    """What a look at the whole history has found: how many entries there are, and whatever is not as it was written."""

    entries: int
    head: str
    findings: tuple[Finding, ...]
