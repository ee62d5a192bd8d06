"""Settings: environment variables whose names begin with HOLDFAST_. Nothing else here reads the environment.

Region, credentials and endpoint of AWS are not ours: botocore finds them by its own rules (AWS_*).
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from backup_lambda.retention import Policy

PREFIX = "HOLDFAST_"


class SettingsError(Exception):
    """A setting is unknown, missing or wrong; the text names each, and shows no value."""


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(word.strip() for word in value.split(",")) if value.strip() else ()


def _number(value: object) -> object:
    """None for what is empty: only a setting that may be missing takes it."""
    if value == "":
        return None
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _json(value: object) -> object:
    return (json.loads(value) if value else None) if isinstance(value, str) else value


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


Arn = Annotated[str, Field(pattern=r"^arn:[^:]+:[a-z]+:[^:]*:[^:]*:.+")]
KeyArn = Annotated[str, Field(pattern=r"^arn:[^:]+:(kms|secretsmanager):[^:]*:[^:]*:.+")]
# The ARN of a secret whose string is a postgresql:// URL, or a postgresql+iam:// URL, in which nothing is secret.
_SECRET, _IAM_URL = r"arn:[^:]+:secretsmanager:[^:]*:[^:]*:.+", r"postgresql\+iam://[^:@/]+@[^@/]+/[^/]+"
Database = Annotated[str, Field(pattern=rf"^({_SECRET}|{_IAM_URL})$")]
Word = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_words)]
Names = Annotated[tuple[Word, ...], BeforeValidator(_words), Field(min_length=1)]
Fingerprints = Annotated[tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], BeforeValidator(_words)]
Number = Annotated[int, BeforeValidator(_number)]
Retention = Annotated[Policy, BeforeValidator(Policy.parse)]


def is_secret(database: str) -> bool:
    return database.startswith("arn:")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    bucket: str = Field(min_length=3)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError."""
        fields = {PREFIX + name.upper(): name for name in cls.model_fields}
        given = {name for name in env if name.startswith(PREFIX)}
        if unknown := sorted(given - fields.keys()):
            raise SettingsError(f"unknown setting {', '.join(unknown)}; known: {', '.join(fields)}")
        try:
            return cls.model_validate({fields[name]: env[name] for name in given})
        except ValidationError as error:
            wrong = [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
            raise SettingsError("; ".join(wrong)) from None


class ApiSettings(_Settings):
    """What the function behind the gateway needs."""

    topic_arn: Arn
    worker_function: str = Field(min_length=1)  # name or ARN
    keeper_function: str = Field(min_length=1)  # the same of the one that deletes
    retention: Retention = Policy()


class KeeperSettings(_Settings):
    """What the function that applies retention needs."""

    signing_key: KeyArn
    former_keys: Fingerprints = ()
    retention: Retention = Policy()


class Place(BaseModel):
    """Where a task of ECS runs, by names or ARNs."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    cluster: Word
    definition: Word
    subnets: Annotated[tuple[Word, ...], Field(min_length=1, max_length=16, strict=False)]
    security_group: Word


class WorkerSettings(_Settings):
    """What the function that makes, proves and restores backups needs."""

    topic_arn: Arn
    database: Database  # of a role that may read, and only read
    # Of a role that may write rows of the live database; without it nothing is restored into that one.
    restore_database: Annotated[Database | None, BeforeValidator(_none_if_empty)] = None
    proof_database: Database  # of a role that may create databases, on the server that proofs run on
    database_ca: str = ""  # PEM of the authorities that the servers' certificates are from; without it the URLs decide
    signing_key: KeyArn  # a KMS key (ECC_NIST_EDWARDS25519), or a secret whose string is an Ed25519 private key in PEM
    former_keys: Fingerprints = ()  # SHA-256 of the public keys that signed earlier backups
    schemas: Names = ("notes", "scheduler")
    include_tables: Names = ("*",)  # patterns of `schema.table`, in which * stands for anything
    exclude_tables: Words = ()
    prove: Literal["always", "on_demand"] = "always"  # on demand: nothing is proven, or proven again, by itself
    # A backup whose proof is so old is proven again by itself, and one that has none is at last; 0: never.
    reprove_after_days: Annotated[Number, Field(ge=0)] = 30
    # What scratch databases may take on that server.
    proof_room_bytes: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_number)] = None
    suspect_fall_percent: Annotated[Number, Field(ge=1, le=100)] = 50
    changed_percent: Annotated[Number, Field(ge=1, le=100)] = 50  # of a table's rows: more than that is told
    object_lock_days: Annotated[Number, Field(ge=0)] = 0  # 0: objects are not locked
    # Where what takes longer than a function has is done, as JSON; without it the function tries whatever it is asked.
    task: Annotated[Place | None, BeforeValidator(_json)] = None
    task_from_bytes: Annotated[Number, Field(ge=0)] = 10_000_000_000  # of the database; 0: the task does everything
