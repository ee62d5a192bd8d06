"""What alembic runs for each of its commands, on the connection that `notes_api.migrate` gives it."""

from alembic import context

from notes_api.migrate import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
