"""Tables with primary keys of many types, their rows, and changes of these, all by chance; what PostgreSQL says."""

import json
import string
from collections.abc import Callable
from random import Random
from typing import Any
from uuid import UUID

import pytest

from backup_lambda.catalogue import quoted
from tests.backup_lambda.world import Connection

MOODS = ["zebra", "ant", "fly", "Bee", "elk", "cow", "dog", "gnu", "hen", "ibis", "jay", "koi"]
TYPES = f"""
create type notes.mood as enum ({", ".join(f"'{each}'" for each in MOODS)});
create domain notes.word as text
"""
ROWS = 60
LETTERS = string.ascii_letters + "0123456789 -_.\"'\\/%éß雪😀\n"
SINGLE: dict[str, Callable[[Random], str]] = {
    "smallint": lambda r: str(r.randint(-300, 300)),
    "bigint": lambda r: str(r.choice([r.randint(-(2**62), 2**62), r.randint(0, 99)])),
    "numeric": lambda r: r.choice(
        ["NaN", "Infinity", "-Infinity", f"{r.randint(-99, 99)}.{r.randint(0, 999)}0", str(r.randint(0, 10**40))]
    ),
    "double precision": lambda r: r.choice(["NaN", "-Infinity", repr(r.uniform(-1e30, 1e30)), repr(r.random())]),
    "text": lambda r: "".join(r.choices(LETTERS, k=r.randint(0, 9))),
    "varchar(12)": lambda r: "".join(r.choices(LETTERS, k=r.randint(0, 9))),
    'text collate "pg_c_utf8"': lambda r: "".join(r.choices("aAbBäÄ-z", k=r.randint(1, 6))),
    "char(5)": lambda r: "".join(r.choices("ab \t-", k=r.randint(1, 5))),
    "name": lambda r: "".join(r.choices("aB_ ", k=r.randint(1, 9))),
    "uuid": lambda r: str(UUID(int=r.getrandbits(128))),
    "date": lambda r: r.choice(
        ["infinity", "-infinity", f"{r.randint(1, 9999):04}-02-0{r.randint(1, 9)}", f"{r.randint(10000, 20000)}-01-01",
         f"{r.randint(1, 4000):04}-0{r.randint(1, 9)}-02 BC"]
    ),
    "timestamptz": lambda r: r.choice(
        ["infinity", f"20{r.randint(10, 99)}-01-01 00:00:0{r.randint(0, 9)}.{r.randint(0, 999)}+02", "0044-03-15 BC"]
    ),
    "timestamp": lambda r: f"2026-11-{r.randint(10, 30)} 0{r.randint(0, 9)}:00:00.{r.randint(0, 99)}",
    "time": lambda r: f"{r.randint(10, 23)}:0{r.randint(0, 9)}:00.{r.randint(0, 999)}",
    "bytea": lambda r: "\\x" + r.randbytes(r.randint(0, 4)).hex(),
    "notes.word": lambda r: "".join(r.choices(LETTERS, k=r.randint(0, 9))),
    "notes.mood": lambda r: r.choice(MOODS),
    "inet": lambda r: f"10.{r.randint(0, 3)}.{r.randint(0, 255)}.{r.randint(0, 9)}",
    "interval": lambda r: f"{r.randint(0, 40)} days {r.randint(0, 99)} hours",
    "int[]": lambda r: "{" + ",".join(str(r.randint(0, 20)) for _ in range(r.randint(1, 3))) + "}",
}  # fmt: skip
KEYS = [
    *((kind,) for kind in SINGLE),
    ("text", "bigint"),
    ("boolean", "date", "numeric"),
    ("varchar(12)", "notes.mood"),
]


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few rows are many blocks, and several runs."""
    monkeypatch.setattr("backup_lambda.blocks.MIN_BYTES", 300)
    monkeypatch.setattr("backup_lambda.blocks.MAX_BYTES", 900)
    monkeypatch.setattr("backup_lambda.blocks.RUN_BYTES", 3000)


class Tables:
    """They are named `notes.t0` and so on; `keys` are the columns of each one's key."""

    def __init__(self, owner: Connection, seed: int) -> None:
        self.owner, self.chance = owner, Random(seed)
        self.keys = {f"t{number}": [f'k"{n}' for n in range(len(kinds))] for number, kinds in enumerate(KEYS)}

    @property
    def unordered(self) -> set[str]:
        """Those whose keys only PostgreSQL can sort."""
        kinds = {"notes.word", "notes.mood", "inet", "interval", "int[]"}
        return {name for name in self.keys if not kinds.isdisjoint(KEYS[int(name[1:])])}

    async def make(self) -> None:
        await self.owner.execute(f"set TimeZone = 'UTC'; {TYPES}")
        for (name, key), kinds in zip(self.keys.items(), KEYS, strict=True):
            columns = ", ".join(f"{quoted(column)} {kind}" for column, kind in zip(key, kinds, strict=True))
            primary = ", ".join(map(quoted, key))
            await self.owner.execute(
                f"create table notes.{name} (v text, {columns}, n numeric, primary key ({primary}))"
            )
            await self.insert(name, ROWS)

    async def insert(self, name: str, count: int) -> None:
        kinds, rows = KEYS[int(name[1:])], []
        for _ in range(count):
            values = [
                self.chance.choice(("true", "false")) if k == "boolean" else SINGLE[k](self.chance) for k in kinds
            ]
            types = [kind.partition(" collate")[0] for kind in kinds]
            key = ", ".join(f"{_literal(value)}::{kind}" for value, kind in zip(values, types, strict=True))
            rows.append(f"('{self.chance.randbytes(self.chance.randint(5, 60)).hex()}', {key}, {self._number()})")
        await self.owner.execute(f"insert into notes.{name} values {', '.join(rows)} on conflict do nothing")  # noqa: S608  # our own

    async def change(self) -> None:
        """Most tables a little, some a lot, one not at all, one to nothing."""
        names = [*self.keys]
        self.chance.shuffle(names)
        await self.owner.execute(f"delete from notes.{names.pop()}")  # noqa: S608  # our own
        names.pop()
        for name in names:
            share = self.chance.choice((0.02, 0.1, 0.9))
            seed = self.chance.random()
            await self.owner.execute(f"""
                select setseed({seed});
                delete from notes.{name} where random() < {share / 2};
                update notes.{name} set n = {self._number()}, v = v || 'x' where random() < {share}
            """)  # noqa: S608  # our own
            await self.insert(name, int(ROWS * share))

    async def rows(self) -> dict[str, dict[str, tuple[str, dict[str, str]]]]:
        """Of each table, by key: the row's text, and the texts of its fields."""
        found = {}
        for name, key in self.keys.items():
            texts = await self.owner.fetch(f"""
                select row_to_json(t)::text as whole,
                    (select json_object_agg(k, j::text) from json_each(row_to_json(t)) as e (k, j)) as fields
                from notes.{name} t
            """)  # noqa: S608  # our own
            fields = [json.loads(each["fields"]) for each in texts]
            found[name] = {
                told([each[column] for column in key]): (row["whole"], each)
                for row, each in zip(texts, fields, strict=True)
            }
        return found

    def _number(self) -> str:
        return f"{self.chance.randint(-9, 9)}.{self.chance.getrandbits(90)}00"


def told(key: list[str]) -> str:
    """A key by its JSON texts, as changes tell it."""
    values = [json.loads(text, parse_int=str, parse_float=str) for text in key]
    return json.dumps([v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for v in values])


def expected(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, tuple[str, Any]]]:
    """What a diff is to tell: the comparison of two dictionaries."""
    changes: dict[str, dict[str, tuple[str, Any]]] = {}
    for name, one in before.items():
        other = after[name]
        for key in one.keys() | other.keys():
            if one.get(key) == other.get(key):
                continue
            fields, action = {}, "removed" if key in one else "added"
            if key in one and key in other:
                action = "changed"
                old, new = one[key][1], other[key][1]
                fields = {n: {"before": old[n], "after": new[n]} for n in old if old[n] != new[n]}
            changes.setdefault(f"notes.{name}", {})[key] = (action, fields)
    return changes


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
