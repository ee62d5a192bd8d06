"""The API's routes. There are no query strings: signers of requests disagree about how they are encoded."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from backup_lambda import backups, subscriptions
from backup_lambda.errors import MalformedRequest
from backup_lambda.lease import Clock
from backup_lambda.notices import Topic
from backup_lambda.schemas import (
    Backup,
    BackupIn,
    BackupPage,
    Problem,
    Subscription,
    SubscriptionIn,
    SubscriptionPage,
)
from backup_lambda.store import S3Store


def _store(request: Request) -> S3Store:
    store: S3Store = request.app.state.store
    return store


def _topic(request: Request) -> Topic:
    topic: Topic = request.app.state.topic
    return topic


def _start_worker(request: Request) -> Callable[[str], Awaitable[None]]:
    start: Callable[[str], Awaitable[None]] = request.app.state.start_worker
    return start


def _clock(request: Request) -> Clock:
    clock: Clock = request.app.state.now
    return clock


def _caller(request: Request) -> str | None:
    """Who signed the request, as the gateway says."""
    identity = (request.scope.get("aws.event") or {}).get("requestContext", {}).get("identity") or {}
    return identity.get("userArn")


def _no_query(request: Request) -> None:
    if request.url.query:
        raise MalformedRequest("This API takes no query parameters.")


Store = Annotated[S3Store, Depends(_store)]
StartWorker = Annotated[Callable[[str], Awaitable[None]], Depends(_start_worker)]
Now = Annotated[Clock, Depends(_clock)]
BackupsTopic = Annotated[Topic, Depends(_topic)]
Caller = Annotated[str | None, Depends(_caller)]
IdempotencyKey = Annotated[str | None, Header(pattern=r"^[\x20-\x7e]{1,255}$")]

router = APIRouter(
    dependencies=[Depends(_no_query)],
    responses={
        400: {"model": Problem, "description": "The request cannot be understood."},
        422: {"model": Problem, "description": "The request is understood, and not allowed."},
        "default": {"model": Problem, "description": "Any other error."},
    },
)


@router.post("/backups", status_code=202)
async def request_backup(
    *,
    wanted: BackupIn,
    response: Response,
    store: Store,
    start_worker: StartWorker,
    now: Now,
    requested_by: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Backup:
    """Ask for a backup. It is made after the answer; follow it at `Location`, which is relative to this path."""
    backup = await backups.request(store, start_worker, wanted, key=idempotency_key, requested_by=requested_by, now=now)
    response.headers["Location"] = f"backups/{backup.id}"
    return backup


@router.get("/backups")
async def list_backups(store: Store, now: Now) -> BackupPage:
    """The newest 100."""
    return await backups.page(store, None, now)


@router.get("/backups/before/{backup_id}")
async def list_older_backups(backup_id: str, store: Store, now: Now) -> BackupPage:
    """The newest 100 of those that are older than this one."""
    return await backups.page(store, backup_id, now)


@router.get("/backups/{backup_id}", responses={404: {"model": Problem, "description": "There is no such backup."}})
async def show_backup(backup_id: str, store: Store, now: Now) -> Backup:
    """A backup, and how far it is."""
    return await backups.show(store, backup_id, now)


@router.post("/subscriptions", status_code=201)
async def subscribe(wanted: SubscriptionIn, topic: BackupsTopic) -> Subscription:
    """Have mail sent to an address, once it has confirmed."""
    return await subscriptions.subscribe(topic, wanted)


@router.get("/subscriptions")
async def list_subscriptions(topic: BackupsTopic) -> SubscriptionPage:
    """Who gets mail."""
    return SubscriptionPage(items=await subscriptions.subscribed(topic))
