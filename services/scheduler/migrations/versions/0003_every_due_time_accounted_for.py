"""Schedules that are made and changed at run time, runs of every due time, alarms.

The release before works on it: what it does not know has a default, and what is null for it only ever is when somebody
uses what is new.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

SCHEMA = "scheduler"
TIME = sa.DateTime(timezone=True)
JSONB = postgresql.JSONB
ACTIVE = "state in ('queued', 'running', 'waiting')"

SCHEDULES: tuple[sa.Column[Any], ...] = (
    sa.Column("every_seconds", sa.Integer()),
    sa.Column("at", TIME),
    sa.Column("start_at", TIME),
    sa.Column("end_at", TIME),
    sa.Column("anchor_at", TIME, server_default=sa.func.now(), nullable=False),
    sa.Column("overlap", sa.Text(), server_default="skip", nullable=False),
    sa.Column(
        "catch_up",
        JSONB(),
        server_default=sa.text("""'{"policy": "latest", "window_seconds": 86400, "max_runs": 1}'"""),
        nullable=False,
    ),
    sa.Column("jitter_seconds", sa.Integer(), server_default=sa.text("0"), nullable=False),
    sa.Column("time_limit_seconds", sa.Integer(), server_default=sa.text("21600"), nullable=False),
    sa.Column("too_long_seconds", sa.Integer()),
    sa.Column(
        "retry",
        JSONB(),
        server_default=sa.text("""'{"max_attempts": null, "min_seconds": 1, "max_seconds": 60}'"""),
        nullable=False,
    ),
    sa.Column("overdue_grace_seconds", sa.Integer(), server_default=sa.text("300"), nullable=False),
    sa.Column("alarm_after_skips", sa.Integer(), server_default=sa.text("3"), nullable=False),
    sa.Column("revision", sa.Integer(), server_default=sa.text("1"), nullable=False),
    sa.Column("paused_at", TIME),
    sa.Column("paused_until", TIME),
    sa.Column("paused_note", sa.Text()),
    sa.Column("skips", sa.Integer(), server_default=sa.text("0"), nullable=False),
    sa.Column("accounted_from", TIME, server_default=sa.func.now(), nullable=False),
    sa.Column("audited_until", TIME, server_default=sa.func.now(), nullable=False),
    sa.Column("updated_at", TIME, server_default=sa.func.now(), nullable=False),
    sa.Column("deleted_at", TIME),
)
RUNS: tuple[sa.Column[Any], ...] = (
    sa.Column("jitter_seconds", sa.Integer(), server_default=sa.text("0"), nullable=False),
    sa.Column("revision", sa.Integer()),
    sa.Column("retry", JSONB(), server_default=sa.text("'{}'"), nullable=False),
    sa.Column("progress", JSONB()),
    sa.Column("memo", JSONB(), server_default=sa.text("'{}'"), nullable=False),
    sa.Column("events", JSONB(), server_default=sa.text("'[]'"), nullable=False),
    sa.Column("exclusive", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
    sa.Column("overdue_at", TIME),
    sa.Column("too_long_at", TIME),
    sa.Column("cancel_requested_at", TIME),
    sa.Column("request_key", sa.Text()),
    sa.Column("again_of", sa.Uuid()),
    sa.Column("dispatched_at", TIME),
    sa.Column("accepted_at", TIME),
)
RUN_INDEXES = (
    ("runs_backfill_idx", ["schedule_id", "due_at"], True, f"trigger = 'backfill' and {ACTIVE}"),
    ("runs_backfilled_idx", ["schedule_id", "due_at"], False, "trigger = 'backfill'"),
    ("runs_exclusive_idx", ["schedule_id"], True, f"exclusive and not held and {ACTIVE}"),
    ("runs_request_idx", ["schedule_id", "request_key"], True, "request_key is not null"),
    ("runs_state_idx", ["state", "id"], False, "state <> 'succeeded'"),
    ("runs_backup_idx", ["backup_id"], False, "backup_id is not null"),
    ("runs_held_idx", ["schedule_id", "due_at"], False, "held and state = 'queued'"),
    ("runs_overdue_at_idx", ["overdue_at"], False, f"accepted_at is null and {ACTIVE}"),
    ("runs_too_long_at_idx", ["too_long_at"], False, ACTIVE),
    ("runs_ended_at_idx", ["ended_at"], False, "ended_at is not null"),
)


def upgrade() -> None:
    for column in SCHEDULES:
        op.add_column("schedules", column.copy(), schema=SCHEMA)
    op.alter_column("schedules", "cron", nullable=True, schema=SCHEMA)
    op.alter_column("schedules", "next_due_at", nullable=True, schema=SCHEMA)
    op.create_check_constraint(
        op.f("schedules_when_check"), "schedules", "num_nonnulls(cron, every_seconds, at) = 1", schema=SCHEMA
    )
    op.create_check_constraint(
        op.f("schedules_overlap_check"),
        "schedules",
        "overlap in ('skip', 'allow', 'cancel_previous')",
        schema=SCHEMA,
    )
    op.drop_constraint("schedules_name_key", "schedules", schema=SCHEMA)
    where = sa.text("deleted_at is null")
    op.create_index("schedules_name_idx", "schedules", ["name"], unique=True, schema=SCHEMA, postgresql_where=where)
    where = sa.text("paused_until is not null")
    op.create_index("schedules_paused_until_idx", "schedules", ["paused_until"], schema=SCHEMA, postgresql_where=where)
    op.create_index("schedules_audited_until_idx", "schedules", ["audited_until"], schema=SCHEMA)

    for column in RUNS:
        op.add_column("runs", column.copy(), schema=SCHEMA)
    op.alter_column("runs", "schedule_id", nullable=True, schema=SCHEMA)
    for name, condition in (
        ("trigger", "trigger in ('schedule', 'manual', 'backfill', 'adopted')"),
        ("state", "state in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled', 'skipped', 'missed')"),
    ):
        op.drop_constraint(op.f(f"runs_{name}_check"), "runs", schema=SCHEMA)
        op.create_check_constraint(op.f(f"runs_{name}_check"), "runs", condition, schema=SCHEMA)
    op.create_index("runs_schedule_idx", "runs", ["schedule_id", "id"], schema=SCHEMA)
    for name, columns, unique, condition in RUN_INDEXES:
        op.create_index(name, "runs", columns, unique=unique, schema=SCHEMA, postgresql_where=sa.text(condition))

    # In order; a run that is asked for hours keeps its first 99 events and its last.
    op.execute("""
        create function scheduler.with_event(events jsonb, event text, detail text default null) returns jsonb
        stable language sql as $$
            select case when jsonb_array_length(events) >= 100 then events - -1 else events end || jsonb_build_array(
                jsonb_strip_nulls(jsonb_build_object('at', now(), 'event', event, 'detail', detail))
            )
        $$
    """)
    op.create_table(
        "schedule_revisions",
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("definition", JSONB(), nullable=False),
        sa.Column("note", sa.Text()),
        sa.Column("changed_by", sa.Text()),
        sa.CheckConstraint(
            "change in ('created', 'edited', 'paused', 'resumed', 'deleted')",
            name=op.f("schedule_revisions_change_check"),
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["scheduler.schedules.id"], name="schedule_revisions_schedule_id_fkey"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "revision", name="schedule_revisions_pkey"),
        schema=SCHEMA,
    )
    op.create_table(
        "alarms",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.Uuid()),
        sa.Column("run_id", sa.Uuid()),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("opened_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("closed_at", TIME),
        sa.Column("closed_by", sa.Text()),
        sa.Column("tell_opened_at", TIME),
        sa.Column("tell_closed_at", TIME),
        sa.CheckConstraint(
            "kind in ('failing', 'overdue', 'too_long', 'skipped', 'stale', 'unaccounted')",
            name=op.f("alarms_kind_check"),
        ),
        sa.ForeignKeyConstraint(["schedule_id"], ["scheduler.schedules.id"], name="alarms_schedule_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="alarms_pkey"),
        schema=SCHEMA,
    )
    for name, columns, unique, condition in (
        ("alarms_open_idx", ["kind", "subject"], True, "closed_at is null"),
        ("alarms_open_of_schedule_idx", ["schedule_id"], False, "closed_at is null"),
        ("alarms_tell_opened_at_idx", ["tell_opened_at"], False, "tell_opened_at is not null"),
        ("alarms_tell_closed_at_idx", ["tell_closed_at"], False, "tell_closed_at is not null"),
    ):
        op.create_index(name, "alarms", columns, unique=unique, schema=SCHEMA, postgresql_where=sa.text(condition))
    op.create_table(
        "watch",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("looked_at", TIME, nullable=False),
        sa.Column("last_proven_id", sa.Text()),
        sa.Column("last_proven_at", TIME),
        sa.CheckConstraint("id = 1", name=op.f("watch_one_check")),
        sa.PrimaryKeyConstraint("id", name="watch_pkey"),
        schema=SCHEMA,
    )
    op.execute("insert into scheduler.watch (id, since, looked_at) values (1, now(), '-infinity')")
    # What was due before is not accounted for: an outage got one run, and left no row of what it missed.
    op.execute("""
        insert into scheduler.schedule_revisions (schedule_id, revision, since, change, live, definition)
        select id, 1, now(), 'created', true, jsonb_build_object(
            'name', name, 'cron', cron, 'timezone', timezone, 'anchor_at', anchor_at, 'target', target,
            'overlap', overlap, 'catch_up', catch_up, 'retry', retry
        )
        from scheduler.schedules
    """)
    op.execute(f"update scheduler.runs set overdue_at = deadline_at, too_long_at = deadline_at where {ACTIVE}")  # noqa: S608 - a constant


def downgrade() -> None:
    """What the release before cannot say goes: other schedules than by cron, runs that are neither here nor there."""
    for table in ("watch", "alarms", "schedule_revisions"):
        op.drop_table(table, schema=SCHEMA)
    op.execute("drop function scheduler.with_event(jsonb, text, text)")
    op.execute("""
        with gone as (
            delete from scheduler.schedules where cron is null or deleted_at is not null or next_due_at is null
            returning id
        )
        delete from scheduler.runs
        where state in ('cancelled', 'skipped', 'missed') or trigger in ('backfill', 'adopted')
           or schedule_id in (select id from gone)
    """)
    for name in ("runs_schedule_idx", *(name for name, *_ in RUN_INDEXES)):
        op.drop_index(name, "runs", schema=SCHEMA)
    for name, condition in (
        ("trigger", "trigger in ('schedule', 'manual')"),
        ("state", "state in ('queued', 'running', 'waiting', 'succeeded', 'failed')"),
    ):
        op.drop_constraint(op.f(f"runs_{name}_check"), "runs", schema=SCHEMA)
        op.create_check_constraint(op.f(f"runs_{name}_check"), "runs", condition, schema=SCHEMA)
    op.alter_column("runs", "schedule_id", nullable=False, schema=SCHEMA)
    for column in RUNS:
        op.drop_column("runs", column.name, schema=SCHEMA)
    for name in ("audited_until", "paused_until", "name"):
        op.drop_index(f"schedules_{name}_idx", "schedules", schema=SCHEMA)
    op.create_unique_constraint("schedules_name_key", "schedules", ["name"], schema=SCHEMA)
    for name in ("overlap", "when"):
        op.drop_constraint(op.f(f"schedules_{name}_check"), "schedules", schema=SCHEMA)
    op.alter_column("schedules", "next_due_at", nullable=False, schema=SCHEMA)
    op.alter_column("schedules", "cron", nullable=False, schema=SCHEMA)
    for column in SCHEDULES:
        op.drop_column("schedules", column.name, schema=SCHEMA)
