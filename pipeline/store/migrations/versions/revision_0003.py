"""Adds the time of a resume and an index by end of attempt, to detect repeated fast failures."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("sweep", sa.Column("resumed_at", sa.DateTime(timezone=True)))
    op.create_index("attempt_by_end", "attempt", ["ended_at"])
