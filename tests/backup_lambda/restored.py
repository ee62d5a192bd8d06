"""A worker that restores, and how a test asks it to."""

from typing import Any

from backup_lambda import restores
from backup_lambda.schemas import Restore, RestoreIn
from backup_lambda.tasks import RestoreTask
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time, utc_now, worker_for
from tests.servers import Cluster

EXAMPLE = """
create function notes.noticed() returns trigger language plpgsql as $$
begin insert into notes.feed (note_id) values (new.id); return new; end $$;
create table notes.feed (position int generated always as identity primary key, note_id int not null);
create table notes.people (name text primary key);
create table notes.notes (
    id int generated always as identity primary key, owner text references notes.people, body text not null,
    title text generated always as (upper(left(body, 5))) stored, about jsonb, draft json, tags int[],
    weight double precision, price numeric unique);
create trigger noticed after insert or update on notes.notes for each row execute function notes.noticed();
create table notes.tokens (id int primary key, expires_at timestamptz);
create function notes.kept() returns trigger language plpgsql as $$ begin return old; end $$;
create trigger kept before update on notes.tokens for each row execute function notes.kept();
alter table notes.people force row level security;
insert into notes.people values ('Ada'), ('Bob');
insert into notes.tokens values (1, null), (2, now() + interval '1 day'), (3, now() - interval '1 day');
insert into notes.notes (owner, body, about, draft, tags, weight, price) values
    ('Ada', 'first', '{"a": 1.50}', '{"b":  [1,\n2]}', '[2:3]={7,8}', 'NaN', 1.0),
    ('Ada', 'second', 'null', null, '{}', '-Infinity', 'NaN'),
    ('Bob', 'third', null, '1', null, 0.1, 12345678901234567890.123456789);
insert into notes.notes (owner, body, price) select 'Bob', md5(i::text), i from generate_series(100, 2099) i;
"""
# What deploy/postgres/roles.sql grants.
RIGHTS = """
grant select, insert, update, delete on all tables in schema notes to notes_restore;
grant usage, select, update on all sequences in schema notes to notes_restore;
grant temporary on database {database} to notes_restore;
"""


async def make_example(owner: Connection, database: str, sql: str = EXAMPLE) -> None:
    await owner.execute(sql + RIGHTS.format(database=database))


def restoring(world: World, cluster: Cluster, database: str, **means: Any) -> Worker:
    """A worker with all its means."""

    async def restore_url() -> str:
        return cluster.url("notes_restore", database)

    proof_url = cluster.url("notes_proof", "postgres")
    return worker_for(world, cluster.url("notes_backup", database), proof_url, **{"restore_url": restore_url} | means)


async def proven(worker: Worker, world: World) -> str:
    """The id of a backup."""
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    return backup_id


async def stored(worker: Worker, world: World) -> str:
    """The id of a backup that was not proven: for a restore that says why it does not matter."""
    storing = worker_for(world, await worker.means.database_url())
    backup_id = await world.wish()
    assert await storing.back_up(backup_id, a_long_time) == "stored"
    return backup_id


async def asked(world: World, backup_id: str, **wanted: Any) -> str:
    """The id of a restore; nothing need be proven."""
    body = RestoreIn.model_validate({"because": "a test"} | wanted)
    made = await restores.request(
        world.store, world.start_worker, backup_id, body, key=None, requested_by="ops", now=utc_now
    )
    assert made.state == "queued"
    return made.id


async def restored(worker: Worker, world: World, backup_id: str, **wanted: Any) -> Restore:
    """A restore that has ended, in whatever way."""
    restore_id = await asked(world, backup_id, **wanted)
    await worker.restore(RestoreTask(restore_id=restore_id), a_long_time)
    return await restores.show(world.store, restore_id, utc_now)
