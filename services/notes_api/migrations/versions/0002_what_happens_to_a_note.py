"""What happens to a note: trash, revisions, changes, search, attachments; and keys that make retries safe.

The rules that every writer must keep, a person at psql and a restore among them, are triggers: a change raises the
revision, keeps the former state, and gets the next number of its owner's changes. They run as the owner of the schema.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

COLUMNS = """
alter table notes.notes
    add pinned boolean not null default false,
    add archived boolean not null default false,
    add metadata jsonb not null default '{}',
    add attachment_count integer not null default 0,
    add deleted_at timestamptz,
    add purge_at timestamptz,
    add constraint notes_metadata_check check (jsonb_typeof(metadata) = 'object'),
    add constraint notes_purge_at_check check ((deleted_at is null) = (purge_at is null))
"""

# A stored column, which a backup need not carry: PostgreSQL computes it again. A text search takes 1 MiB of words and
# their places at most, which 1 MiB of content can exceed; then less of it is searchable, and it is stored all the same.
# `<` is no letter of a tag: what stands in `List<String>` is found.
SEARCH = (
    """
create function notes.search_language() returns regconfig language sql immutable parallel safe
return 'pg_catalog.english'::regconfig
""",
    """
create function notes.search_document(title text, tags text[], content text) returns tsvector
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
    words text := replace(content, '<', ' ');
    head tsvector := setweight(to_tsvector(notes.search_language(), replace(title, '<', ' ')), 'A')
        || setweight(to_tsvector(notes.search_language(), replace(array_to_string(tags, ' '), '<', ' ')), 'B');
begin
    if length(words) <= 50000 then
        return head || to_tsvector(notes.search_language(), words);
    end if;
    for part in 0..3 loop
        begin
            return head || to_tsvector(notes.search_language(), left(words, length(words) >> (2 * part)));
        exception when program_limit_exceeded then
            null;
        end;
    end loop;
    return head;
end
$$
""",
    """
alter table notes.notes
    add search tsvector generated always as (notes.search_document(title, tags, content)) stored
""",
)

# The keyset of each order, and after it what lists filter by: where few of many notes pass, only an index is read, and
# of them the notes. And one index for words, tags and the trigrams of titles, of one owner.
INDEXES = (
    "drop index notes.notes_owner_created_at_id_idx",
    "create index notes_created_at_idx on notes.notes (owner, created_at, id, deleted_at, pinned, archived)",
    "create index notes_updated_at_idx on notes.notes (owner, updated_at, id, deleted_at, pinned, archived)",
    'create index notes_title_idx on notes.notes (owner, title collate "C", id, deleted_at, pinned, archived)',
    "create index notes_purge_at_idx on notes.notes (purge_at) where purge_at is not null",
    "create index tokens_owner_id_idx on notes.tokens (owner, id)",
    "create index notes_search_idx on notes.notes using gin (owner, search, tags, title gin_trgm_ops)",
)

TABLES = (
    """
create table notes.revisions (
    note_id uuid not null references notes.notes on delete cascade,
    revision integer not null,
    updated_at timestamptz not null,
    replaced_at timestamptz not null,
    title text not null,
    content text not null,
    tags text[] not null,
    pinned boolean not null,
    archived boolean not null,
    metadata jsonb not null,
    attachment_count integer not null,
    deleted_at timestamptz,
    purge_at timestamptz,
    primary key (note_id, replaced_at)
)
""",
    "create index revisions_note_id_revision_idx on notes.revisions (note_id, revision)",
    # The number of the newest change, and the highest revision of all notes that are gone.
    """
create table notes.feeds (
    owner uuid primary key,
    seq bigint not null,
    purged_revision integer not null default 0
)
""",
    """
create table notes.changes (
    owner uuid not null,
    seq bigint not null,
    note_id uuid not null,
    type text not null,
    revision integer not null,
    changed_fields text[] not null,
    at timestamptz not null default clock_timestamp(),
    primary key (owner, seq)
)
""",
    "create index changes_at_idx on notes.changes using brin (at)",
    """
create table notes.outbox (
    owner uuid not null,
    seq bigint not null,
    primary key (owner, seq),
    foreign key (owner, seq) references notes.changes on delete cascade
)
""",
    """
