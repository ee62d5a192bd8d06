"""What compose.yaml needs beside the services: `python -m deploy.containers secrets | deploy | settings`.

`secrets` makes every password once, `deploy` deploys the stacks into the emulator; in AWS, `settings` asks the stacks
that are there. Each writes files into /run/holdfast/{who}/, a volume for each reader, so that no secret stands in
compose.yaml and none is seen by another.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import boto3

from deploy import package
from deploy.local import emulator, mail, signing
from deploy.local.aws import Account, Keys, Secrets
from deploy.local.home import Home, write_private
from deploy.local.postgres import ROLES, Server

RUN = Path("/run/holdfast")
EMULATOR_URL = "http://emulator:4566"
DATABASE, PROOF_DATABASE = "holdfast", "postgres"


def make_secrets(run: Path = RUN) -> None:
    home = Home.open(run / "deploy" / "home")
    server = _server(home)
    write_private(run / "postgres" / "superuser", home.secrets["postgres"])
    write_private(
        run / "postgres" / "roles", _shell({f"{role.upper()}_PASSWORD": home.secrets[role] for role in ROLES})
    )
    for file in (run / "postgres").iterdir():
        file.chmod(0o640)  # PostgreSQL's image has a user of its own, whom compose.yaml puts into our group
    _tell_how_to_reach_databases(
        run,
        lambda role: server.url(role, DATABASE),
        authorities="",
        redis_url=f"redis://:{home.secrets['valkey']}@redis:6379/0",
        cursor_key=home.secrets["notes_signing_key"],
    )
    write_private(run / "valkey" / "valkey.conf", f'requirepass {home.secrets["valkey"]}\nsave ""\nappendonly no\n')
    root = _root(home)
    write_private(
        run / "emulator" / "env",
        _shell({"AWS_ACCESS_KEY_ID": root.access_key, "AWS_SECRET_ACCESS_KEY": root.secret_key}, export=True),
    )


def deploy(run: Path = RUN, emulator_url: str = EMULATOR_URL, seen_from_host: str = "") -> None:
    """`seen_from_host` is the emulator's address outside, which is told to ops and to who has attachments."""
    seen_from_host = seen_from_host or f"http://127.0.0.1:{os.environ['HOLDFAST_AWS_PORT']}"
    home = Home.open(run / "deploy" / "home")
    built = package.build("local", Path(sys.executable))
    subscriptions = run / "mail" / "subscriptions.json"
    account = Account(emulator_url, emulator.REGION, _root(home))
    server, key = _server(home), signing.kept(home)
    secrets = Secrets(
        database_url=server.url("notes_backup", DATABASE),
        proof_database_url=server.url("notes_proof", PROOF_DATABASE),
        restore_database_url=server.url("notes_restore", DATABASE),
        signing_key=key.pem,
    )
    deployed = account.deploy(home, built, secrets, subscriptions)
    emulator.forget_saved_state(run / "emulator_state")
    scheduler, worker = run / "scheduler", run / "scheduler_worker"
    write_private(scheduler / "backups_url", deployed.backups_url)
    write_private(scheduler / "aws_config", _config(emulator_url, deployed.console))
    write_private(worker / "topic_arn", deployed.topic_arn)
    write_private(worker / "aws_config", _config(emulator_url, deployed.scheduler))
    notes_api = run / "notes_api"
    write_private(notes_api / "attachments_bucket", deployed.attachments_bucket)
    write_private(notes_api / "attachments_url", seen_from_host)
    write_private(notes_api / "topic_arn", deployed.notes_topic_arn)
    write_private(notes_api / "aws_config", _config(emulator_url, deployed.notes_api))
    mail_settings = mail.Settings(
        topic_arn=deployed.topic_arn,
        queue_url=deployed.queue_url,
        mail_folder="",
        subscriptions_file=str(subscriptions),
        smtp_port=0,
        smtp_url="smtp://mailpit:1025",
        endpoint_url=emulator_url,
        region=emulator.REGION,
        access_key=deployed.mail.access_key,
        secret_key=deployed.mail.secret_key,
    )
    write_private(run / "mail" / "settings.json", json.dumps(asdict(mail_settings)))
    write_private(
        run / "ops" / "env",
        _shell(
            {
                "BACKUPS_URL": deployed.backups_url.replace(emulator_url, seen_from_host),
                "AWS_ENDPOINT_URL": seen_from_host,
                "AWS_REGION": emulator.REGION,
                "AWS_ACCESS_KEY_ID": deployed.ops.access_key,
                "AWS_SECRET_ACCESS_KEY": deployed.ops.secret_key,
                "BACKUP_BUCKET": deployed.bucket,
                "TOPIC_ARN": deployed.topic_arn,
                "NOTES_TOPIC_ARN": deployed.notes_topic_arn,
                "SIGNING_KEY": key.fingerprint,
            }
        ),
    )


