"""The same work without a function's limits: `python -m backup_lambda run`, and `verify`.

The environment holds the settings of the worker function. Exit codes: 0 when all is well, 1 when it is not,
2 when settings or arguments are wrong.
"""

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Never

from pydantic import ValidationError

from backup_lambda import aws, backups, signing
from backup_lambda.app import utc_now
from backup_lambda.errors import BackupsError
from backup_lambda.guards import unless
from backup_lambda.schemas import BackupIn
from backup_lambda.settings import SettingsError, WorkerSettings
from backup_lambda.store import S3Store
from backup_lambda.tasks import Task
from backup_lambda.verify import verify
from backup_lambda.worker import create_worker, no_end

ALL_IS_WELL, SOMETHING_IS_WRONG, WRONG_USE = 0, 1, 2
REQUESTED_BY = "python -m backup_lambda run"
LOOK_AGAIN_SECONDS = 2


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("backup_lambda").setLevel(logging.INFO)
    try:
        code: int = asyncio.run(options.command(options, environment))
        return code
    except SettingsError as error:
        _say(str(error))
        return WRONG_USE
    except BackupsError as error:
        _say(str(error))
        return SOMETHING_IS_WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backup_lambda", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="make a backup and prove it, however long it takes")
    run.set_defaults(command=_run)
    run.add_argument("--label", help="a word to find it by")
    run.add_argument("--table", action="append", metavar="SCHEMA.TABLE", help="only this one; may be repeated")
    check = commands.add_parser(
        "verify",
        help="say what is missing, altered or swapped in the bucket",
        description="With --bucket and --key it needs no settings, and only the right to list and read the backups.",
    )
    check.set_defaults(command=_verify)
    check.add_argument("--read-data", action="store_true", help="read every byte back, too")
    check.add_argument("--bucket", help="instead of the one of the settings")
    check.add_argument(
        "--key",
        action="append",
        type=_fingerprint,
        metavar="SHA256",
        help="of a public key that manifests may be signed by; may be repeated",
    )
    return parser


def _fingerprint(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("not 64 hexadecimal digits")
    return text


async def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    settings = WorkerSettings.from_env(environment)
    try:
        wanted = BackupIn(label=options.label, tables=options.table)
    except ValidationError as error:
        raise SettingsError("; ".join(f"--{each['loc'][0]}: {each['msg']}" for each in error.errors())) from None
    async with aws.clients("s3", "sns", "secretsmanager", "kms") as (s3, sns, secrets, kms):
        worker = create_worker(settings, utc_now, s3=s3, sns=sns, secrets=secrets, kms=kms)
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, worker.stop.set)
        store = worker.means.store
        asked = await backups.request(store, _nobody, wanted, key=None, requested_by=REQUESTED_BY, now=utc_now)
        _say(f"{asked.id}: asked for")
        outcome = await unless(worker.insist(Task(task="backup", backup_id=asked.id), no_end), _tell(store, asked.id))
        await worker.keep_house(no_end)
    well = outcome == "proven" or (outcome == "stored" and settings.prove == "on_demand")
    return ALL_IS_WELL if well else SOMETHING_IS_WRONG


async def _nobody(task: Task) -> None:
    """No worker is started: this process is it."""


async def _tell(store: S3Store, backup_id: str) -> Never:
    said = ""
    while True:
        with suppress(BackupsError):  # whether the backup suffers from it too, the worker finds out
            backup = await backups.show(store, backup_id, utc_now)
            if (now := backup.progress) and said != (line := f"{now.stage}, {now.rows:,} rows, {now.percent} %"):
                _say(f"{backup_id}: {line}")
                said = line
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _verify(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    if bool(options.bucket) != bool(options.key):
        raise SettingsError("--bucket and --key go together")
    if options.bucket:
        async with aws.clients("s3") as (s3,):
            report = await verify(S3Store(s3, options.bucket), options.key, read_data=options.read_data)
    else:
        settings = WorkerSettings.from_env(environment)
        async with aws.clients("s3", "secretsmanager", "kms") as (s3, secrets, kms):
            signer = signing.signer_of(settings.signing_key, kms=kms, secrets=secrets)
            trusted = {signing.fingerprint(await signer.public_key()), *settings.former_keys}
            report = await verify(S3Store(s3, settings.bucket), trusted, read_data=options.read_data)
    for each in report.findings:
        sys.stdout.write(f"{each.backup_id} {each.object}: {each.what}\n")
    read = f", {report.bytes:,} bytes read" if options.read_data else ""
    _say(f"{report.backups} backups, {report.objects} objects{read}: {len(report.findings)} findings")
    return SOMETHING_IS_WRONG if report.findings else ALL_IS_WELL


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