create table notes.attachments (
    id uuid primary key default uuidv7(),
    note_id uuid not null references notes.notes on delete cascade,
    name text not null,
    content_type text not null,
    size_bytes bigint not null,
    sha256 bytea not null,
    object text not null unique,
    version text,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    confirmed_at timestamptz
)
""",
    "create index attachments_note_id_id_idx on notes.attachments (note_id, id)",
    "create index attachments_expires_at_idx on notes.attachments (expires_at) where confirmed_at is null",
    """
create table notes.discarded_objects (
    object text primary key,
    discarded_at timestamptz not null default now()
)
""",
    """
create table notes.idempotency_keys (
    owner uuid not null,
    key_hash bytea not null,
    fingerprint bytea not null,
    status smallint not null,
    headers jsonb not null,
    body bytea not null,
    created_at timestamptz not null default now(),
    primary key (owner, key_hash)
)
""",
    "create index idempotency_keys_created_at_idx on notes.idempotency_keys (created_at)",
)

# Who sets revision and updated_at, as a restore does, has them; everybody else gets the next ones. Numbers go on from
# the highest that the note ever had, and time from the note's own, so that no ETag names two states. Metadata is
# compared as text, since 1 and 1.0 are equal numbers and not the same bytes.
TOUCH = (
    """
create function notes.touch() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.deleted_at is null then
        new.purge_at := null;
    elsif new.purge_at is null then
        new.purge_at := new.deleted_at + interval '30 days';  -- whatever the service's setting: it says when itself
    end if;
    if tg_op = 'INSERT' then
        return new;
    elsif (new.id, new.owner) is distinct from (old.id, old.owner) then
        raise exception 'a note keeps its id and its owner' using errcode = 'restrict_violation';
    end if;
    if (new.revision, new.updated_at) is not distinct from (old.revision, old.updated_at)
        and (new.title, new.content, new.tags, new.pinned, new.archived, new.metadata::text, new.deleted_at,
             new.attachment_count)
            is distinct from (old.title, old.content, old.tags, old.pinned, old.archived, old.metadata::text,
             old.deleted_at, old.attachment_count)
    then
        new.revision := 1 + greatest(
            old.revision, (select max(revision) from notes.revisions where note_id = old.id)
        );
        new.updated_at := greatest(
            clock_timestamp(),
            interval '1 microsecond' + greatest(
                old.updated_at, (select max(replaced_at) from notes.revisions where note_id = old.id)
            )
        );
    end if;
    return new;
end
$$
""",
    "create trigger touch before insert or update on notes.notes for each row execute function notes.touch()",
)

# The row of `feeds` stays locked until the writer commits or rolls back. So the numbers of an owner have no gap, and
# whoever can read number n can read all before it. Plans are kept: without `enable_nestloop = off`, one that was made
# for a statement of one row takes time by the square of the rows of a large one.
NUMBERED = """
    with taken as (
        insert into notes.feeds as f (owner, seq) select owner, count(*) from happened group by owner order by owner
        on conflict (owner) do update set seq = f.seq + excluded.seq
        returning owner, seq
    ), numbered as (
        insert into notes.changes (owner, seq, note_id, type, revision, changed_fields)
        select h.owner, t.seq + 1 - row_number() over (partition by h.owner order by h.id desc),
            h.id, h.type, h.revision, h.changed_fields
        from happened as h join taken as t using (owner)
        returning owner, seq
    )
    insert into notes.outbox (owner, seq) select owner, seq from numbered;
"""
# A state ends when the next one begins, which is at its `updated_at` unless a restore has brought that with it.
RECORD = (
    f"""
create function notes.record_created() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_nestloop = off as $$
begin
    with happened as (
        select owner, id, revision, 'note.created' as type, '{{}}'::text[] as changed_fields from added
    ), {NUMBERED.strip().removeprefix("with ")}
    return null;
end
$$
""",
    f"""
