"""The way back: what whoever was moved up to a version would notice of the older one that an alias moves back to.

A rollback is never refused for it: it is said, so that callers who have begun to rely on the newer version are told.
"""

from __future__ import annotations

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.materialise import read_manifest
from keelway.contract.compatibility import Promise, Reason, compare
from keelway.registry.store import Registry


def way_back(registry: Registry, blobs: BlobStore, name: str, left: str, target: str) -> tuple[Reason, ...]:
    """What breaks on the way from version ``left`` down to ``target``. Predictions are not looked at: they are those of
    before.

    Raises ``KeelwayError`` if a manifest cannot be read."""
    above, below = (_promise(registry, blobs, name, version) for version in (left, target))
    return tuple(reason for reason in compare(above, below) if reason.part == "major")


def _promise(registry: Registry, blobs: BlobStore, name: str, version: str) -> Promise:
    digest = registry.get(name, version).model_digest
    return Promise(read_manifest(blobs, digest).signature, registry.policy(name, version))
