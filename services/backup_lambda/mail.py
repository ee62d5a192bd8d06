"""The words of a notice, for somebody whom it woke: what happened, to what, how big, what to do, what to rely on.

Labels, names and reasons come from outside: each stays on its line, and within it.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from backup_lambda.endings import Ending
from backup_lambda.history import LOOKED_THROUGH
from backup_lambda.schemas import ProofOut

SHOWN = 10  # tables, differences, things that are not backed up
WORDS_CHARACTERS = 500
SUBJECT_CHARACTERS = 99
ACCEPT = '{"accept_suspect": true}'


def subject_of(ending: Ending) -> str:
    """SNS wants ASCII, under 100 characters and no control characters."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in f"Holdfast: {_headline(ending)}")
    return plain if len(plain) <= SUBJECT_CHARACTERS else f"{plain[: SUBJECT_CHARACTERS - 3]}..."


def text_of(ending: Ending) -> str:
    parts = [[_says(ending)], _facts(ending), _evidence(ending), _next(ending), _head_of_the_chain(ending)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _headline(ending: Ending) -> str:
    backup, proof = ending.backup, ending.proof
    by = f" by proof {proof.number}" if proof else ""
    if proof and proof.verdict == "unfinished":
        return f"proof {proof.number} UNFINISHED: {_words(proof.reason)}"
    match backup.state:
        case "proven":
            return f"backup PROVEN{by}, {_rows(backup.rows)}"
        case "stored":
            unproven = f", {_words(backup.reason)}" if backup.reason else ""
            return f"backup stored, {_rows(backup.rows)}{unproven}"
        case "broken":
            return f"backup BROKEN{by}: {_words(backup.reason)}"
        case _:
            return f"backup {backup.state.upper()}: {_words(backup.reason)}"


def _says(ending: Ending) -> str:
    name = f"The backup {ending.backup.id}"
    if ending.proof and ending.proof.verdict == "unfinished":
        return (
            f"Proof {ending.proof.number} of the backup {ending.backup.id} was NOT FINISHED. The backup is as it was."
        )
    return {
        "proven": f"{name} is PROVEN: it was restored, and everything came back as it was.",
        "stored": f"{name} is stored"
        + (", but is NOT PROVEN." if ending.backup.reason else ". Whether it restores was not tried."),
        "suspect": f"{name} is stored, but SUSPECT: it holds much less than it should.",
        "broken": f"{name} is BROKEN: what is stored is not what was backed up. Do not restore it.",
        "failed": f"{name} FAILED. Nothing of it can be restored.",
        "cancelled": f"{name} was CANCELLED. Nothing of it can be restored.",
    }[ending.backup.state]


def _facts(ending: Ending) -> list[str]:
    backup, proof = ending.backup, ending.proof or ending.backup.proof
    by = f" by {_words(backup.requested_by)}" if backup.requested_by else ""
    facts = [
        ("Reason", _words(ending.unproven_because or backup.reason)),
        ("Label", _words(backup.label)),
        ("Asked for", f"{_time(backup.created_at)}{by}"),
        ("Tables", _listed(backup.selection) if backup.selection else ""),
        ("Ended", _time(backup.ended_at) if backup.ended_at else ""),
        ("Proof", _tried(proof) if proof else ""),
        ("Accepted", _words(backup.suspect) if backup.state == "proven" else ""),
    ]
    if backup.tables:
        facts += [
            ("Rows", f"{backup.rows:,} in {_count(len(backup.tables), 'table')}"),
            ("Size", f"{size(backup.stored_bytes)} in the bucket, {size(backup.bytes)} uncompressed"),
            ("Not in it", _listed([f"{each.name} ({each.reason})" for each in backup.not_backed_up])),
            ("Files", f"in the bucket under backups/{backup.id}/"),
        ]
    return [f"{name + ':':<11}{value}" for name, value in facts if value]


def _evidence(ending: Ending) -> list[str]:
    backup, proof = ending.backup, ending.proof or ending.backup.proof
    if proof and proof.verdict == "broken":
        found = [
            f"  {each.what} of {_words(each.where)}: expected {_words(each.expected)}, found {_words(each.found)}"
            for each in proof.differences[:SHOWN]
        ]
        return ["What differs:", *found, *_and_more(proof.differences_found)]
    if not backup.tables or (ending.proof and ending.proof.verdict == "unfinished"):
        return []
    said = ["Every block was read back from the bucket and matches what was written. A restore was not tried."]
    if proof and proof.verdict == "proven":
        said = [
            f"It was restored into PostgreSQL {_words(proof.server)} and compared: every byte, the hash of every row,",
            "the definitions of all tables, and the sequences are the same.",
        ]
    elif proof:
        said = [
            "Every block was read back from the bucket and matches what was written. Whether it restores is not known."
        ]
    largest = sorted(backup.tables, key=lambda table: (-table.bytes, table.name))
    return [
        *said,
        *(f"  {_words(table.name)}: {_rows(table.rows)}, {size(table.bytes)}" for table in largest[:SHOWN]),
        *_and_more(len(largest)),
    ]


def _next(ending: Ending) -> list[str]:
    return ["What to do next:", *_numbered(*_steps(ending)), "", *_relied_upon(ending)]


def _steps(ending: Ending) -> Iterator[str]:
    backup = ending.backup
    prove, make = f"POST /backups/{backup.id}/proofs with {{}}", "POST /backups with {}"
    if ending.kind == "backup.proven":
        yield "Nothing."
    elif ending.kind == "backup.stored" and ending.unproven_because:
        yield 'Mend what "Reason" says.'
        yield f"Have it proven: {prove}"
    elif ending.kind == "backup.stored":
        yield f"Nothing; or have it proven: {prove}"
    elif ending.kind == "backup.suspect":
        yield "Find out where the rows went, and keep older backups until you know."
        yield f"If that was meant: {prove.replace('{}', ACCEPT)}"
        yield f"If it was not: bring the rows back, and ask for a new backup: {make}"
    elif ending.kind == "backup.broken":
        yield f"Ask for a new backup at once: {make}"
        yield "If that one is broken too, the database, the bucket or the proof server damages data: find out which."
        yield "Keep the files of this one as evidence."
    elif ending.kind == "backup.failed":
        yield 'Mend what "Reason" says.'
        yield f"Ask for a new backup: {make}"
    else:
        yield f"Nothing, if that was meant; or ask for a new one: {make}"


def _relied_upon(ending: Ending) -> list[str]:
    if ending.backup.state == "proven":
        relied = "It can be relied upon, as before." if ending.proof else "It is what you have, if the worst happens."
        return [f"All other backups are untouched. {relied}"]
    untouched = "All other backups are untouched." + (
        "" if ending.backup.state == "stored" else " Nothing relies on this one."
    )
    proven = ending.newest_proven
    if not ending.newest_proven_known:
        return [untouched, "Which proven backup is the newest could not be asked: GET /backups shows it."]
    if proven is None:
        where = f"among the newest {LOOKED_THROUGH}"
        return [untouched, f"There is NO proven backup {where}: until one is, nothing of them is known to restore."]
    rows = _rows(sum(table.rows for table in proven.tables))
    age = _age(ending.at - proven.started_at)
    return [untouched, f"The newest proven backup is what you have: {proven.id}, {age} old, {rows}."]


def _head_of_the_chain(ending: Ending) -> list[str]:
    backup = ending.backup
    if not backup.manifest_sha256:
        return []
    return [
        "Keep this mail: it shows if backups up to this one are removed or replaced later.",
        f"Manifest:  SHA-256 {backup.manifest_sha256}",
        *([f"Signed by: key {_words(ending.signed_by)}"] if ending.signed_by else []),
    ]


def _tried(proof: ProofOut) -> str:
    server = f" on PostgreSQL {_words(proof.server)}" if proof.server else ""
    return f"number {proof.number}{server}, from {_time(proof.started_at)} to {_time(proof.ended_at)}: {proof.verdict}"


def _numbered(*steps: str) -> list[str]:
    return list(steps) if len(steps) == 1 else [f"{number}. {step}" for number, step in enumerate(steps, 1)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(_words(name) for name in names[:SHOWN]) + more


def _and_more(count: int) -> list[str]:
    return [f"  and {count - SHOWN} more"] if count > SHOWN else []


def _words(text: str | None) -> str:
    """Somebody else's words on one line: nothing that moves a cursor, ends a line or turns the direction of writing."""
    plain = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in (text or "")[: WORDS_CHARACTERS + 1])
    return plain if len(plain) <= WORDS_CHARACTERS else f"{plain[: WORDS_CHARACTERS - 3]}..."


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _age(age: timedelta) -> str:
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        if age >= 2 * length:
            return _count(age // length, unit)
    return "a moment"


def _rows(count: int) -> str:
    return _count(count, "row")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what if count == 1 else what + 's'}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
