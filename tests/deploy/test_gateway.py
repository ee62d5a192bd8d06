"""Who may call the gateway, and which methods."""

from collections.abc import Callable

import httpx
import pytest

from tests.deploy.account import Keys
from tests.deploy.conftest import Deployed

BACKUP = "/backups/20261122T020000Z-3f9a2c1b"
METHODS = {
    ("POST", "/backups"): "/backups",
    ("GET", "/backups"): "/backups",
    ("GET", "/backups/before/20261122T020000Z-3f9a2c1b"): "/backups/before/{backup_id}",
    ("GET", BACKUP): "/backups/{backup_id}",
    ("POST", f"{BACKUP}/cancel"): "/backups/{backup_id}/cancel",
    ("POST", f"{BACKUP}/proofs"): "/backups/{backup_id}/proofs",
    ("POST", f"{BACKUP}/restores"): "/backups/{backup_id}/restores",
    ("GET", f"{BACKUP}/tables/notes.notes"): "/backups/{backup_id}/tables/{table}",
    ("GET", f"{BACKUP}/tables/notes.notes/rows/42"): "/backups/{backup_id}/tables/{table}/rows/{key}",
    ("GET", f"{BACKUP}/diff/now"): "/backups/{backup_id}/diff/{other}",
    ("GET", f"{BACKUP}/diff/now/after/eyJ0Ijoi"): "/backups/{backup_id}/diff/{other}/after/{cursor}",
    ("GET", "/restores/20261122T020000Z-3f9a2c1b"): "/restores/{restore_id}",
    ("GET", "/rows/notes.notes/42/history"): "/rows/{table}/{key}/history",
    ("GET", "/retention"): "/retention",
    ("POST", "/retention"): "/retention",
    ("POST", "/subscriptions"): "/subscriptions",
    ("GET", "/subscriptions"): "/subscriptions",
    ("POST", "/subscriptions/test"): "/subscriptions/test",
    ("DELETE", "/subscriptions/6e7b3c5a"): "/subscriptions/{subscription_id}",
}
OF_THE_SCHEDULER = {
    ("POST", "/backups"),
    ("GET", "/backups"),
    ("GET", "/backups/before/20261122T020000Z-3f9a2c1b"),
    ("GET", BACKUP),
    ("POST", f"{BACKUP}/cancel"),
    ("POST", f"{BACKUP}/proofs"),
    ("GET", "/retention"),
    ("POST", "/retention"),
}


@pytest.fixture
def call(deployed: Deployed) -> Callable[..., httpx.Response]:
    def call(method: str, path: str, keys: Keys | None = None, body: bytes = b"") -> httpx.Response:
        return deployed.account.call(deployed.outputs["ApiId"], method, path, keys, body)

    return call


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_an_unsigned_call_is_refused(call: Callable[..., httpx.Response], method: str, path: str) -> None:
    assert call(method, path).status_code == 403


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_a_wrongly_signed_call_is_refused(
    call: Callable[..., httpx.Response], deployed: Deployed, method: str, path: str
) -> None:
    refused = call(method, path, Keys(deployed.ops.access_key, "not the secret"))
    assert (refused.status_code, refused.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")


def test_a_key_that_nobody_was_given_is_refused(call: Callable[..., httpx.Response]) -> None:
    assert call("GET", "/backups", Keys("AKIAUNKNOWNUNKNOWN00", "secret")).status_code == 403


def test_a_body_that_was_changed_on_the_way_is_refused(call: Callable[..., httpx.Response], deployed: Deployed) -> None:
    signed = call("POST", "/backups", deployed.scheduler, b'{"label": "mine"}').request
    changed = httpx.post(signed.url, headers=signed.headers, content=b'{"label": "ours"}')
    assert changed.status_code == 403


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_ops_call_every_method(call: Callable[..., httpx.Response], deployed: Deployed, method: str, path: str) -> None:
    answer = call(method, path, deployed.ops)
    assert (answer.status_code, answer.json()["resource"]) == (200, METHODS[method, path])


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_the_scheduler_makes_follows_and_proves_backups_and_reads_none(
    call: Callable[..., httpx.Response], deployed: Deployed, method: str, path: str
) -> None:
    allowed = (method, path) in OF_THE_SCHEDULER
    assert call(method, path, deployed.scheduler).status_code == (200 if allowed else 403)


@pytest.mark.parametrize(
    "below", ["/tables/notes.notes", "/of-a-later-release", "/diff/now/after/x", "/tables/n/rows/1", "x"]
)
@pytest.mark.parametrize("backup", [BACKUP, BACKUP.replace("2026", "%32026"), BACKUP.replace("-", "%2D")])
def test_what_lies_below_a_backup_is_denied_to_the_scheduler(
    call: Callable[..., httpx.Response], deployed: Deployed, backup: str, below: str
) -> None:
    assert call("GET", f"{backup}{below}", deployed.scheduler).status_code == 403


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_a_user_without_a_policy_calls_nothing(
    call: Callable[..., httpx.Response], deployed: Deployed, method: str, path: str
) -> None:
    assert call(method, path, deployed.nobody).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/backups/x"), ("GET", "/"), ("GET", "/restores"), ("DELETE", "/retention")]
)
def test_what_is_no_method_does_not_reach_the_function(
    call: Callable[..., httpx.Response], deployed: Deployed, method: str, path: str
) -> None:
    assert call(method, path, deployed.ops).status_code == 403


def test_what_is_encoded_in_a_path_reaches_the_function_decoded(
    call: Callable[..., httpx.Response], deployed: Deployed
) -> None:
    answer = call("GET", "/rows/notes.m%C3%BCll%20und%20%22mehr%22/a~b%40c%3Ad/history", deployed.ops)
    assert answer.json()["pathParameters"] == {"table": 'notes.müll und "mehr"', "key": "a~b@c:d"}


def test_the_function_gets_the_body_as_it_was_sent(call: Callable[..., httpx.Response], deployed: Deployed) -> None:
    assert call("POST", "/backups", deployed.scheduler, b'{"label": "x"}').json()["body"] == '{"label": "x"}'
