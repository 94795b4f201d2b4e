"""What a new version of a model has to be compared with: the versions there are, and those that are live.

Read before a push, which takes long, and looked at again under the lock: a push that was decided on another state is
refused, and decided anew. ``Registry`` is the only caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from keelway.contract.semver import Version
from keelway.errors import Overtaken
from keelway.registry import lookup
from keelway.registry.models import ModelVersion
from keelway.registry.schema import aliases

if TYPE_CHECKING:
    from keelway.contract.constraints import Policy


class LiveVersion(msgspec.Struct, frozen=True):
    """A version that an ``alias`` points to, or that is the highest one, under its newest policy."""

    version: ModelVersion
    policy: Policy
    aliases: tuple[str, ...] = ()

    @property
    def number(self) -> Version:
        return lookup.precedence(self.version)


class Standing(msgspec.Struct, frozen=True):
    """``numbers`` are all versions of a model, archived ones too, the highest first; ``live`` those that callers are
    answered by or will be, the highest first. Both are empty for a model that is not there."""

    numbers: tuple[str, ...] = ()
    live: tuple[LiveVersion, ...] = ()


def standing(connection: sa.Connection, name: str) -> Standing:
    """The highest version is the highest release that is not archived; without a release, the highest pre-release."""
    known = lookup.highest_first(lookup.summaries(connection, name))
    pointing: dict[str, list[str]] = {}
    rows = connection.execute(
        sa.select(aliases.c.version, aliases.c.alias).where(aliases.c.model == name).order_by(aliases.c.alias)
    )
    for version, alias in rows:
        pointing.setdefault(version, []).append(alias)
    available = [row for row in known if row.state == "available"]
    releases = [row for row in available if not lookup.precedence(row).prerelease]
    highest = (releases or available)[:1]
    chosen = [row for row in known if row.version in pointing or row in highest]
    live = []
    for row in chosen:
        version = lookup.get_version(connection, name, row.version)
        policy = lookup.get_policy(connection, version)
        live.append(LiveVersion(version, policy, tuple(pointing.get(row.version, ()))))
    return Standing(tuple(row.version for row in known), tuple(live))


def check_unchanged(connection: sa.Connection, name: str, decided_on: Standing) -> None:
    """Raise ``Overtaken`` unless the model still stands as it did."""
    if standing(connection, name) != decided_on:
        raise Overtaken("the model was changed meanwhile", field="version", hint="push again")
