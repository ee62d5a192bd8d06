"""Settings: environment variables whose names begin with HOLDFAST_. Nothing else here reads the environment.

Region, credentials and endpoint of AWS are not ours: botocore finds them by its own rules (AWS_*).
"""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PREFIX = "HOLDFAST_"


class SettingsError(Exception):
    """A setting is unknown, missing or wrong; the text names each, and shows no value."""


def _words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else value


Arn = Annotated[str, Field(pattern=r"^arn:[^:]+:[a-z]+:[^:]*:[^:]*:.+")]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_words), Field(min_length=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    bucket: str = Field(min_length=3)
    topic_arn: Arn

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

    worker_function: str = Field(min_length=1)  # name or ARN


class WorkerSettings(_Settings):
    """What the function that makes backups needs."""

    database_secret: Arn  # its string is the postgresql:// URL of a role that may read, and only read
    schemas: Names = ("notes", "scheduler")
