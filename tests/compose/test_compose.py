"""compose.yaml, run by Docker: `make test-compose`. It comes up, does what it is for, and each part is replaced alone.

It is a project of its own, on free ports, and is removed with its volumes.
"""

import json
import os
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.credentials import Credentials

from tests.deploy.test_login import certify
from tests.servers import free_port
from tests.system.stack import ROOT, UNDER_WAY, Signature, bearer, eventually

pytestmark = pytest.mark.timeout(900)
PORTS = {
    name: str(free_port()) for name in ("HOLDFAST_PORT", "HOLDFAST_TLS_PORT", "HOLDFAST_AWS_PORT", "HOLDFAST_MAIL_PORT")
}
SCOPES = ["--scope", "notes:read", "--scope", "notes:write"]


class Host:
    """`docker compose` in this checkout; `settings` are what .env would say."""

    url = f"http://127.0.0.1:{PORTS['HOLDFAST_PORT']}"

    def compose(self, *words: str, **settings: str) -> str:
        env = os.environ | PORTS | {"COMPOSE_PROJECT_NAME": "holdfast-test"} | settings
        done = subprocess.run(
            ["docker", "compose", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def token(self) -> str:
        command = ["exec", "-T", "notes_api", "python", "-m", "notes_api.tokens", "create", "--name", "me", *SCOPES]
        return self.compose(*command).strip()

    def backups(self) -> httpx.Client:
        """The gateway, signed by ops."""
        said = self.compose("run", "--rm", "--no-deps", "--entrypoint", "cat", "deploy", "/run/holdfast/ops/env")
        env = dict(line.split("=", 1) for line in said.splitlines())
        keys = Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
        url = env["BACKUPS_URL"] + "/"
        return httpx.Client(base_url=url, auth=Signature(keys, "execute-api", env["AWS_REGION"]), timeout=30)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What Docker says of each that runs, by its service."""
        running = self.compose("ps", "--quiet").split()
        said = subprocess.run(["docker", "inspect", *running], capture_output=True, check=True).stdout
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in json.loads(said)}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    try:
        host.compose("up", "--build", "--wait")
        yield host
    finally:
        host.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def notes(host: Host) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{host.url}/v1", headers=bearer(host.token()), timeout=30) as notes:
        yield notes


def made(notes: httpx.Client) -> str:
    """The path of a new note."""
    answer = notes.post("notes", json={"title": "kept"})
    assert answer.status_code == 201, answer.text
    return f"notes/{answer.json()['id']}"


def test_a_backup_is_proven_and_announced(host: Host, notes: httpx.Client) -> None:
    made(notes)
    with host.backups() as backups:
        assert backups.post("subscriptions", json={"email": "ops@example.org"}).status_code == 201
        backup_id = backups.post("backups", json={}, headers={"Prefer": "wait=25"}).json()["id"]

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = backups.get(f"backups/{backup_id}").json()
            return None if found["state"] in UNDER_WAY else found

        assert eventually(ended)["state"] == "proven"
    mails = f"http://127.0.0.1:{PORTS['HOLDFAST_MAIL_PORT']}/api/v1/messages"
    eventually(lambda: backup_id in httpx.get(mails).text)


def test_a_container_may_do_little(host: Host) -> None:
    for service, container in host.containers().items():
        config = container["HostConfig"]
        assert config["ReadonlyRootfs"], service
        assert config["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in config["SecurityOpt"], service
        assert container["Config"]["User"].split(":")[0] not in ("", "0", "root"), service
        assert config["Memory"] > 0, service
        assert config["PidsLimit"] > 0, service
        assert config["LogConfig"]["Config"]["max-size"] == "10m", service


@pytest.mark.parametrize(
    ("service", "replaced"), [("notes_api", ["notes_api"]), ("scheduler", ["scheduler", "scheduler_worker"])]
)
def test_one_service_is_replaced_alone_and_put_back(
    host: Host, notes: httpx.Client, service: str, replaced: Sequence[str]
) -> None:
    note = made(notes)
    subprocess.run(["docker", "tag", f"holdfast/{service}:local", f"holdfast/{service}:next"], check=True)
    before = host.containers()
    for version in ("next", "local"):
        host.compose("up", "--detach", "--wait", *replaced, **{f"HOLDFAST_{service.upper()}_VERSION": version})
        after = host.containers()
        assert {name for name in after if after[name]["Id"] != before[name]["Id"]} == set(replaced)
        assert after[service]["Config"]["Image"].endswith(f"/{service}:{version}")
        assert eventually(lambda: notes.get(note).status_code == 200)
        before = after


def test_two_of_a_service_share_the_work(host: Host, notes: httpx.Client) -> None:
    """And while one of them is gone, the other is asked."""
    note = made(notes)
    host.compose("up", "--detach", "--wait", "--no-recreate", "--scale", "notes_api=2", "notes_api")

    def seen() -> bool:
        assert notes.get(note).status_code == 200
        lines = [
            json.loads(line) for line in host.compose("logs", "--no-log-prefix", "--tail", "40", "nginx").splitlines()
        ]
        return len({line["upstream"] for line in lines if line["path"] == f"/v1/{note}"}) == 2

    eventually(seen)  # NGINX looks for servers every five seconds
    first, _ = host.compose("ps", "--quiet", "notes_api").split()
    subprocess.run(["docker", "kill", first], check=True, capture_output=True)
    answers = [notes.get(note).status_code for _ in range(20)] + [
        notes.post("notes", json={"title": "more"}).status_code for _ in range(20)
    ]
    assert answers == [200] * 20 + [201] * 20
    host.compose("up", "--detach", "--wait", "--scale", "notes_api=1", "notes_api")


def test_tls_by_a_folder_with_a_certificate(host: Host, tmp_path: Path) -> None:
    certificate, key, authority = certify("127.0.0.1")
    for name, content in (("certificate.pem", certificate), ("key.pem", key)):
        (tmp_path / name).write_text(content)
    tmp_path.chmod(0o755)
    trusting = ssl.create_default_context(cadata=authority)
    host.compose("up", "--detach", "--wait", "nginx", HOLDFAST_CERTIFICATES=str(tmp_path))
    secure = f"https://127.0.0.1:{PORTS['HOLDFAST_TLS_PORT']}"
    answer = httpx.get(f"{secure}/v1/notes", verify=trusting)
    assert (answer.status_code, answer.headers["Strict-Transport-Security"]) == (401, "max-age=31536000")
    plain = httpx.get(f"http://127.0.0.1:{PORTS['HOLDFAST_PORT']}/v1/notes?limit=1")
    assert (plain.status_code, plain.headers["Location"]) == (308, f"{secure}/v1/notes?limit=1")
    host.compose("up", "--detach", "--wait", "nginx")
