"""The tables of the registry, for the queries. The migrations make them; a test says that both agree.

Times are integers: microseconds since the Unix epoch, UTC. They sort, compare and travel between SQLite and
PostgreSQL without a time zone or a format to get wrong.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

metadata: Final = sa.MetaData()

_JSON: Final = sa.JSON(none_as_null=True)

#: Sixty-three characters are a name's limit, 128 a version's, 71 a digest's with its ``sha256:``.
models: Final = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("folded", sa.String(63), nullable=False, unique=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
)

versions: Final = sa.Table(
    "versions",
    metadata,
    sa.Column("model", sa.String(63), sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("version", sa.String(128), primary_key=True),
    sa.Column("model_digest", sa.String(71), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("report", _JSON, nullable=False),
    sa.Column("baseline", _JSON),
    sa.Column("metadata", _JSON, nullable=False),
    sa.Column("detector", _JSON),
    #: When the files of an archived version were removed (``keelway gc``).
    sa.Column("collected_at", sa.BigInteger),
    sa.CheckConstraint("state IN ('available', 'archived')", name="versions_state"),
)

policies: Final = sa.Table(
    "policies",
    metadata,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("version", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("policy", _JSON, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)

#: Signatures of versions. They are worth what the keys are worth that an operator trusts, wherever they come from.
signatures: Final = sa.Table(
    "signatures",
    metadata,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("version", sa.String(128), primary_key=True),
    sa.Column("key_id", sa.String(63), primary_key=True),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)

aliases: Final = sa.Table(
    "aliases",
    metadata,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("alias", sa.String(63), primary_key=True),
    sa.Column("version", sa.String(128), nullable=False),
    sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)

#: What is stored of API keys. ``id`` is the public part of one, ``digest`` the keyed hash of all of it. A name has one
#: key that holds, and for a while after a rotation the one before it too.
api_keys: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("scopes", _JSON, nullable=False),
    sa.Column("tenant", sa.String(63)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Index("api_keys_name", "name"),
)

#: What checks have found. A version may have been checked any number of times; the last one counts.
checks: Final = sa.Table(
    "checks",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("version", sa.String(128), nullable=False),
    sa.Column("model_digest", sa.String(71), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("against", sa.String(128)),
    sa.Column("document", _JSON, nullable=False),
    sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
    sa.Index("checks_version", "model", "version", "id"),
    sqlite_autoincrement=True,
)

#: Append-only by triggers, and a hash chain (``chain.py``); ids grow by one, under the lock of ``registry_state``. It
#: names models and versions without foreign keys: it outlives what it tells of.
history: Final = sa.Table(
    "history",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("version", sa.String(128)),
    sa.Column("alias", sa.String(63)),
    sa.Column("from_version", sa.String(128)),
    sa.Column("to_version", sa.String(128)),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("evidence", _JSON),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("history_model", "model", "id"),
    sqlite_autoincrement=True,
)

#: One row. Every change locks it first and adds one to ``token``: changes come one after the other on PostgreSQL as
#: they do on SQLite, and whoever sees the same token has missed nothing.
registry_state: Final = sa.Table(
    "registry_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="registry_state_one_row"),
)
