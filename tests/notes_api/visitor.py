"""Somebody with a browser, without its script: pages, forms and a cookie."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
from fastapi import FastAPI

from notes_api import tokens
from tests.notes_api.doors import new_token

_PROOF = re.compile(r'name="proof" (?:value|content)="([0-9a-f]{64})"')


class Visitor(httpx.AsyncClient):
    """Paths are below /admin."""

    async def page(self, path: str = "/", status: int = 200) -> str:
        answer = await self.get(f"/admin{path}")
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.text

    async def proof(self, path: str = "/login") -> str:
        found = _PROOF.search((await self.get(f"/admin{path}")).text)
        assert found
        return found[1]

    async def submit(self, path: str, /, **fields: str) -> httpx.Response:
        """A form, with the proof of the page that it is on."""
        return await self.post(f"/admin{path}", data={"proof": await self.proof(), **fields})

    async def sign_in(self, token: str, **fields: str) -> httpx.Response:
        return await self.submit("/login", token=token, **fields)


@asynccontextmanager
async def visitor(
    app: FastAPI, scopes: Sequence[str] | None = None, owner: UUID | None = None, base: str = "http://notes.test"
) -> AsyncIterator[Visitor]:
    """With `scopes`, one who has signed in with a token of these."""
    async with Visitor(transport=httpx.ASGITransport(app), base_url=base) as one:
        if scopes is not None:
            signed_in = await one.sign_in(await new_token(app, *scopes, owner=owner))
            assert signed_in.status_code == 303, signed_in.text
        yield one


ALL = tokens.SCOPES
