"""The bucket. Every write is conditional: an object is made once, or replaced by who has seen its latest version."""

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from backup_lambda import aws
from backup_lambda.errors import AwsRefused, AwsUnavailable, ObjectChanged
from backup_lambda.multipart import Upload

CHUNK_BYTES = 256 * 1024
DELETED_AT_ONCE = 1000  # S3 takes no more


class Stored(NamedTuple):
    """An object that was read, and the ETag of the version that it was."""

    body: bytes
    etag: str


class S3Store:
    """One bucket. All methods raise AwsError.

    For `object_lock_days` nobody can delete or change what is kept without a right of its own to that (GOVERNANCE);
    the bucket must have been made with Object Lock.
    """

    def __init__(self, s3: Any, bucket: str, object_lock_days: int = 0) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._object_lock_days = object_lock_days

    async def get(self, key: str) -> Stored:
        """A small object that is known to exist.

        Whether one exists is asked by listing: to a role whose right to list is limited to a prefix, S3 may answer
        403 for a missing object.
        """
        with aws.errors_named():
            answer = await self._s3.get_object(Bucket=self._bucket, Key=key)
        return Stored(b"".join([piece async for piece in _pieces(answer["Body"])]), aws.told(answer, "ETag"))

    async def put(self, key: str, body: bytes, replaces: str | None = None, *, keep: bool = False) -> str:
        """Write an object in place of the version with ETag `replaces`, or where there is none; the new ETag.

        `keep` is for what the backup consists of: it is locked, where that is set. Raises ObjectChanged when
        somebody else was first.
        """
        try:
            with aws.errors_named():
                answer = await self._s3.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    ContentType="application/gzip" if key.endswith(".gz") else "application/json",
                    ChecksumSHA256=base64.b64encode(hashlib.sha256(body).digest()).decode(),
                    **condition(replaces),
                    **(self._lock() if keep else {}),
                )
        except ObjectChanged:
            # A request that is sent again because its answer got lost finds its own object.
            if replaces is None and (found := await self._others(key)).body == body:
                return found.etag
            raise
        return aws.told(answer, "ETag")

    async def _others(self, key: str) -> Stored:
        try:
            return await self.get(key)
        except (AwsRefused, ObjectChanged) as error:
            # Of two that write at once, S3 may turn both away (409). A missing object is 403 to who may not list.
            raise AwsUnavailable(f"{key} was being written, and is not there") from error

    def upload(self, key: str, replaces: str | None = None) -> Upload:
        """An object to keep, written as a stream, on the same condition; see Upload."""
        return Upload(self._s3, self._bucket, key, condition(replaces), self._lock())

    async def stream(self, key: str, etag: str) -> AsyncIterator[bytes]:
        """The bytes of the version with this ETag. Raises ObjectChanged when it is there no longer."""
        with aws.errors_named():
            answer = await self._s3.get_object(Bucket=self._bucket, Key=key, IfMatch=etag)
        async for piece in _pieces(answer["Body"]):
            yield piece

    async def read_range(self, key: str, etag: str, offset: int, length: int) -> bytes:
        """So many bytes of the version with this ETag. Raises ObjectChanged when it is there no longer."""
        with aws.errors_named():
            answer = await self._s3.get_object(
                Bucket=self._bucket, Key=key, IfMatch=etag, Range=f"bytes={offset}-{offset + length - 1}"
            )
        return b"".join([piece async for piece in _pieces(answer["Body"])])

    async def link(self, key: str, etag: str | None, seconds: int) -> str:
        """A URL by which anybody can read the object as it is now, until then or until our credentials end.

        In a bucket with versions it leads to that version, whatever is written later. Raises ObjectChanged unless the
        object has this ETag, if one is given.
        """
        with aws.errors_named():
            found = await self._s3.head_object(
                Bucket=self._bucket, Key=key, **({} if etag is None else {"IfMatch": etag})
            )
            version = {"VersionId": found["VersionId"]} if found.get("VersionId") else {}
            url = await self._s3.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key, **version}, ExpiresIn=seconds
            )
        return str(url)

    async def folders(self, prefix: str, after: str = "") -> AsyncIterator[str]:
        """The names one level under `prefix` that sort after `after`, ascending."""
        async for page in self._pages(Prefix=prefix, Delimiter="/", StartAfter=prefix + after):
            for each in page.get("CommonPrefixes", []):
                yield each["Prefix"].removeprefix(prefix).removesuffix("/")

    async def names(self, prefix: str) -> set[str]:
        """The objects directly under `prefix`, not those in its folders."""
        pages = self._pages(Prefix=prefix, Delimiter="/")
        return {each["Key"].removeprefix(prefix) async for page in pages for each in page.get("Contents", [])}

    async def etags(self, prefix: str) -> dict[str, str]:
        """The ETag of every object under `prefix`, by key."""
        return {
            each["Key"]: each["ETag"] async for page in self._pages(Prefix=prefix) for each in page.get("Contents", [])
        }

    async def written(self, prefix: str) -> AsyncIterator[tuple[str, datetime]]:
        """Every object under `prefix`, and when S3 says that it was written."""
        async for page in self._pages(Prefix=prefix):
            for each in page.get("Contents", []):
                yield each["Key"], each["LastModified"]

    async def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of every object under `prefix`, by key."""
        return {
            each["Key"]: each["Size"] async for page in self._pages(Prefix=prefix) for each in page.get("Contents", [])
        }

    async def delete(self, keys: Sequence[str]) -> None:
        """These, if they are there. In a bucket with versions what they were stays, under a mark."""
        for start in range(0, len(keys), DELETED_AT_ONCE):
            objects = [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]]
            with aws.errors_named():
                answer = await self._s3.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}, ChecksumAlgorithm="SHA256"
                )
            for each in answer.get("Errors", []):  # S3 says 200, and then what it did not do
                raise AwsRefused(f"DeleteObjects was answered {each.get('Code')} for {each.get('Key')}")

    def _lock(self) -> dict[str, Any]:
        if not self._object_lock_days:
            return {}
        until = datetime.now(UTC) + timedelta(days=self._object_lock_days)
        return {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}

    async def _pages(self, **query: str) -> AsyncIterator[dict[str, Any]]:
        while True:
            with aws.errors_named():
                page = await self._s3.list_objects_v2(Bucket=self._bucket, **query)
            yield page
            if not page["IsTruncated"]:
                return
            query["ContinuationToken"] = page["NextContinuationToken"]


def condition(replaces: str | None) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}


async def _pieces(body: Any) -> AsyncIterator[bytes]:
    async with body:  # what it gives here is not itself, but a response that does not check its length
        while True:
            try:
                piece = await body.read(CHUNK_BYTES)
            except Exception as error:  # aiobotocore lets errors of aiohttp through, which we do not import
                raise AwsUnavailable(f"AWS stopped in the middle of an object: {type(error).__name__}") from error
            if not piece:
                return
            yield piece
