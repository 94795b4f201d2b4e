"""What a push has learned of rows as a whole, beside the baseline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("versions", sa.Column("detector", sa.JSON(none_as_null=True)))
