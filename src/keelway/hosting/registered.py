"""The models of the registry as a source: references, the aliases that move under them, and verified artifacts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.signing import Signature
from keelway.artifacts.statement import SignaturePolicy
from keelway.contract.names import Reference, fold
from keelway.errors import FailedPrecondition, InvalidInput, NotFound
from keelway.hosting.artifacts import ArtifactLoader
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.ports import RuntimeOptions
from keelway.registry.models import ModelVersion
from keelway.registry.store import Registry

log = logging.getLogger("keelway.hosting")


class RegistrySource:
    """Models of the registry. A reference without a version follows the champion; its other aliases are live too. One
    with a range follows the highest version in it, as soon as that is pushed. One that has named something and does not
    any more keeps what it named last, and holds up no other."""

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        references: Sequence[Reference],
        signed: SignaturePolicy | None = None,
    ) -> None:
        """``signed`` is what is demanded of a version before it is loaded."""
        self._registry = registry
        self._loader = ArtifactLoader(blobs, signed=signed)
        self._references = list(references)
        self._named: dict[Reference, Wanted] = {}
        self._lost: set[Reference] = set()

    def token(self) -> object:
        return self._registry.state_token(), len(self._references)

    def wanted(self) -> Sequence[Wanted]:
        by_name: dict[str, Wanted] = {}
        for reference in self._references:
            wanted = self._latest(reference)
            known = by_name.get(wanted.name)
            by_name[wanted.name] = wanted if known is None else _merge(known, wanted)
        return list(by_name.values())

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        return self._loader.open(release, options)

    def follow(self, name: str) -> None:
        reference = Reference(name, None, None)
        self._named[reference] = self._resolve(reference)
        if all(fold(known.name) != fold(name) for known in self._references):
            self._references.append(reference)

    def _latest(self, reference: Reference) -> Wanted:
        """What ``reference`` names, or named last. Raises why it names nothing if it never has, as at the start."""
        try:
            wanted = self._resolve(reference)
        except (NotFound, FailedPrecondition, InvalidInput) as error:
            named = self._named.get(reference)
            if named is None:
                raise
            if reference not in self._lost:
                log.warning("%s names nothing any more; serving what it named last: %s", reference, error.message)
                self._lost.add(reference)
            why = f"{reference} names nothing any more: {error.message}"
            return replace(named, releases=[replace(release, lost=why) for release in named.releases])
        if reference in self._lost:
            log.info("%s names a version again", reference)
            self._lost.discard(reference)
        self._named[reference] = wanted
        return wanted

    def _resolve(self, reference: Reference) -> Wanted:
        chosen = self._registry.resolve(reference.name, reference.selector)
        name = chosen.model
        if reference.version or reference.range:
            return Wanted(name, [self._release(chosen)], chosen.version)
        aliases = {alias.alias: alias.version for alias in self._registry.aliases(name)}
        versions = dict.fromkeys((chosen.version, *aliases.values()))
        releases = [self._release(self._registry.resolve(name, version)) for version in versions]
        return Wanted(name, releases, chosen.version, aliases)

    def _release(self, version: ModelVersion) -> Release:
        policy = self._registry.policy(version.model, version.version)
        signatures = self._registry.signatures(version.model, version.version)
        return Release(
            version.model,
            version.version,
            version.model_digest,
            policy,
            version.baseline,
            version.detector,
            tuple(Signature(known.key_id, known.signature) for known in signatures),
        )


def _merge(first: Wanted, second: Wanted) -> Wanted:
    """Two references to one model: the first says which version is the default."""
    releases = {release.version: release for release in (*first.releases, *second.releases)}
    return Wanted(first.name, list(releases.values()), first.default, {**second.aliases, **first.aliases})
