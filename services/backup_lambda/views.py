"""What the API answered, as a person reads it. Numbers are shown as they are stored, every digit of them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.filesize import decimal

from backup_lambda.schemas import (
    Backup,
    Change,
    Diff,
    Restore,
    RetentionPlan,
    Subscription,
    TableDiff,
    TableRestored,
)
from backup_lambda.terminal import Terminal


class Digits(str):
    """A number, as it is written."""

    __slots__ = ()


def parsed(body: bytes) -> Any:
    """JSON whose numbers stay what they are. Raises RecursionError where it is very deep."""
    return json.loads(body, parse_int=Digits, parse_float=Digits)


def text_of(value: Any) -> str:
    """What was `parsed`, as JSON again."""
    match value:
        case Digits():
            return str(value)
        case dict():
            return "{" + ", ".join(f"{text_of(name)}: {text_of(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(text_of, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def backups(terminal: Terminal, items: Sequence[Backup]) -> None:
    columns = ("ID", "state", "created (UTC)", "#rows", "#stored", "label", "reason")
    terminal.table(
        columns,
        (
            (each.id, each.state, _time(each.created_at), f"{each.rows:,}", decimal(each.stored_bytes),
             each.label or "", each.suspect or each.reason or "")
            for each in items
        ),
    )  # fmt: skip


def backup(terminal: Terminal, shown: Backup) -> None:
    facts = {
        "ID": shown.id,
        "state": shown.state,
        "reason": shown.reason,
        "suspect": shown.suspect,
        "label": shown.label,
        "asked for by": shown.requested_by,
        "created": _time(shown.created_at),
        "stored": _time(shown.ended_at),
        "proven" if shown.proof and shown.proof.verdict == "proven" else "compared": shown.proof
        and f"{_time(shown.proof.ended_at)} on PostgreSQL {shown.proof.server}, {shown.proof.rows:,} rows",
        "proof not finished": shown.unfinished_proof and (shown.unfinished_proof.reason or "yes"),
        "rows": f"{shown.rows:,}",
        "size": f"{decimal(shown.bytes)}, {decimal(shown.stored_bytes)} stored",
        "manifest": shown.manifest_sha256,
        "nobody heard": shown.unheard,
    }
    terminal.table(("", ""), ((name, str(fact)) for name, fact in facts.items() if fact))
    if shown.proof:
        for each in shown.proof.differences:
            terminal.print(f"differs: {each}")
    if shown.tables:
        columns = ("table", "#rows", "#size", "#stored", "SHA-256 of the rows")
        terminal.table(
            columns,
            ((e.name, f"{e.rows:,}", decimal(e.bytes), decimal(e.stored_bytes), e.sha256) for e in shown.tables),
        )
    if shown.not_backed_up:
        terminal.table(("not backed up", "because"), ((each.name, each.reason) for each in shown.not_backed_up))


def row(terminal: Terminal, body: bytes) -> None:
    try:
        found = parsed(body)
    except RecursionError:  # a document in it is deeper than Python reads
        return terminal.answer(body)
    return terminal.table(("column", "value"), ((name, text_of(each)) for name, each in found["row"].items()))


def history(terminal: Terminal, body: bytes) -> None:
    """Of each state what is other than in the one before it in time, which comes after it here."""
    try:
        found = parsed(body)
    except RecursionError:
        return terminal.answer(body)
    states = found["items"]
    lines = []
    for state, older in zip(states, [*states[1:], {"row": None}], strict=True):
        when = (
            state["backup_id"]
            if state["backup_id"] == state["oldest_backup_id"]
            else f"{state['oldest_backup_id']} to {state['backup_id']}"
        )
        if state["row"] is None:
            lines.append((when, "", state["damaged"] or "there is no such row"))
            continue
        before = older["row"] or {}
        told = {name: text_of(each) for name, each in state["row"].items()}
        news = {name: each for name, each in told.items() if name not in before or text_of(before[name]) != each}
        gone = {name: "(no such column)" for name in before if name not in told}
        for name, each in (news | gone).items():
            lines.append((when, name, each))
            when = ""
    terminal.table(("in backups", "column", "value"), lines)
    return terminal.say(f"states of the row: {len(states)}, in {found['backups']} backups")


def restore(terminal: Terminal, shown: Restore, *, aside: bool = False) -> None:
    tables(terminal, shown.tables, aside=aside)
    if shown.tokens_revoked:
        terminal.say(f"{shown.tokens_revoked} access tokens came back, and were made invalid")
    what = f"restore {shown.id} of {shown.backup_id}: {shown.state}" + (" (dry run)" if shown.dry_run else "")
    terminal.say(f"{what}: {shown.reason}" if shown.reason else what)


def tables(terminal: Terminal, restored: Sequence[TableRestored], *, aside: bool = False) -> None:
    if restored:
        terminal.table(
            ("table", "#rows", "#added", "#changed", "#left", "#same"),
            (
                (each.name, *(f"{count:,}" for count in (each.rows, each.added, each.changed, each.left, each.same)))
                for each in restored
            ),
            aside=aside,
        )
    changes(terminal, [(each.name, each.changes) for each in restored], aside=aside)
    for each in restored:
        for what in each.drift:
            terminal.say(f"{each.name} is another table by now: {what}")
        for what in each.damaged:
            terminal.say(f"{each.name} is damaged: {what}")
        for key in each.missing:
            terminal.say(f"{each.name} has no row {', '.join(key)} in this backup")


def changes(terminal: Terminal, found: Sequence[tuple[str, Sequence[Change]]], *, aside: bool = False) -> None:
    lines = []
    for name, those in found:
        for each in those:
            head: tuple[str, str, str] = (name, each.action, ", ".join(each.key))
            for field, change in each.fields.items():
                lines.append((*head, field, change.before or "", change.after or ""))
                head = ("", "", "")
            if not each.fields:
                lines.append((*head, "", "", ""))
    if lines:
        terminal.table(("table", "row is", "key", "column", "before", "after"), lines, aside=aside)


def differences(terminal: Terminal, found: Diff) -> None:
    for each in found.tables:
        _shape(terminal, each)
    changes(terminal, [(each.name, each.changes) for each in found.tables])


def _shape(terminal: Terminal, table: TableDiff) -> None:
    if table.added + table.removed and (table.rows_before is None or table.rows_after is None):
        only = "after" if table.rows_before is None else "before"
        terminal.print(f"{table.name} is there only {only}, with {table.rows_before or table.rows_after or 0:,} rows")
    for what, columns in (("added", table.columns_added), ("removed", table.columns_removed)):
        if columns:
            terminal.print(f"{table.name}: columns {what}: {', '.join(columns)}")
    if table.comparable:
        terminal.print(f"{table.name}: {table.comparable}")


def plan(terminal: Terminal, shown: RetentionPlan, *, aside: bool = False) -> None:
    terminal.table(
        ("ID", "state", "action", "#stored", "label", "because"),
        (
            (each.backup_id, each.state, each.action, decimal(each.stored_bytes), each.label or "",
             ", ".join(each.reasons))
            for each in shown.items
        ),
        aside=aside,
    )  # fmt: skip
    terminal.say(
        f"{shown.policy}: keep {shown.keep}, expire {shown.expire}, clean {shown.clean}; frees"
        f" {decimal(shown.stored_bytes_freed)}\nthe digest of this plan is {shown.digest}"
    )


def subscriptions(terminal: Terminal, items: Sequence[Subscription]) -> None:
    terminal.table(
        ("address", "confirmed", "events", "ID"),
        ((e.email, "yes" if e.confirmed else "no", ", ".join(e.events or ["all"]), e.id or "") for e in items),
    )


def _time(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at else ""