create function notes.record_updated() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_nestloop = off as $$
begin
    if not exists (
        select from former as f join latter as l using (id)
        where (f.revision, f.updated_at) is distinct from (l.revision, l.updated_at)
    ) then
        return null;
    end if;
    insert into notes.revisions (note_id, revision, updated_at, replaced_at, title, content, tags, pinned, archived,
        metadata, attachment_count, deleted_at, purge_at)
    select id, f.revision, f.updated_at,
        case when l.updated_at >= statement_timestamp() then l.updated_at
             else greatest(clock_timestamp(), interval '1 microsecond' + (
                 select max(r.replaced_at) from notes.revisions as r where r.note_id = id
             )) end,
        f.title, f.content, f.tags, f.pinned, f.archived,
        f.metadata, f.attachment_count, f.deleted_at, f.purge_at
    from former as f join latter as l using (id)
    where (f.revision, f.updated_at) is distinct from (l.revision, l.updated_at);
    with happened as (
        select l.owner, id, l.revision,
            case when f.deleted_at is null and l.deleted_at is not null then 'note.deleted'
                 when f.deleted_at is not null and l.deleted_at is null then 'note.restored'
                 else 'note.updated' end as type,
            array_remove(array[
                case when f.title is distinct from l.title then 'title' end,
                case when f.content is distinct from l.content then 'content' end,
                case when f.tags is distinct from l.tags then 'tags' end,
                case when f.pinned is distinct from l.pinned then 'pinned' end,
                case when f.archived is distinct from l.archived then 'archived' end,
                case when f.metadata::text is distinct from l.metadata::text then 'metadata' end,
                case when f.attachment_count is distinct from l.attachment_count then 'attachments' end,
                case when f.deleted_at is distinct from l.deleted_at then 'deleted_at' end
            ], null) as changed_fields
        from former as f join latter as l using (id)
        where (f.revision, f.updated_at) is distinct from (l.revision, l.updated_at)
    ), {NUMBERED.strip().removeprefix("with ")}
    return null;
end
$$
""",
    f"""
create function notes.record_purged() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_nestloop = off as $$
begin
    with happened as (
        select owner, id, revision, 'note.purged' as type, '{{}}'::text[] as changed_fields from removed
    ), {NUMBERED.strip().removeprefix("with ")}
    update notes.feeds as f set purged_revision = r.highest
    from (select owner, max(revision) as highest from removed group by owner) as r
    where f.owner = r.owner and f.purged_revision < r.highest;
    return null;
end
$$
""",
    """
create trigger record_created after insert on notes.notes
referencing new table as added for each statement execute function notes.record_created()
""",
    """
create trigger record_updated after update on notes.notes
referencing old table as former new table as latter for each statement execute function notes.record_updated()
""",
    """
create trigger record_purged after delete on notes.notes
referencing old table as removed for each statement execute function notes.record_purged()
""",
    """
create function notes.refuse_truncate() returns trigger language plpgsql as $$
begin
    raise exception 'truncate would not be seen by those who follow the changes: delete the rows';
end
$$
""",
    """
create trigger refuse_truncate before truncate on notes.notes
for each statement execute function notes.refuse_truncate()
""",
)

# Attachments are a part of what a client sees of a note, so each one that comes or goes is a change of it. The note is
# locked before they are counted: two at once would not see each other.
ATTACHMENTS = (
    """
create function notes.count_attachments() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    of_note uuid := coalesce(new.note_id, old.note_id);
begin
    if tg_op = 'DELETE' then
        insert into notes.discarded_objects (object) values (old.object) on conflict do nothing;
    end if;
    perform from notes.notes where id = of_note for update;
    update notes.notes set attachment_count = counted.n
    from (select count(*) as n from notes.attachments where note_id = of_note and confirmed_at is not null) as counted
    where id = of_note and attachment_count <> counted.n;
    return null;
end
$$
""",
    """
create trigger count_attachments after insert or delete or update of note_id, confirmed_at on notes.attachments
for each row execute function notes.count_attachments()
""",
)


def upgrade() -> None:
    for statement in (COLUMNS, *SEARCH, *INDEXES, *TABLES, *TOUCH, *RECORD, *ATTACHMENTS):
        op.execute(statement)


def downgrade() -> None:
    for table in ("idempotency_keys", "discarded_objects", "attachments", "outbox", "changes", "feeds", "revisions"):
        op.execute(f"drop table notes.{table} cascade")
    for name in ("record_created", "record_updated", "record_purged", "refuse_truncate", "touch"):
        op.execute(f"drop trigger {name} on notes.notes")
        op.execute(f"drop function notes.{name}()")
    op.execute("drop function notes.count_attachments()")
    for name in ("created_at", "updated_at", "title", "purge_at", "search"):
        op.execute(f"drop index notes.notes_{name}_idx")
    op.execute("drop index notes.tokens_owner_id_idx")
    op.execute("create index notes_owner_created_at_id_idx on notes.notes (owner, created_at, id)")
    op.execute("""
        alter table notes.notes drop search, drop pinned, drop archived, drop metadata, drop attachment_count,
            drop deleted_at, drop purge_at
    """)
    op.execute("drop function notes.search_document(text, text[], text)")
    op.execute("drop function notes.search_language()")
