"""The manifest of a model: every file with its SHA-256, the signature, and how to run it. Its hash is the model digest.

The digest covers exactly what can change a prediction. Names, versions, dates, proofs and metrics are registry
records about a manifest, not part of it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from keelway.contract.signature import ModelSignature
from keelway.errors import CorruptArtifact

MANIFEST_VERSION = 1


class FileEntry(msgspec.Struct, frozen=True):
    """``path`` is relative with forward slashes; ``sha256`` is lower-case hex; ``size`` is in bytes."""

    path: str
    sha256: str
    size: int


class _Step(msgspec.Struct, frozen=True):
    model_digest: str


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """``runtime`` names an entry point of ``keelway.runtimes``; ``options`` are its model-side options, JSON values."""

    files: tuple[FileEntry, ...]
    signature: ModelSignature
    runtime: str
    options: dict[str, Any] = {}
    manifest_version: int = MANIFEST_VERSION

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces. Equal manifests give equal bytes."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def members(self) -> tuple[str, ...]:
        """The model digests of a pipeline's steps; none of anything else. ``CorruptArtifact`` if they are none."""
        if self.runtime != "pipeline":
            return ()
        try:
            return tuple(step.model_digest for step in msgspec.convert(self.options.get("steps"), tuple[_Step, ...]))
        except msgspec.ValidationError as error:
            raise CorruptArtifact("the steps of a pipeline's manifest cannot be read") from error

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hex digits of the canonical bytes."""
        return "sha256:" + hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, digest: str) -> Manifest:
        """Parse ``data`` after checking that it hashes to ``digest``. Raises ``CorruptArtifact`` if it does not."""
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            raise CorruptArtifact("the manifest does not match its digest", hint="push the model again")
        try:
            manifest = msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise CorruptArtifact("the manifest cannot be read by this version of keelway") from error
        if manifest.manifest_version != MANIFEST_VERSION:
            raise CorruptArtifact(f"manifest version {manifest.manifest_version} is not supported")
        return manifest
