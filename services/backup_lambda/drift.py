"""How a live table differs from what a backup has of it: what is mapped, and what stands in the way."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backup_lambda.catalogue import Table
from backup_lambda.errors import RestoreRefused
from backup_lambda.manifest import TableEntry

# Each takes all values of those before it.
_WIDER = ("smallint", "integer", "bigint", "numeric")
_ANY: Mapping[str, str | tuple[str, ...]] = {
    "text": "character varying",
    "character varying": ("character varying(", "text"),
    "numeric": "numeric(",
}
_LIMITED = re.compile(r"character varying\((\d+)\)")
Column = Mapping[str, Any]


@dataclass(frozen=True)
class Drift:
    """`columns` are restored; `remarks` say, in words, what became of the others."""

    columns: Sequence[str]
    remarks: list[str]


def of(entry: TableEntry, live: Table | None) -> Drift:
    """Raises RestoreRefused, which names everything that stands in the way."""
    if live is None:
        raise RestoreRefused(f"{entry.name} is not in the live database: restore the whole backup, and take it there")
    found = _Found(entry, {column["name"]: column for column in live.catalogue["columns"]})
    if list(live.primary_key) != entry.primary_key:
        now = ", ".join(live.primary_key) or "none"
        found.obstacles.append(f"its primary key was {', '.join(entry.primary_key)}, and is {now}")
    found.look()
    if found.obstacles:
        raise RestoreRefused(f"{entry.name} is not what it was: {'; '.join(found.obstacles)}")
    return Drift(found.columns, found.remarks)


class _Found:
    def __init__(self, entry: TableEntry, now: Mapping[str, Column]) -> None:
        self._entry = entry
        self._now = now
        self.columns: list[str] = []
        self.remarks: list[str] = []
        self.obstacles: list[str] = []

    def look(self) -> None:
        before = {column["name"]: column for column in self._entry.catalogue["columns"]}
        for name, was in before.items():
            self._look_at(name, was, self._now.get(name))
        for name, column in self._now.items():
            if name not in before:
                self._without(column, f"column {name} is new")

    def _look_at(self, name: str, was: Column, now: Column | None) -> None:
        if now is None:
            if not was["generated"]:
                self.remarks.append(f"column {name} is there no longer: its values are left out")
        elif now["generated"]:
            if not was["generated"]:
                self.remarks.append(f"column {name} is computed now: its values are left out")
        elif was["generated"]:
            self._without(now, f"column {name} was computed, and is not any more")
        elif was["type"] == now["type"]:
            self.columns.append(name)
        elif _takes(now["type"], was["type"]):
            self.columns.append(name)
            self.remarks.append(f"column {name} was {was['type']}, and is {now['type']}: that takes its values")
        elif name in self._entry.primary_key:
            self.obstacles.append(f"column {name} of its primary key was {was['type']}, and is {now['type']}")
        else:
            self._without(now, f"column {name} was {was['type']}, and is {now['type']}: its values are left out")

    def _without(self, column: Column, what: str) -> None:
        """A column for which there is no value: new rows get its default, and others keep what they have."""
        if column["generated"]:
            return
        if column["nullable"] or column["default"] or column["identity"]:
            self.remarks.append(f"{what}; new rows get its default")
        else:
            self.obstacles.append(f"{what}; it must have a value, and has no default")


def _takes(now: str, was: str) -> bool:
    """Whether a type has every value of another one, as it is written."""
    if was in _WIDER and now in _WIDER:
        return _WIDER.index(now) > _WIDER.index(was)
    if now in _ANY:
        return was.startswith(_ANY[now])
    limits = [_LIMITED.fullmatch(each) for each in (now, was)]
    return all(limits) and int(limits[0][1]) > int(limits[1][1])  # type: ignore[index]  # all are there
