"""Who may call what: a route asks for a `Reader`, a `Writer` or another, and gets who calls."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param

from notes_api import tokens
from notes_api.db import Connection, Db
from notes_api.errors import NotAuthenticated, ScopeMissing
from notes_api.tokens import Caller


async def known(request: Request, connection: Connection) -> Caller:
    """Whoever it is; looked up once in a request. Raises NotAuthenticated and TokenRefused."""
    if found := getattr(request.state, "caller", None):
        assert isinstance(found, Caller)
        return found
    scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated
    caller = await tokens.authenticate(connection, token)
    request.state.caller = caller
    request.state.exchange.token_id = caller.token_id  # for the log
    return caller


class _Token(SecurityBase):
    """A scheme of the OpenAPI document, and what follows it: one dependency, since each takes time of every request."""

    scheme_name = "token"
    model = HTTPBearer(description="An opaque token, `hf_...`, that holds scopes. It is shown once.")

    async def __call__(self, request: Request, needed: SecurityScopes, connection: Db) -> Caller:
        """Raises ScopeMissing, and what `known` raises."""
        caller = await known(request, connection)
        if missing := [scope for scope in needed.scopes if scope not in caller.scopes]:
            raise ScopeMissing(missing)
        return caller


_token = _Token()
Reader = Annotated[Caller, Security(_token, scopes=[tokens.READ])]
Writer = Annotated[Caller, Security(_token, scopes=[tokens.WRITE])]
Attacher = Annotated[Caller, Security(_token, scopes=[tokens.ATTACH])]
TokenAdmin = Annotated[Caller, Security(_token, scopes=[tokens.ADMIN])]
