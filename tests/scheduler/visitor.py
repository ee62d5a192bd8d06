"""Somebody with a browser, without its script: pages, forms and a cookie."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from scheduler import db, tokens

_PROOF = re.compile(r'name="proof" (?:value|content)="([0-9a-f]{64})"')


class Visitor(httpx.AsyncClient):
    """Paths are below /ops."""

    async def page(self, path: str = "/") -> str:
        """Of a page that is there."""
        answer = await self.get(f"/ops{path}")
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.text

    async def proof(self, path: str = "/login") -> str:
        found = _PROOF.search((await self.get(f"/ops{path}")).text)
        assert found
        return found[1]

    async def submit(self, path: str, /, **fields: str) -> httpx.Response:
        """A form of the page that this follows."""
        return await self.post(f"/ops{path}", data={"proof": await self.proof(), **fields})

    async def sign_in(self, token: str, **fields: str) -> httpx.Response:
        return await self.submit("/login", token=token, **fields)


@asynccontextmanager
async def visitor(
    app: FastAPI, scopes: Sequence[str] | None = None, base: str = "http://ops.test"
) -> AsyncIterator[Visitor]:
    """With `scopes`, one who has signed in with a token of these."""
    async with Visitor(transport=httpx.ASGITransport(app), base_url=base) as one:
        if scopes is not None:
            signed_in = await one.sign_in(await new_token(app, scopes))
            assert signed_in.status_code == 303, signed_in.text
        yield one


async def new_token(app: FastAPI, scopes: Sequence[str] = tokens.SCOPES) -> str:
    async with db.transaction(app.state.engine) as session:
        return await tokens.create(session, "ada", scopes, expires_at=None)
