"""Everything in the artifact store that a version refers to: what has to be there for it, and must not be removed.

A blob beyond the files of a manifest (a golden sample, say) is known by its digest, ``sha256:`` and 64 hex digits,
anywhere in the version's metadata or detector.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from keelway.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from keelway.artifacts.blobs import BlobStore

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
#: Questions that the store is asked at once.
_AT_ONCE: Final = 16


def references(blobs: BlobStore, model_digest: str, *documents: Any) -> frozenset[str]:
    """The digests, 64 hex digits, of the manifest, of its files, of the manifests and files of a pipeline's members
    and theirs, and of whatever ``documents`` (metadata, a detector: JSON values) mention.

    Raises ``NotFound`` or ``CorruptArtifact`` if a manifest among them cannot be read.
    """
    from keelway.artifacts.materialise import read_manifests  # brings NumPy along; whoever lists needs no manifest

    manifests = read_manifests(blobs, model_digest)
    files = (entry.sha256 for manifest in manifests.values() for entry in manifest.files)
    mentioned = _mentioned([*manifests, *(manifest.options for manifest in manifests.values()), *documents])
    return frozenset((*files, *mentioned))


def require_stored(blobs: BlobStore, model_digest: str, *further: str) -> None:
    """Raise ``FailedPrecondition`` unless all that the model refers to is in the store, and the blobs ``further``.

    Asked about several at once: others wait for the lock meanwhile, and a distant store takes its time for each."""
    try:
        with ThreadPoolExecutor(_AT_ONCE) as asking:
            missing = not all(asking.map(blobs.exists, (*references(blobs, model_digest), *further)))
    except NotFound:
        missing = True
    if missing:
        raise FailedPrecondition(
            "files of the version were removed from the artifact store while it was pushed", hint="push it again"
        )


def _mentioned(value: Any) -> Iterator[str]:
    """The digests anywhere in a JSON value, as they stand there."""
    if isinstance(value, str):
        if match := _DIGEST.fullmatch(value):
            yield match[1]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _mentioned(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _mentioned(item)
