"""The words of a notice about a restore. None of them shows a row: GET /restores/{id} does."""

from collections.abc import Iterator
from datetime import datetime

from backup_lambda import words
from backup_lambda.schemas import Restore, TableRestored


def subject_of(restore: Restore) -> str:
    if restore.state == "failed":
        return words.subject(f"restore FAILED: {words.plain(restore.reason)}")
    complete = "restore completed" if restore.reason is None else "restore NOT COMPLETE"
    return words.subject(f"{complete}, {words.rows(restore.rows)} into {_target(restore)}")


def text_of(restore: Restore) -> str:
    return words.paragraphs([_says(restore), _facts(restore), _tables(restore), _next(restore)])


def trial(at: datetime, requested_by: str | None) -> str:
    by = f" by {words.plain(requested_by)}" if requested_by else ""
    return words.paragraphs(
        [
            ["This is a test message: mails of Holdfast about backups and restores arrive at this address."],
            words.facts([("Asked for", f"{words.time(at)}{by}")]),
            ["What to do next:", *words.numbered("Nothing.")],
        ]
    )


def _says(restore: Restore) -> list[str]:
    name, backup = f"The restore {restore.id}", f"the backup {restore.backup_id}"
    if restore.state == "failed":
        return [f"{name} FAILED. Nothing was changed."]
    if restore.database and restore.reason:
        return [f"{name} is NOT COMPLETE:", f"what is left of {backup} is in the new {_target(restore)}."]
    if restore.database:
        return [f"{name} is completed:", f"{backup} is in the new {_target(restore)}, and was compared."]
    return [f"{name} is completed:", f"rows of {backup} are in the live database again."]


def _facts(restore: Restore) -> list[str]:
    by = f" by {words.plain(restore.requested_by)}" if restore.requested_by else ""
    ended = restore.state == "completed"
    return words.facts(
        [
            ("Reason", words.plain(restore.reason)),
            ("Backup", restore.backup_id),
            ("Into", _target(restore)),
            ("Unproven", f"restored because: {words.plain(restore.because)}" if restore.because else ""),
            ("Asked for", f"{words.time(restore.created_at)}{by}"),
            ("Ended", words.time(restore.ended_at) if restore.ended_at else ""),
            ("Rows", f"{restore.rows:,} in {words.count(len(restore.tables), 'table')}" if ended else ""),
            ("Tokens", f"{restore.tokens_revoked:,} were made invalid" if restore.database and ended else ""),
        ]
    )


def _tables(restore: Restore) -> list[str]:
    lines = [f"  {words.plain(table.name)}: {_became(restore, table)}" for table in restore.tables[: words.SHOWN]]
    if lines and restore.state == "failed":
        lines = ["What it found, and left as it was:", *lines]
    return [*lines, *words.and_more(len(restore.tables))]


def _became(restore: Restore, table: TableRestored) -> str:
    if restore.database:
        return words.rows(table.added) + (f" of {table.rows:,}" if table.damaged else "")
    counts = {
        "to be added" if restore.state == "failed" else "added": table.added,
        "overwritten": table.changed,
        "there with other values": table.left,
        "the same": table.same,
        "asked for and not in the backup": len(table.missing),
    }
    told = [f"{count:,} {what}" for what, count in counts.items() if count]
    return ", ".join(told) or "no row"


def _next(restore: Restore) -> list[str]:
    return ["What to do next:", *words.numbered(*_steps(restore))]


def _steps(restore: Restore) -> Iterator[str]:
    again = f"POST /backups/{restore.backup_id}/restores"
    if restore.state == "failed":
        yield 'Mend what "Reason" says.'
        yield f"Ask again: {again}"
    elif restore.database:
        if restore.reason:
            yield f"Take what is missing from an older backup. What that is: GET /restores/{restore.id}"
        yield "Give its schemas and tables to the roles that are to use it: it belongs to the role of proofs."
        yield "Make new access tokens: those of the backup are invalid."
        yield "Drop it when you have what you need."
    else:
        yield f"Look at what was changed: GET /restores/{restore.id}"


def _target(restore: Restore) -> str:
    return f"database {restore.database}" if restore.database else "the live database"
