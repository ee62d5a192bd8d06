"""The NGINX configuration, in front of two small servers: what goes where, what is refused, what is added."""

import json
import socket
import socketserver
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from deploy.local import nginx
from deploy.local.postgres import UNPRIVILEGED_USER
from deploy.local.process import Process
from tests.deploy.test_login import certify
from tests.servers import free_port, private_directory


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

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


class TwoAddresses(socketserver.BaseRequestHandler):
    """A name server that knows two addresses of whatever it is asked for: nobody listens at the second. RFC 1035."""

    def handle(self) -> None:
        query, reply_by = self.request
        question = query[12 : query.index(b"\0", 12) + 5]
        is_a = question[-4:-2] == b"\0\1"
        counts = struct.pack(">HHHH", 1, 2 if is_a else 0, 0, 0)
        records = b"".join(
            b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 5, 4) + socket.inet_aton(address)
            for address in ("127.0.0.1", "127.0.0.2")
        )
        reply_by.sendto(query[:2] + b"\x81\x80" + counts + question + (records if is_a else b""), self.client_address)


@contextmanager
def name_server() -> Iterator[int]:
    with socketserver.UDPServer(("127.0.0.1", 0), TwoAddresses) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


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
def client() -> Iterator[httpx.Client]:
    """Of an NGINX whose scheduler is away."""
    with ExitStack() as stack:
        notes = stack.enter_context(echo("notes_api"))
        home = stack.enter_context(private_directory(owner=UNPRIVILEGED_USER)) / "a folder with spaces"
        home.mkdir()
        address = stack.enter_context(started(home, f"127.0.0.1:{notes}"))
        yield stack.enter_context(httpx.Client(base_url=f"http://{address}"))
        log = (home / "nginx.log").read_text()
        assert '"path":"/v1/notes"' in log
        assert '"path":"/v1/runs","status":503' in log, "the path that was asked for"
        assert "secret words" not in log


@contextmanager
def started(home: Path, notes_api: str, **more: str) -> Iterator[str]:
    """The address of an NGINX whose scheduler is away."""
    listen = free_port()
    process = Process(nginx.program(home, listen, notes_api, f"127.0.0.1:{free_port()}", **more), home)
    try:
        process.wait_until_it_answers(20)
        yield f"127.0.0.1:{listen}"
    finally:
        process.stop()


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
    assert headers["Referrer-Policy"] == "same-origin"
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


def test_there_is_a_page_that_leads_on_and_it_runs_no_script(client: httpx.Client) -> None:
    page, style = client.get("/"), client.get("/static/style.css")
    assert (page.status_code, page.headers["Content-Type"], "/docs" in page.text) == (200, "text/html", True)
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    assert (style.headers["Content-Type"], style.headers["Cache-Control"]) == ("text/css", "max-age=3600")
    assert client.get("/static/none.css").json()["type"] == "/problems/not-found"
    assert "by" in client.get("/static").json(), "everything else is asked of a service"


@pytest.mark.parametrize(
    ("path", "zipped"),
    [("/openapi.json", True), ("/docs", True), ("/v1/notes:export", True), ("/v1/notes", False), ("/v1/runs", False)],
)
def test_what_nobody_changes_comes_zipped(client: httpx.Client, path: str, zipped: bool) -> None:
    answer = client.get(path, headers={"Accept-Encoding": "gzip", "X-Long": "x" * 4000})
    assert (answer.headers.get("Content-Encoding") == "gzip") is zipped


def test_by_tls_where_there_is_a_certificate(tmp_path: Path) -> None:
    certificate, key, authority = certify("127.0.0.1")
    (tmp_path / "certificate.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    tls = free_port()
    more = {
        "NGINX_SCHEME": "https",
        "NGINX_TLS_LISTEN": f"127.0.0.1:{tls}",
        "NGINX_TLS_PORT": str(tls),
        "NGINX_CERTIFICATES": str(tmp_path),
    }
    trusting = ssl.create_default_context(cadata=authority)
    with echo("notes_api") as notes, started(tmp_path, f"127.0.0.1:{notes}", **more) as plain:
        with httpx.Client(base_url=f"https://127.0.0.1:{tls}", verify=trusting) as client:
            answer = client.get("/v1/notes")
            assert answer.json()["headers"]["x-forwarded-proto"] == "https"
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        moved = httpx.get(f"http://{plain}/v1/notes?limit=1")
        assert (moved.status_code, moved.headers["Location"]) == (308, f"https://127.0.0.1:{tls}/v1/notes?limit=1")
        assert httpx.get(f"http://{plain}/livez").status_code == 200, "whoever watches it asks from the machine itself"
        new = ssl.create_default_context(cadata=authority)
        new.set_alpn_protocols(["h2", "http/1.1"])
        with new.wrap_socket(socket.create_connection(("127.0.0.1", tls)), server_hostname="127.0.0.1") as connection:
            assert connection.selected_alpn_protocol() == "h2"


def test_of_two_servers_the_one_that_answers_is_asked(tmp_path: Path) -> None:
    """Also for what must not be done twice: it was not sent to the one that could not be reached."""
    with ExitStack() as leaving:
        names, notes = leaving.enter_context(name_server()), leaving.enter_context(echo("notes_api"))
        resolver = {"NGINX_RESOLVER": f"127.0.0.1:{names} ipv6=off valid=1s"}
        address = leaving.enter_context(started(tmp_path, f"notes-api.test:{notes}", **resolver))
        client = leaving.enter_context(httpx.Client(base_url=f"http://{address}"))
        for _ in range(10):
            assert client.get("/v1/notes").json()["by"] == "notes_api"
            assert client.post("/v1/notes", json={}).json()["by"] == "notes_api"


def test_a_flood_from_one_address_is_slowed_down(client: httpx.Client) -> None:
    """The last one here. 100 a second after a burst of 200: of 600 sent down one connection at once, some must wait."""
    port = client.base_url.port or 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /v1/runs HTTP/1.1\r\nHost: a\r\n\r\n" * 600)
        connection.sendall(b"GET /v1/runs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = connection.makefile("rb").read().split(b"HTTP/1.1 ")[1:]
    slowed = [answer for answer in answers if answer.startswith(b"429")]
    assert len(answers) == 601
    assert slowed
    assert all(b"\r\nRetry-After: 1\r\n" in answer and b'"/problems/too-many-requests"' in answer for answer in slowed)
