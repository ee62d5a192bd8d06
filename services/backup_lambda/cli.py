"""The command line, on click: each command parses, asks the API, and shows what it answered."""

import asyncio
import functools
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import click

from backup_lambda import aws, running, signing, views
from backup_lambda.calls import (
    ALL_IS_WELL,
    INTERRUPTED,
    SOMETHING_IS_WRONG,
    WRONG_USE,
    YES,
    Call,
    agreed,
    command,
    followed,
    how_far,
    key_segment,
    read,
    segment,
    valid,
    waiting,
)
from backup_lambda.cli_restore import restore
from backup_lambda.errors import BackupsError
from backup_lambda.gateway import ApiError, ApiMisused, ApiRefused, NeedsApi
from backup_lambda.schemas import (
    Backup,
    BackupIn,
    BackupPage,
    Diff,
    ProofAsked,
    Restore,
    RetentionPlan,
    RetentionResult,
    Subscription,
    SubscriptionPage,
    TrialSent,
)
from backup_lambda.settings import SettingsError
from backup_lambda.store import S3Store
from backup_lambda.tasks import WORKERS_TASKS, RestoreTask, Task
from backup_lambda.terminal import Terminal
from backup_lambda.verify import Report
from backup_lambda.verify import verify as verified

SHOW_FIRST = "?"  # what --apply without a digest stands for

HELP = """Holdfast's backups: made, shown, proven, and had back.

\b
Two ways lead to them; their options come after the command (list --api URL):
  --api URL                   through the gateway, signed with AWS credentials as
                              botocore finds them (AWS_PROFILE, AWS_ACCESS_KEY_ID...;
                              AWS_REGION). Set HOLDFAST_API_URL instead, if you like.
  --bucket NAME --key SHA256  in the bucket itself, for when the API is down: what
                              is not signed by that key is not read, and nothing
                              can be started.

\b
Exit codes:
  0    all is well: done; and with --wait proven, or stored if no more was asked for
  1    something is wrong: failed, broken, suspect, refused, found by verify;
       the API does not answer; the output could not be written
  2    wrong use: arguments, settings, or a request that the API does not take
  130  interrupted (Ctrl-C)

With --json the API's JSON is on stdout, and nothing else. Messages are on stderr.
"""


LABEL = click.option("--label", help="A word to find it by.")
TABLES = click.option(
    "--table", "tables", multiple=True, metavar="SCHEMA.TABLE", help="Only this one; may be repeated."
)


@command("create")
@LABEL
@TABLES
@waiting(default=False)
async def create(call: Call, label: str | None, tables: tuple[str, ...], *, wait: bool) -> int:
    """Ask for a backup, which is then proven."""
    async with call.api() as api:
        api.needed_for("create")
        wanted = valid(BackupIn, label=label, tables=list(tables) or None)
        body = await api.post("backups", wanted.model_dump(exclude_none=True), key=str(uuid.uuid4()))
        backup = read(Backup, body)
        if wait:
            body, backup = await followed(call, api, f"backups/{backup.id}", Backup, lambda now: now.ended)
    call.tell(body, lambda: views.backup(call.terminal, backup))
    return _judged(backup) if wait else ALL_IS_WELL


@command("list")
@click.option("--before", metavar="ID", help="The next page: those older than this one.")
async def list_(call: Call, before: str | None) -> int:
    """Backups, newest first, 100 at most."""
    async with call.api() as api:
        body = await api.get(f"backups/before/{segment(before)}" if before else "backups")
    page = read(BackupPage, body)
    call.tell(body, lambda: views.backups(call.terminal, page.items))
    if page.has_more and not call.as_json:
        call.terminal.say(f"there are older ones: list --before {page.next_cursor}")
    return ALL_IS_WELL


