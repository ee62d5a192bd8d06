"""Sessions of the console, and what people did by it."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = (
    """
create table notes.sessions (
    secret_hash bytea primary key,
    token_id uuid not null references notes.tokens on delete cascade,
    created_at timestamptz not null default now(),
    used_at timestamptz not null default now(),
    told jsonb
)
""",
    "create index sessions_token_id_idx on notes.sessions (token_id)",
    # Of a sign-in that was refused nobody is known. The token may be gone: `who` is the name that it had.
    """
create table notes.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    owner uuid,
    token_id uuid,
    who text not null,
    client text not null,
    action text not null,
    subject text not null
)
""",
    "create index audit_owner_id_idx on notes.audit (owner, id)",
    "create index audit_client_at_idx on notes.audit (client, at) where action = 'sign-in refused'",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)


def downgrade() -> None:
    op.execute("drop table notes.audit")
    op.execute("drop table notes.sessions")
