"""The history as a hash chain, existing entries included; when the files of a version were removed.

The hash is written down here once more, apart from ``keelway.registry.chain``: what a migration did never changes.
"""

from __future__ import annotations

import hashlib

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_COLUMNS = (
    "id", "at", "who", "action", "model", "version", "alias", "from_version", "to_version", "why", "evidence",
)  # fmt: skip

#: The triggers of 0001, which stand in the way of filling the new columns.
_SQLITE = (
    """CREATE TRIGGER history_no_update BEFORE UPDATE ON history
       BEGIN SELECT RAISE(ABORT, 'history is append-only'); END""",
    # A keelway of before, still running, would write entries without a hash.
    """CREATE TRIGGER history_chained BEFORE INSERT ON history
       WHEN length(NEW.hash) <> 64 OR length(NEW.previous) <> 64
       BEGIN SELECT RAISE(ABORT, 'history is a hash chain'); END""",
)


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    for name in ("previous", "hash"):
        op.add_column("history", sa.Column(name, sa.String(64), nullable=False, server_default=""))
    op.execute("ALTER TABLE history DISABLE TRIGGER USER" if postgresql else "DROP TRIGGER history_no_update")
    _chain(op.get_bind())
    if postgresql:
        op.execute("ALTER TABLE history ENABLE TRIGGER USER")
        for name in ("previous", "hash"):
            op.alter_column("history", name, server_default=None)
    else:
        for statement in _SQLITE:
            op.execute(statement)
    op.add_column("versions", sa.Column("collected_at", sa.BigInteger))


def _chain(connection: sa.Connection) -> None:
    columns = ", ".join(_COLUMNS[:-1]) + ", CAST(evidence AS TEXT)"
    fill = sa.text("UPDATE history SET previous = :previous, hash = :hash WHERE id = :id")
    previous, last = "0" * 64, 0
    while rows := connection.execute(
        sa.text(f"SELECT {columns} FROM history WHERE id > :last ORDER BY id LIMIT 1000"),  # noqa: S608 - ours
        {"last": last},
    ).all():
        filled = []
        for row in rows:
            entry = dict(zip(_COLUMNS, row, strict=True))
            if entry["evidence"] is not None:
                entry["evidence"] = msgspec.json.decode(entry["evidence"])
            content = msgspec.json.decode(msgspec.json.encode({**entry, "previous": previous}))
            digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
            filled.append({"previous": previous, "hash": digest, "id": entry["id"]})
            previous, last = digest, entry["id"]
        connection.execute(fill, filled)
