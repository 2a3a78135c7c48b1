"""Creates the tables of sweeps, trials and attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

STATE = sa.String(16)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "sweep",
        sa.Column("sweep_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("is_expanded", sa.Boolean, nullable=False),
        sa.Column("max_retries", sa.Integer, nullable=False),
        sa.Column("parent_run_id", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
    )
    op.create_table(
        "trial",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("progress", sa.Text),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("checkpoint_uri", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
    )
    op.create_index("trial_by_state", "trial", ["state"])
    op.create_table(
        "sweep_trial",
        sa.Column("sweep_id", sa.Text, sa.ForeignKey("sweep.sweep_id"), primary_key=True),
        sa.Column("digest", sa.Text, sa.ForeignKey("trial.digest"), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
    )
    op.create_index("sweep_trial_by_digest", "sweep_trial", ["digest"])
    op.create_table(
        "attempt",
        sa.Column("digest", sa.Text, sa.ForeignKey("trial.digest"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("kind", STATE, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=False),
        sa.Column("lease_until", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("exit_reason", sa.Text),
    )
    op.create_index("attempt_by_state", "attempt", ["state", "lease_until"])
