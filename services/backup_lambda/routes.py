"""The API's routes. There are no query strings: signers of requests disagree about how they are encoded."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Depends, Header, Request, Response

from backup_lambda import backups, diff, restores, retention, rows, subscriptions
from backup_lambda.backups import StartWorker
from backup_lambda.errors import MalformedRequest
from backup_lambda.lease import Clock
from backup_lambda.notices import Topic
from backup_lambda.retention import Policy
from backup_lambda.schemas import (
    Backup,
    BackupIn,
    BackupPage,
    Diff,
    Problem,
    ProofAsked,
    ProofIn,
    Restore,
    RestoreIn,
    RetentionIn,
    RetentionPlan,
    RetentionResult,
    Row,
    RowHistory,
    Subscription,
    SubscriptionIn,
    SubscriptionPage,
    TableLink,
    TrialSent,
)
from backup_lambda.store import S3Store
from backup_lambda.tasks import DiffTask, Question, RetentionTask, TrialTask
from backup_lambda.traces import TRACE_ID, trace_id

MAX_WAIT_SECONDS = 25  # the gateway gives up after 29
Ask: TypeAlias = Callable[[Question], Awaitable[bytes]]
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


def _ask(request: Request) -> Ask:
    ask: Ask = request.app.state.ask
    return ask


def _policy(request: Request) -> Policy:
    policy: Policy = request.app.state.policy
    return policy


def _table(table: str, request: Request) -> str:
    return _parameter("table", table, request)


def _key(key: str, request: Request) -> str:
    return _parameter("key", key, request)


def _parameter(name: str, value: str, request: Request) -> str:
    """As the gateway decoded it, if there is one: what it hands on as the path has been decoded once or twice."""
    parameters = (request.scope.get("aws.event") or {}).get("pathParameters") or {}
    return str(parameters.get(name, value))


def _json(body: bytes) -> Response:
    """What is stored must not pass through a parser, which would round its numbers."""
    return Response(body, media_type="application/json")


async def _trace(traceparent: Annotated[str | None, Header(include_in_schema=False)] = None) -> None:
    """Of what is done from here on for this request."""
    TRACE_ID.set(trace_id(traceparent))


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
Key = Annotated[str, Depends(_key)]
AskFunction = Annotated[Ask, Depends(_ask)]
Kept = Annotated[Policy, Depends(_policy)]
IdempotencyKey = Annotated[str | None, Header(pattern=r"^[\x20-\x7e]{1,255}$")]

router = APIRouter(
    dependencies=[Depends(_trace), Depends(_no_query)],
    responses={
        400: {"model": Problem, "description": "The request cannot be understood."},
        422: {"model": Problem, "description": "The request is understood, and not allowed."},
        "default": {"model": Problem, "description": "Any other error."},
    },
)


_NOT_FOUND: dict[int | str, dict[str, object]] = {
    404: {"model": Problem, "description": "There is no such backup, or table of it."}
}
_GONE: dict[int | str, dict[str, object]] = {410: {"model": Problem, "description": "Retention removed its data."}}
_TOO_LARGE: dict[int | str, dict[str, object]] = {
    413: {"model": Problem, "description": "The row is too large for an answer: download the table."}
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


@router.post("/backups/{backup_id}/proofs", status_code=202, responses=_NOT_FOUND | _CONFLICT | _GONE)
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


@router.get(
    "/backups/{backup_id}/tables/{table:path}/rows/{key}",
    response_model=Row,
    responses=_NOT_FOUND | _CONFLICT | _GONE | _TOO_LARGE,
)
async def read_row(backup_id: str, table: Table, key: Key, store: Store, now: Now) -> Response:
    """One row as the backup has it.

    `key` is the value of the primary key, if that is one column and all its characters are letters, digits or among
    `-._~:@`; else the base64url, without padding, of the JSON array of the key's values.
    """
    return _json(await rows.row(store, backup_id, table, key, now))


@router.get("/rows/{table:path}/{key}/history", response_model=RowHistory, responses=_NOT_FOUND | _TOO_LARGE)
async def read_history(table: Table, key: Key, store: Store, now: Now) -> Response:
    """Every distinct state of a row across all backups that have their data, newest first."""
    return _json(await rows.history(store, table, key, now))


@router.get("/backups/{backup_id}/diff/{other}", responses=_NOT_FOUND | _CONFLICT | _GONE)
async def compare(backup_id: str, other: str, store: Store, ask: AskFunction, now: Now) -> Diff:
    """What differs between this backup and another one, or the database: `other` is an id, or `now`."""
    return await _compared(store=store, ask=ask, backup_id=backup_id, other=other, cursor=None, now=now)


@router.get("/backups/{backup_id}/diff/{other}/after/{cursor}", responses=_NOT_FOUND | _CONFLICT | _GONE)
async def compare_the_rest(
    *, backup_id: str, other: str, cursor: str, store: Store, ask: AskFunction, now: Now
) -> Diff:
    """The next page, where `next` of the one before it leads."""
    return await _compared(store=store, ask=ask, backup_id=backup_id, other=other, cursor=cursor, now=now)


async def _compared(*, store: S3Store, ask: Ask, backup_id: str, other: str, cursor: str | None, now: Clock) -> Diff:
    if other != diff.NOW:
        return await diff.page(store, backup_id, other, cursor, now)
    return Diff.model_validate_json(await ask(DiffTask(backup_id=backup_id, cursor=cursor)))


@router.post("/backups/{backup_id}/restores", status_code=202, responses=_NOT_FOUND | _CONFLICT | _GONE)
async def request_restore(
    *,
    backup_id: str,
    wanted: RestoreIn,
    response: Response,
    store: Store,
    start_worker: Start,
    now: Now,
    requested_by: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Restore:
    """Ask for a restore. It is made after the answer; follow it at `Location`, which is relative to this path."""
    restore = await restores.request(
        store, start_worker, backup_id, wanted, key=idempotency_key, requested_by=requested_by, now=now
    )
    response.headers["Location"] = f"../../restores/{restore.id}"
    return restore


@router.get("/restores/{restore_id}", responses=_NOT_FOUND)
async def show_restore(restore_id: str, store: Store, now: Now) -> Restore:
    """A restore, and how far it is."""
    return await restores.show(store, restore_id, now)


@router.get("/retention")
async def show_retention(store: Store, policy: Kept, now: Now) -> RetentionPlan:
    """What retention would do now, and why."""
    return await retention.plan(store, policy, now)


@router.post("/retention", responses={409: {"model": Problem, "description": "The plan is another one by now."}})
async def apply_retention(
    *, wanted: RetentionIn, store: Store, policy: Kept, ask: AskFunction, now: Now, requested_by: Caller
) -> RetentionResult:
    """Apply the plan with this digest, and no other. Manifests, signatures and proofs stay."""
    await retention.checked(store, policy, wanted.digest, now)
    task = RetentionTask(digest=wanted.digest, requested_by=requested_by)
    return RetentionResult.model_validate_json(await ask(task))


@router.get("/backups/{backup_id}/tables/{table:path}", responses=_NOT_FOUND | _CONFLICT | _GONE)
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
    items = await subscriptions.subscribed(topic)
    return SubscriptionPage(items=items, warning=subscriptions.warning(items))


@router.delete(
    "/subscriptions/{subscription_id}",
    status_code=204,
    responses={404: {"model": Problem, "description": "There is no such subscription."}},
)
async def unsubscribe(subscription_id: str, topic: BackupsTopic) -> None:
    """Send no more mail to this address."""
    await subscriptions.unsubscribe(topic, subscription_id)


@router.post("/subscriptions/test", status_code=202)
async def send_trial(topic: BackupsTopic, start_worker: Start, requested_by: Caller) -> TrialSent:
    """Send a test message to every address, whatever events it is subscribed to."""
    await start_worker(TrialTask(requested_by=requested_by))
    return TrialSent(confirmed=await subscriptions.confirmed(topic))
