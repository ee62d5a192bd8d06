"""Who may call what: a route asks for a `Reader`, a `Writer` or another, and gets who calls."""

import asyncio
from contextvars import Context
from typing import Annotated

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from notes_api import tokens
from notes_api.db import Pool, connected
from notes_api.errors import NotAuthenticated, ScopeMissing, TokenRefused
from notes_api.tokens import Caller


class Authentication:
    """Looks tokens up, each time anew, so that a token is refused as soon as it is revoked.

    Those of requests that come while a statement is under way are looked up together by the next one: under load the
    statement would cost a request more than anything else that they have in common.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: list[tuple[str, asyncio.Future[Caller | None]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def caller(self, token: str) -> Caller:
        """Raises TokenRefused and DatabaseUnavailable."""
        if not tokens.FORM.fullmatch(token):
            raise TokenRefused
        answer: asyncio.Future[Caller | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((token, answer))
        if self._asking is None:
            # Of no request: not in its log, and not ended with it.
            self._asking = asyncio.get_running_loop().create_task(self._ask(), context=Context())
        if (caller := await answer) is None:
            raise TokenRefused
        return caller

    async def _ask(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                found: dict[str, Caller] | Exception
                try:
                    async with connected(self._pool) as connection:
                        found = await tokens.callers(connection, {token for token, _ in asked})
                except Exception as error:  # noqa: BLE001  # it is raised where it is waited for
                    found = error
                for token, answer in asked:
                    if answer.done():  # its request was cancelled
                        continue
                    if isinstance(found, Exception):
                        answer.set_exception(found)
                    else:
                        answer.set_result(found.get(token))
        finally:
            self._asking = None


async def known(request: Request) -> Caller:
    """Whoever it is; looked up once in a request. Raises NotAuthenticated and TokenRefused."""
    if found := getattr(request.state, "caller", None):
        assert isinstance(found, Caller)
        return found
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip(" \t")  # and nothing else, since `limits` counts by what is sent
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated
    authentication: Authentication = request.app.state.authentication
    caller = await authentication.caller(token)
    request.state.caller = caller
    request.state.exchange.token_id = caller.token_id  # for the log
    return caller


class _Token(SecurityBase):
    """A scheme of the OpenAPI document, and what follows it: one dependency, since each takes time of every request."""

    scheme_name = "token"
    model = HTTPBearer(description="An opaque token, `hf_...`, that holds scopes. It is shown once.")

    async def __call__(self, request: Request, needed: SecurityScopes) -> Caller:
        """Raises ScopeMissing, what `known` raises, and RequestValidationError for parameters that nobody reads."""
        caller = await known(request)
        if missing := [scope for scope in needed.scopes if scope not in caller.scopes]:
            raise ScopeMissing(missing)
        if request.scope["query_string"]:
            request.state.refuse_unknown(request)
        return caller


_token = _Token()
Reader = Annotated[Caller, Security(_token, scopes=[tokens.READ])]
Writer = Annotated[Caller, Security(_token, scopes=[tokens.WRITE])]
Attacher = Annotated[Caller, Security(_token, scopes=[tokens.ATTACH])]
TokenAdmin = Annotated[Caller, Security(_token, scopes=[tokens.ADMIN])]
