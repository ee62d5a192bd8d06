"""The bucket of attachments: what clients may upload and download by themselves, and what is there.

Clients talk to S3 with what is signed here, and no byte of theirs passes through the API. Nothing here retries but
botocore, twice.
"""

import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO, Any, NamedTuple
from urllib.parse import quote

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from notes_api.errors import StorageUnavailable
from notes_api.settings import Settings

PREFIX = "attachments/"  # the rights are for what is below it
UPLOAD_SECONDS = 15 * 60  # in which an upload has to begin
DOWNLOAD_SECONDS = 5 * 60
MAX_DELETED_AT_ONCE = 1000  # S3's limit
# A request waits for it with a connection of the database in its hand, of which there are few.
_CONFIG = Config(
    connect_timeout=1,
    read_timeout=4,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=32,
    signature_version="s3v4",  # else links would have a signature that S3 takes in old regions only
)
_MISSING = ("404", "NoSuchKey", "NoSuchVersion")
_CHUNK_BYTES = 1024 * 1024

log = logging.getLogger(__name__)


class Upload(NamedTuple):
    url: str
    fields: dict[str, str]
    expires_at: datetime


class Download(NamedTuple):
    url: str
    expires_at: datetime


class Stored(NamedTuple):
    """What an object is."""

    version: str | None
    size_bytes: int
    content_type: str
    sha256: bytes | None  # None where the storage keeps no checksum


class Storage:
    """`outside` is a client that signs for the address that clients reach; it sends nothing."""

    def __init__(self, s3: Any, outside: Any, bucket: str) -> None:
        self._s3, self._outside, self._bucket = s3, outside, bucket

    async def presign_upload(self, key: str, *, content_type: str, size_bytes: int, sha256: bytes) -> Upload:
        """A form that stores these bytes under `key` and no others, which S3 checks. Raises StorageUnavailable."""
        fields = {"Content-Type": content_type, "x-amz-checksum-sha256": base64.b64encode(sha256).decode()}
        conditions = [{name: value} for name, value in fields.items()]
        expires_at = datetime.now(UTC) + timedelta(seconds=UPLOAD_SECONDS)
        with _failures_named():
            form = await self._outside.generate_presigned_post(
                self._bucket,
                key,
                Fields=fields,
                Conditions=[*conditions, ["content-length-range", size_bytes, size_bytes]],
                ExpiresIn=UPLOAD_SECONDS,
            )
        return Upload(form["url"], form["fields"], expires_at)

    async def presign_download(self, key: str, version: str | None, *, name: str) -> Download:
        """Of a version, to be saved as `name`. Raises StorageUnavailable."""
        asked = {"Bucket": self._bucket, "Key": key, "ResponseContentDisposition": _disposition(name)}
        expires_at = datetime.now(UTC) + timedelta(seconds=DOWNLOAD_SECONDS)
        with _failures_named():
            url = await self._outside.generate_presigned_url(
                "get_object", asked | _version(version), ExpiresIn=DOWNLOAD_SECONDS
            )
        return Download(url, expires_at)

    async def head(self, key: str, version: str | None = None) -> Stored | None:
        """None when there is none: of the version, or of any where none is named. Raises StorageUnavailable."""
        with _failures_named():
            try:
                found = await self._s3.head_object(
                    Bucket=self._bucket, Key=key, ChecksumMode="ENABLED", **_version(version)
                )
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
        sha256 = found.get("ChecksumSHA256")
        return Stored(
            version=found.get("VersionId"),
            size_bytes=found["ContentLength"],
            content_type=found.get("ContentType", ""),
            sha256=base64.b64decode(sha256) if sha256 else None,
        )

    async def digest(self, key: str, version: str | None) -> bytes:
        """SHA-256 of an object's bytes, all of which are read: for a storage that keeps no checksum.

        Raises StorageUnavailable, also when the object is gone.
        """
        made = hashlib.sha256()
        with _failures_named():
            found = await self._s3.get_object(Bucket=self._bucket, Key=key, **_version(version))
            async with found["Body"] as body:
                async for chunk in body.content.iter_chunked(_CHUNK_BYTES):
                    made.update(chunk)
        return made.digest()

    async def put(self, key: str, content: IO[bytes], *, content_type: str, sha256: bytes) -> None:
        """Store what somebody has sent to us, which S3 compares with its digest. Raises StorageUnavailable."""
        with _failures_named():
            await self._s3.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=content,
                ContentType=content_type,
                ChecksumSHA256=base64.b64encode(sha256).decode(),
            )

    async def discard(self, keys: Sequence[str]) -> None:
        """Delete these; what is not there is no matter. Raises StorageUnavailable, when some may have been deleted.

        They can be had back for as long as the bucket keeps former versions.
        """
        for begin in range(0, len(keys), MAX_DELETED_AT_ONCE):
            some = [{"Key": key} for key in keys[begin : begin + MAX_DELETED_AT_ONCE]]
            with _failures_named():
                answer = await self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})
            if failed := answer.get("Errors"):
                raise _unavailable(f"{len(failed)} objects were not deleted, the first for {failed[0].get('Code')}")


@asynccontextmanager
async def storage(settings: Settings) -> AsyncIterator[Storage | None]:
    """None when no bucket is set. The first client of a process takes a while and blocks it: so it is made at start."""
    if not settings.attachments_bucket:
        yield None
        return
    session = aioboto3.Session()
    async with AsyncExitStack() as opened:
        s3 = await opened.enter_async_context(session.client("s3", config=_CONFIG))
        outside = s3
        if settings.attachments_url:
            client = session.client("s3", config=_CONFIG, endpoint_url=settings.attachments_url)
            outside = await opened.enter_async_context(client)
        yield Storage(s3, outside, settings.attachments_bucket)


@contextmanager
def _failures_named() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _unavailable(f"{error.operation_name} was answered {_code(error)}") from error
    except (BotoCoreError, OSError, TimeoutError) as error:
        raise _unavailable(f"no answer: {type(error).__name__}") from error


def _unavailable(why: str) -> StorageUnavailable:
    log.warning("storage unavailable: %s", why)
    return StorageUnavailable("The attachments' storage does not answer as it should. Try again.", {"Retry-After": "5"})


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "without a code"))


def _version(version: str | None) -> dict[str, str]:
    return {"VersionId": version} if version else {}


def _disposition(name: str) -> str:
    """RFC 6266, with a name in ASCII for who does not know the other form, of RFC 8187."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
