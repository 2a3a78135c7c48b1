"""Adds stages, priorities, preemptions, orders to single trials, learning curves and presence."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STATE = sa.String(16)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("sweep", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("sweep", _count("max_preemptions", 20))
    op.add_column("sweep", sa.Column("note", sa.Text))
    op.add_column("sweep_trial", sa.Column("stage", STATE, nullable=False, server_default="tune"))
    op.add_column("trial", _count("preemptions"))
    op.add_column("trial", sa.Column("ordered", STATE))
    op.add_column("trial", sa.Column("stop_reason", sa.Text))
    op.add_column("trial", sa.Column("extends", sa.Text))
    op.create_table(
        "curve",
        sa.Column("digest", sa.Text, sa.ForeignKey("trial.digest"), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("val_loss", sa.Double, nullable=False),
        sa.Column("max_vio", sa.Double, nullable=False),
    )
    op.create_table(
        "presence",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", STATE, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )


def _count(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=str(default))
