"""Who may call what: a route asks for a `Reader`, a `Writer` or another, and gets who calls."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from notes_api import db, tokens
from notes_api.errors import NotAuthenticated, ScopeMissing
from notes_api.tokens import Caller


async def known(request: Request) -> Caller:
    """Whoever it is; looked up once in a request. Raises NotAuthenticated and TokenRefused."""
    if found := getattr(request.state, "caller", None):
        assert isinstance(found, Caller)
        return found
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip(" \t")  # and nothing else, since `limits` counts by what is sent
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated
    caller = await tokens.authenticate(await db.of_request(request), token)
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
