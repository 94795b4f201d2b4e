"""Where workers take their models from: the same places as a lone server, with a folder that they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keelway.config import Settings
from keelway.hosting.sources import Opened, Release
from keelway.ports import RuntimeOptions


def opener(settings: Settings, file: str, folder: Path) -> Callable[[Release, RuntimeOptions], Opened]:
    """Opens a release: of ``file``, or without one of the artifacts that ``settings`` name. ``folder`` is for what
    workers share."""
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.hosting.sharing import SharedFolders

    shared, signed = SharedFolders(folder), SignaturePolicy.of(settings.signing)
    if file:
        from keelway.hosting.files import FileSource

        return FileSource(Path(file), shared, signed=signed).open
    from keelway.artifacts.blobs import BlobStore
    from keelway.hosting.artifacts import ArtifactLoader

    return ArtifactLoader(BlobStore.open(settings.registry.artifacts_url), shared, signed=signed).open
