"""The one-machine stack: every part of Holdfast on this machine, started in order, watched, stopped in reverse."""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from deploy import package
from deploy.local import emulator, mail, nginx, signing, valkey
from deploy.local.aws import Account, Deployed, Keys, Secrets
from deploy.local.home import RESET, Home, HomeError
from deploy.local.postgres import Postgres, Server, programs
from deploy.local.process import Process, Program, ProgramError, http_ok
from deploy.local.settings import ROOT, Settings

DATABASE = "holdfast"
PROOF_DATABASE = "postgres"  # where notes_proof says which databases it wants: it may not even connect to ours
ANSWER_SECONDS = 60.0
TOKEN_NAME = "one-machine stack"  # noqa: S105  # the token's name
TOKENS = {
    "notes_api": ("notes:read", "notes:write", "attachments:write", "tokens:admin"),
    "scheduler": (
        "schedules:read",
        "schedules:write",
        "runs:read",
        "runs:write",
        "backups:read",
        "backups:write",
    ),
}


class Stack:
    """A stack on one home folder. `say` gets a line for each step."""

    def __init__(self, settings: Settings, home: Home, say: Callable[[str], None]) -> None:
        self._settings, self._home, self._say = settings, home, say
        self._logs = home.folder("logs")
        self._processes: list[Process] = []
        self._subscriptions = home.path / "subscriptions.json"

    def start(self) -> Mapping[str, str]:
        """Bring everything up. What a person needs to use it, which is also in the file `env`.

        Raises ProgramError, DeployError or PackageError; `stop` then ends what was started.
        """
        with ThreadPoolExecutor() as pool:  # the package takes seconds, and nothing needs it before the deployment
            built = pool.submit(package.build, "local", _python("emulator"))
            aws = self._begin(self._emulator())
            server, database = self._postgres()
            redis_url = self._settings.redis_url or self._valkey()
            self._say("migrating")
            for done in [pool.submit(self._migrate, service, server, database) for service in TOKENS]:
                done.result()
            aws.wait_until_it_answers(ANSWER_SECONDS)
            self._say("deploying the stacks into the emulator of AWS")
            deployed = self._account().deploy(
                self._home, built.result(), self._secrets(server, database), self._subscriptions
            )
            emulator.forget_saved_state(self._home.folder("aws"))
        self._say("mail, notes_api, scheduler, NGINX")
        self._run(self._mail(deployed))
        services = [self._begin(program) for program in self._services(server, database, redis_url, deployed)]
        for service in services:
            service.wait_until_it_answers(ANSWER_SECONDS)
        self._run(self._nginx())
        env = self._env(server, database, redis_url, deployed)
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in env.items()]
        self._home.write_private("env", "".join(lines))
        return env

    def watch(self) -> NoReturn:
        """Raises ProgramError when a part ends by itself."""
        while True:
            for process in self._processes:
                process.check()
            time.sleep(0.2)

    def stop(self) -> None:
        """In reverse order: who calls ends before who is called, so nothing fails because of the stopping."""
        while self._processes:
            self._processes.pop().stop()

    def _begin(self, program: Program) -> Process:
        self._processes.append(Process(program, self._logs))
        return self._processes[-1]

    def _run(self, program: Program) -> None:
        self._begin(program).wait_until_it_answers(ANSWER_SECONDS)

    def _emulator(self) -> Program:
        keys = self._home.secrets["aws_root_access_key"], self._home.secrets["aws_root_secret_key"]
        return emulator.program(_python("emulator"), self._home.folder("aws"), self._settings.aws_port, *keys)

    def _account(self) -> Account:
        root = Keys(self._home.secrets["aws_root_access_key"], self._home.secrets["aws_root_secret_key"])
        return Account(emulator.endpoint_url(self._settings.aws_port), emulator.REGION, root)

    def _postgres(self) -> tuple[Server, str]:
        """A server with the roles, and the name of its database."""
        if self._settings.database_url:
            url = urlsplit(self._settings.database_url)
            self._say(f"PostgreSQL of your own at {url.hostname}:{url.port or 5432}")
            superuser = unquote(url.username or "postgres")
            passwords = {**self._home.secrets, superuser: unquote(url.password or "")}
            server = Server(url.hostname or "127.0.0.1", url.port or 5432, superuser, passwords)
            database = url.path.strip("/") or DATABASE
        else:
            server = ours = Postgres(self._home.private("postgres"), self._settings.postgres_port, self._home.secrets)
            database = DATABASE
            self._say("PostgreSQL" if ours.data.exists() else "PostgreSQL, with a new data directory")
            ours.prepare()
            self._run(ours.program())
        try:
            if not server.has_database(database):
                server.create_database(database)
        except ProgramError as error:
            if "password authentication failed" in str(error) and not self._settings.database_url:
                raise HomeError(f"secrets.json and postgres/ in {self._home.path} do not fit: {RESET}") from error
            raise
        server.make_roles(database)
        return server, database

    def _secrets(self, server: Server, database: str) -> Secrets:
        if proof_url := self._settings.proof_database_url:
            url = urlsplit(proof_url)
            self._say(f"proofs run at {url.hostname}:{url.port or 5432}")
        elif self._settings.database_url:
            self._say("proofs run on the same server, in databases that role notes_proof makes and drops")
        return Secrets(
            database_url=server.url("notes_backup", database),
            proof_database_url=proof_url or server.url("notes_proof", PROOF_DATABASE),
            restore_database_url=server.url("notes_restore", database),
            signing_key=signing.kept(self._home).pem,
        )

    def _valkey(self) -> str:
        password = self._home.secrets["valkey"]
        self._run(valkey.program(self._home.folder("valkey"), self._settings.valkey_port, password))
        return valkey.url(self._settings.valkey_port, password)

    def _migrate(self, service: str, server: Server, database: str) -> None:
        owner = {"notes_api": "notes_owner", "scheduler": "scheduler_owner"}[service]
        self._python_of(service, [f"{service}.migrate"], {"HOLDFAST_DATABASE_URL": server.url(owner, database)})

    def _mail(self, deployed: Deployed) -> Program:
        settings = mail.Settings(
            topic_arn=deployed.topic_arn,
            queue_url=deployed.queue_url,
            mail_folder=str(self._home.folder("mail")),
            subscriptions_file=str(self._subscriptions),
            smtp_port=self._settings.smtp_port,
            smtp_url=self._settings.smtp_url,
            endpoint_url=emulator.endpoint_url(self._settings.aws_port),
            region=emulator.REGION,
            access_key=deployed.mail.access_key,
            secret_key=deployed.mail.secret_key,
        )
        self._home.write_private("mail.json", json.dumps(asdict(settings)))
        return Program(
            name="mail",
            command=[str(_python("local")), "-m", "deploy.local.mail", str(self._home.path / "mail.json")],
            env=_environment(),
            cwd=ROOT,
            answers=lambda: mail.answers(settings),
        )

    def _services(self, server: Server, database: str, redis_url: str, deployed: Deployed) -> list[Program]:
        settings = self._settings
        notes_api = {
            "HOLDFAST_DATABASE_URL": server.url("notes_app", database),
            "HOLDFAST_SIGNING_KEY": self._home.secrets["notes_signing_key"],
            "HOLDFAST_REDIS_URL": redis_url,
            "HOLDFAST_ATTACHMENTS_BUCKET": deployed.attachments_bucket,
            "HOLDFAST_TOPIC_ARN": deployed.notes_topic_arn,
            "HOLDFAST_OTLP_ENDPOINT": settings.otlp_endpoint,
            **self._aws_env(deployed.notes_api),
        }
        scheduler = {
            "HOLDFAST_DATABASE_URL": server.url("scheduler_app", database),
            "HOLDFAST_HTTP_TARGETS": settings.http_targets,
            "HOLDFAST_OTLP_ENDPOINT": settings.otlp_endpoint,
            "HOLDFAST_BACKUPS_URL": deployed.backups_url,
        }
        console = scheduler | self._aws_env(deployed.console)
        worker = scheduler | {
            "HOLDFAST_REDIS_URL": redis_url,
            "HOLDFAST_TOPIC_ARN": deployed.topic_arn,
            "HOLDFAST_STATUS_ADDRESS": f"127.0.0.1:{settings.worker_port}",
            **({"HOLDFAST_PING_URL": settings.ping_url} if settings.ping_url else {}),
            **self._aws_env(deployed.scheduler),
        }
        return [
            self._api("notes_api", ("notes_api.serve",), settings.notes_api_port, notes_api),
            self._api("scheduler", ("scheduler.serve",), settings.scheduler_port, console),
            Program(
                name="scheduler_worker",
                command=[str(_python("scheduler")), "-m", "scheduler.worker"],
                env=_environment() | worker,
                cwd=ROOT,
                answers=lambda: http_ok(f"http://127.0.0.1:{settings.worker_port}/readyz"),
                stop_seconds=40,
            ),
        ]

    def _api(self, service: str, module: Sequence[str], port: int, env: Mapping[str, str]) -> Program:
        return Program(
            name=service,
            command=[str(_python(service)), "-m", *module, "--host", "127.0.0.1", "--port", str(port)],
            env=_environment() | dict(env),
            cwd=ROOT,
            answers=lambda: http_ok(f"http://127.0.0.1:{port}/readyz"),
        )

    def _nginx(self) -> Program:
        settings = self._settings
        return nginx.program(
            self._home.private("nginx"),
            settings.port,
            f"127.0.0.1:{settings.notes_api_port}",
            f"127.0.0.1:{settings.scheduler_port}",
        )

    def _env(self, server: Server, database: str, redis_url: str, deployed: Deployed) -> dict[str, str]:
        url = f"http://127.0.0.1:{self._settings.port}"
        return {
            "NOTES_URL": url,
            "NOTES_TOKEN": self._token("notes_api", f"{url}/v1/tokens", server.url("notes_app", database)),
            "SCHEDULER_URL": url,
            "SCHEDULER_TOKEN": self._token("scheduler", f"{url}/v1/runs", server.url("scheduler_app", database)),
            "BACKUPS_URL": deployed.backups_url,
            "AWS_ENDPOINT_URL": emulator.endpoint_url(self._settings.aws_port),
            "AWS_REGION": emulator.REGION,
            "AWS_ACCESS_KEY_ID": deployed.ops.access_key,
            "AWS_SECRET_ACCESS_KEY": deployed.ops.secret_key,
            "BACKUP_BUCKET": deployed.bucket,
            "TOPIC_ARN": deployed.topic_arn,
            "NOTES_TOPIC_ARN": deployed.notes_topic_arn,
            "SIGNING_KEY": signing.kept(self._home).fingerprint,
            "DATABASE_URL": server.url(server.superuser, database),
            "PSQL": str(programs() / "psql"),
            "REDIS_URL": redis_url,
            "MAIL_DIR": str(self._home.folder("mail")),
        }

    def _aws_env(self, keys: Keys) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": emulator.endpoint_url(self._settings.aws_port),
            "AWS_REGION": emulator.REGION,
            "AWS_DEFAULT_REGION": emulator.REGION,
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        }

    def _token(self, service: str, url: str, database_url: str) -> str:
        """A bearer token that the service takes: the one of the last start, or a new one with the scopes of today."""
        known, of_known = self._home.read_json("tokens.json"), f"{service} scopes"
        wanted = " ".join(TOKENS[service])
        if known.get(of_known) == wanted and http_ok(url, known[service]):
            return known[service]
        env = {"HOLDFAST_DATABASE_URL": database_url}
        owner = self._owner_before(env) if service == "notes_api" else []
        scopes = [word for scope in TOKENS[service] for word in ("--scope", scope)]
        words = [f"{service}.tokens", "create", "--name", TOKEN_NAME, *owner, *scopes]
        token = self._python_of(service, words, env).strip()
        self._home.write_private("tokens.json", json.dumps({**known, service: token, of_known: wanted}))
        return token

    def _owner_before(self, env: Mapping[str, str]) -> list[str]:
        """Of the token before, as an option: a new one reaches the same notes."""
        listed = map(json.loads, self._python_of("notes_api", ["notes_api.tokens", "list"], env).splitlines())
        owners = [each["owner"] for each in listed if each["name"] == TOKEN_NAME]
        return ["--owner", owners[-1]] if owners else []

    def _python_of(self, service: str, module_and_words: list[str], env: Mapping[str, str]) -> str:
        """What a service's module prints. Raises ProgramError."""
        command = [str(_python(service)), "-m", *module_and_words]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=ROOT, env=_environment() | dict(env)
        )
        if done.returncode != 0:
            raise ProgramError(f"{' '.join(module_and_words[:2])} failed:\n{done.stderr.strip()}")
        return done.stdout


def _python(environment: str) -> Path:
    """The interpreter of an environment that the Makefile made: each service has one of its own."""
    return ROOT / ".venv" / environment / "bin" / "python"


def _environment() -> dict[str, str]:
    """Nothing of the caller's environment reaches a part, so that it runs the same wherever it is started."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(ROOT / "services") + os.pathsep + str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
