"""The models of the registry as a source: references, the aliases that move under them, and verified artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import materialise, read_manifest
from keelway.artifacts.paths import check_relative
from keelway.contract.names import Reference, fold
from keelway.errors import InvalidInput
from keelway.hosting.sharing import SharedFolders
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.hosting.weights import share_weights
from keelway.plugins import runtime_loader
from keelway.ports import Runtime, RuntimeOptions
from keelway.registry.models import ModelVersion
from keelway.registry.store import Registry


class RegistrySource:
    """Models of the registry. A reference without a version follows the champion; its other aliases are live too."""

    def __init__(self, registry: Registry, blobs: BlobStore, references: Sequence[Reference]) -> None:
        self._registry = registry
        self._loader = ArtifactLoader(blobs)
        self._references = list(references)

    def token(self) -> object:
        return self._registry.state_token(), len(self._references)

    def wanted(self) -> Sequence[Wanted]:
        by_name: dict[str, Wanted] = {}
        for reference in self._references:
            wanted = self._resolve(reference)
            known = by_name.get(wanted.name)
            by_name[wanted.name] = wanted if known is None else _merge(known, wanted)
        return list(by_name.values())

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        return self._loader.open(release, options)

    def follow(self, name: str) -> None:
        reference = Reference(name, None, None)
        self._resolve(reference)
        if all(fold(known.name) != fold(name) for known in self._references):
            self._references.append(reference)

    def _resolve(self, reference: Reference) -> Wanted:
        chosen = self._registry.resolve(reference.name, reference.version or reference.alias)
        name = chosen.model
        if reference.version:
            return Wanted(name, [self._release(chosen)], chosen.version)
        aliases = {alias.alias: alias.version for alias in self._registry.aliases(name)}
        versions = dict.fromkeys((chosen.version, *aliases.values()))
        releases = [self._release(self._registry.resolve(name, version)) for version in versions]
        return Wanted(name, releases, chosen.version, aliases)

    def _release(self, version: ModelVersion) -> Release:
        policy = self._registry.policy(version.model, version.version)
        return Release(version.model, version.version, version.model_digest, policy, version.baseline)


class ArtifactLoader:
    """Opens what is stored as an artifact. Every process has a copy of its own, but for what has shared weights."""

    def __init__(self, blobs: BlobStore, shared: SharedFolders | None = None) -> None:
        self._blobs = blobs
        self._shared = shared or SharedFolders()

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        """Verified, materialised and loaded. Raises what the store, the files or the runtime have to say."""
        with ExitStack() as undo:
            opened = self._open(release.model_digest, release, options, undo, depth=0)
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
            share_weights(model, model, name, manifest.signature, baseline, options)


def _merge(first: Wanted, second: Wanted) -> Wanted:
    """Two references to one model: the first says which version is the default."""
    releases = {release.version: release for release in (*first.releases, *second.releases)}
    return Wanted(first.name, list(releases.values()), first.default, {**second.aliases, **first.aliases})
