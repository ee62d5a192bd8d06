"""Attachments of a note: announced here, uploaded to the bucket with a form, and then confirmed here."""

import base64
import re
from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from notes_api import attachments
from notes_api.access import Attacher, Reader
from notes_api.db import Db, Row, of_request
from notes_api.errors import AttachmentNotFound, NoteNotFound, NoteTrashed, NotUploaded, StorageUnavailable
from notes_api.idempotency import Doing, Key, Once, Replay, once
from notes_api.problems import documented
from notes_api.routes.parts import ALWAYS, LOCATION, WITH_BODY, WITH_KEY, Route
from notes_api.schemas import AttachmentOut
from notes_api.storage import Storage

# Neither a path, nor what a terminal or an eye is deceived by: control characters, and those that turn the direction.
_NAME = r"^(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f/\\\u2028\u2029\u202a-\u202e\u2066-\u2069]+$"
_TOKEN = "[A-Za-z0-9!#$&^_.+-]{1,100}"  # noqa: S105  # RFC 6838, section 4.2
_OF_NOTE = (NoteNotFound, AttachmentNotFound)

router = APIRouter(prefix="/v1/notes/{note_id:uuid}/attachments", tags=["attachments"], route_class=Route)


async def _storage(request: Request) -> Storage:
    """Raises StorageUnavailable."""
    storage: Storage | None = request.app.state.storage
    if storage is None:
        raise StorageUnavailable("There is no bucket for attachments: HOLDFAST_ATTACHMENTS_BUCKET is not set.")
    return storage


Bucket = Annotated[Storage, Depends(_storage)]


def _whole(number: object) -> object:
    """1.0 is an integer, as JSON Schema has it."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _file_name(name: str) -> str:
    if not re.search(_NAME, name):
        raise PydanticCustomError(
            "not_a_file_name", "A name should be of a file, without a path and control characters"
        )
    return name


class AttachmentIn(BaseModel):
    """What will be uploaded."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "receipt.pdf",
                    "content_type": "application/pdf",
                    "size_bytes": 48213,
                    "sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
                }
            ]
        },
    )

    name: Annotated[
        str,
        Field(min_length=1, max_length=255, json_schema_extra={"pattern": _NAME}),
        AfterValidator(_file_name),
    ]
    content_type: Annotated[
        str, Field(max_length=255, pattern=f"^{_TOKEN}/{_TOKEN}(; ?{_TOKEN}={_TOKEN})*$", description="RFC 6838.")
    ]
    size_bytes: Annotated[
        int, Field(ge=0, le=5 * 1024**3, description="Exactly; the service may take less."), BeforeValidator(_whole)
    ]
    sha256: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$", description="Of the bytes, in base64.")
    ]


class UploadForm(BaseModel):
    """Send it as `multipart/form-data` by POST: all fields, and then a field `file` with the bytes."""

    url: str
    fields: dict[str, str]
    expires_at: datetime


class AttachmentAnnounced(BaseModel):
    attachment: AttachmentOut
    upload: UploadForm


class DownloadLink(BaseModel):
    """Of S3: it needs no token, and says that the bytes are to be saved under the attachment's name."""

    url: str
    expires_at: datetime


class AttachmentShown(AttachmentOut):
    download: Annotated[DownloadLink | None, Field(description="Null as long as the attachment is not confirmed.")]


class AttachmentPage(BaseModel):
    """All of a note, which are few: there is never a next page."""

    items: list[AttachmentOut]
    next_cursor: None = None
    has_more: bool = False

    @classmethod
    def of(cls, rows: list[Row]) -> Self:
        return cls(items=[_out(row) for row in rows])


async def _announcing(request: Request, bucket: Bucket, key: Key = None) -> Once:
    """As `Doing`, but a replay has a new form while bytes are waited for: the first one is good for minutes only."""
    try:
        return await once(request, key)
    except Replay as replay:
        told = AttachmentAnnounced.model_validate_json(bytes(replay.response.body))
        if row := await attachments.pending(await of_request(request), told.attachment.id):
            told.upload = await _form(bucket, row)
            replay.response.body = told.model_dump_json().encode()
            replay.response.headers["Content-Length"] = str(len(replay.response.body))
        raise


