"""The manifest of a backup: written last, so that the backup exists when it does. Format 1."""

from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel

from backup_lambda import __version__


class Request(BaseModel):
    """What was asked for: `request.json`."""

    id: str
    created_at: datetime
    label: str | None
    requested_by: str | None
    tables: list[str] | None = None  # `schema.table`; None asks for all


class Cancel(BaseModel):
    """That it shall not be made, or not be proven: `cancel.json`."""

    requested_by: str | None
    requested_at: datetime


class Previous(BaseModel):
    """The manifest before this one, as seen when the backup began."""

    id: str
    sha256: str


class SchemaSql(BaseModel):
    """SQL that makes the empty tables, and what must wait until their rows are there; each a statement with its `;`."""

    before_rows: list[str]
    after_rows: list[str]


class TableEntry(BaseModel):
    """One table. `bytes` and `sha256` are of the uncompressed rows; `object` and `index` are below the backup.

    `index_sha256` is of the stored index; `row_hash` is PostgreSQL's own, and depends on neither JSON nor order.
    """

    name: str
    catalogue: dict[str, Any]
    primary_key: list[str]
    rows: int
    bytes: int
    stored_bytes: int
    sha256: str
    row_hash: str
    object: str
    index: str
    index_sha256: str
    etag: str


class Manifest(BaseModel):
    """`manifest.json`. A reader takes keys that it does not know for a later version's additions."""

    format: Literal[1] = 1
    id: str
    created_at: datetime
    request: Request
    started_at: datetime
    ended_at: datetime
    duration_seconds: float
    database: dict[str, Any]
    snapshot: dict[str, Any]
    schema_revision: dict[str, str | None]
    schema_sql: SchemaSql
    sequences: list[dict[str, Any]]
    tables: list[TableEntry]
    not_backed_up: list[dict[str, str]]
    suspect: str | None = None
    changed: str | None = None  # that much of it is other than in the last proven one
    previous: Previous | None
    app_version: str = __version__

    def body(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


def object_name(schema: str, relation: str) -> str:
    """`schema.table`, percent-encoded, and the dots within a name too, so that no two tables share an object."""
    return ".".join(quote(name, safe="").replace(".", "%2E") for name in (schema, relation))
