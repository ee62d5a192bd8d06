"""The notes API under load, beside a bare FastAPI and Django REST framework on the same tables, all with two processes.

Rounds take turns: what else the machine does meanwhile hits all three. Each figure is the median of the rounds.
"""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import httpx

from deploy.local.postgres import Postgres
from deploy.local.process import Process, Program
from tests.bench import rows
from tests.bench.load import CONNECTIONS, Loaded, Sent, load, request
from tests.servers import free_port, running

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv" / "tools" / "bin"
DATABASE = "served"
OWNER, FEW_OWNER = UUID(int=1), UUID(int=2)
PROCESSES = "2"
PAGE, LAST = 10, 10_000  # a page of so many, and the number of the last page that is compared with the first
MEBIBYTE = 1024 * 1024


class Budget(NamedTuple):
    """At least so many times the requests per second of `beside`."""

    limit: float
    beside: str


OF_BARE, OF_DRF = Budget(0.6, "bare"), Budget(3, "DRF")
SAME = Budget(0.9, "page 1")
EXPORT_PEAK = 1.2  # times what the process had when it had exported few


@dataclass(frozen=True)
class Subject:
    """A server, and what makes its requests."""

    name: str
    url: str
    kinds: dict[str, Sent]


@dataclass(frozen=True)
class Served:
    """100,000 notes of one owner and 1,000 of another, in a database of the real schema."""

    server: Postgres
    environment: dict[str, str]
    logs: Path
    notes: int
    seconds: float  # of a round
    rounds: int

    def measure(self) -> Iterator[str]:
        self._prepare()
        yield f"{self.notes:,} notes of an owner, {CONNECTIONS} connections, {PROCESSES} processes of each server"
        line = "{:15} {:>9} {:>9} {:>9}  {:26} {:>9} {:>9}  {}".format
        yield line("requests / s", "notes_api", "bare", "DRF", "compared with", "measured", "at least", "")
        with ExitStack() as leaving:
            subjects = [leaving.enter_context(each()) for each in (self.ours, self.bare, self.drf)]
            for kind in subjects[0].kinds:
                found = asyncio.run(self._take_turns(kind, subjects))
                front = [kind, *(f"{found[name]:.0f}" for name in ("notes_api", "bare", "DRF"))]
                for budget in (OF_BARE, OF_DRF):
                    ratio = found["notes_api"] / found[budget.beside]
                    verdict = "met" if ratio >= budget.limit else "MISSED"
                    told = (f"requests / s of {budget.beside}", f"{ratio:.2f}x", f"{budget.limit:.2f}x", verdict)
                    yield line(*front, *told)
                    front = [""] * 4
            yield from self._pages(subjects[0], line)
        yield from self._export()

    async def _take_turns(self, kind: str, subjects: list[Subject]) -> dict[str, float]:
        found: dict[str, list[Loaded]] = {each.name: [] for each in subjects}
        for number in range(self.rounds + 1):
            for subject in subjects:
                loaded = await load(subject.url, subject.kinds[kind], self.seconds)
                if number:  # the first one warms up
                    found[subject.name].append(loaded)
        return {name: statistics.median(each.per_second for each in many) for name, many in found.items()}

    def _pages(self, ours: Subject, line: Callable[..., str]) -> Iterator[str]:
        number = min(LAST, self.notes // PAGE)
        cursor = self._cursor_before(ours.url, (number - 1) * PAGE)
        token = self._token()
        first = request("GET", f"/v1/notes?limit={PAGE}", Authorization=f"Bearer {token}")
        last = request("GET", f"/v1/notes?limit={PAGE}&cursor={cursor}", Authorization=f"Bearer {token}")
        pages = [
            Subject("page 1", ours.url, {"page": lambda *_: first}),
            Subject("the last", ours.url, {"page": lambda *_: last}),
        ]
        found = asyncio.run(self._take_turns("page", pages))
        ratio = found["the last"] / found["page 1"]
        verdict = "met" if ratio >= SAME.limit else "MISSED"
        told = ("requests / s of page 1", f"{ratio:.2f}x", f"{SAME.limit:.2f}x", verdict)
        yield line(f"page {number:,} of {PAGE}", f"{found['the last']:.0f}", "", "", *told)

    def _cursor_before(self, url: str, notes: int) -> str:
        headers, cursor = {"Authorization": f"Bearer {self._token()}"}, ""
        with httpx.Client(base_url=url, headers=headers) as client:
            while notes:
                limit = min(200, notes)
                page = client.get("/v1/notes", params={"limit": limit, **({"cursor": cursor} if cursor else {})})
                cursor, notes = page.raise_for_status().json()["next_cursor"], notes - limit
        return quote(cursor)

    def _export(self) -> Iterator[str]:
        """Of few, then of many, by one process: what it needs at most should not grow."""
        with running(self._uvicorn("export", "notes_api.app:create_app", "--factory"), self.logs) as process:
            _, _, little = self._exported(process, FEW_OWNER)
            count, seconds, much = self._exported(process, OWNER)
        assert count >= self.notes
        verdict = "met" if much / little <= EXPORT_PEAK else "MISSED"
        yield (
            f"export of {count:,} notes: {seconds:.1f} s, {count / seconds:,.0f} notes / s, peak"
            f" {much / MEBIBYTE:.0f} MiB, {much / little:.2f}x of what it was after few; at most {EXPORT_PEAK:.2f}x"
            f"  {verdict}"
        )

    def _exported(self, process: Process, owner: UUID) -> tuple[int, float, int]:
        """Lines, seconds, and the most bytes that the process ever had."""
        url, headers = process.program.env["BENCH_SELF"], {"Authorization": f"Bearer {self._token(owner)}"}
        begun, count = time.perf_counter(), 0
        with httpx.stream("GET", f"{url}/v1/notes:export", headers=headers, timeout=60) as answer:
            answer.raise_for_status()
            for piece in answer.iter_raw():
                count += piece.count(b"\n")
        seconds = time.perf_counter() - begun
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert found is not None
        return count, seconds, int(found[1]) * 1024

    @contextmanager
    def ours(self) -> Iterator[Subject]:
        program = self._uvicorn("notes_api", "notes_api.app:create_app", "--factory", "--workers", PROCESSES)
        token = {"Authorization": f"Bearer {self._token()}"}
        with running(program, self.logs):
            yield Subject("notes_api", program.env["BENCH_SELF"], asyncio.run(self._kinds(token)))

    @contextmanager
    def bare(self) -> Iterator[Subject]:
        program = self._uvicorn("bare", "tests.bench.bare:app", "--workers", PROCESSES)
        with running(program, self.logs):
            yield Subject("bare", program.env["BENCH_SELF"], asyncio.run(self._kinds({})))

    @contextmanager
    def drf(self) -> Iterator[Subject]:
        # Threads are what keeps connections alive.
        kept = ("--worker-class", "gthread", "--threads", "4", "--keep-alive", "75")
        port = free_port()
        bind = ("--workers", PROCESSES, "--bind", f"127.0.0.1:{port}", *kept)
        program = self._program(
            "DRF", port, str(TOOLS / "python"), "-m", "gunicorn", "tests.bench.drf:application", *bind
        )
        with running(program, self.logs):
            yield Subject("DRF", program.env["BENCH_SELF"], asyncio.run(self._kinds({})))

    async def _kinds(self, token: dict[str, str]) -> dict[str, Sent]:
        connection = await asyncpg.connect(self.server.url("postgres", DATABASE))
        ids = await connection.fetch("select id from notes.notes where owner = $1 order by random() limit 5000", OWNER)
        edited = await connection.fetch(
            "select id, revision, (extract(epoch from updated_at) * 1000000)::bigint as at from notes.notes"
            " where owner = $1 order by random() limit $2",
            OWNER,
            CONNECTIONS,
        )
        # Words that are in a few hundred notes.
        words = await connection.fetch(
            "select word from ts_stat('select search from notes.notes limit 20000')"
            " where ndoc between 20 and 80 order by word limit 200"
        )
        await connection.close()
        gets = [request("GET", f"/v1/notes/{row['id']}", **token) for row in ids]
        searches = [request("GET", f"/v1/search?q={quote(row['word'])}&limit=20", **token) for row in words]
        body = json.dumps({"title": "A new note", "content": "Of what it says. " * 40, "tags": ["one", "two"]}).encode()
        page = request("GET", "/v1/notes?limit=50", **token)
        post = request("POST", "/v1/notes", body, Content_Type="application/json", **token)
        turn = iter(range(10**9))

        def patch(number: int, head: bytes) -> bytes:
            row = edited[number]
            known = tags.get(number, f'"{row["revision"]}-{row["at"]:x}"')
            if found := _ETAG.search(head):
                known = tags[number] = found[1].decode()
            title = json.dumps({"title": f"Changed {next(turn)}"}).encode()
            headers = {"Content_Type": "application/merge-patch+json", "If_Match": known, **token}
            return request("PATCH", f"/v1/notes/{row['id']}", title, **headers)

        tags: dict[int, str] = {}
        return {
            "GET": lambda *_: gets[next(turn) % len(gets)],
            "page of 50": lambda *_: page,
            "POST": lambda *_: post,
            "PATCH": patch,
            "search": lambda *_: searches[next(turn) % len(searches)],
        }

    def _prepare(self) -> None:
        self.server.create_database(DATABASE)
        self.server.make_roles(DATABASE)
        self._python("-m", "notes_api.migrate", url=self.server.url("notes_owner", DATABASE))
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        connection = await asyncpg.connect(self.server.url("postgres", DATABASE))
        owner = rows.COLUMNS.index("owner")
        for whose, count in ((FEW_OWNER, 1000), (OWNER, self.notes)):
            records = ((*row[:owner], whose, *row[owner + 1 :]) for row in rows.notes(count, seed=whose.int))
            await connection.copy_records_to_table("notes", schema_name="notes", columns=rows.COLUMNS, records=records)
        await connection.execute("vacuum (analyze) notes.notes")
        await connection.execute("checkpoint")
        await connection.close()

    def _token(self, owner: UUID = OWNER) -> str:
        scopes = ("--scope", "notes:read", "--scope", "notes:write")
        arguments = ("-m", "notes_api.tokens", "create", "--name", f"bench {uuid4()}", "--owner", str(owner), *scopes)
        return self._python(*arguments, url=self.server.url("notes_app", DATABASE)).strip()

    def _python(self, *arguments: str, url: str) -> str:
        env = self.environment | {"HOLDFAST_DATABASE_URL": url}
        done = subprocess.run([sys.executable, *arguments], check=True, env=env, capture_output=True, text=True)
        return done.stdout

    def _uvicorn(self, name: str, *arguments: str) -> Program:
        port = free_port()
        server = (sys.executable, "-m", "uvicorn", *arguments, "--port", str(port), "--no-access-log")
        return self._program(name, port, *server)

    def _program(self, name: str, port: int, *command: str) -> Program:
        url = self.server.url("notes_app", DATABASE)
        self_url = f"http://127.0.0.1:{port}"
        ours = {
            "HOLDFAST_DATABASE_URL": url,
            "HOLDFAST_SIGNING_KEY": "k" * 32,
            "HOLDFAST_REQUESTS_PER_MINUTE": "1000000000",
        }
        bench = {"BENCH_URL": url, "BENCH_OWNER": str(OWNER), "BENCH_SELF": self_url}
        env = self.environment | bench | (ours if "notes_api.app:create_app" in command else {})

        def answers() -> bool:
            try:
                return httpx.get(f"{self_url}/v1/notes/{UUID(int=0)}").status_code < 503
            except httpx.TransportError:
                return False

        return Program(name, command, env, ROOT, answers)


_ETAG = re.compile(rb'\r\netag: ("[^"]*")', re.IGNORECASE)
