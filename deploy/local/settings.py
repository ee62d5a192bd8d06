"""What a person may set about the one-machine stack, by environment variables. Every name begins with HOLDFAST_."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
PREFIX = "HOLDFAST_"


class SettingsError(Exception):
    """A setting is unknown or cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Settings:
    """Each field is the variable HOLDFAST_<FIELD>. Ports that are not set follow HOLDFAST_PORT, one by one."""

    home: Path = ROOT / ".local"  # all that the stack keeps
    port: int = 8080  # NGINX: notes_api and the scheduler
    notes_api_port: int = 8081
    scheduler_port: int = 8082
    aws_port: int = 8083  # the emulator: the gateway, S3, SNS
    postgres_port: int = 8084
    valkey_port: int = 8085
    smtp_port: int = 8086
    worker_port: int = 8087  # /readyz and /metrics of the scheduler's worker
    database_url: str = ""  # a superuser's URL of a server of your own, in place of the stack's
    proof_database_url: str = ""  # of a role that may create databases: proofs run there, and not on that server
    redis_url: str = ""  # as database_url
    smtp_url: str = ""  # smtp://user:password@host:port: mails go there and not into files
    http_targets: str = ""  # how URLs begin that schedules may call, separated by commas
    ping_url: str = ""  # a dead man's switch, for when all of the scheduler is down
    otlp_endpoint: str = ""  # where traces go, by OTLP over HTTP

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        names = {f"{PREFIX}{field.name.upper()}": field.name for field in fields(cls)}
        given = {name: value for name, value in env.items() if name.startswith(PREFIX) and value}
        if unknown := sorted(set(given) - set(names)):
            raise SettingsError(f"{unknown[0]} is not a setting. There are: {', '.join(names)}")
        values: dict[str, object] = {names[name]: value for name, value in given.items()}
        if "home" in values:
            values["home"] = home = Path(str(values["home"])).absolute()
            if not home.name:
                raise SettingsError(f"{PREFIX}HOME must be a folder below {home}")
        for name, schemes in _SCHEMES.items():
            _check_url(f"{PREFIX}{name.upper()}", str(values.get(name, "")), schemes)
        values |= {name: _port(f"{PREFIX}{name.upper()}", str(values[name])) for name in values if name in _PORTS}
        if isinstance(first := values.get("port"), int):
            for offset, name in enumerate(_PORTS):
                values.setdefault(name, _port(f"{PREFIX}PORT", str(first + offset)))
        return cls(**values)  # type: ignore[arg-type]  # made of the fields' own names and types above

    def check_ports(self) -> None:
        """Raises SettingsError for a port that another program listens on."""
        ports = [getattr(self, name) for name in _PORTS]
        if twice := next((name for name in _PORTS if ports.count(getattr(self, name)) > 1), ""):
            raise SettingsError(f"port {getattr(self, twice)} is set twice: set {PREFIX}{twice.upper()} to another one")
        unused = {"postgres_port": self.database_url, "valkey_port": self.redis_url, "smtp_port": self.smtp_url}
        for name in _PORTS:
            if not unused.get(name):
                _check_free(f"{PREFIX}{name.upper()}", getattr(self, name))


_SCHEMES = {
    "database_url": ("postgresql", "postgres"),
    "proof_database_url": ("postgresql", "postgres"),
    "redis_url": ("redis", "rediss"),
    "smtp_url": ("smtp",),
    "otlp_endpoint": ("http", "https"),
}
_PORTS = [field.name for field in fields(Settings) if field.name.endswith("port")]


def _port(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise SettingsError(f"{name} must be a port, 1 to 65535, and is {text!r}")
    return int(text)


def _check_url(name: str, text: str, schemes: Sequence[str]) -> None:
    """An empty one is not set. Never shows it: it may hold a password."""
    try:
        url = urlsplit(text)
        right = url.scheme in schemes and url.hostname and (url.port or 1) and not url.query
    except ValueError:
        right = False
    if text and not right:
        raise SettingsError(f"{name} must be of the form {schemes[0]}://user:password@host:port/..., without a query")


def _check_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that just ended does not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = "is taken by another program" if error.errno != 13 else "may be used by root only"
            raise SettingsError(
                f"port {port} {reason}: set {name} to another one ({os.strerror(error.errno or 0)})"
            ) from error
