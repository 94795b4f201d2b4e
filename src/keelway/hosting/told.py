"""What one of several workers serves: what its supervisor says. And what all of them serve where one of them cannot.

The supervisor asks the registry, for all. A version goes live in every worker or in none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from keelway.errors import FailedPrecondition
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.ports import RuntimeOptions

ReleaseKey = tuple[str, str, str, int]


class ToldSource:
    """A ``ModelSource`` whose wish comes from elsewhere. ``opener`` opens a release as the source itself would."""

    def __init__(self, wanted: Sequence[Wanted], opener: Callable[[Release, RuntimeOptions], Opened]) -> None:
        self._wanted = wanted
        self._opener = opener
        self._turn = 0

    def tell(self, wanted: Sequence[Wanted]) -> None:
        """From now on ``wanted`` is."""
        self._wanted = wanted
        self._turn += 1

    def token(self) -> object:
        return self._turn

    def wanted(self) -> Sequence[Wanted]:
        return self._wanted

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        return self._opener(release, options)

    def follow(self, name: str) -> None:
        raise FailedPrecondition("one of several workers cannot load a model by itself", hint="serve with --workers 1")


def settle(
    wanted: Iterable[Wanted], before: Iterable[Wanted], refused: Collection[ReleaseKey]
) -> tuple[tuple[Wanted, ...], tuple[Release, ...]]:
    """What all workers can serve of ``wanted``, and the releases of it that wait.

    ``refused`` are the keys of releases that some worker could not load. Where a name stands for one of them, what it
    stood for ``before`` goes on; a model whose default is refused and never was another is left out.
    """
    earlier = {model.name: model for model in before}
    settled = [_settled(model, earlier.get(model.name), refused) for model in wanted]
    waiting = [release for model in wanted for release in model.releases if release.key in refused]
    return tuple(model for model in settled if model is not None), tuple(waiting)


def _settled(wanted: Wanted, before: Wanted | None, refused: Collection[ReleaseKey]) -> Wanted | None:
    releases = {release.version: release for release in wanted.releases if release.key not in refused}
    held = {release.version: release for release in before.releases} if before else {}

    def stands_for(version: str, until_now: str | None) -> str | None:
        if version in releases or until_now is None:
            return version if version in releases else None
        releases.setdefault(until_now, held[until_now])
        return until_now

    default = stands_for(wanted.default, before.default if before else None)
    if default is None:
        return None
    aliases = {}
    for alias, version in wanted.aliases.items():
        found = stands_for(version, before.aliases.get(alias) if before else None)
        if found is not None or version == wanted.default:
            aliases[alias] = found or default
    return Wanted(wanted.name, list(releases.values()), default, aliases)
