"""The NGINX configuration, in front of two small servers: what goes where, what is refused, what is added."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from deploy.local import nginx
from deploy.local.process import Process


class Echo(BaseHTTPRequestHandler):
    """Answers with its server's name and the request's header fields."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"by": self.server.name, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()  # type: ignore[attr-defined]  # set below
        self.send_response(503 if self.path == "/v1/busy" else 200)
        if self.path == "/v1/busy":
            self.send_header("Retry-After", "42")
        self.send_header("X-Request-Id", "of the service")
        self.send_header("ETag", '"strong"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@contextmanager
def echo(name: str) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.name = name  # type: ignore[attr-defined]  # read above
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of an NGINX whose scheduler is away."""
    home = tmp_path_factory.mktemp("nginx") / "a folder with spaces"
    home.mkdir()
    with ExitStack() as stack:
        notes = stack.enter_context(echo("notes_api"))
        with echo("nobody") as away:
            port = away
        listen = free_port()
        process = Process(nginx.program(home, listen, notes, port), home)
        stack.callback(process.stop)
        process.wait_until_it_answers(20)
        yield stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{listen}"))
        assert '"path":"/v1/notes"' in process.log.read_text()
        assert '"path":"/v1/runs","status":503' in process.log.read_text(), "the path that was asked for"
        assert "secret words" not in process.log.read_text()


def free_port() -> int:
    with echo("nobody") as port:
        return port


def test_notes_go_to_notes_api(client: httpx.Client) -> None:
    assert client.get("/v1/notes", params={"q": "secret words"}).json()["by"] == "notes_api"


@pytest.mark.parametrize("path", ["/v1/schedules", "/v1/schedules/1/trigger", "/v1/runs", "/v1/runs/1"])
def test_a_service_that_is_away_is_a_problem_and_says_when_to_ask_again(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/problem+json")
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["type"] == "/problems/service-unavailable"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_the_service_knows_better_when_to_ask_again(client: httpx.Client) -> None:
    answer = client.get("/v1/busy")
    assert (answer.status_code, answer.headers.get_list("Retry-After")) == (503, ["42"])


@pytest.mark.parametrize(("sent", "kept"), [("abc-1.2_3", True), ("two words", False), ("x" * 65, False), ('"', False)])
def test_a_plain_request_id_is_kept_and_another_replaced(client: httpx.Client, sent: str, kept: bool) -> None:
    answer = client.get("/v1/notes", headers={"X-Request-Id": sent})
    assert (answer.headers["X-Request-Id"] == sent) is kept
    assert answer.json()["headers"]["x-request-id"] == answer.headers["X-Request-Id"]
    assert len(answer.headers.get_list("X-Request-Id")) == 1


@pytest.mark.parametrize("path", ["/v1/notes", "/v1/runs", "/metrics"])
def test_every_answer_carries_the_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Server"] == "nginx", "no version"


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_what_services_say_of_themselves_is_not_public(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


def test_a_strong_etag_stays_strong(client: httpx.Client) -> None:
    answer = client.get("/v1/notes", headers={"Accept-Encoding": "gzip", "X-Long": "x" * 4000})
    assert answer.headers["ETag"] == '"strong"'


def test_what_is_no_http_that_we_know_is_a_problem(client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: nonsense\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"/problems/bad-request"' in answer


def test_a_request_without_a_host_reaches_the_service(client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(b"GET /v1/notes HTTP/1.0\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"host": ""' not in answer


@pytest.mark.parametrize("path", ["/problems/unavailable", "/problems/not-found"])
def test_the_pages_of_problems_are_not_public(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("status", "type_", "request_"),
    [
        (413, "body-too-large", {"method": "POST", "url": "/v1/notes", "content": b" " * (2 * 1024 * 1024 + 1)}),
        (414, "uri-too-long", {"method": "GET", "url": f"/{'x' * 9000}"}),
        (431, "header-fields-too-large", {"method": "GET", "url": "/", "headers": {"X": "x" * 9000}}),
        (400, "bad-request", {"method": "GET", "url": "/", "headers": {"Host": "a b"}}),
        (405, "method-not-allowed", {"method": "TRACE", "url": "/v1/notes"}),
    ],
)
def test_what_is_too_large_or_wrong_is_a_problem(
    client: httpx.Client, status: int, type_: str, request_: dict[str, object]
) -> None:
    answer = client.request(**request_)  # type: ignore[arg-type]  # keywords of a request, as given above
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{type_}")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_flood_from_one_address_is_slowed_down(client: httpx.Client) -> None:
    """100 a second after a burst of 200: of 600 sent down one connection at once, some must wait."""
    port = client.base_url.port or 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /v1/runs HTTP/1.1\r\nHost: a\r\n\r\n" * 600)
        connection.sendall(b"GET /v1/runs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = connection.makefile("rb").read().split(b"HTTP/1.1 ")[1:]
    slowed = [answer for answer in answers if answer.startswith(b"429")]
    assert len(answers) == 601
    assert slowed
    assert all(b"\r\nRetry-After: 1\r\n" in answer and b'"/problems/too-many-requests"' in answer for answer in slowed)
