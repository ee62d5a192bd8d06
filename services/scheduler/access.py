"""Who may call what: a route asks for the scope that it needs. Schedules and runs belong to the installation."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.params import Security as Scoped
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from scheduler import tokens
from scheduler.db import Session
from scheduler.errors import NotAuthenticated, ScopeMissing

_bearer = HTTPBearer(
    scheme_name="token", description="An opaque token, `hf_...`, that holds scopes. It is shown once.", auto_error=False
)


async def _check(
    needed: SecurityScopes,
    sent: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    session: Session,
    request: Request,
) -> None:
    """Raises NotAuthenticated, TokenRefused, ScopeMissing."""
    if sent is None:
        raise NotAuthenticated
    token = await tokens.authenticate(session, sent.credentials)
    if missing := [scope for scope in needed.scopes if scope not in token.scopes]:
        raise ScopeMissing(missing)
    request.state.caller = token.name


def _caller(request: Request) -> str:
    name: str = request.state.caller
    return name


Caller = Annotated[str, Depends(_caller)]  # the name of the token that `needs` has checked


def needs(scope: str) -> Scoped:
    """For a route's `dependencies`."""
    return Scoped(_check, scopes=[scope])
