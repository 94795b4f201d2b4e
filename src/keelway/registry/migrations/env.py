"""Run by Alembic, on the connection and inside the transaction that ``keelway.registry.migration`` opened."""

from __future__ import annotations

from alembic import context

from keelway.registry.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter a column: later migrations rewrite the table instead.
    render_as_batch=True,
)

with context.begin_transaction():
    context.run_migrations()
