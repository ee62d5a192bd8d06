"""Settings: environment variables whose names begin with HOLDFAST_. Nothing else here reads the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from notes_api import login

PREFIX = "HOLDFAST_"


class SettingsError(SystemExit):
    """A process with wrong settings says so in one line on standard error, and ends with exit code 1."""


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Number = Annotated[int, BeforeValidator(_number)]


class DatabaseSettings(BaseModel):
    """What the command lines need; each is given the URL of its own role."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    database_url: SecretStr
    database_ca: str = ""  # PEM of the authorities that the server's certificate is from; without it the URL decides

    @field_validator("database_url")
    @classmethod
    def _is_a_postgresql_url(cls, value: SecretStr) -> SecretStr:
        try:
            url = urlsplit(value.get_secret_value())
            whole = bool(url.hostname and url.path.strip("/") and login.arguments(url.geturl()))
        except ValueError:  # its text holds a part of the URL, perhaps of the password
            whole = False
        if not whole or url.scheme not in {login.BY_PASSWORD, login.BY_IAM}:
            raise ValueError(
                "must be of the form postgresql://user:password@host:port/database, or, where IAM lets us in,"
                " postgresql+iam://user@host:port/database"
            )
        return value

    @property
    def connection(self) -> dict[str, Any]:
        """What `asyncpg.connect` takes."""
        return login.arguments(login.trusting(self.database_url.get_secret_value(), self.database_ca))

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError, which names each setting that is unknown, missing or wrong, and shows no value.

        HOLDFAST_X_FILE names a file that holds HOLDFAST_X, which is how containers are given secrets.
        """
        fields = {PREFIX + name.upper(): name for name in cls.model_fields}
        others = {PREFIX + name.upper() for each in _all_settings() for name in each.model_fields} - fields.keys()
        others |= {f"{name}_FILE" for name in others}  # a command line may run in the API's environment
        given = {name: value for name, value in env.items() if name.startswith(PREFIX) and name not in others}
        for name in given.keys() & {f"{known}_FILE" for known in fields}:
            given[name.removesuffix("_FILE")] = _content(name, given.pop(name))
        if unknown := sorted(given.keys() - fields.keys()):
            raise SettingsError(f"unknown setting {', '.join(unknown)}; known: {', '.join(fields)}")
        try:
            return cls.model_validate({fields[name]: value for name, value in given.items()})
        except ValidationError as error:
            wrong = [f"{PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
            raise SettingsError("; ".join(wrong)) from None


class MigrationSettings(DatabaseSettings):
    language: Annotated[str, Field(pattern=r"^[a-z]{0,40}$")] = ""  # of searches; see notes_api.migrate


class Settings(DatabaseSettings):
    """What the API needs. Region, credentials and endpoint of AWS are not ours: botocore finds them (AWS_*)."""

    signing_key: Annotated[SecretStr, Field(min_length=32)]  # of cursors; the same for all processes of a deployment
    redis_url: SecretStr = SecretStr("")  # for limits that hold over all processes; without it each counts its own
    requests_per_minute: Annotated[Number, Field(ge=1)] = 6000  # of a token
    trash_days: Annotated[Number, Field(ge=1, le=3650)] = 30
    changes_days: Annotated[Number, Field(ge=1, le=3650)] = 90
    attachments_bucket: str = ""
    attachments_url: str = ""  # of the bucket's service, as clients reach it, where that is not where we do
    attachment_bytes: Annotated[Number, Field(ge=1, le=5 * 1024**3)] = 25 * 1024**2
    topic_arn: Annotated[str, Field(pattern=r"^(arn:[^:]+:sns:.+\.fifo)?$")] = ""
    otlp_endpoint: str = ""


def _all_settings() -> tuple[type[DatabaseSettings], ...]:
    return DatabaseSettings, MigrationSettings, Settings


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error.strerror}") from None
