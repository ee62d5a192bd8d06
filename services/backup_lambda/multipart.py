"""A multipart upload to S3 of our own: with back-pressure, checksums, a condition, and nothing left behind."""

import asyncio
import base64
import hashlib
import logging
from types import TracebackType
from typing import Any, Self

from backup_lambda import aws
from backup_lambda.errors import AwsError, AwsRefused

PART_BYTES = 8 * 1024 * 1024  # S3 takes 10,000 parts: 80 GB
PARTS_IN_FLIGHT = 2  # a third would cost its 8 MiB of memory, and was no faster
ABORT_SECONDS = 15
log = logging.getLogger(__name__)


class Upload:
    """One object, written piece by piece; what is smaller than a part goes up in one request.

        async with store.upload(key) as upload:
            await upload.write(piece)
            etag = await upload.finish()

    Leaving without `finish()`, by an error or a cancel, aborts it: no object and no part stays. All methods raise
    AwsError; `finish` raises ObjectChanged when the condition does not hold.
    """

    def __init__(self, s3: Any, bucket: str, key: str, condition: dict[str, str], lock: dict[str, Any]) -> None:
        """`condition` is on the object that is there, and `lock` what Object Lock is asked for; both as S3 names it."""
        self._s3 = s3
        self._object = {"Bucket": bucket, "Key": key}
        self._condition = condition
        self._made_with = {"ContentType": "application/gzip", **lock}
        self._id = ""
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._parts_begun = 0
        self._in_flight: set[asyncio.Task[dict[str, Any]]] = set()
        self._parts: list[dict[str, Any]] = []
        self._finished = False
        self.bytes = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            await self._abort()

    async def write(self, piece: bytes) -> None:
        """Returns at once, or when one of the parts in flight has arrived."""
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        self.bytes += len(piece)
        if self._waiting_bytes >= PART_BYTES:
            await self._send_part()

    async def finish(self) -> str:
        """The ETag of the object, which exists from now on."""
        with aws.errors_named():
            if not self._id:
                body = b"".join(self._waiting)
                checksum = await _checksum(body)
                answer = await self._s3.put_object(
                    **self._object, Body=body, **checksum, **self._made_with, **self._condition
                )
            else:
                if self._waiting:
                    await self._send_part()
                while self._in_flight:
                    await self._one_arrives()
                parts = {"Parts": sorted(self._parts, key=lambda part: int(part["PartNumber"]))}
                answer = await self._s3.complete_multipart_upload(
                    **self._object, UploadId=self._id, MultipartUpload=parts, **self._condition
                )
        etag = aws.told(answer, "ETag")
        self._finished = True
        return etag

    async def _send_part(self) -> None:
        if not self._id:
            with aws.errors_named():
                begun = await self._s3.create_multipart_upload(
                    **self._object, **self._made_with, ChecksumAlgorithm="SHA256"
                )
            self._id = aws.told(begun, "UploadId")
        if len(self._in_flight) == PARTS_IN_FLIGHT:
            await self._one_arrives()
        body = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._parts_begun += 1
        self._in_flight.add(asyncio.create_task(self._put_part(self._parts_begun, body)))

    async def _put_part(self, number: int, body: bytes) -> dict[str, Any]:
        checksum = await _checksum(body)
        with aws.errors_named():
            answer = await self._s3.upload_part(
                **self._object, UploadId=self._id, PartNumber=number, Body=body, **checksum
            )
        # S3 refuses a part with a wrong checksum; a store that ignores checksums answers without one.
        if answer.get("ChecksumSHA256") != checksum["ChecksumSHA256"]:
            raise AwsRefused(f"UploadPart did not confirm the checksum of part {number}")
        return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    async def _one_arrives(self) -> None:
        done, rest = await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)
        self._parts += [task.result() for task in done]
        self._in_flight = rest

    async def _abort(self) -> None:
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        if self._id:
            # What ended the upload is the news, and soon told; the bucket's lifecycle rule removes what may be left.
            try:
                with aws.errors_named():
                    async with asyncio.timeout(ABORT_SECONDS):
                        await self._s3.abort_multipart_upload(**self._object, UploadId=self._id)
            except AwsError as error:
                log.warning("an upload could not be aborted: %s", error)


async def _checksum(body: bytes) -> dict[str, str]:
    digest = await asyncio.to_thread(lambda: hashlib.sha256(body).digest())
    return {"ChecksumSHA256": base64.b64encode(digest).decode()}
