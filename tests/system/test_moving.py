"""From one side to another, as docs/deploy.md says, while a client writes: no acknowledged note is lost."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import httpx
import pytest

from tests.servers import Cluster
from tests.system.stack import ROOT, UNDER_WAY, Stack, bearer, eventually

pytestmark = pytest.mark.timeout(400)  # two stacks, each started once or twice
NewStack = Callable[[], Stack]
CLI = [str(ROOT / ".venv" / "backup_lambda" / "bin" / "python"), "-m", "backup_lambda"]


class Client:
    """Writes one note after another to where the name leads, and remembers what was acknowledged."""

    def __init__(self, side: Stack) -> None:
        self.acknowledged: dict[str, str] = {}
        self.refused = 0
        self._enough = Event()
        self.led_to(side)

    def led_to(self, side: Stack) -> None:
        self._url, self._token = side.env["NOTES_URL"], side.env["NOTES_TOKEN"]

    def write(self) -> None:
        while not self._enough.wait(0.02):  # under the limit of what one address may ask
            title = str(len(self.acknowledged))
            try:
                answer = httpx.post(f"{self._url}/v1/notes", json={"title": title}, headers=bearer(self._token))
            except httpx.TransportError:
                self.refused += 1
                continue
            if answer.status_code == 201:
                self.acknowledged[answer.json()["id"]] = title
            else:
                self.refused += 1

    def ends(self) -> None:
        self._enough.set()

    def has_written(self, more: int) -> None:
        wanted = len(self.acknowledged) + more
        eventually(lambda: len(self.acknowledged) >= wanted)


@contextmanager
def writing(side: Stack) -> Iterator[Client]:
    client = Client(side)
    thread = Thread(target=client.write)
    thread.start()
    try:
        yield client
    finally:
        client.ends()
        thread.join()


def kept(side: Stack, written: dict[str, str]) -> None:
    with side.notes() as notes:
        exported = notes.get("/v1/notes:export")
        assert exported.status_code == 200, exported.text
        assert {id_ for id_ in written if id_ in exported.text} == written.keys()
        for id_, title in written.items():
            assert notes.get(f"/v1/notes/{id_}").json()["title"] == title


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The superuser's URL of an empty one, on a server that neither side has started."""
    with cluster.database("template0") as name:
        yield cluster.url("postgres", name)


def test_to_another_side_of_the_same_database(new_stack: NewStack, database: str) -> None:
    """Both sides serve at once, with the same secrets, until the name leads to the new one."""
    old = new_stack()
    old.settings["HOLDFAST_DATABASE_URL"] = database
    old.up()
    new = new_stack()
    new.settings["HOLDFAST_DATABASE_URL"] = database
    new.home.mkdir(mode=0o700)
    for name in ("version", "secrets.json", "tokens.json"):  # which AWS keeps once for all
        shutil.copy2(old.home / name, new.home / name)
    with writing(old) as client:
        client.has_written(10)
        new.up()
        assert new.env["NOTES_TOKEN"] == old.env["NOTES_TOKEN"]
        client.has_written(10)
        client.led_to(new)
        client.has_written(10)
        assert old.down() == 0
        client.has_written(10)
    assert client.refused == 0
    kept(new, client.acknowledged)
    assert new.ended(new.trigger())["state"] == "succeeded"


def test_to_another_database(new_stack: NewStack, database: str) -> None:
    """Who writes is stopped, the last backup proven and restored, and the new side begins with it."""
    old = new_stack()
    old.up()
    new = new_stack()
    with writing(old) as client:
        client.has_written(20)
        # Compose would stop containers; here nobody may log in any more who writes.
        old.execute("alter role notes_app nologin; alter role scheduler_app nologin; "
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where usename in ('notes_app', 'scheduler_app')")  # fmt: skip
        eventually(lambda: client.refused > 5)
        acknowledged = dict(client.acknowledged)
        with old.backups() as backups:
            backup_id = backups.post("backups", json={}, headers={"Prefer": "wait=25"}).json()["id"]
        ended = eventually(lambda: b if (b := old.backup(backup_id))["state"] not in UNDER_WAY else None)
        assert ended["state"] == "proven", ended

        env = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "AWS_"))}
        bucket = ["--bucket", old.env["BACKUP_BUCKET"], "--key", old.env["SIGNING_KEY"]]
        restored = subprocess.run(
            [*CLI, "restore", backup_id, *bucket, "--into-env", "TARGET"],
            env=env | old.env | {"PYTHONPATH": str(ROOT / "services"), "TARGET": database},
            capture_output=True,
            text=True,
            check=False,
        )
        assert restored.returncode == 0, restored.stderr
        new.settings["HOLDFAST_DATABASE_URL"] = database
        new.up()
        client.led_to(new)
        client.has_written(10)
    assert acknowledged.items() <= client.acknowledged.items()
    kept(new, client.acknowledged)
    assert new.ended(new.trigger())["state"] == "succeeded"
    with new.backups() as backups:
        made = backups.get("backups").json()["items"]
    assert [each["state"] for each in made] == ["proven"]
