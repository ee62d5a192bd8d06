"""Who gets in. Nothing behind this is reached without a session, and no form without the proof that it is ours."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_admin.auth import AdminUser, BaseAuthProvider

from scheduler import db, tokens
from scheduler.console import sessions
from scheduler.console.sessions import Session
from scheduler.errors import SchedulerError, TokenRefused
from scheduler.problems import title

COOKIE = "holdfast_ops"
NEEDED = (tokens.SCHEDULES_READ, tokens.RUNS_READ)  # to get in at all
_SAFE = {"GET", "HEAD"}
_OPEN = ("/static/", "/login")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
Refuse = Callable[[Request, int, str, str], Awaitable[Response]]


class Entrance(BaseAuthProvider):
    """Signs people in with a token and out again. `refuse` renders a page that says why: status, title, what to do."""

    def __init__(self, app: Starlette, refuse: Refuse) -> None:
        super().__init__()
        self._app = app
        self._refuse = refuse

    async def authenticate(self, request: Request) -> AdminUser | None:
        session: Session | None = request.state.session
        return AdminUser(session.name) if session else None

    def get_middleware(self) -> Middleware:
        return Middleware(Guard, app_outside=self._app, refuse=self._refuse)

    def get_routes(self, templates: Jinja2Templates) -> list[Route]:
        self._templates = templates
        return [
            Route("/login", self._ask, methods=["GET"], name="login"),
            Route("/login", self._sign_in, methods=["POST"], name="sign_in"),
            Route("/logout", self._sign_out, methods=["POST"], name="logout"),
        ]

    async def _ask(self, request: Request, wrong: str = "", status: int = 200) -> Response:
        context = {"wrong": wrong, "next": _inside(request, request.query_params.get("next", ""))}
        return self._templates.TemplateResponse(request, "login.html", context, status)

    async def _sign_in(self, request: Request) -> Response:
        token, client = str(request.state.form.get("token", "")).strip(), address(request)
        async with db.transaction(self._app.state.engine) as database:
            if await sessions.too_many_refusals(database, client):
                return await self._ask(request, "Too many tokens from here were wrong. Wait 15 minutes.", 429)
            try:
                found = await tokens.authenticate(database, token)
            except TokenRefused:
                sessions.record_refusal(database, client, "unknown, expired or revoked")
                return await self._ask(request, "This token is not known, has expired or was revoked.", 401)
            if missing := " and ".join(scope for scope in NEEDED if scope not in found.scopes):
                sessions.record_refusal(database, client, f"without {missing}")
                told = f"This token may not come in: it lacks {missing}. Sign in with one that has it."
                return await self._refuse(request, 403, "The token lacks a scope", told)
            secret = await sessions.begin(database, found.id)
            session = await sessions.find(database, secret)
            assert session
            sessions.record(database, session, client, "signed in")
        response = RedirectResponse(_inside(request, str(request.state.form.get("next", ""))), 303)
        set_cookie(request, response.headers.append, secret)
        return response

    async def _sign_out(self, request: Request) -> Response:
        session: Session = request.state.session
        async with db.transaction(self._app.state.engine) as database:
            await sessions.end(database, session)
            sessions.record(database, session, address(request), "signed out")
        response = RedirectResponse(f"{request.scope['root_path']}/login", 303)
        set_cookie(request, response.headers.append, "", max_age=0)
        return response


class Guard:
    """Gives requests a session, or sends people to sign in. Refuses what another site's page has sent.

    A page that looks again by itself (`X-Live`) neither keeps a session nor takes what was to be told to a person.
    """

    def __init__(self, app: ASGIApp, app_outside: Starlette, refuse: Refuse) -> None:
        self._app = app
        self._outside = app_outside
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        inside = scope["path"].removeprefix(scope["root_path"])
        added: list[tuple[str, str]] = []

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                _protect(message, added, static=inside.startswith("/static/"))
            await send(message)

        if inside.startswith("/static/"):
            await self._app(scope, receive, answer)
            return
        try:
            refused = await self._admit(request, inside, lambda name, value: added.append((name, value)))
            await (refused or self._app)(scope, receive, answer)
        except SchedulerError as error:
            await (await self._refuse(request, error.status, title(error), error.detail))(scope, receive, answer)
        except HTTPException as error:  # of a form that cannot be read
            told = "The form could not be read"
            await (await self._refuse(request, error.status_code, told, error.detail))(scope, receive, answer)
        finally:
            if form := getattr(request.state, "form", None):
                await form.close()  # what it holds of files

    async def _admit(self, request: Request, inside: str, add: Callable[[str, str], Any]) -> Response | None:
        """None when it may go on. Sets `session`, `proof` of forms, and of a POST its `form`."""
        if "\x00" in request.scope["path"] or any("\x00" in each for each in request.query_params.values()):
            return await self._refuse(request, 404, "There is nothing here", "An address of ours has no NUL in it.")
        state, secret = request.state, request.cookies.get(COOKIE, "")
        async with db.transaction(self._outside.state.engine) as database:
            state.session = session = await sessions.find(database, secret) if secret else None
            if session and session.to_renew and "x-live" not in request.headers:
                await sessions.renew(database, session)
                set_cookie(request, add, secret)
        if session is None and inside == "/login" and request.method in _SAFE:
            secret = sessions.new_secret()  # of nobody yet: what the form's proof follows from
            set_cookie(request, add, secret)
        state.proof = sessions.proof_of_form(secret)
        if session:
            state.caller = session.name  # for the log
        elif not inside.startswith(_OPEN):
            if request.method in _SAFE and "x-live" not in request.headers:
                return RedirectResponse(f"{request.scope['root_path']}/login?next={quote(_target(request))}", 303)
            return await self._refuse(request, 401, "You are signed out", "Sign in, and do it again.")
        if request.method in _SAFE:
            return None
        form = await request.form()
        given = str(form.get("proof", "")) or request.headers.get("x-proof", "")
        if not _from_here(request) or not secret or not hmac.compare_digest(given.encode(), state.proof.encode()):
            told = (
                "Another page sent it, or you have signed in again since. Go back, load the page anew, and try again."
            )
            return await self._refuse(request, 403, "This form was not accepted", told)
        state.form = form
        return None


def address(request: Request) -> str:
    return request.client.host if request.client else ""


def set_cookie(
    request: Request, add: Callable[[str, str], Any], secret: str, max_age: int = sessions.IDLE_SECONDS
) -> None:
    secure = "; Secure" if request.url.scheme == "https" else ""
    path = request.scope["root_path"]
    add("set-cookie", f"{COOKIE}={secret}; Max-Age={max_age}; Path={path}; HttpOnly; SameSite=Strict{secure}")


def _from_here(request: Request) -> bool:
    """As browsers say it, all of which send one of the two with a POST."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _target(request: Request) -> str:
    query = request.scope["query_string"].decode("latin-1")
    path: str = request.scope["path"]
    return f"{path}?{query}" if query else path


def _inside(request: Request, target: str) -> str:
    """Where to go after signing in: a page of ours, whatever a link says."""
    root: str = request.scope["root_path"]
    return target if target.startswith(f"{root}/") and "\\" not in target and "//" not in target else f"{root}/"


def _protect(message: Message, added: list[tuple[str, str]], *, static: bool) -> None:
    cached = "public, max-age=3600" if static else "no-store"
    more = [("content-security-policy", POLICY), ("cache-control", cached), *added]
    taken = {name for name, _ in more} - {"set-cookie"}
    kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in taken]
    message["headers"] = kept + [(name.encode(), value.encode("latin-1")) for name, value in more]
