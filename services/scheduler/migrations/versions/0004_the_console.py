"""Of the console: sessions, what people did by it, dry runs of theirs, and backups as they were seen."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

_NOW = sa.text("now()")


def upgrade() -> None:
    op.add_column("watch", sa.Column("proven_within_seconds", sa.Integer(), nullable=True), schema="scheduler")
    op.add_column("watch", sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True), schema="scheduler")
    op.create_table(
        "backups",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="backups_pkey"),
        schema="scheduler",
    )
    op.create_index("backups_created_at_idx", "backups", ["created_at"], schema="scheduler")
    op.create_table(
        "sessions",
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("told", postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("secret_hash", name="sessions_pkey"),
        sa.ForeignKeyConstraint(
            ["token_id"], ["scheduler.tokens.id"], name="sessions_token_id_fkey", ondelete="CASCADE"
        ),
        schema="scheduler",
    )
    op.create_index("sessions_token_id_idx", "sessions", ["token_id"], schema="scheduler")
    op.create_table(
        "trials",
        sa.Column("restore_id", sa.Text(), nullable=False),
        sa.Column("backup_id", sa.Text(), nullable=False),
        sa.Column("wanted", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("restore_id", name="trials_pkey"),
        schema="scheduler",
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="audit_pkey"),
        schema="scheduler",
    )
    op.create_index(
        "audit_client_at_idx",
        "audit",
        ["client", "at"],
        schema="scheduler",
        postgresql_where=sa.text("action = 'sign-in refused'"),
    )


def downgrade() -> None:
    op.drop_table("audit", schema="scheduler")
    op.drop_table("trials", schema="scheduler")
    op.drop_table("sessions", schema="scheduler")
    op.drop_table("backups", schema="scheduler")
    op.drop_column("watch", "proven_within_seconds", schema="scheduler")
    op.drop_column("watch", "seen_at", schema="scheduler")
