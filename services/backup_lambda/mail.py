"""The words of a notice, for somebody whom it woke: what happened, to what, how big, what to do, what to rely on.

Labels, names and reasons come from outside: each stays on its line, and within it; see `words`.
"""

from collections.abc import Iterator

from backup_lambda import words
from backup_lambda.endings import Ending
from backup_lambda.history import LOOKED_THROUGH
from backup_lambda.schemas import ProofOut

ACCEPT = '{"accept_suspect": true}'


def subject_of(ending: Ending) -> str:
    return words.subject(_headline(ending))


def text_of(ending: Ending) -> str:
    parts = [[_says(ending)], _facts(ending), _evidence(ending), _next(ending), _head_of_the_chain(ending)]
    return words.paragraphs(parts)


def subject_of_change(ending: Ending) -> str:
    return words.subject(f"MUCH CHANGED: {words.plain(ending.changed)}")


def text_of_change(ending: Ending) -> str:
    """Beside the end of the backup, which has a mail of its own."""
    backup = ending.backup
    return words.paragraphs(
        [
            [f"Much of what the backup {backup.id} holds is not as it was. The backup itself is {backup.state}."],
            words.facts([("Changed", words.plain(ending.changed)), ("Asked for", words.time(backup.created_at))]),
            [
                "What to do next:",
                *words.numbered(
                    "If somebody meant to change so much: nothing.",
                    "If not, it was an accident or an attack. Keep older backups until you know: a label does that.",
                    f"See what changed: GET /backups/{{an older id}}/diff/{backup.id}",
                    "Have it back from an older backup: POST /backups/{id}/restores",
                ),
            ],
        ]
    )


def _headline(ending: Ending) -> str:
    backup, proof = ending.backup, ending.proof
    by = f" by proof {proof.number}" if proof else ""
    if proof and proof.verdict == "unfinished":
        return f"proof {proof.number} UNFINISHED: {words.plain(proof.reason)}"
    match backup.state:
        case "proven":
            return f"backup PROVEN{by}, {words.rows(backup.rows)}"
        case "stored":
            unproven = f", {words.plain(backup.reason)}" if backup.reason else ""
            return f"backup stored, {words.rows(backup.rows)}{unproven}"
        case "broken":
            return f"backup BROKEN{by}: {words.plain(backup.reason)}"
        case _:
            return f"backup {backup.state.upper()}: {words.plain(backup.reason)}"


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
    by = f" by {words.plain(backup.requested_by)}" if backup.requested_by else ""
    facts = [
        ("Reason", words.plain(ending.unproven_because or backup.reason)),
        ("Label", words.plain(backup.label)),
        ("Asked for", f"{words.time(backup.created_at)}{by}"),
        ("Tables", words.listed(backup.selection) if backup.selection else ""),
        ("Ended", words.time(backup.ended_at) if backup.ended_at else ""),
        ("Proof", _tried(proof) if proof else ""),
        ("Accepted", words.plain(backup.suspect) if backup.state == "proven" else ""),
    ]
    if backup.tables:
        facts += [
            ("Rows", f"{backup.rows:,} in {words.count(len(backup.tables), 'table')}"),
            ("Size", f"{words.size(backup.stored_bytes)} in the bucket, {words.size(backup.bytes)} uncompressed"),
            ("Not in it", words.listed([f"{each.name} ({each.reason})" for each in backup.not_backed_up])),
            ("Files", f"in the bucket under backups/{backup.id}/"),
        ]
    return words.facts(facts)


def _evidence(ending: Ending) -> list[str]:
    backup, proof = ending.backup, ending.proof or ending.backup.proof
    if proof and proof.verdict == "broken":
        found = [
            f"  {each.what} of {words.plain(each.where)}: expected {words.plain(each.expected)},"
            f" found {words.plain(each.found)}"
            for each in proof.differences[: words.SHOWN]
        ]
        return ["What differs:", *found, *words.and_more(proof.differences_found)]
    if not backup.tables or (ending.proof and ending.proof.verdict == "unfinished"):
        return []
    said = ["Every block was read back from the bucket and matches what was written. A restore was not tried."]
    if proof and proof.verdict == "proven":
        said = [
            f"It was restored into PostgreSQL {words.plain(proof.server)} and compared: every byte, the hash of every"
            " row,",
            "the definitions of all tables, and the sequences are the same.",
        ]
    elif proof:
        said = [
            "Every block was read back from the bucket and matches what was written. Whether it restores is not known."
        ]
    largest = sorted(backup.tables, key=lambda table: (-table.bytes, table.name))
    return [
        *said,
        *(
            f"  {words.plain(table.name)}: {words.rows(table.rows)}, {words.size(table.bytes)}"
            for table in largest[: words.SHOWN]
        ),
        *words.and_more(len(largest)),
    ]


def _next(ending: Ending) -> list[str]:
    return ["What to do next:", *words.numbered(*_steps(ending)), "", *_relied_upon(ending)]


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
    rows = words.rows(sum(table.rows for table in proven.tables))
    age = words.age(ending.at - proven.started_at)
    return [untouched, f"The newest proven backup is what you have: {proven.id}, {age} old, {rows}."]


def _head_of_the_chain(ending: Ending) -> list[str]:
    backup = ending.backup
    if not backup.manifest_sha256:
        return []
    return [
        "Keep this mail: it shows if backups up to this one are removed or replaced later.",
        f"Manifest:  SHA-256 {backup.manifest_sha256}",
        *([f"Signed by: key {words.plain(ending.signed_by)}"] if ending.signed_by else []),
    ]


def _tried(proof: ProofOut) -> str:
    server = f" on PostgreSQL {words.plain(proof.server)}" if proof.server else ""
    from_to = f"from {words.time(proof.started_at)} to {words.time(proof.ended_at)}"
    return f"number {proof.number}{server}, {from_to}: {proof.verdict}"
