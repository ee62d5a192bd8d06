"""What alembic runs for each of its commands, on the connection that `scheduler.migrate` gives it."""

from alembic import context

from scheduler.models import SCHEMA, Table


def _ours(name: str | None, kind: str, _: object) -> bool:
    """Other services live in the same database, in schemas of their own."""
    return kind != "schema" or name == SCHEMA


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    include_name=_ours,
)
with context.begin_transaction():
    context.run_migrations()
