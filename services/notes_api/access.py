"""Who may call what: a route asks for a `Reader` or a `Writer`, and gets the owner on whose behalf the token calls."""

from typing import Annotated
from uuid import UUID

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from notes_api import tokens
from notes_api.db import Session
from notes_api.errors import NotAuthenticated, ScopeMissing

_bearer = HTTPBearer(
    scheme_name="token", description="An opaque token, `hf_...`, that holds scopes. It is shown once.", auto_error=False
)


async def owner(
    needed: SecurityScopes, sent: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)], session: Session
) -> UUID:
    """Raises NotAuthenticated, TokenRefused, ScopeMissing."""
    if sent is None:
        raise NotAuthenticated
    token = await tokens.authenticate(session, sent.credentials)
    if missing := [scope for scope in needed.scopes if scope not in token.scopes]:
        raise ScopeMissing(missing)
    return token.owner


Reader = Annotated[UUID, Security(owner, scopes=[tokens.READ])]
Writer = Annotated[UUID, Security(owner, scopes=[tokens.WRITE])]
