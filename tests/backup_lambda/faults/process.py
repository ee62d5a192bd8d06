"""The worker function in a process of its own, made quickly: forked from one that has its modules loaded."""

import json
import multiprocessing
import os
import resource
import secrets
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from types import SimpleNamespace

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backup_lambda.tasks import Started
from tests.backup_lambda.faults.clients import Clients
from tests.backup_lambda.world import SIGNER, World
from tests.servers import Aws

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["aioboto3", "asyncpg", "mangum", "backup_lambda.worker", "backup_lambda.app", __name__])


async def settings_of(
    aws: Aws, clients: Clients, world: World, url: str, proof_url: str, restore_url: str = ""
) -> dict[str, str]:
    """The environment of the worker function. What it reads of secrets is in the emulator's Secrets Manager."""

    async def secret(text: str) -> str:
        made = await clients.secrets.create_secret(Name=f"fault-{secrets.token_hex(6)}", SecretString=text)
        return str(made["ARN"])

    key = SIGNER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return aws.variables | {
        "HOLDFAST_BUCKET": world.bucket,
        "HOLDFAST_TOPIC_ARN": world.topic.arn,
        "HOLDFAST_DATABASE": await secret(url),
        "HOLDFAST_PROOF_DATABASE": await secret(proof_url),
        "HOLDFAST_RESTORE_DATABASE": await secret(restore_url) if restore_url else "",
        "HOLDFAST_SIGNING_KEY": await secret(key),
    }


def started(
    environment: Mapping[str, str], task: Started, *, part_bytes: int, data_bytes: int | None = None
) -> BaseProcess:
    """It does what it is given, then ends. It may have `data_bytes` of memory, where that is said."""
    event = task.model_dump_json()
    process = _forks.Process(target=invoke, args=(dict(environment), event, part_bytes, data_bytes), daemon=True)
    process.start()
    return process


def invoke(environment: dict[str, str], task: str, part_bytes: int, data_bytes: int | None) -> None:
    os.environ.update(environment)
    from backup_lambda import handler, multipart  # noqa: PLC0415  # it makes an event loop, which no two may share

    multipart.PART_BYTES = part_bytes
    if data_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    handler.worker(json.loads(task), SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000))
