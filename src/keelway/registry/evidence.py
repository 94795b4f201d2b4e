"""What the entries of the history say of the rows that they tell of: digests, so that a changed row is found by them.

Each change writes its own (``said``), the audit reads them all (``told.py``). A field that is ``UNSET`` was not said:
entries of an older keelway say less.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

if TYPE_CHECKING:
    from keelway.contract.constraints import Policy


class _Evidence(msgspec.Struct, frozen=True, kw_only=True):
    def said(self) -> dict[str, Any]:
        """As JSON values, for the entry."""
        said: dict[str, Any] = msgspec.to_builtins(self)
        return said


class PushEvidence(_Evidence, frozen=True, kw_only=True):
    """Digests: of the manifest, of each of the details beside it, and of the first policy."""

    model_digest: str | UnsetType = UNSET
    report: str | UnsetType = UNSET
    baseline: str | UnsetType = UNSET
    detector: str | UnsetType = UNSET
    metadata: str | UnsetType = UNSET
    policy: str | UnsetType = UNSET


class PolicyEvidence(_Evidence, frozen=True, kw_only=True):
    revision: int | UnsetType = UNSET
    policy: str | UnsetType = UNSET


class SignEvidence(_Evidence, frozen=True, kw_only=True):
    """``signature`` is the digest of its bytes."""

    key_id: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET


class CheckEvidence(_Evidence, frozen=True, kw_only=True):
    """``check`` is the number of the row, ``document`` the digest of the whole report."""

    check: int | UnsetType = UNSET
    passed: bool | UnsetType = UNSET
    model_digest: str | UnsetType = UNSET
    against: str | UnsetType | None = UNSET
    document: str | UnsetType = UNSET


class CollectEvidence(_Evidence, frozen=True, kw_only=True):
    """In microseconds. Where it is said, so is a push that has brought the files back."""

    collected_at: int | UnsetType = UNSET


class KeyEvidence(_Evidence, frozen=True, kw_only=True):
    """A key that was made. ``hash`` is the digest of the keyed hash that is stored of it. ``ends`` maps the ids of the
    keys that it takes the place of to the moments at which they expire, in microseconds as ``expires_at`` is."""

    key: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    tenant: str | UnsetType | None = UNSET
    expires_at: int | UnsetType | None = UNSET
    hash: str | UnsetType = UNSET
    ends: dict[str, int] | UnsetType = UNSET


class RevokeEvidence(_Evidence, frozen=True, kw_only=True):
    key: str | UnsetType = UNSET
    ids: tuple[str, ...] | UnsetType = UNSET


def digest(content: object) -> str:
    """``sha256:`` and the digest of bytes, or of anything else as canonical JSON: keys sorted, no space, only ASCII.

    That of an object and of what a database gives back of it are the same.
    """
    if not isinstance(content, bytes):
        # Exactly what a reader will have: tuples are lists there, keys are strings, and NaN is null.
        stored = msgspec.json.decode(msgspec.json.encode(content))
        content = json.dumps(stored, sort_keys=True, separators=(",", ":")).encode()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def push_evidence(model_digest: str, details: Mapping[str, Any], policy: Policy | None = None) -> dict[str, Any]:
    """What a push says of what it has entered: ``details`` as the row has them, and ``policy`` if it entered one."""
    said = PushEvidence(
        model_digest=model_digest,
        report=digest(details["report"]),
        baseline=digest(details["baseline"]),
        detector=digest(details["detector"]),
        metadata=digest(details["metadata"]),
        policy=UNSET if policy is None else digest(policy),
    )
    return said.said()
