"""Tokens that a program makes for other programs of the same owner."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from notes_api import tokens
from notes_api.access import TokenAdmin
from notes_api.db import Db, Row
from notes_api.errors import InvalidCursor, ScopeMissing, TokenNotFound
from notes_api.fields import Time
from notes_api.idempotency import Doing
from notes_api.problems import documented
from notes_api.routes.parts import ALWAYS, LOCATION, WITH_BODY, WITH_KEY, Route
from notes_api.schemas import PageQuery

router = APIRouter(prefix="/v1", tags=["tokens"], route_class=Route)

ScopeName = Literal["notes:read", "notes:write", "attachments:write", "tokens:admin"]


class TokenIn(BaseModel):
    """A token to be made. It outlives the one that makes it."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"name": "nightly sync", "scopes": ["notes:read"], "expires_in_days": 90}],
            "not": {
                "required": ["expires_at", "expires_in_days"],
                "properties": {"expires_at": {"type": "string"}, "expires_in_days": {"type": "integer"}},
            },
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=200, pattern="^[^\\u0000]*$", description="What it is for.")]
    scopes: Annotated[
        list[ScopeName],
        Field(
            min_length=1,
            max_length=20,
            description="Of those that your own token holds. Who may change a note is shown it.",
        ),
    ]
    expires_at: Annotated[Time | None, Field(description="Never, if neither this is given nor days are.")] = None
    expires_in_days: Annotated[
        int | None, Field(ge=1, le=tokens.MAX_DAYS, description="From now on, in place of a time.")
    ] = None

    @model_validator(mode="after")
    def _expires_once(self) -> "TokenIn":
        if self.expires_at is not None and self.expires_in_days is not None:
            raise ValueError("give either expires_at or expires_in_days")
        return self

    @property
    def expiry(self) -> datetime | None:
        return datetime.now(UTC) + timedelta(days=self.expires_in_days) if self.expires_in_days else self.expires_at


class TokenListed(BaseModel):
    """A token, but not what it is: nobody can read that again."""

    id: UUID
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="To the minute.")]


class TokenOut(TokenListed):
    token: Annotated[str, Field(description="Shown only now.", examples=["hf_" + 43 * "x"])]


class TokenList(BaseModel):
    items: list[TokenListed]
    next_cursor: str | None
    has_more: bool


async def _granted(new: TokenIn, caller: TokenAdmin) -> TokenIn:
    """Before a replay is looked for: it would show a token with scopes that the caller does not hold."""
    if missing := [scope for scope in new.scopes if scope not in caller.scopes]:
        raise ScopeMissing(missing)
    return new


@router.post(
    "/tokens",
    operation_id="createToken",
    status_code=201,
    response_model=TokenOut,
    responses={201: {"headers": LOCATION}, **documented(*WITH_BODY, *WITH_KEY)},
)
async def create(
    new: Annotated[TokenIn, Depends(_granted)], caller: TokenAdmin, connection: Db, once: Doing
) -> Response:
    """Make a token for the same owner, with some of your own scopes. It is shown in this answer, and never again."""
    token, scopes = tokens.PREFIX + once.secret(), list(dict.fromkeys(new.scopes))
    row = await tokens.issue(connection, caller.owner, new.name, scopes, expires_at=new.expiry, token=token)
    headers = {"Location": f"/v1/tokens/{row['id']}", "Cache-Control": "no-store"}
    return await once.answer(TokenOut(**row, token=token), 201, headers)


@router.get(
    "/tokens",
    operation_id="listTokens",
    response_model=TokenList,
    responses=documented(*ALWAYS, InvalidCursor),
)
async def listed(
    request: Request, caller: TokenAdmin, connection: Db, query: Annotated[PageQuery, Query()]
) -> TokenList:
    """The owner's tokens, the newest first, without what they are. Those that have expired are there until revoked."""
    signer, of = request.app.state.signer, ["listTokens", caller.owner]
    after = None if query.cursor is None else UUID(signer.read(query.cursor, of))
    rows = await tokens.page(connection, caller.owner, after, query.limit + 1)
    shown: list[Row] = list(rows[: query.limit])
    cursor = signer.sign(shown[-1]["id"], of) if len(rows) > query.limit else None
    return TokenList(items=[TokenListed(**row) for row in shown], next_cursor=cursor, has_more=cursor is not None)


@router.delete(
    "/tokens/{token_id:uuid}",
    operation_id="revokeToken",
    status_code=204,
    responses={204: {"description": "It is refused from now on."}, **documented(*ALWAYS, TokenNotFound)},
)
async def revoke(token_id: UUID, caller: TokenAdmin, connection: Db) -> None:
    """Revoke a token, your own perhaps. Tokens that it has made stay."""
    await tokens.revoke(connection, token_id, caller.owner)
