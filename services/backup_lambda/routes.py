"""The API's routes. There are no query strings: signers of requests disagree about how they are encoded."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from backup_lambda import backups, subscriptions
from backup_lambda.backups import StartWorker
from backup_lambda.errors import MalformedRequest
from backup_lambda.lease import Clock
from backup_lambda.notices import Topic
from backup_lambda.schemas import (
    Backup,
    BackupIn,
    BackupPage,
    Problem,
    ProofAsked,
    ProofIn,
    Subscription,
    SubscriptionIn,
    SubscriptionPage,
    TableLink,
)
from backup_lambda.store import S3Store

MAX_WAIT_SECONDS = 25  # the gateway gives up after 29
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)


def _store(request: Request) -> S3Store:
    store: S3Store = request.app.state.store
    return store


def _topic(request: Request) -> Topic:
    topic: Topic = request.app.state.topic
    return topic


def _start_worker(request: Request) -> StartWorker:
    start: StartWorker = request.app.state.start_worker
    return start


def _clock(request: Request) -> Clock:
    clock: Clock = request.app.state.now
    return clock


def _caller(request: Request) -> str | None:
    """Who signed the request, as the gateway says."""
    identity = (request.scope.get("aws.event") or {}).get("requestContext", {}).get("identity") or {}
    return identity.get("userArn")


def _wait_seconds(prefer: Annotated[list[str] | None, Header()] = None) -> int | None:
    """RFC 7240: a preference that is not understood is ignored, and the first of two counts."""
    found = _WAIT.search(",".join(prefer or ()))
    return min(int(found[1]), MAX_WAIT_SECONDS) if found else None


def _table(table: str, request: Request) -> str:
    """As the gateway decoded it, if there is one: what it hands on as the path has been decoded once or twice."""
    parameters = (request.scope.get("aws.event") or {}).get("pathParameters") or {}
    return str(parameters.get("table", table))


def _no_query(request: Request) -> None:
    if request.url.query:
        raise MalformedRequest("This API takes no query parameters.")


Store = Annotated[S3Store, Depends(_store)]
Start = Annotated[StartWorker, Depends(_start_worker)]
Now = Annotated[Clock, Depends(_clock)]
BackupsTopic = Annotated[Topic, Depends(_topic)]
Caller = Annotated[str | None, Depends(_caller)]
WaitSeconds = Annotated[int | None, Depends(_wait_seconds)]
Table = Annotated[str, Depends(_table)]
IdempotencyKey = Annotated[str | None, Header(pattern=r"^[\x20-\x7e]{1,255}$")]

router = APIRouter(
    dependencies=[Depends(_no_query)],
    responses={
        400: {"model": Problem, "description": "The request cannot be understood."},
        422: {"model": Problem, "description": "The request is understood, and not allowed."},
        "default": {"model": Problem, "description": "Any other error."},
    },
)


_NOT_FOUND: dict[int | str, dict[str, object]] = {
    404: {"model": Problem, "description": "There is no such backup, or table of it."}
}
_CONFLICT: dict[int | str, dict[str, object]] = {
    409: {"model": Problem, "description": "The backup is not in a state for this."}
}


@router.post(
    "/backups",
    status_code=202,
    responses={200: {"model": Backup, "description": "It ended within the time of `Prefer: wait`."}},
)
async def request_backup(
    *,
    wanted: BackupIn,
    response: Response,
    store: Store,
    start_worker: Start,
    now: Now,
    requested_by: Caller,
    wait_seconds: WaitSeconds,
    idempotency_key: IdempotencyKey = None,
) -> Backup:
    """Ask for a backup. It is made after the answer; follow it at `Location`, which is relative to this path.

    With `Prefer: wait=N` the answer comes when the backup has ended, or after N seconds, of which 25 are the most.
    """
    backup = await backups.request(store, start_worker, wanted, key=idempotency_key, requested_by=requested_by, now=now)
    response.headers["Location"] = f"backups/{backup.id}"
    if wait_seconds is not None:
        backup = await backups.ended(store, backup, wait_seconds, now)
        response.headers["Preference-Applied"] = f"wait={wait_seconds}"
        response.status_code = 200 if backup.ended else 202
    return backup


@router.get("/backups")
async def list_backups(store: Store, now: Now) -> BackupPage:
    """The newest 100."""
    return await backups.page(store, None, now)


@router.get("/backups/before/{backup_id}")
async def list_older_backups(backup_id: str, store: Store, now: Now) -> BackupPage:
    """The newest 100 of those that are older than this one."""
    return await backups.page(store, backup_id, now)


@router.get("/backups/{backup_id}", responses=_NOT_FOUND)
async def show_backup(backup_id: str, store: Store, now: Now) -> Backup:
    """A backup, and how far it is."""
    return await backups.show(store, backup_id, now)


@router.post("/backups/{backup_id}/cancel", status_code=202, responses=_NOT_FOUND | _CONFLICT)
async def cancel_backup(backup_id: str, store: Store, now: Now, requested_by: Caller) -> Backup:
    """Ask that a backup be given up. It is `cancelled` soon, unless its last step was faster."""
    return await backups.cancel(store, backup_id, requested_by, now)


@router.post("/backups/{backup_id}/proofs", status_code=202, responses=_NOT_FOUND | _CONFLICT)
async def request_proof(
    *,
    backup_id: str,
    wanted: ProofIn,
    response: Response,
    store: Store,
    start_worker: Start,
    now: Now,
    requested_by: Caller,
) -> ProofAsked:
    """Ask that a stored backup be proven once more. Of two that are asked for at the same time, one is made."""
    response.headers["Location"] = "../" + backup_id
    return await backups.prove(store, start_worker, backup_id, wanted, requested_by=requested_by, now=now)


@router.get("/backups/{backup_id}/tables/{table:path}", responses=_NOT_FOUND | _CONFLICT)
async def link_table(backup_id: str, table: Table, store: Store, now: Now) -> TableLink:
    """Links to the rows of a table, for 15 minutes. They are as secret as the rows.

    `table` is `schema.table`, percent-encoded; `notes` means `notes.notes`. The gateway takes no encoded slash: where a
    name holds one, or more dots, give its object's name (`data/{name}.json.gz` in the manifest), encoded once more.
    """
    return await backups.link(store, backup_id, table, now)


@router.post("/subscriptions", status_code=201)
async def subscribe(wanted: SubscriptionIn, topic: BackupsTopic) -> Subscription:
    """Have mail sent to an address, once it has confirmed."""
    return await subscriptions.subscribe(topic, wanted)


@router.get("/subscriptions")
async def list_subscriptions(topic: BackupsTopic) -> SubscriptionPage:
    """Who gets mail."""
    return SubscriptionPage(items=await subscriptions.subscribed(topic))
