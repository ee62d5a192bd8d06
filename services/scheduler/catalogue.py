"""Backups as people look at them: what is in them, what differs, what comes back. All that the backup API tells.

Every call raises what `answers` tells apart: Unavailable and Refused. Keys of rows are lists of the values of the
primary key; a path names one by itself where it is one plain value, and else by the base64url of its JSON.
"""

import base64
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from scheduler import backups
from scheduler.backups import Backups, Count, Moment, Name, Text

_PLAIN_KEY = re.compile(r"[A-Za-z0-9\-._~:@]+", re.ASCII)
Loose = Annotated[str, Field(max_length=20_000)]


class Table(BaseModel):
    name: Loose
    rows: Count
    bytes: Count
    stored_bytes: Count
    sha256: Loose


class Difference(BaseModel):
    where: Loose
    what: Loose
    expected: Loose
    found: Loose


class Proof(backups.Proof):
    rows: Count = 0
    server: Text = ""
    started_at: Moment
    requested_by: Text | None = None
    differences: list[Difference] = Field(default=[])
    differences_found: Count = 0


class NotBackedUp(BaseModel):
    name: Loose
    reason: Loose


class Backup(backups.Backup):
    """A backup with all that the backup API tells of it."""

    proof: Proof | None = None
    unfinished_proof: Proof | None = None
    requested_by: Text | None = None
    selection: list[Loose] | None = None
    stored_bytes: Count = 0
    suspect: Text | None = None
    tables: list[Table] = Field(default=[])
    not_backed_up: list[NotBackedUp] = Field(default=[])
    manifest_sha256: Text | None = None

    @property
    def seconds(self) -> float | None:
        return (self.ended_at - (self.started_at or self.created_at)).total_seconds() if self.ended_at else None


class Page(BaseModel):
    items: list[Backup]
    next_cursor: Name | None = None


class Link(BaseModel):
    """Of S3, for a quarter of an hour: all rows of a table, and where its blocks are."""

    name: Loose
    rows: Count
    bytes: Count
    stored_bytes: Count
    sha256: Loose
    url: Loose
    index_url: Loose
    expires_at: Moment


class FieldChange(BaseModel):
    before: Loose | None = None
    after: Loose | None = None


class Change(BaseModel):
    action: Literal["added", "removed", "changed"]
    key: list[Loose]
    fields: dict[str, FieldChange] = {}


class TableDiff(BaseModel):
    name: Loose
    rows_before: Count | None = None
    rows_after: Count | None = None
    added: Count = 0
    removed: Count = 0
    changed: Count = 0
    columns_added: list[Loose] = []
    columns_removed: list[Loose] = []
    comparable: Loose | None = None
    changes: list[Change] = []


class Diff(BaseModel):
    """A page of what differs; `next` names the one that follows."""

    before: Loose
    after: Loose
    added: Count
    removed: Count
    changed: Count
    tables: list[TableDiff]
    next: Loose | None = None


class Row(BaseModel):
    table: Loose
    key: list[Loose]
    row: dict[str, Any]


class RowState(BaseModel):
    backup_id: Name
    oldest_backup_id: Name
    row: dict[str, Any] | None = None
    damaged: Loose | None = None


class History(BaseModel):
    table: Loose
    key: list[Loose]
    backups: Count
    items: list[RowState]


class TableRestored(BaseModel):
    name: Loose
    rows: Count = 0
    added: Count = 0
    changed: Count = 0
    left: Count = 0
    same: Count = 0
    altered: Count = 0
    changes: list[Change] = []
    missing: list[list[Loose]] = []
    damaged: list[Loose] = []
    drift: list[Loose] = []


class Restore(BaseModel):
    id: Name
    backup_id: Name
    state: Literal["queued", "running", "completed", "failed"]
    dry_run: bool
    on_conflict: Text
    database: Text | None = None
    because: Text | None = None
    requested_by: Text | None = None
    reason: Text | None = None
    created_at: Moment
    started_at: Moment | None = None
    ended_at: Moment | None = None
    progress: backups.Progress | None = None
    rows: Count = 0
    tables: list[TableRestored] = []
    tokens_revoked: Count = 0


class Planned(BaseModel):
    backup_id: Name
    state: Text
    label: Text | None = None
    action: Literal["keep", "expire", "clean"]
    reasons: list[Text]
    stored_bytes: Count = 0


class Plan(backups.Plan):
    policy: Text
    made_at: Moment
    stored_bytes_freed: Count = 0
    items: list[Planned]


class Subscription(BaseModel):
    id: Text | None = None
    email: Text
    events: list[Text] | None = None
    confirmed: bool


class Subscriptions(BaseModel):
    items: list[Subscription]
    warning: Text | None = None


class _Told(BaseModel):
    confirmed: Count = 0


async def page(api: Backups, before: str | None = None) -> Page:
    return await api.ask(Page, "GET", f"backups/before/{_segment(before)}" if before else "backups")


async def show(api: Backups, backup_id: str) -> Backup:
    return await api.ask(Backup, "GET", f"backups/{_segment(backup_id)}")


async def link(api: Backups, backup_id: str, table: str) -> Link:
    return await api.ask(Link, "GET", f"backups/{_segment(backup_id)}/tables/{_segment(table)}")


async def row(api: Backups, backup_id: str, table: str, key: Sequence[Any]) -> Row:
    path = f"backups/{_segment(backup_id)}/tables/{_segment(table)}/rows/{_segment(written(key))}"
    return await api.ask(Row, "GET", path)


async def history(api: Backups, table: str, key: Sequence[Any]) -> History:
    return await api.ask(History, "GET", f"rows/{_segment(table)}/{_segment(written(key))}/history")


async def diff(api: Backups, backup_id: str, other: str, after: str | None = None) -> Diff:
    """With another backup, or the database: `now`."""
    more = f"/after/{_segment(after)}" if after else ""
    return await api.ask(Diff, "GET", f"backups/{_segment(backup_id)}/diff/{_segment(other)}{more}")


async def prove(api: Backups, backup_id: str, *, accept_suspect: bool) -> None:
    await api.ask(_Told, "POST", f"backups/{_segment(backup_id)}/proofs", json={"accept_suspect": accept_suspect})


async def restore(api: Backups, backup_id: str, wanted: dict[str, Any]) -> Restore:
    return await api.ask(Restore, "POST", f"backups/{_segment(backup_id)}/restores", json=wanted)


async def restored(api: Backups, restore_id: str) -> Restore:
    return await api.ask(Restore, "GET", f"restores/{_segment(restore_id)}")


async def plan(api: Backups) -> Plan:
    return await api.ask(Plan, "GET", "retention")


async def subscriptions(api: Backups) -> Subscriptions:
    return await api.ask(Subscriptions, "GET", "subscriptions")


async def subscribe(api: Backups, email: str, events: Sequence[str] | None) -> Subscription:
    return await api.ask(Subscription, "POST", "subscriptions", json={"email": email, "events": events})


async def unsubscribe(api: Backups, subscription_id: str) -> None:
    await api.ask(_Told, "DELETE", f"subscriptions/{_segment(subscription_id)}")


async def send_test(api: Backups) -> int:
    """To how many it goes."""
    return (await api.ask(_Told, "POST", "subscriptions/test")).confirmed


def written(key: Sequence[Any]) -> str:
    """As a path has it."""
    if len(key) == 1 and _PLAIN_KEY.fullmatch(str(key[0])) and str(key[0]) not in {".", ".."}:
        return str(key[0])
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).rstrip(b"=").decode()


def _segment(text: str) -> str:
    return quote(text, safe="")
