"""What a notes API costs at the least: FastAPI, asyncpg and SQL by hand, and nothing else.

No authentication, validation, limits, metrics or logs; the same tables, with their triggers, and the same answers.
`uvicorn tests.bench.bare:app`; BENCH_URL is the database, BENCH_OWNER whose notes they are.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from fastapi import FastAPI, Request, Response

OWNER = UUID(os.environ["BENCH_OWNER"])
LISTED = (
    "id, title, tags, pinned, archived, metadata, attachment_count, revision, created_at, updated_at, deleted_at,"
    " purge_at"
)
GET = f"select {LISTED}, content from notes.notes where id = $1 and owner = $2"
PAGE = (
    f"select {LISTED} from notes.notes where owner = $1 and deleted_at is null and (created_at, id) < ($2, $3)"
    " order by created_at desc, id desc limit $4"
)
CREATE = f"insert into notes.notes (owner, title, content, tags) values ($1, $2, $3, $4) returning {LISTED}, content"
EDIT = f"update notes.notes set title = $3 where id = $1 and owner = $2 returning {LISTED}, content"
SEARCH = f"""
with best as (
    select id, ts_rank(search, query, 1) as rank
    from notes.notes, websearch_to_tsquery('english', $2) as query
    where owner = $1 and deleted_at is null and search @@ query order by rank desc, id desc limit $3
)
select {LISTED}, rank, ts_headline('english', title, query, 'HighlightAll=true') as title_html,
    ts_headline('english', content, query, 'MaxFragments=2, MaxWords=30, MinWords=10') as snippet_html
from best join notes.notes using (id), websearch_to_tsquery('english', $2) as query order by rank desc, id desc
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["BENCH_URL"]) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.get("/v1/notes/{note_id}")
async def get(request: Request, note_id: UUID) -> Response:
    return answer(written(await request.app.state.pool.fetchrow(GET, note_id, OWNER)))


@app.get("/v1/notes")
async def page(
    request: Request,
    limit: int = 50,
    created_at: str = "9999-01-01T00:00:00Z",
    id: str = "f" * 32,  # noqa: A002
) -> Response:
    place = datetime.fromisoformat(created_at), UUID(id)
    rows = await request.app.state.pool.fetch(PAGE, OWNER, *place, limit)
    return answer({"items": [written(row) for row in rows]})


@app.post("/v1/notes")
async def create(request: Request) -> Response:
    new = await request.json()
    return answer(
        written(await request.app.state.pool.fetchrow(CREATE, OWNER, new["title"], new["content"], new["tags"])), 201
    )


@app.patch("/v1/notes/{note_id}")
async def edit(request: Request, note_id: UUID) -> Response:
    title = (await request.json())["title"]
    return answer(written(await request.app.state.pool.fetchrow(EDIT, note_id, OWNER, title)))


@app.get("/v1/search")
async def search(request: Request, q: str, limit: int = 20) -> Response:
    rows = await request.app.state.pool.fetch(SEARCH, OWNER, q, limit)
    return answer({"items": [written(row) for row in rows]})


def written(row: Any) -> dict[str, Any]:
    return {**row, "metadata": json.loads(row["metadata"])}


def answer(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, default=text).encode(), status, media_type="application/json")


def text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
