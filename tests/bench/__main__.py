"""Measures backups, what is got out of them, the notes API and the scheduler, beside their budgets, on its own servers.

    python -m tests.bench [--rows N] [--backups N] [--notes N] [--schedules N] [--runs N] [--only NAME...]

A ratio needs its anchor: with `--only` name that as well. For the memory of a large table:
`--rows 5000000 --only memory`. `http` is the API beside a bare FastAPI and Django REST framework; `--notes 1000000` for
a long export. `scheduler` is its lateness, and what a long history of runs costs it. `cold start` is a function's first
answer.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import asyncpg

from deploy.local import emulator
from deploy.local.postgres import Postgres, programs
from deploy.local.process import ProgramError
from tests.bench.rows import COLUMNS, notes
from tests.bench.served import Served
from tests.servers import EMULATOR_PYTHON, Aws, free_port, postgres, private_directory, running

ROOT = Path(__file__).parents[2]
MEGABYTE, MEBIBYTE = 1e6, 1024 * 1024
FEW_ROWS = 100_000
ROUNDS = 5  # of requests of one kind to one server


class Measured(NamedTuple):
    seconds: float
    peak_bytes: int | None = None
    load: float = 0  # of the machine, when it began: it was not alone if that is high
    compared_seconds: float | None = None  # the same, and what was restored was compared
    requests: int | None = None  # for data and indexes
    range_bytes: int | None = None  # of ranged requests
    share: float | None = None  # of what the backups hold, that was read


class Budget(NamedTuple):
    """At most so many times what the anchors took together; without anchors, so much. Without a limit it is told."""

    what: str
    measure: str
    limit: float | None
    anchors: tuple[str, ...] = ()


BUDGETS = [
    Budget("engine", "seconds", 1.3, ("psql COPY",)),
    Budget("dump", "seconds", 0.6, ("pg_dump",)),
    Budget("dump", "seconds", 1 / 2.5, ("naive",)),
    Budget("dump", "peak_bytes", 160 * MEBIBYTE),
    Budget("dump", "peak_bytes", 1 / 30, ("naive",)),
    Budget("dump", "peak_bytes", 1.1, ("dump of fewer",)),
    Budget("dump and proof", "seconds", 1.2, ("pg_dump", "pg_restore")),
    Budget("dump and proof", "peak_bytes", 160 * MEBIBYTE),
    Budget("restore", "seconds", 1.5, ("pg_restore",)),
    Budget("restore", "compared_seconds", None, ("pg_restore",)),
    Budget("one row", "requests", 2),
    Budget("one row", "range_bytes", 1.5 * MEBIBYTE),
    Budget("history", "seconds", 1.0),
    Budget("diff", "share", 0.02),
]
PARTIAL = {"dump of fewer", "one row", "history", "diff"}  # of other rows than all of the large table
MEASURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "seconds": ("time", "{:.2f} s".format),
    "compared_seconds": ("restored and compared: time", "{:.2f} s".format),
    "peak_bytes": ("memory", lambda value: f"{value / MEBIBYTE:.0f} MiB"),
    "requests": ("reads of index and data", "{:.0f}".format),
    "range_bytes": ("bytes of the ranged read", lambda value: f"{value / MEBIBYTE:.2f} MiB"),
    "share": ("share of the data read", "{:.2%}".format),
}


@dataclass
class Bench:
    """Two databases, `many` and `few`, and an account of AWS."""

    server: Postgres
    environment: dict[str, str]
    archive: Path
    backups: int  # of a history
    measured: dict[str, Measured] = field(default_factory=dict)

    def psql_copy(self) -> Measured:
        rows = "copy (select row_to_json(n) from notes.notes n order by id) to stdout"
        return self._timed("psql", "--no-psqlrc", "--command", rows)

    def engine(self) -> Measured:
        return self._inside("engine")

    def pg_dump(self) -> Measured:
        return self._timed("pg_dump", "--format=custom", "--table=notes.notes")

    def dump(self) -> Measured:
        return self._inside("dump")

    def dump_of_fewer(self) -> Measured:
        return self._inside("dump", database="few")

    def naive(self) -> Measured:
        return self._inside("naive")

    def pg_restore(self) -> Measured:
        self._timed("pg_dump", "--format=custom", "--table=notes.notes", f"--file={self.archive}")
        self.server.create_database("restored")
        self.server.psql("restored", ["create schema notes"])
        restore = ("--no-owner", "--exit-on-error", "--dbname=restored", str(self.archive))
        try:
            return self._timed("pg_restore", *restore, role="postgres")
        finally:
            self.server.psql("postgres", ["drop database restored with (force)"])
            self.archive.unlink()

    def dump_and_proof(self) -> Measured:
        return self._inside("dump_and_proof")

    def restore(self) -> Measured:
        return self._inside("restore")

    def one_row(self) -> Measured:
        return self._inside("one_row")

    def history(self) -> Measured:
        return self._inside("history", database="few")

    def diff(self) -> Measured:
        return self._inside("diff")

    def _timed(self, program: str, *arguments: str, role: str = "notes_backup") -> Measured:
        load, begun = os.getloadavg()[0], time.perf_counter()
        address = urlsplit(self.server.url(role, "many"))
        environment = {
            "PGHOST": str(address.hostname),
            "PGPORT": str(address.port),
            "PGUSER": role,
            "PGPASSWORD": unquote(str(address.password)),
            "PGDATABASE": "many",
        }
        subprocess.run(
            [str(programs() / program), *arguments],
            check=True,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        return Measured(time.perf_counter() - begun, load=load)

    def _inside(self, name: str, database: str = "many") -> Measured:
        load = os.getloadavg()[0]
        urls = {
            "BENCH_URL": self.server.url("notes_backup", database),
            "BENCH_OWNER_URL": self.server.url("notes_owner", database),
            "BENCH_PROOF_URL": self.server.url("notes_proof", "postgres"),
            "BENCH_BACKUPS": str(self.backups),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.measured", name],
            check=True,
            cwd=ROOT,
            env=self.environment | urls,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        return Measured(**json.loads(done.stdout), load=load)


# In this order; an anchor comes just before what is compared with it.
THINGS: dict[str, Callable[[Bench], Measured]] = {
    "psql COPY": Bench.psql_copy,
    "engine": Bench.engine,
    "pg_dump": Bench.pg_dump,
    "dump of fewer": Bench.dump_of_fewer,
    "dump": Bench.dump,
    "naive": Bench.naive,
    "pg_restore": Bench.pg_restore,
    "dump and proof": Bench.dump_and_proof,
    "restore": Bench.restore,
    "one row": Bench.one_row,
    "history": Bench.history,
    "diff": Bench.diff,  # the last one: it changes rows
}
HTTP, SCHEDULER, COLD = "http", "scheduler", "cold start"
SHORT = {"memory": ("dump of fewer", "dump"), "reading": ("one row", "history", "diff")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure backups beside their budgets.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="notes in the table (default: %(default)s)")
    parser.add_argument("--backups", type=int, default=100, help="in the history of a note (default: %(default)s)")
    parser.add_argument("--notes", type=int, default=100_000, help="behind the API (default: %(default)s)")
    parser.add_argument(
        "--round", type=float, default=1.0, help="seconds of a round of requests (default: %(default)s)"
    )
    parser.add_argument("--schedules", type=int, default=10_000, help="due at once (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1_000_000, help="in the history (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=15, help="of a function (default: %(default)s)")
    names = [*THINGS, HTTP, SCHEDULER, COLD, *SHORT]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=", ".join(names))
    given = parser.parse_args(arguments)
    wanted = {each for name in given.only or [*THINGS, HTTP, SCHEDULER, COLD] for each in SHORT.get(name, (name,))}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers are stopped
    if wanted - {HTTP, SCHEDULER, COLD}:
        measure_backups(wanted, given.rows, given.backups)
    if HTTP in wanted:
        measure_http(given.notes, given.round)
    if SCHEDULER in wanted:
        measure_alone(SCHEDULER, "scheduling", given.schedules, given.runs)
    if COLD in wanted:
        measure_alone(COLD, "cold", given.starts)


def measure_alone(what: str, module: str, *sizes: int) -> None:
    command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, sizes)]
    environment = None if what == COLD else _environment()  # a package may have to be fetched from somewhere
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{what} failed")


def measure_http(notes: int, seconds: float) -> None:
    with postgres() as server, private_directory() as home:
        served = Served(server, _environment(), home, notes, seconds, ROUNDS)
        try:
            for line in served.measure():
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
        except (subprocess.CalledProcessError, ProgramError, RuntimeError) as error:
            sys.exit(f"{HTTP} failed: {error}")


def measure_backups(wanted: set[str], rows: int, backups: int) -> None:
    few = min(FEW_ROWS, rows // 10)
    failed = []
    with prepared(rows, few, backups) as (bench, size):
        for name, measure in THINGS.items():
            if name in wanted:
                say(f"{name} ...")
                try:
                    bench.measured[name] = measure(bench)
                except (subprocess.CalledProcessError, ProgramError) as error:
                    failed.append(f"{name} failed: {error}")
    for line in table(bench.measured, rows, few, size, backups):
        sys.stdout.write(line + "\n")
    if failed:
        sys.exit("\n".join(failed))


@contextmanager
def prepared(rows: int, few: int, backups: int) -> Iterator[tuple[Bench, int]]:
    """The servers with the notes, and the bytes that these take as JSON."""
    with ExitStack() as leaving:
        server = leaving.enter_context(postgres())
        home = leaving.enter_context(private_directory())
        port, keys = free_port(), ("AKIAROOTROOTROOTROOT", secrets.token_urlsafe(30))
        leaving.enter_context(running(emulator.program(EMULATOR_PYTHON, home / "aws", port, *keys), home))
        environment = _environment() | Aws(emulator.endpoint_url(port), emulator.REGION, *keys).variables
        for database, count in (("few", few), ("many", rows)):
            say(f"{count:,} notes ...")
            server.create_database(database)
            server.make_roles(database)
            migrate = {"HOLDFAST_DATABASE_URL": server.url("notes_owner", database)}
            subprocess.run(
                [sys.executable, "-m", "notes_api.migrate"],
                check=True,
                env=environment | migrate,
                stdout=subprocess.DEVNULL,
            )
            size = asyncio.run(load(server.url("postgres", database), count))
        yield Bench(server, environment, home / "notes.dump", backups), size


async def load(url: str, count: int) -> int:
    """Notes alone: neither what triggers write of each, nor a column that a backup leaves out and `psql` would read."""
    connection = await asyncpg.connect(url)
    await connection.execute("alter table notes.notes drop column search; set session_replication_role = replica")
    await connection.copy_records_to_table("notes", schema_name="notes", columns=COLUMNS, records=notes(count))
    await connection.execute("vacuum (analyze, freeze) notes.notes")
    await connection.execute("checkpoint")
    size = await connection.fetchval("select sum(octet_length(row_to_json(n)::text) + 1) from notes.notes n")
    await connection.close()
    return int(size)


def table(measured: dict[str, Measured], rows: int, few: int, size: int, backups: int) -> Iterator[str]:
    """A line for each thing, and one more for each further budget of it."""
    yield (
        f"{rows:,} notes, {size / MEGABYTE:,.0f} MB as JSON; dump of fewer: {few:,} notes;"
        f" history: {backups:,} backups of these"
    )
    line = "{:15} {:>8} {:>6} {:>9} {:>5}  {:35} {:>9} {:>9}  {}".format
    yield line("", "seconds", "MB/s", "peak MiB", "load", "compared with", "measured", "at most", "")
    for name, found in measured.items():
        # Only the rows of the large table are measured in bytes.
        speed = f"{size / MEGABYTE / found.seconds:.0f}" if name not in PARTIAL else ""
        peak = f"{found.peak_bytes / MEBIBYTE:.0f}" if found.peak_bytes else ""
        front = (name, f"{found.seconds:.2f}", speed, peak, f"{found.load:.1f}")
        budgets: list[Budget | None] = [each for each in BUDGETS if each.what == name]
        for budget in budgets or [None]:
            yield line(*front, *judged(budget, measured)).rstrip()
            front = ("", "", "", "", "")


def judged(budget: Budget | None, measured: dict[str, Measured]) -> tuple[str, str, str, str]:
    """What is compared with what, the measure, the limit, and whether that is met."""
    if budget is None:
        return "", "", "", ""
    kind, shown = MEASURES[budget.measure]
    value = getattr(measured[budget.what], budget.measure)
    if budget.anchors:
        kind, shown = f"{kind} of {' + '.join(budget.anchors)}", "{:.2f}x".format
        if not set(budget.anchors) <= measured.keys():
            return kind, "", "" if budget.limit is None else shown(budget.limit), "not measured"
        # A thing's own time is compared with the time of others, whatever is in it.
        value /= sum(getattr(measured[anchor], budget.measure.removeprefix("compared_")) for anchor in budget.anchors)
    if budget.limit is None:
        return kind, shown(value), "", ""
    return kind, shown(value), shown(budget.limit), "met" if value <= budget.limit else "MISSED"


def _environment() -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "services")]),
    }


def say(what: str) -> None:
    sys.stderr.write(what + "\n")


if __name__ == "__main__":
    main()