@command("show")
@click.argument("id_", metavar="ID")
async def show(call: Call, id_: str) -> int:
    """A backup, or a restore.

    Exit code 1 when it is failed, cancelled, broken or suspect.
    """
    async with call.api() as api:
        try:
            body = await api.get(f"backups/{segment(id_)}")
        except ApiRefused as error:
            try:
                body = await api.get(f"restores/{segment(id_)}")
            except ApiError:
                raise error from None
            restored = read(Restore, body)
            call.tell(body, lambda: views.restore(call.terminal, restored))
            return SOMETHING_IS_WRONG if restored.state == "failed" else ALL_IS_WELL
    backup = read(Backup, body)
    call.tell(body, lambda: views.backup(call.terminal, backup))
    wrong = backup.state in ("failed", "cancelled", "broken", "suspect")
    return SOMETHING_IS_WRONG if wrong else ALL_IS_WELL


@command("prove")
@click.argument("backup_id", metavar="ID")
@click.option("--accept-suspect", is_flag=True, help="What made it suspect was meant.")
@waiting(default=False)
async def prove(call: Call, backup_id: str, *, accept_suspect: bool, wait: bool) -> int:
    """Have a backup proven once more."""
    async with call.api() as api:
        api.needed_for("prove")
        path = f"backups/{segment(backup_id)}"
        body = await api.post(f"{path}/proofs", {"accept_suspect": accept_suspect})
        asked = read(ProofAsked, body)
        if not wait:
            call.tell(body, lambda: call.terminal.say(f"{backup_id}: proof {asked.number} is asked for"))
            return ALL_IS_WELL
        body, backup = await followed(call, api, path, Backup, _proof_ended(asked.number))
    call.tell(body, lambda: views.backup(call.terminal, backup))
    unfinished = backup.unfinished_proof and backup.unfinished_proof.number >= asked.number
    return ALL_IS_WELL if backup.state == "proven" and not unfinished else SOMETHING_IS_WRONG


def _proof_ended(number: int) -> Callable[[Backup], bool]:
    return lambda now: any(each and each.number >= number for each in (now.proof, now.unfinished_proof))


@command("row")
@click.argument("backup_id", metavar="ID")
@click.argument("table")
@click.argument("key")
async def row(call: Call, backup_id: str, table: str, key: str) -> int:
    """One row, as a backup has it.

    TABLE is schema.table; notes means notes.notes. KEY is the value of the primary key, or a JSON array of its values
    where it has several columns: '["a", 2]'.
    """
    async with call.api() as api:
        body = await api.get(f"backups/{segment(backup_id)}/tables/{segment(table)}/rows/{key_segment(key)}")
    call.tell(body, lambda: views.row(call.terminal, body))
    return ALL_IS_WELL


@command("history")
@click.argument("table")
@click.argument("key")
async def history(call: Call, table: str, key: str) -> int:
    """Every state of a row across all backups, newest first; see `row` for TABLE and KEY."""
    async with call.api() as api:
        body = await api.get(f"rows/{segment(table)}/{key_segment(key)}/history")
    call.tell(body, lambda: views.history(call.terminal, body))
    return ALL_IS_WELL


@command("diff")
@click.argument("backup_id", metavar="ID")
@click.argument("other", metavar="OTHER|now")
@click.option("--after", metavar="CURSOR", help="The page that begins here, as the one before it said.")
@click.option("--all", "to_the_end", is_flag=True, help="All pages; with --json, each on a line.")
async def diff(call: Call, backup_id: str, other: str, after: str | None, *, to_the_end: bool) -> int:
    """What differs between a backup and another one, or the database now.

    Differences are no fault: the exit code is 0 with and without them.
    """
    async with call.api() as api:
        if other == "now":
            api.needed_for("diff with now")
        path = f"backups/{segment(backup_id)}/diff/{segment(other)}"
        following: str | None = f"{path}/after/{segment(after.rpartition('/')[2])}" if after else path
        added = removed = changed = 0
        while following:
            body = await api.get(following)
            page = read(Diff, body)
            call.tell(body, functools.partial(views.differences, call.terminal, page))
            added, removed, changed = added + page.added, removed + page.removed, changed + page.changed
            following = page.next
            if not to_the_end:
                break
    if not call.as_json:
        call.terminal.say(f"{added:,} rows added, {removed:,} removed, {changed:,} changed")
        if following:
            call.terminal.say(f"and there is more: --after {following.rpartition('/')[2]}, or --all")
    return ALL_IS_WELL


