"""Retention applied: says that a backup has expired, signed, and then deletes its data, and nothing else.

A backup that expires passes three steps, each of which can be made again: `expired.sig`; `expired.json`, from which on
it has expired; then its data is deleted. Whatever a keeper leaves that dies between them, the next plan names again.

A proof or a restore may begin while it expires. It takes its lease, and then looks for `expired.json`; the keeper
writes that, and then looks for leases, and only then deletes. So at least one of them sees the other and gives way.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from backup_lambda import candidates, objects, retention, signing
from backup_lambda.candidates import DATA, Candidate
from backup_lambda.errors import AwsUnavailable, ObjectChanged, SignatureInvalid
from backup_lambda.lease import Clock
from backup_lambda.objects import Expiry, folder
from backup_lambda.retention import Policy
from backup_lambda.schemas import RetentionItem, RetentionPlan, RetentionResult
from backup_lambda.settings import KeeperSettings
from backup_lambda.signing import EXPIRY, Signer
from backup_lambda.store import S3Store
from backup_lambda.tasks import RetentionTask

# The gateway gives up after 29 s, in which the API, too, makes the plan. No backup is begun after the first of these,
# and none goes on after the second.
BEGUN_WITHIN_SECONDS, ENDS_WITHIN_SECONDS = 10, 15
KEPT_SECONDS = 5  # of the invocation's time, for what was begun
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeper:
    """What applies retention, opened once."""

    store: S3Store
    signer: Signer
    policy: Policy
    now: Clock

    async def apply(self, task: RetentionTask, seconds_left: Callable[[], float]) -> RetentionResult:
        """The plan with the task's digest, oldest first, as far as the time allows. Raises StalePlan and AwsError."""
        plan = None
        result = RetentionResult(digest=task.digest, complete=False, expired=[], cleaned=[], objects_deleted=0)
        time = asyncio.get_running_loop().time
        begun = time()
        try:
            async with asyncio.timeout(min(ENDS_WITHIN_SECONDS, seconds_left())):
                plan = await retention.checked(self.store, self.policy, task.digest, self.now)
                for item in reversed([each for each in plan.items if each.action != "keep"]):
                    if seconds_left() < KEPT_SECONDS or time() - begun > BEGUN_WITHIN_SECONDS:
                        return result
                    if left := await self._remove(item, plan, task, result):
                        log.warning("%s: its data is left: %s", item.backup_id, left)
                        result.left[item.backup_id] = left
                result.complete = True
        except TimeoutError:
            if plan is None:
                raise AwsUnavailable("the plan could not be made in time: nothing was done") from None
            log.warning("retention stopped, as its time was over: the next plan names what is left")
        return result

    async def _remove(
        self, item: RetentionItem, plan: RetentionPlan, task: RetentionTask, result: RetentionResult
    ) -> str | None:
        """Why it was not, if so."""
        found = await candidates.look(self.store, item.backup_id, self.now)
        if left := _why_not(item, found):
            return left
        if item.action == "expire":
            expiry = Expiry(
                backup_id=item.backup_id,
                expired_at=self.now(),
                requested_by=task.requested_by,
                digest=plan.digest,
                policy=plan.policy,
                reasons=item.reasons,
            )
            await self._say(expiry)
            result.expired.append(item.backup_id)
            found = await candidates.look(self.store, item.backup_id, self.now)
            if found and found.held:
                return found.held
        elif item.state == "expired" and not await self._is_ours(item.backup_id):
            return "expired.json is not signed by this keeper's key: find out who wrote it"
        result.objects_deleted += await self._delete(item.backup_id)
        if item.action == "clean":
            result.cleaned.append(item.backup_id)
        log.info("%s: %s: %s", item.backup_id, item.action, "; ".join(item.reasons))
        return None

    async def _say(self, expiry: Expiry) -> None:
        """Write expired.sig and expired.json, in this order: whoever finds the second can trust it, or nobody can."""
        json, sig = (f"{folder(expiry.backup_id)}expired.{kind}" for kind in ("json", "sig"))
        body = expiry.model_dump_json(indent=1).encode()
        try:
            there = await self.store.etags(f"{folder(expiry.backup_id)}expired.")
            await self.store.put(sig, await signing.signature_of(self.signer, body, EXPIRY), there.get(sig))
            await self.store.put(json, body)
        except ObjectChanged as changed:
            await self._settle(expiry, changed)
        there = await self.store.etags(f"{folder(expiry.backup_id)}expired.")
        if {json, sig} - there.keys():
            raise AwsUnavailable(f"{json} was written, and is not there")

    async def _settle(self, expiry: Expiry, changed: ObjectChanged) -> None:
        """Another keeper applies the same plan: its expired.json is the one, and may have got our signature."""
        prefix = f"{folder(expiry.backup_id)}expired."
        there = await self.store.etags(prefix)
        if f"{prefix}json" not in there:
            raise AwsUnavailable("somebody else applies this plan at this moment") from changed
        theirs = (await self.store.get(f"{prefix}json")).body
        if await self._is_ours(expiry.backup_id):
            return
        try:
            same = Expiry.model_validate_json(theirs).digest == expiry.digest
        except ValidationError:
            same = False
        if not same:
            raise AwsUnavailable("somebody else applies another plan at this moment") from changed
        await self.store.put(
            f"{prefix}sig", await signing.signature_of(self.signer, theirs, EXPIRY), there.get(f"{prefix}sig")
        )

    async def _is_ours(self, backup_id: str) -> bool:
        names = await objects.names_of(self.store, backup_id)
        if not {"expired.json", "expired.sig"} <= names:
            return False
        body, signature = [
            (await self.store.get(f"{folder(backup_id)}expired.{kind}")).body for kind in ("json", "sig")
        ]
        try:
            signing.check(body, signature, {signing.fingerprint(await self.signer.public_key())}, EXPIRY)
            return Expiry.model_validate_json(body).backup_id == backup_id
        except (SignatureInvalid, ValidationError):
            return False

    async def _delete(self, backup_id: str) -> int:
        keys = await self._data(backup_id)
        await self.store.delete(keys)
        if left := await self._data(backup_id):
            raise AwsUnavailable(f"{left[0]} was deleted, and is there")
        return len(keys)

    async def _data(self, backup_id: str) -> list[str]:
        names = await objects.names_of(self.store, backup_id)
        return sorted(folder(backup_id) + name for name in names if name.startswith(DATA))


def _why_not(item: RetentionItem, found: Candidate | None) -> str | None:
    if found is None:
        return "nothing of it is left"
    same = (found.state, found.label) == (item.state, item.label)
    return found.held or (None if same else "it is not what it was in the plan")


def create_keeper(settings: KeeperSettings, now: Clock, *, s3: Any, secrets: Any, kms: Any) -> Keeper:
    """Out of clients; anew for each task, so that a key that changed is read again."""
    signer = signing.signer_of(settings.signing_key, kms=kms, secrets=secrets)
    return Keeper(S3Store(s3, settings.bucket), signer, settings.retention, now)
