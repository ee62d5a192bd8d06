"""The schedule that every installation starts with: a backup at 02:00 UTC, every day."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        insert into scheduler.schedules (id, name, cron, timezone, target, next_due_at)
        values (
            '00000000-0000-7000-8000-000000000001', 'daily-backup', '0 2 * * *', 'UTC', '{"kind": "backup"}',
            (date_trunc('day', now() at time zone 'UTC' - interval '2 hours') + interval '26 hours') at time zone 'UTC'
        )
    """)


def downgrade() -> None:
    op.execute("delete from scheduler.runs where schedule_id = '00000000-0000-7000-8000-000000000001'")
    op.execute("delete from scheduler.schedules where id = '00000000-0000-7000-8000-000000000001'")