def settings(stacks: str, session: Any, run: Path = RUN) -> None:
    """Write down what the stacks have published, `data,storage,backup` by their names, with the rights of the host."""
    ssm, secrets = session.client("ssm"), session.client("secretsmanager")
    data, storage, backup = (_published(ssm, name) for name in stacks.split(","))
    _tell_how_to_reach_databases(
        run,
        lambda role: f"postgresql+iam://{role}@{data['Endpoint']}/{DATABASE}",
        authorities=data["Authorities"],
        redis_url=secrets.get_secret_value(SecretId=data["RedisUrlSecretArn"])["SecretString"],
        cursor_key=secrets.get_secret_value(SecretId=data["CursorKeySecretArn"])["SecretString"],
    )
    write_private(run / "scheduler" / "backups_url", backup["ApiUrl"])
    write_private(run / "scheduler_worker" / "topic_arn", backup["TopicArn"])
    write_private(run / "notes_api" / "attachments_bucket", storage["BucketName"])
    write_private(run / "notes_api" / "attachments_url", "")
    write_private(run / "notes_api" / "topic_arn", storage["TopicArn"])
    for who in ("migrations", "notes_api", "scheduler", "scheduler_worker"):
        write_private(run / who / "aws_config", f"[default]\nregion={session.region_name}\n")


def _published(ssm: Any, stack: str) -> dict[str, str]:
    pages = ssm.get_paginator("get_parameters_by_path").paginate(Path=f"/{stack}")
    return {each["Name"].rpartition("/")[2]: each["Value"] for page in pages for each in page["Parameters"]}


def _tell_how_to_reach_databases(
    run: Path, url: Callable[[str], str], *, authorities: str, redis_url: str, cursor_key: str
) -> None:
    """`url` gives that of a role of PostgreSQL."""
    for who in ("migrations", "notes_api", "scheduler"):
        write_private(run / who / "database_ca", authorities)
    for owner in ("notes_owner", "scheduler_owner"):
        write_private(run / "migrations" / f"{owner}_url", url(owner))
    write_private(run / "notes_api" / "app_url", url("notes_app"))
    write_private(run / "notes_api" / "redis_url", redis_url)
    write_private(run / "notes_api" / "signing_key", cursor_key)
    write_private(run / "scheduler" / "app_url", url("scheduler_app"))
    write_private(run / "scheduler_worker" / "redis_url", redis_url)


def _server(home: Home) -> Server:
    return Server("postgres", 5432, "postgres", home.secrets)


def _config(endpoint_url: str, keys: Keys) -> str:
    """What botocore reads."""
    values = {
        "region": emulator.REGION,
        "endpoint_url": endpoint_url,
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
    }
    return "[default]\n" + "".join(f"{name}={value}\n" for name, value in values.items())


def _root(home: Home) -> Keys:
    return Keys(home.secrets["aws_root_access_key"], home.secrets["aws_root_secret_key"])


def _shell(values: dict[str, str], *, export: bool = False) -> str:
    return "".join(f"{'export ' if export else ''}{name}={shlex.quote(value)}\n" for name, value in values.items())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["secrets"]:
            make_secrets()
        case ["deploy"]:
            deploy()
        case ["settings"]:
            settings(os.environ["HOLDFAST_STACKS"], boto3.session.Session())
        case _:
            sys.exit("usage: python -m deploy.containers secrets | deploy | settings")
