"""Is the process up, and may it be sent requests? For whoever runs it: neither needs a token, nor is under /v1."""

from fastapi import APIRouter, Request

from notes_api import db
from notes_api.errors import SchemaBehind

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Up, whatever the database does: a restart would not mend that."""
    return {"status": "up"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Raises SchemaBehind or DatabaseUnavailable.

    A revision that this release does not know was made by a newer one, and migrations leave the release before them
    working: so it is ready, or no release could be rolled back.
    """
    async with db.connected(request.app.state.pool) as connection:
        migrated = await connection.fetchval("select to_regclass('notes.alembic_version') is not null")
        current = await connection.fetchval("select version_num from notes.alembic_version") if migrated else None
    head, *older = request.app.state.revisions
    if current is None or current in older:
        raise SchemaBehind(f"The schema is at {current or 'nothing'}, and this release needs {head}.")
    return {"status": "ready"}
