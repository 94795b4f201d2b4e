"""What a push has learned of rows as a whole, beside the baseline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("versions", sa.Column("detector", sa.JSON(none_as_null=True)))
