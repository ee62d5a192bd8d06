"""The tables of schema `notes`. Rights on them are not ours to give: deploy/postgres/roles.sql does."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, DateTime, Index, LargeBinary, MetaData, Text, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "notes"


class Table(DeclarativeBase):
    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={"pk": "%(table_name)s_pkey", "uq": "%(table_name)s_%(column_0_name)s_key"},
    )
    type_annotation_map = {str: Text, list[str]: ARRAY(Text), datetime: DateTime(timezone=True), bytes: LargeBinary}  # noqa: RUF012 - SQLAlchemy's name and form


class Note(Table):
    __tablename__ = "notes"

    # UUIDv7, so ids made one after the other lie side by side in the index.
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    owner: Mapped[UUID]
    title: Mapped[str]
    content: Mapped[str]
    tags: Mapped[list[str]]
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @property
    def etag(self) -> str:
        """Strong, and the same whatever token or encoding asks."""
        return f'"{self.id}:{self.revision}"'


# The order of a page, read backwards.
Index("notes_owner_created_at_id_idx", Note.owner, Note.created_at, Note.id)


class Token(Table):
    """A bearer token, of which only the SHA-256 is kept: it has 256 random bits, so no slow hash is needed."""

    __tablename__ = "tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    owner: Mapped[UUID]
    name: Mapped[str]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]
