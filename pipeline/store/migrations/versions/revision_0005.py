"""Adds what the trials of a sweep are computed with, and how long they may take."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("sweep", sa.Column("basis", sa.Text))
    op.add_column("sweep", sa.Column("limits", sa.Text))
