"""Tokens: made, shown once, revoked."""

from typing import Any
from uuid import UUID

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from notes_api import tokens
from notes_api.console.parts import Pages, Wrong, allowed, wrong_fields
from notes_api.console.sessions import Session
from notes_api.routes.tokens import TokenIn
from notes_api.tokens import ADMIN

AT_ONCE = 50
MAY = {
    tokens.READ: "read notes",
    tokens.WRITE: "change notes",
    tokens.ATTACH: "add and remove attachments",
    tokens.ADMIN: "make and revoke tokens",
}


class TokenPages(Pages):
    menu_label = "Tokens"
    path = "/tokens"

    def is_accessible(self, request: Request) -> bool:
        session: Session | None = request.state.session
        return session is not None and session.may(ADMIN)

    @route("")
    async def index(self, request: Request) -> Response:
        return await self._list(request)

    @route("", methods=["POST"])
    async def create(self, request: Request) -> Response:
        """The token is in this answer and never again: it is not asked for anew."""
        allowed(request, ADMIN)
        form, session = request.state.form, request.state.session
        chosen = [str(each) for each in form.getlist("scopes") if session.may(str(each))]
        days = str(form.get("days", "")).strip()
        values = {"name": str(form.get("name", "")).strip(), "scopes": chosen, "days": days}
        wanted: dict[str, Any] = {"name": values["name"], "scopes": chosen}
        if days:
            wanted["expires_in_days"] = int(days) if days.isascii() and days.isdecimal() and len(days) < 9 else days
        try:
            new = TokenIn.model_validate(wanted)
        except ValidationError as error:
            wrong = dict(wrong_fields(error))
            wrong |= {"days": wrong.pop("expires_in_days")} if "expires_in_days" in wrong else {}
            return await self._list(request, values, wrong, 422)
        async with self.doing(request, "made a token", new.name, ADMIN) as (connection, caller):
            made = await tokens.create(connection, caller.owner, new.name, new.scopes, expires_at=new.expiry)
        return await self.page(request, "token.html", token=made, name=new.name)

    @route("/{token_id:uuid}/revoke", methods=["POST"])
    async def revoke(self, request: Request) -> Response:
        token_id: UUID = request.path_params["token_id"]
        told = "It is refused from now on, and who had signed in with it is signed out."
        async with self.doing(request, "revoked a token", str(token_id), ADMIN, told=told) as (connection, caller):
            await tokens.revoke(connection, token_id, caller.owner)
        return self.to(request, "/tokens")

    async def _list(
        self, request: Request, values: Any = None, wrong: Wrong | None = None, status: int = 200
    ) -> Response:
        try:
            after = UUID(given) if (given := request.query_params.get("after", "")) else None
        except ValueError:
            raise HTTPException(404, "There is no such page.") from None
        async with self.reading(request, ADMIN) as (connection, caller):
            found = await tokens.page(connection, caller.owner, after, AT_ONCE + 1)
        return await self.page(
            request,
            "tokens.html",
            status,
            tokens=found[:AT_ONCE],
            may=MAY,
            mine=caller.token_id,
            values=values or {"scopes": [tokens.READ], "days": "90"},
            next=f"?after={found[AT_ONCE - 1]['id']}" if len(found) > AT_ONCE else "",
            first="?" if after else "",
            wrong=wrong or {},
        )
