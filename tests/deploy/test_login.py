"""How each service logs in to PostgreSQL: by a password, and, as on RDS, by a token of IAM over TLS."""

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from ssl import SSLContext
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import botocore.auth
import pytest
from botocore.session import get_session
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import backup_lambda.login
import notes_api.login
import scheduler.login
from backup_lambda import snapshot
from backup_lambda.errors import DatabaseFailed
from deploy.local.postgres import Postgres
from deploy.local.settings import ROOT
from notes_api import db as notes_db
from notes_api.settings import DatabaseSettings
from notes_api.settings import SettingsError as NotesSettingsError
from scheduler import db as scheduler_db
from scheduler.settings import Settings as SchedulerSettings
from scheduler.settings import SettingsError as SchedulerSettingsError
from tests.servers import Cluster

LOGINS = [notes_api.login, scheduler.login, backup_lambda.login]
SERVICES = {"notes_api": "notes_app", "scheduler": "scheduler_app", "backup_lambda": "notes_backup"}
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # how a client of PostgreSQL asks for TLS
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token+/="}


@dataclass
class Rds:
    """PostgreSQL behind TLS and nothing else, as RDS has it; and who vouches for it, as PEM."""

    server: Postgres
    authority: str
    port: int = 0
    seen: int = 0  # connections over TLS

    def url(self, role: str, *, iam: bool, host: str = "127.0.0.1") -> str:
        if iam:
            return f"postgresql+iam://{role}@{host}:{self.port}/holdfast"
        return (
            urlsplit(self.server.url(role, "holdfast"))
            ._replace(netloc=f"{role}:password-of-{role}@{host}:{self.port}")
            .geturl()
        )

    async def serve(self, client: StreamReader, answers: StreamWriter, context: SSLContext) -> None:
        try:
            if await client.readexactly(8) != SSL_REQUEST:
                return
            answers.write(b"S")
            await answers.start_tls(context)
            self.seen += 1
            server, requests = await asyncio.open_connection("127.0.0.1", self.server.port)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(client, requests))
                both.create_task(_pass_on(server, answers))
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            answers.close()


async def _pass_on(source: StreamReader, target: StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await source.read(65536):
            target.write(chunk)
            await target.drain()
    target.close()


@pytest.fixture
async def rds(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Rds]:
    certificate, key, authority = certify("127.0.0.1")
    (tmp_path / "server.pem").write_text(certificate + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")
    rds = Rds(cluster.server, authority)

    async def serve(client: StreamReader, answers: StreamWriter) -> None:
        await rds.serve(client, answers, context)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        rds.port = listening.sockets[0].getsockname()[1]
        yield rds


@pytest.fixture
def as_iam(rds: Rds, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server takes the token of this moment, and no other, for the password of each role."""
    at = datetime.now(UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: at)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    boto = get_session().create_client("rds")
    for role in SERVICES.values():
        token = boto.generate_db_auth_token("127.0.0.1", rds.port, role, "eu-north-1")
        rds.server.psql("postgres", [f"alter role {role} password '{token}'"])
    yield
    rds.server.make_roles("holdfast")


@asynccontextmanager
async def connected(service: str, url: str, authority: str) -> AsyncIterator[Any]:
    """What the service itself asks the database with: `fetchval`."""
    env = {"HOLDFAST_DATABASE_URL": url, "HOLDFAST_DATABASE_CA": authority}
    match service:
        case "notes_api":
            async with notes_db.pool(DatabaseSettings.from_env(env)) as pool, pool.acquire() as connection:
                yield connection.fetchval
        case "scheduler":
            engine = scheduler_db.create_engine(SchedulerSettings.from_env(env))
            async with engine.connect() as connected:
                yield lambda query: connected.scalar(text(query))
            await engine.dispose()
        case _:
            of_snapshot = await snapshot.connect(backup_lambda.login.trusting(url, authority))
            yield of_snapshot.fetchval
            await of_snapshot.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_by_a_password(service: str, rds: Rds) -> None:
    role = SERVICES[service]
    for url, authority in ((rds.server.url(role, "holdfast"), ""), (rds.url(role, iam=False), rds.authority)):
        async with connected(service, url, authority) as ask:
            assert await ask("select current_user") == role
    assert rds.seen == 1


@pytest.mark.usefixtures("as_iam")
@pytest.mark.parametrize("service", SERVICES)
async def test_by_a_token_of_iam(service: str, rds: Rds) -> None:
    async with connected(service, rds.url(SERVICES[service], iam=True), rds.authority) as ask:
        assert await ask("select current_user") == SERVICES[service]
    assert rds.seen == 1


@pytest.mark.usefixtures("as_iam")
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("wrong", ["authority", "name", "secret key"])
async def test_a_token_goes_to_nobody_else_and_another_is_refused(
    service: str, wrong: str, rds: Rds, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "localhost" if wrong == "name" else "127.0.0.1"
    authority = certify("127.0.0.1")[2] if wrong == "authority" else rds.authority
    if wrong == "secret key":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises((OSError, asyncpg.PostgresError, DBAPIError, DatabaseFailed)) as raised:
        async with connected(service, rds.url(SERVICES[service], iam=True, host=host), authority):
            pass
    said = "password authentication failed" if wrong == "secret key" else "certificate verify failed"
    assert said in str(raised.value)
    assert "X-Amz" not in str(raised.value)


@pytest.mark.usefixtures("as_iam")
@pytest.mark.parametrize("login", LOGINS, ids=lambda each: each.__name__)
async def test_a_token_is_what_boto_makes_and_made_for_each_connection(login: ModuleType) -> None:
    made = login.arguments("postgresql+iam://notes_app@db.example.org/holdfast")
    assert made["dsn"] == "postgresql://notes_app@db.example.org/holdfast"
    boto = get_session().create_client("rds")
    assert await made["password"]() == boto.generate_db_auth_token("db.example.org", 5432, "notes_app", "eu-north-1")


@pytest.mark.parametrize("login", LOGINS, ids=lambda each: each.__name__)
async def test_without_credentials_there_is_no_token(login: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ValueError, match="no AWS credentials"):
        await login.arguments("postgresql+iam://notes_app@db.example.org/holdfast")["password"]()


@pytest.mark.parametrize(
    "url", ["postgresql+iam://u:s3cret@h/d", "postgresql+iam://h/d", "postgresql+iam:///d", "postgresql+iam://u@h"]
)
def test_an_address_that_is_not_whole_is_refused_and_not_shown(url: str) -> None:
    for settings, error in (
        (DatabaseSettings, NotesSettingsError),
        (SchedulerSettings, SchedulerSettingsError),
    ):
        with pytest.raises(error, match=r"HOLDFAST_DATABASE_URL: .*postgresql\+iam://user@host") as raised:
            settings.from_env({"HOLDFAST_DATABASE_URL": url})
        assert "s3cret" not in str(raised.value)


def test_the_three_log_in_the_same_way() -> None:
    """They share no package; who mends one mends them all."""
    texts = {(ROOT / "services" / name / "login.py").read_text() for name in SERVICES}
    assert len(texts) == 1


def certify(host: str, by: str = "of the tests") -> tuple[str, str, str]:
    """A certificate for the address, its key, and the authority that has signed it; all PEM."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, by)])
    authority = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, x509.BasicConstraints(True, 0))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
    certificate = _certificate(x509.Name([]), ca_name, key.public_key(), ca_key, names)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return certificate, pem, authority


def _certificate(subject: x509.Name, issuer: x509.Name, key: Any, by: Any, extension: x509.ExtensionType) -> str:
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=True)
        .sign(by, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()
