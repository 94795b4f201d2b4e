"""From a digest to a loaded runtime: the files of an artifact, verified, in a folder, and the runtime that reads them.

Nothing here knows the registry: a worker that is told what to serve needs no database.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.isolation import forest_of
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import materialise, read_manifest
from keelway.artifacts.paths import check_relative
from keelway.artifacts.statement import SignaturePolicy
from keelway.errors import InvalidInput
from keelway.hosting.sharing import SharedFolders
from keelway.hosting.sources import Opened, Release
from keelway.hosting.weights import share_weights
from keelway.plugins import runtime_loader
from keelway.ports import Runtime, RuntimeOptions


class ArtifactLoader:
    """Opens what is stored as an artifact. Every process has a copy of its own, but for what has shared weights."""

    def __init__(
        self, blobs: BlobStore, shared: SharedFolders | None = None, *, signed: SignaturePolicy | None = None
    ) -> None:
        """``signed`` is what is demanded of a version before anything of it is read."""
        self._signed = signed
        self._blobs = blobs
        self._shared = shared or SharedFolders()

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        """Verified, materialised and loaded. Raises what the store, the files or the runtime have to say, and
        ``UntrustedArtifact`` for a version that is not signed as demanded."""
        if self._signed is not None:
            # The digest that the signature is over is the one that everything below is read by, a pipeline's members
            # among it: what is verified and what is loaded cannot be two things.
            self._signed.check(release.name, release.version, release.model_digest, release.signatures)
        with ExitStack() as undo:
            opened = self._open(release.model_digest, release, options, undo, depth=0)
            detector = release.detector
            if detector is not None and detector.forest:
                undo.callback(opened.runtime.close)
                forest = forest_of(self._blobs.read(detector.forest), len(detector.features))
                opened = replace(opened, isolation=forest)
            undo.pop_all()
            return opened

    def _open(self, digest: str, release: Release, options: RuntimeOptions, undo: ExitStack, depth: int) -> Opened:
        if depth > 8:
            raise InvalidInput("pipelines nest deeper than 8 levels")
        folders: list[Path] = []
        leave: list[Callable[[], None]] = []
        manifest = read_manifest(self._blobs, digest)
        if options.share_weights and manifest.runtime == "onnx":
            folder, left = self._shared.open(
                digest.replace(":", "-"), partial(self._make, manifest, release, options, depth)
            )
            undo.callback(left)
            leave.append(left)
        else:
            folder = Path(mkdtemp(prefix="keelway-"))
            undo.callback(rmtree, folder, ignore_errors=True)
            folders.append(folder)
            materialise(self._blobs, manifest, folder)

        def load_member(model_digest: str) -> Runtime:
            member = self._open(model_digest, release, options, undo, depth + 1)
            folders.extend(member.folders)
            leave.extend(member.leave)
            return member.runtime

        runtime = runtime_loader(manifest.runtime)(folder, digest, manifest.options, options, load_member)
        return Opened(manifest, runtime, folders, leave)

    def _make(self, manifest: Manifest, release: Release, options: RuntimeOptions, depth: int, folder: Path) -> None:
        """What all processes load: the files of ``manifest``, with the weights in a file of their own."""
        materialise(self._blobs, manifest, folder)
        model = folder / check_relative(str(manifest.options.get("file", "model.onnx")))
        if model.is_file():  # else the runtime says what is wrong
            name = f"{release.name} {release.version}" if depth == 0 else f"a step of {release.name} {release.version}"
            baseline = release.baseline if depth == 0 else None
            share_weights(model, model, name, options, manifest.signature, baseline)
