"""Models, versions, policies, aliases and their append-only history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_JSON = sa.JSON(none_as_null=True)

# BEFORE INSERT too: SQLite's INSERT OR REPLACE deletes the old row without asking a DELETE trigger.
_APPEND_ONLY = {
    "sqlite": (
        """CREATE TRIGGER history_no_update BEFORE UPDATE ON history
           BEGIN SELECT RAISE(ABORT, 'history is append-only'); END""",
        """CREATE TRIGGER history_no_delete BEFORE DELETE ON history
           BEGIN SELECT RAISE(ABORT, 'history is append-only'); END""",
        """CREATE TRIGGER history_no_replace BEFORE INSERT ON history
           WHEN EXISTS (SELECT 1 FROM history WHERE id = NEW.id)
           BEGIN SELECT RAISE(ABORT, 'history is append-only'); END""",
    ),
    "postgresql": (
        """CREATE FUNCTION history_append_only() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'history is append-only'; END $$""",
        """CREATE TRIGGER history_no_change BEFORE UPDATE OR DELETE ON history
           FOR EACH ROW EXECUTE FUNCTION history_append_only()""",
        """CREATE TRIGGER history_no_truncate BEFORE TRUNCATE ON history
           FOR EACH STATEMENT EXECUTE FUNCTION history_append_only()""",
    ),
}


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("folded", sa.String(63), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.String(63), sa.ForeignKey("models.name"), primary_key=True),
        sa.Column("version", sa.String(128), primary_key=True),
        sa.Column("model_digest", sa.String(71), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("report", _JSON, nullable=False),
        sa.Column("baseline", _JSON),
        sa.Column("metadata", _JSON, nullable=False),
        sa.CheckConstraint("state IN ('available', 'archived')", name="versions_state"),
    )
    op.create_table(
        "policies",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("version", sa.String(128), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("policy", _JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
    )
    op.create_table(
        "aliases",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("alias", sa.String(63), primary_key=True),
        sa.Column("version", sa.String(128), nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
    )
    _create_history()
    state = op.create_table(
        "registry_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="registry_state_one_row"),
    )
    op.bulk_insert(state, [{"id": 1, "token": 0}])


def _create_history() -> None:
    op.create_table(
        "history",
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
        sqlite_autoincrement=True,
    )
    op.create_index("history_model", "history", ["model", "id"])
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
