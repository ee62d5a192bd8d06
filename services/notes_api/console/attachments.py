"""Attachments: what people upload here goes to the bucket by the same form that clients use, and is confirmed."""

import asyncio
import base64
import hashlib
from typing import IO
from uuid import UUID

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin import route

from notes_api import attachments
from notes_api.console.notes import show
from notes_api.console.parts import Pages, allowed, wrong_fields
from notes_api.errors import InvalidRequest, NoteTrashed, NotUploaded, StorageUnavailable
from notes_api.routes.attachments import AttachmentIn
from notes_api.storage import Storage
from notes_api.tokens import ATTACH, READ

UPLOAD = "/admin/upload"
_UNKNOWN = "application/octet-stream"


class AttachmentPages(Pages):
    add_to_menu = False
    path = "/upload"

    @property
    def bucket(self) -> Storage:
        """Raises StorageUnavailable."""
        found: Storage | None = self.outside.storage
        if found is None:
            raise StorageUnavailable("There is no bucket for attachments: HOLDFAST_ATTACHMENTS_BUCKET is not set.")
        return found

    @route("")
    async def index(self, request: Request) -> Response:
        return self.to(request, "/")

    @route("", methods=["POST"])
    async def upload(self, request: Request) -> Response:
        allowed(request, ATTACH)
        try:
            note_id = UUID(str(request.state.form.get("note", "")))
        except ValueError:
            raise InvalidRequest("The form does not say of which note it is.") from None
        try:
            await self._attach(request, note_id)
        except (InvalidRequest, NoteTrashed, NotUploaded) as error:
            return await show(self, request, note_id, error.status, {"file": error.detail})
        return self.to(request, f"/notes/{note_id}")

    async def _attach(self, request: Request, note_id: UUID) -> None:
        """Announced, put and confirmed. What fails in between counts as nothing, and is forgotten in an hour."""
        file = request.state.form.get("file")
        if not isinstance(file, UploadFile) or not file.filename:
            raise InvalidRequest("Choose a file first.")
        announced = await _announced(file)
        given = announced.model_dump() | {"sha256": base64.b64decode(announced.sha256)}
        max_bytes = self.outside.settings.attachment_bytes
        async with self.doing(request, "attached", f"{announced.name} to {note_id}", ATTACH) as (connection, caller):
            row = await attachments.announce(connection, caller.owner, note_id, **given, max_bytes=max_bytes)
        await self.bucket.put(row["object"], file.file, content_type=row["content_type"], sha256=row["digest"])
        async with self.reading(request, ATTACH) as (connection, caller):
            await attachments.confirm(connection, self.bucket, caller.owner, note_id, row["id"])

    @route("/{note_id:uuid}/{attachment_id:uuid}")
    async def download(self, request: Request) -> Response:
        note_id, attachment_id = request.path_params["note_id"], request.path_params["attachment_id"]
        async with self.reading(request, READ) as (connection, caller):
            row = await attachments.get(connection, caller.owner, note_id, attachment_id)
            version = await attachments.find(connection, self.bucket, row)
        link = await self.bucket.presign_download(row["object"], version, name=row["name"])
        return RedirectResponse(link.url, 303)

    @route("/{note_id:uuid}/{attachment_id:uuid}/delete", methods=["POST"])
    async def delete(self, request: Request) -> Response:
        note_id, attachment_id = request.path_params["note_id"], request.path_params["attachment_id"]
        told = "The attachment is gone from the note."
        subject = f"{attachment_id} of {note_id}"
        async with self.doing(request, "removed an attachment", subject, ATTACH, told=told) as (connection, caller):
            await attachments.delete(connection, caller.owner, note_id, attachment_id)
        return self.to(request, f"/notes/{note_id}")


async def _announced(file: UploadFile) -> AttachmentIn:
    """What a client would say of it. Raises InvalidRequest."""
    digest, size = await asyncio.to_thread(_digest, file.file)
    name = (file.filename or "").replace("\\", "/").rpartition("/")[2]
    given = {"name": name, "size_bytes": size, "sha256": base64.b64encode(digest).decode()}
    for content_type in (file.content_type or _UNKNOWN, _UNKNOWN):
        try:
            return AttachmentIn.model_validate(given | {"content_type": content_type})
        except ValidationError as error:
            wrong = wrong_fields(error)
            if set(wrong) != {"content_type"}:
                raise InvalidRequest(" ".join(wrong.values())) from None
    raise AssertionError  # the second type is right


def _digest(file: IO[bytes]) -> tuple[bytes, int]:
    found = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # a spooled file is one
    size = file.tell()
    file.seek(0)
    return found.digest(), size
