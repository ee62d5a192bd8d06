"""Settings: environment variables whose names begin with HOLDFAST_. Nothing else here reads the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

PREFIX = "HOLDFAST_"


class SettingsError(SystemExit):
    """A process with wrong settings says so in one line on standard error, and ends with exit code 1."""


class Settings(BaseModel):
    """What the API, its migrations and its command line need; each is given the URL of its own role."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    database_url: SecretStr

    @field_validator("database_url")
    @classmethod
    def _is_a_postgresql_url(cls, value: SecretStr) -> SecretStr:
        try:
            url = urlsplit(value.get_secret_value())
            whole = url.scheme == "postgresql" and url.hostname and url.path.strip("/")
        except ValueError:  # its text holds a part of the URL, perhaps of the password
            whole = False
        if not whole:
            raise ValueError("must be of the form postgresql://user:password@host:port/database")
        return value

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


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error.strerror}") from None
