"""The models of the registry as a source: references, the aliases that move under them, and verified artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.materialise import materialise, read_manifest
from keelway.contract.names import Reference, fold
from keelway.errors import InvalidInput
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.plugins import runtime_loader
from keelway.ports import Runtime, RuntimeOptions
from keelway.registry.models import ModelVersion
from keelway.registry.store import Registry


class RegistrySource:
    """Models of the registry. A reference without a version follows the champion; its other aliases are live too."""

    def __init__(self, registry: Registry, blobs: BlobStore, references: Sequence[Reference]) -> None:
        self._registry = registry
        self._blobs = blobs
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
        with ExitStack() as undo:
            opened = self._open(release.model_digest, options, undo, depth=0)
            undo.pop_all()
            return opened

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

    def _open(self, digest: str, options: RuntimeOptions, undo: ExitStack, depth: int) -> Opened:
        if depth > 8:
            raise InvalidInput("pipelines nest deeper than 8 levels")
        folder = Path(mkdtemp(prefix="keelway-"))
        undo.callback(rmtree, folder, ignore_errors=True)
        folders = [folder]
        manifest = read_manifest(self._blobs, digest)
        materialise(self._blobs, manifest, folder)

        def load_member(model_digest: str) -> Runtime:
            member = self._open(model_digest, options, undo, depth + 1)
            folders.extend(member.folders)
            return member.runtime

        runtime = runtime_loader(manifest.runtime)(folder, digest, manifest.options, options, load_member)
        return Opened(manifest, runtime, folders)


def _merge(first: Wanted, second: Wanted) -> Wanted:
    """Two references to one model: the first says which version is the default."""
    releases = {release.version: release for release in (*first.releases, *second.releases)}
    return Wanted(first.name, list(releases.values()), first.default, {**second.aliases, **first.aliases})