@command("retention")
@click.option(
    "--apply",
    is_flag=False,
    flag_value=SHOW_FIRST,
    metavar="[DIGEST]",
    help="Apply the plan with this digest; without one, the plan is shown first.",
)
@YES
async def retention(call: Call, apply: str | None, *, yes: bool) -> int:
    """What retention would remove now, and why; or have it removed."""
    async with call.api() as api:
        if apply:
            api.needed_for("retention --apply")
        if apply == SHOW_FIRST and not yes and not call.terminal.is_watched:
            raise SettingsError("nobody can be asked here: name the plan's digest, or say --yes")
        if apply in (None, SHOW_FIRST):
            body = await api.get("retention")
            plan = read(RetentionPlan, body)
            if not apply:
                call.tell(body, lambda: views.plan(call.terminal, plan))
                return ALL_IS_WELL
            views.plan(call.terminal, plan, aside=True)
            if plan.expire + plan.clean == 0:
                call.terminal.say("there is nothing to do")
                return ALL_IS_WELL
            if not yes:
                agreed(f"Remove the data of {plan.expire + plan.clean} backups, for good?")
            apply = plan.digest
        body = await api.post("retention", {"digest": apply})
    result = read(RetentionResult, body)
    call.tell(
        body, lambda: call.terminal.print(f"{len(result.expired)} expired, {len(result.cleaned)} cleaned up after")
    )
    if not result.complete:
        call.terminal.say("the time ended first: get the plan again, and apply the rest")
    return ALL_IS_WELL if result.complete else SOMETHING_IS_WRONG


@command("subscribe")
@click.argument("email")
@click.option("--event", "events", multiple=True, help="Only about this, as backup.failed; may be repeated.")
async def subscribe(call: Call, email: str, events: tuple[str, ...]) -> int:
    """Have mail sent to an address, once it has confirmed."""
    async with call.api() as api:
        api.needed_for("subscribe")
        body = await api.post("subscriptions", {"email": email, **({"events": [*events]} if events else {})})
    made = read(Subscription, body)
    call.tell(body, lambda: views.subscriptions(call.terminal, [made]))
    if not made.confirmed:
        call.terminal.say(f"{email} is asked, by mail, whether it wants that")
    return ALL_IS_WELL


@command("subscribers")
@click.option("--test", is_flag=True, help="Send everybody a test message.")
async def subscribers(call: Call, *, test: bool) -> int:
    """Who gets mail. Exit code 1 when nobody does."""
    async with call.api() as api:
        api.needed_for("subscribers")
        if test:
            body = await api.post("subscriptions/test")
            sent = read(TrialSent, body)
            call.tell(body, lambda: call.terminal.print(f"a test message is on its way to {sent.confirmed} addresses"))
            return ALL_IS_WELL if sent.confirmed else SOMETHING_IS_WRONG
        body = await api.get("subscriptions")
    page = read(SubscriptionPage, body)
    call.tell(body, lambda: views.subscriptions(call.terminal, page.items))
    if page.warning:
        call.terminal.say(page.warning)
    return SOMETHING_IS_WRONG if page.warning else ALL_IS_WELL


@command("unsubscribe")
@click.argument("who", metavar="EMAIL|ID")
async def unsubscribe(call: Call, who: str) -> int:
    """Send no more mail to an address."""
    async with call.api() as api:
        api.needed_for("unsubscribe")
        if "@" in who:
            page = read(SubscriptionPage, await api.get("subscriptions"))
            found = [each for each in page.items if each.email == who]
            if not found:
                raise ApiRefused(f"{who} is not subscribed")
            if found[0].id is None:
                raise ApiRefused(f"{who} has not confirmed, and gets nothing: AWS forgets it by itself")
            who = found[0].id
        await api.delete(f"subscriptions/{segment(who)}")
    return ALL_IS_WELL


