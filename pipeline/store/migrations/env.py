"""Alembic runs this file inside the transaction that `schema.migrate` opened."""

from alembic import context

from evenload.pipeline.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