Announcing = Annotated[Once, Depends(_announcing)]


@router.post(
    "",
    operation_id="createAttachment",
    status_code=201,
    response_model=AttachmentAnnounced,
    responses={
        201: {"headers": LOCATION},
        **documented(*WITH_BODY, *WITH_KEY, NoteNotFound, NoteTrashed, StorageUnavailable),
    },
)
async def create(
    request: Request,
    note_id: UUID,
    new: AttachmentIn,
    caller: Attacher,
    connection: Db,
    bucket: Bucket,
    once: Announcing,
) -> Response:
    """Announce an attachment, and get the form to upload it with. It counts when it is confirmed."""
    announced = new.model_dump() | {"sha256": base64.b64decode(new.sha256)}
    max_bytes = request.app.state.settings.attachment_bytes
    row = await attachments.announce(connection, caller.owner, note_id, **announced, max_bytes=max_bytes)
    answer = AttachmentAnnounced(attachment=_out(row), upload=await _form(bucket, row))
    return await once.answer(answer, 201, {"Location": f"/v1/notes/{note_id}/attachments/{row['id']}"})


@router.post(
    "/{attachment_id:uuid}:confirm",
    operation_id="confirmAttachment",
    response_model=AttachmentOut,
    responses=documented(*ALWAYS, *WITH_KEY, *_OF_NOTE, NoteTrashed, NotUploaded, StorageUnavailable),
)
async def confirm(
    note_id: UUID,
    attachment_id: UUID,
    caller: Attacher,
    connection: Db,
    bucket: Bucket,
    once: Doing,
) -> Response:
    """Say that it is uploaded. From then on the note has it, as a new revision. Again does no harm."""
    row = await attachments.confirm(connection, bucket, caller.owner, note_id, attachment_id)
    return await once.answer(_out(row), 200, {})


@router.get(
    "",
    operation_id="listAttachments",
    response_model=AttachmentPage,
    responses=documented(*ALWAYS, NoteNotFound),
)
async def listed(note_id: UUID, caller: Reader, connection: Db) -> AttachmentPage:
    """The attachments of a note that are confirmed, at most 100, the first one first."""
    return AttachmentPage.of(list(await attachments.of_note(connection, caller.owner, note_id)))


@router.get(
    "/{attachment_id:uuid}",
    operation_id="getAttachment",
    response_model=AttachmentShown,
    responses=documented(*ALWAYS, *_OF_NOTE, NotUploaded, StorageUnavailable),
)
async def show(note_id: UUID, attachment_id: UUID, caller: Reader, connection: Db, bucket: Bucket) -> AttachmentShown:
    """One attachment, with a link to its bytes that works for five minutes."""
    row = await attachments.get(connection, caller.owner, note_id, attachment_id)
    if row["confirmed_at"] is None:
        return AttachmentShown(**_out(row).model_dump(), download=None)
    version = await attachments.find(connection, bucket, row)
    link = await bucket.presign_download(row["object"], version, name=row["name"])
    return AttachmentShown(**_out(row).model_dump(), download=DownloadLink(**link._asdict()))


@router.delete(
    "/{attachment_id:uuid}",
    operation_id="deleteAttachment",
    status_code=204,
    responses=documented(*ALWAYS, *_OF_NOTE),
)
async def delete(note_id: UUID, attachment_id: UUID, caller: Attacher, connection: Db) -> None:
    """Take an attachment from its note, as a new revision of that."""
    await attachments.delete(connection, caller.owner, note_id, attachment_id)


async def _form(bucket: Storage, row: Row) -> UploadForm:
    form = await bucket.presign_upload(
        row["object"], content_type=row["content_type"], size_bytes=row["size_bytes"], sha256=row["digest"]
    )
    return UploadForm(**form._asdict())


def _out(row: Row) -> AttachmentOut:
    return AttachmentOut(**{name: row[name] for name in AttachmentOut.model_fields})