@click.command()
@LABEL
@TABLES
@click.pass_obj
def run(given: tuple[Terminal, Mapping[str, str]], label: str | None, tables: tuple[str, ...]) -> int:
    """Make a backup and prove it, in this process, however long it takes.

    The environment holds the settings of the worker function. SIGTERM and Ctrl-C end it cleanly.
    """
    screen, environment = given
    settings = Call(screen, environment, None, None, (), as_json=False).worker_settings()
    wanted = valid(BackupIn, label=label, tables=[*tables] or None)
    with screen.log("backup_lambda", logging.INFO), screen.progress() as tell:

        def told(backup: Backup) -> None:
            if backup.progress:
                tell(f"{backup.id}: {how_far(backup.progress)}", backup.progress.percent)
            elif backup.state == "queued":
                tell(f"{backup.id}: asked for", 0)

        well = asyncio.run(running.run(settings, wanted, told))
    return ALL_IS_WELL if well else SOMETHING_IS_WRONG


@click.command()
@click.argument("task")
@click.pass_obj
def perform(given: tuple[Terminal, Mapping[str, str]], task: str) -> int:
    """Do what the worker function has handed on: TASK is its JSON. The rest is as with `run`."""
    screen, environment = given
    settings = Call(screen, environment, None, None, (), as_json=False).worker_settings()
    with screen.log("backup_lambda", logging.INFO):
        wanted = WORKERS_TASKS.validate_json(task)
        if not isinstance(wanted, Task | RestoreTask):
            raise click.UsageError("a task makes, proves or restores backups")
        well = asyncio.run(running.perform(settings, wanted))
    return ALL_IS_WELL if well else SOMETHING_IS_WRONG


@command("verify")
@click.option("--read-data", is_flag=True, help="Read every byte back, too.")
async def verify(call: Call, *, read_data: bool) -> int:
    """Say what is missing, altered or swapped in the bucket.

    It goes to the bucket in any case. With --bucket and --key it needs no settings, and only the right to list and
    read the backups; else the environment holds the settings of the worker function.
    """
    call.check_keys()
    if call.bucket:
        async with aws.clients("s3") as (s3,):
            report = await verified(S3Store(s3, call.bucket), call.keys, read_data=read_data)
    else:
        settings = call.worker_settings()
        async with aws.clients("s3", "secretsmanager", "kms") as (s3, secrets, kms):
            signer = signing.signer_of(settings.signing_key, kms=kms, secrets=secrets)
            trusted = {signing.fingerprint(await signer.public_key()), *settings.former_keys}
            report = await verified(S3Store(s3, settings.bucket), trusted, read_data=read_data)
    call.tell(json.dumps(asdict(report)).encode(), lambda: _print_findings(call.terminal, report))
    read = f", {report.bytes:,} bytes read" if read_data else ""
    call.terminal.say(f"{report.backups} backups, {report.objects} objects{read}: {len(report.findings)} findings")
    return SOMETHING_IS_WRONG if report.findings else ALL_IS_WELL


def _print_findings(screen: Terminal, report: Report) -> None:
    for each in report.findings:
        screen.print(f"{each.backup_id} {each.object}: {each.what}")


def _judged(backup: Backup) -> int:
    """A backup that is stored says by its reason that it should have been proven."""
    well = backup.state == "proven" or (backup.state == "stored" and not backup.reason)
    return ALL_IS_WELL if well else SOMETHING_IS_WRONG


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    pass


for each in (
    create, list_, show, prove, restore, row, history, diff, verify, run, perform, retention, subscribe, subscribers,
    unsubscribe,
):  # fmt: skip
    commands.add_command(each)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    screen = Terminal()
    try:
        code = commands.main(
            list(arguments), "python -m backup_lambda", standalone_mode=False, obj=(screen, environment)
        )
        return code or ALL_IS_WELL
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    except click.Abort:
        return INTERRUPTED
    except (SettingsError, ApiMisused, NeedsApi) as error:
        screen.say(str(error))
        return WRONG_USE
    except BackupsError as error:
        screen.say(str(error) or error.__doc__ or type(error).__name__)
        return SOMETHING_IS_WRONG
