"""Adds who stored a sweep, and which trials can train in one stack; both are found by indices.

Trials that were listed before have no shape, so they train alone.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

FIRST_DEED = """
UPDATE sweep SET submitter = coalesce((
  SELECT who FROM deed WHERE deed.sweep_id = sweep.sweep_id AND verb IN ('submit', 'run')
  ORDER BY number LIMIT 1
), '')
"""


def upgrade() -> None:
    op.add_column("sweep", sa.Column("submitter", sa.Text, nullable=False, server_default=""))
    op.execute(FIRST_DEED)
    op.add_column("trial", sa.Column("shape", sa.Text))
    op.drop_index("trial_by_state", "trial")
    op.create_index("trial_by_state", "trial", ["state", "shape"])
    op.create_index("sweep_trial_in_order", "sweep_trial", ["sweep_id", "position"])
