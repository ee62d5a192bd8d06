"""What no client should send, on every route that takes a body: it is refused clearly, or stored as it is."""

import json
from itertools import product
from typing import Any
from uuid import uuid4

import httpx
import pytest

MIB = 1024 * 1024
WHOLE = ("POST /v1/notes", "PUT", "PATCH")
ROUTES = (*WHOLE, "POST :append", "POST :replace")
NO_JSON = (
    b"{",
    b"nonsense",
    b'{"title": "x"} {"title": "y"}',
    b'{"title": "\xff"}',
    b'{"title": "\xed\xa0\xbd"}',
    b'\xef\xbb\xbf{"title": "x"}',
    '{"title": "x"}'.encode("utf-16"),
    b"\0",
    b"[" * 100_000,
    b'{"metadata":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"title": "x", "metadata": {"a": ' + b"9" * 5000 + b"}}",
    b'{"title": "x", "title": "y"}',
    b'{"title": "x", "metadata": {"a": [{"b": 1, "b": 2}]}}',
    b'{"title": "x", "content": "y", "find": "tea", "replace": "z", "content": "y"}',
    b'{"title": "x", "metadata": {"a": NaN}}',
    b'{"title": "x", "metadata": {"a": -Infinity}}',
    b"{'title': 'x'}",
    b'{"title": "x\n"}',
    b'{"title": 01}',
)
# As JSON has them.
WRONG_TEXTS = (
    r"\ud83d",
    r"x\udc00",
    r"\udc00\ud83d",
    r"\u0000",
    r"a\u0000b",
    "x" * (MIB + 1),
    "🍵" * (MIB // 4) + "x",
)
TEXTS = (
    ("POST /v1/notes", '{"title": "%s"}'),
    ("POST /v1/notes", '{"title": "x", "content": "%s"}'),
    ("POST /v1/notes", '{"title": "x", "tags": ["%s"]}'),
    ("POST /v1/notes", '{"title": "x", "%s": 1}'),
    ("POST /v1/notes", '{"title": "x", "metadata": {"%s": 1}}'),
    ("POST /v1/notes", '{"title": "x", "metadata": {"a": {"%s": 1}}}'),
    ("POST /v1/notes", '{"title": "x", "metadata": {"a": ["%s"]}}'),
    ("PATCH", '{"title": "%s"}'),
    ("PATCH", '{"content": "%s"}'),
    ("PATCH", '{"tags": ["%s"]}'),
    ("PATCH", '{"metadata": {"%s": {"b": 1}}}'),
    ("PATCH", '{"metadata": {"a": {"%s": [1]}}}'),
    ("PATCH", '{"metadata": {"a": [["%s"]]}}'),
    ("PUT", '{"title": "x", "metadata": {"%s": {}}}'),
    ("POST :append", '{"content": "%s"}'),
    ("POST :append", '{"content": "x", "separator": "%s"}'),
    ("POST :replace", '{"find": "tea", "replace": "%s"}'),
    ("POST :replace", '{"find": "%s", "replace": "x"}'),
)
WRONG_METADATA = (
    b'{"a": 1e400}',
    b'{"a": [-1e999]}',
    b'{"a":' * 16 + b"{}" + b"}" * 16,
    b'{"a":' * 200 + b"{}" + b"}" * 200,
    b'{"a": "' + b"y" * 16_400 + b'"}',
    b'{"a": [' + b"1e308, " * 53 + b"0]}",  # 16 KiB and more, as it is stored
    b'{"a": [' + b"-1e-300, " * 54 + b"0]}",
    b'{"' + b"y" * 1_000_000 + b'": 1}',
    b"[1]",
    b'"x"',
)
DEEP_METADATA = b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"  # which some parsers follow, and some do not
WRONG_TAGS: tuple[object, ...] = (
    ["x" * 1_000_000],
    ["t"] * 100_000,
    [""],
    [None],
    [["a"]],
    [{}],
    {"a": 1},
    "a",
    ["x", 5],
)
WRONG_TYPES = (
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/xml",
    "application/json-patch+json",
    "application/vnd.api+json",
    "application/jsonl",
    "nonsense",
    "/",
    ";",
)


async def _send(
    somebody: httpx.AsyncClient, route: str, body: bytes, content_type: str = "", note: dict[str, Any] | None = None
) -> httpx.Response:
    """To a note that is there, of which the version is named."""
    note = note or (await somebody.post("/v1/notes", json={"title": "Tea", "content": "tea"})).json()
    method, _, rest = route.partition(" ")
    path = rest if rest.startswith("/") else f"/v1/notes/{note['id']}{rest}"
    merge_patch = "application/merge-patch+json" if method == "PATCH" else "application/json"
    headers = {"Content-Type": content_type or merge_patch, "If-Match": note["etag"]}
    return await somebody.request(method, path, content=body, headers=headers)


def _is_problem(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text[:1000]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    assert len(answer.content) < 20_000, "it does not repeat what it was sent"


@pytest.mark.parametrize("route", ROUTES)
async def test_what_is_no_json_is_refused(ada: httpx.AsyncClient, route: str) -> None:
    for body in NO_JSON:
        _is_problem(await _send(ada, route, body), 400)
    _is_problem(await _send(ada, route, b""), 422)


@pytest.mark.parametrize("route", ROUTES)
async def test_json_of_another_shape_is_refused(ada: httpx.AsyncClient, route: str) -> None:
    for body in (b"[]", b"null", b"5", b'"x"', b"[[]]", b'{"": 1}', b'{"title": {"a": [[]]}}', b"1e400"):
        _is_problem(await _send(ada, route, body), 422)


@pytest.mark.parametrize("text", WRONG_TEXTS, ids=lambda text: ascii(text[:16]))
async def test_text_that_cannot_be_stored_is_refused_wherever_it_stands(ada: httpx.AsyncClient, text: str) -> None:
    for route, body in TEXTS:
        _is_problem(await _send(ada, route, (body % text).encode()), 422)


@pytest.mark.parametrize(
    "content",
    [
        "🍵" * (MIB // 4),
        "\u202e\u05e9\u05dc\u05d5\u05dd\u202c \u0639\u0631\u0628\u064a\u200f\u2066x\u2069",
        "é e\u0301 \ufb01 \u1e9b\u0323",
        "\ufeff\ufffe\uffff\u2028\u2029\x85\x0b\x0c\r\n\r\t\x1b[31m\x7f",
        "".join(chr(code) for code in range(1, 0x3000)),
        "👨\u200d👩\u200d👧\u200d👦🏳️\u200d🌈" * 10_000,
        "\U0010ffff" * 1000,
        "Z\u0310\u0301\u0302" * 50_000,
        "<script>alert(1)</script> {{7*7}} ${x} %s %n '; drop table notes.notes; --",
        "x" * 500_000 + " " + "y" * 500_000,
        " ".join(f"w{number}" for number in range(140_000)),
    ],
    ids=lambda text: ascii(text[:8]),
)
async def test_any_other_text_is_stored_as_it_is(ada: httpx.AsyncClient, content: str) -> None:
    made = (await ada.post("/v1/notes", json={"title": "Tea", "content": "tea"})).json()
    edited = await _send(ada, "PATCH", json.dumps({"content": content}, ensure_ascii=False).encode(), note=made)
    assert edited.status_code == 200, edited.text[:1000]
    assert (await ada.get(f"/v1/notes/{made['id']}")).json()["content"] == content
    await ada.put(f"/v1/notes/{made['id']}", json={"title": "x"}, headers={"If-Match": edited.headers["ETag"]})
    assert (await ada.get(f"/v1/notes/{made['id']}/revisions/2")).json()["content"] == content


@pytest.mark.parametrize(
    "metadata",
    [
        {"": "", " ": [None], "a/b~c": [], "__proto__": {}, "id": 1},
        {"n": [0, -1, 2**53 + 1, 2**64, 10**300, -(10**40), 0.1, 1.5e-7, 1.7976931348623157e308, 5e-324, 1.0]},
        {"n": [1e16, 1.5e22, -0.0, -1e-7, *[1e308] * 50]},
        {"b": [True, False, None, [], {}, [[]], ""]},
        {"🍵": "🍵", "\u202e": "\u05e9\u05dc", "\ufffe": "\x7f", "u0000": "\\u0001"},
        json.loads('{"a":' * 15 + "{}" + "}" * 15),
        {"x": "y" * 16_300},
    ],
    ids=["names", "numbers", "exponents", "constants", "characters", "16 levels", "16 KiB"],
)
@pytest.mark.parametrize("route", WHOLE)
async def test_metadata_is_stored_as_it_is(ada: httpx.AsyncClient, route: str, metadata: dict[str, Any]) -> None:
    whole = {"metadata": metadata} if route == "PATCH" else {"title": "x", "metadata": metadata}
    made = await _send(ada, route, json.dumps(whole, ensure_ascii=False).encode())
    assert made.is_success, made.text[:1000]
    found = await ada.get(f"/v1/notes/{made.json()['id']}")
    assert found.json() == made.json()
    assert _as_doubles(found.json()["metadata"]) == _as_doubles(metadata)


def _as_doubles(value: Any) -> Any:
    """1.7e308 comes back without an exponent, as PostgreSQL writes it: the same number, and for Python an integer."""
    if isinstance(value, dict):
        return {name: _as_doubles(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_doubles(each) for each in value]
    return float(value) if isinstance(value, int) and abs(value) > 10**307 else value


@pytest.mark.parametrize("route", WHOLE)
async def test_metadata_that_cannot_be_stored_is_refused(ada: httpx.AsyncClient, route: str) -> None:
    title = b"" if route == "PATCH" else b'"title": "x", '
    for metadata in WRONG_METADATA:
        _is_problem(await _send(ada, route, b"{%b" % title + b'"metadata": ' + metadata + b"}"), 422)
    _is_problem(await _send(ada, route, b"{%b" % title + b'"metadata": ' + DEEP_METADATA + b"}"), 400, 422)


@pytest.mark.parametrize("route", WHOLE)
async def test_tags_that_are_none_are_refused(ada: httpx.AsyncClient, route: str) -> None:
    for tags in WRONG_TAGS:
        body = {"tags": tags} if route == "PATCH" else {"title": "x", "tags": tags}
        _is_problem(await _send(ada, route, json.dumps(body).encode()), 422)


@pytest.mark.parametrize("route", ROUTES)
async def test_another_content_type_is_refused(ada: httpx.AsyncClient, route: str) -> None:
    for content_type in WRONG_TYPES:
        _is_problem(await _send(ada, route, b'{"title": "x"}', content_type), 415)


async def test_parameters_of_the_content_type_do_not_matter(ada: httpx.AsyncClient) -> None:
    for content_type in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x"):
        assert (await _send(ada, "POST /v1/notes", b'{"title": "x"}', content_type)).status_code == 201


@pytest.mark.parametrize("route", ROUTES)
async def test_a_body_that_is_too_large_is_refused(ada: httpx.AsyncClient, route: str) -> None:
    _is_problem(await _send(ada, route, b" " * (10 * MIB)), 413)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "POST"])
async def test_a_path_that_is_none_is_refused(ada: httpx.AsyncClient, method: str) -> None:
    body = b'{"title": "x"}' if method in {"PUT", "POST", "PATCH"} else b""
    headers = {"Content-Type": "application/json", "If-Match": '"1-1"'}
    for rest in (
        "%00",
        "%ff",
        "..%2f",
        f"{uuid4()}%00",
        f"{uuid4()}:nothing",
        f"{uuid4()}/revisions/%F0%9F%8D%B5",
        f"{uuid4()}/revisions/{'9' * 5000}",
    ):
        answer = await ada.request(method, f"/v1/notes/{rest}", content=body, headers=headers)
        _is_problem(answer, 404, 405, 414, 415, 422)


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "Idempotency-Key", "Content-Type", "Authorization"])
async def test_a_header_that_is_nonsense_changes_nothing(ada: httpx.AsyncClient, name: str) -> None:
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    values = (b"\xff", b"\xf0\x9f\x8d\xb5", b'"' * 5000, b"W/" * 2500, b'"1-1",' * 1000, b"\t")
    for method, value in product(("GET", "PUT", "DELETE"), values):
        body = b'{"title": "x"}' if method == "PUT" else b""
        headers = {b"Content-Type": b"application/json"} | {name.encode(): value}
        answer = await ada.request(method, f"/v1/notes/{note['id']}", content=body, headers=headers)
        assert answer.status_code < 500, answer.text
    assert (await ada.get(f"/v1/notes/{note['id']}")).json() == note
