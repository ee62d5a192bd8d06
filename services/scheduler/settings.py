"""Settings: environment variables whose names begin with HOLDFAST_. Nothing else here reads the environment.

AWS's own variables (credentials, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL) are read by botocore.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from scheduler import login

PREFIX = "HOLDFAST_"


class SettingsError(SystemExit):
    """A process with wrong settings says so in one line on standard error, and ends with exit code 1."""


def _url(form: str, is_right: Callable[[SplitResult], object]) -> Callable[[SecretStr], SecretStr]:
    def check(value: SecretStr) -> SecretStr:
        try:
            right = is_right(urlsplit(value.get_secret_value()))
        except ValueError:  # its text holds a part of the URL, perhaps of the password
            right = False
        if not right:
            raise ValueError(f"must be of the form {form}")
        return value

    return check


DatabaseUrl = Annotated[
    SecretStr,
    AfterValidator(
        _url(
            "postgresql://user:password@host:port/database, or, where IAM lets us in,"
            " postgresql+iam://user@host:port/database",
            lambda url: (
                url.scheme in {login.BY_PASSWORD, login.BY_IAM}
                and url.hostname
                and url.path.strip("/")
                and login.arguments(url.geturl())
            ),
        )
    ),
]
SecretUrl = Annotated[
    SecretStr,
    AfterValidator(_url("https://host/path", lambda url: url.scheme in {"http", "https"} and url.hostname)),
]
RedisUrl = Annotated[
    SecretStr,
    AfterValidator(
        _url(
            "redis://user:password@host:port/number, or rediss:// for TLS",
            lambda url: url.scheme in {"redis", "rediss"} and url.hostname,
        )
    ),
]


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _listed(value: object) -> object:
    return tuple(each.strip() for each in value.split(",") if each.strip()) if isinstance(value, str) else value


Number = Annotated[int, BeforeValidator(_number)]


class Settings(BaseModel):
    """What the API, its migrations and its command line need; each is given the URL of its own role."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    database_url: DatabaseUrl
    database_ca: str = ""  # PEM of the authorities that the server's certificate is from; without it the URL decides
    http_targets: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()  # how URLs begin that schedules may call
    otlp_endpoint: str = ""
    # The gateway, up to and with its stage. The API without it shows no backups; the worker needs it.
    backups_url: Annotated[str, Field(pattern=r"^(https?://[^?#\s]+[^?#\s/])?$")] = ""

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
        given = {name: value for name, value in env.items() if name.startswith(PREFIX)}
        for name in given.keys() & {f"{known}_FILE" for known in fields}:
            given[name.removesuffix("_FILE")] = _content(name, given.pop(name))
        if unknown := sorted(given.keys() - fields.keys()):
            raise SettingsError(f"unknown setting {', '.join(unknown)}; known: {', '.join(fields)}")
        try:
            return cls.model_validate({fields[name]: value for name, value in given.items()})
        except ValidationError as error:
            wrong = [f"{PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
            raise SettingsError("; ".join(wrong)) from None


class WorkerSettings(Settings):
    redis_url: RedisUrl
    backups_url: Annotated[str, Field(pattern=r"^https?://[^?#\s]+[^?#\s/]$")]
    topic_arn: Annotated[str, Field(pattern=r"^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+$")]
    ping_url: SecretUrl | None = None  # a dead man's switch
    status_address: Annotated[str, Field(pattern=r"^(.+:[1-9][0-9]{0,4})?$")] = ""  # for /livez, /readyz and /metrics
    proven_within_hours: Annotated[Number, Field(ge=1, le=8760)] = 26
    runs_kept_days: Annotated[Number, Field(ge=7, le=3650)] = 400


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error.strerror}") from None
