"""GET /livez and /readyz."""

import httpx
import pytest

from notes_api import migrate
from tests.servers import Cluster

HEAD = migrate.revisions()[0]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_no_token_is_needed(anybody: httpx.AsyncClient, path: str) -> None:
    assert (await anybody.get(path)).status_code == 200


@pytest.mark.parametrize(
    "behind", ["delete from notes.alembic_version", "drop table notes.alembic_version", "drop schema notes cascade"]
)
async def test_it_is_not_ready_before_its_migrations(
    anybody: httpx.AsyncClient, cluster: Cluster, database: str, behind: str
) -> None:
    cluster.server.psql(database, [behind])
    response = await anybody.get("/readyz")
    assert (response.status_code, response.json()["type"]) == (503, "/problems/schema-behind")
    assert response.json()["detail"] == f"The schema is at nothing, and this release needs {HEAD}."
    assert (await anybody.get("/livez")).status_code == 200


async def test_it_is_not_ready_on_the_schema_of_the_release_before(
    anybody: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    cluster.server.psql(database, ["update notes.alembic_version set version_num = '0001'"])
    response = await anybody.get("/readyz")
    assert (response.status_code, response.json()["type"]) == (503, "/problems/schema-behind")
    assert response.json()["detail"] == f"The schema is at 0001, and this release needs {HEAD}."


async def test_it_is_ready_on_the_schema_of_a_newer_release(
    anybody: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    cluster.server.psql(database, ["update notes.alembic_version set version_num = 'of a later day'"])
    assert (await anybody.get("/readyz")).status_code == 200
