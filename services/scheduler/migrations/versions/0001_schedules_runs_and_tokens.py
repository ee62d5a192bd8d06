"""Schedules, runs and tokens."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

SCHEMA = "scheduler"


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("target", postgresql.JSONB(), nullable=False),
        sa.Column("next_due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="schedules_pkey"),
        sa.UniqueConstraint("name", name="schedules_name_key"),
        schema=SCHEMA,
    )
    op.create_index("schedules_next_due_at_idx", "schedules", ["next_due_at"], schema=SCHEMA)
    op.create_table(
        "runs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("target", postgresql.JSONB(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("backup_id", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("seq", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("wake_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("announce_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("trigger in ('schedule', 'manual')", name=op.f("runs_trigger_check")),
        sa.CheckConstraint(
            "state in ('queued', 'running', 'waiting', 'succeeded', 'failed')", name=op.f("runs_state_check")
        ),
        sa.ForeignKeyConstraint(["schedule_id"], ["scheduler.schedules.id"], name="runs_schedule_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="runs_pkey"),
        schema=SCHEMA,
    )
    for name, columns, unique, where in (
        ("runs_due_idx", ["schedule_id", "due_at"], True, "trigger = 'schedule'"),
        ("runs_wake_at_idx", ["wake_at"], False, "state in ('queued', 'waiting')"),
        ("runs_lease_until_idx", ["lease_until"], False, "state = 'running'"),
        ("runs_announce_at_idx", ["announce_at"], False, "announce_at is not null"),
    ):
        op.create_index(name, "runs", columns, unique=unique, schema=SCHEMA, postgresql_where=sa.text(where))
    op.create_table(
        "tokens",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="tokens_pkey"),
        sa.UniqueConstraint("token_hash", name="tokens_token_hash_key"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    for table in ("tokens", "runs", "schedules"):
        op.drop_table(table, schema=SCHEMA)
