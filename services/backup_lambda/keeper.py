"""Retention applied: says that a backup has expired, signed, and then deletes its data, and nothing else.

A backup that expires passes three steps, each of which can be made again: `expired.sig`; `expired.json`, from which on
it has expired; then its data is deleted. Whatever a keeper leaves that dies between them, the next plan names again.

A proof or a restore may begin while it expires. It takes its lease, and then looks for `expired.json`; the keeper
writes that, and then looks for leases, and only then deletes. So at least one of them sees the other and gives way.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from backup_lambda import candidates, objects, retention, signing
from backup_lambda.candidates import DATA, Candidate
from backup_lambda.errors import AwsError, AwsUnavailable, ObjectChanged, PlanRefused, SignatureInvalid
from backup_lambda.lease import Clock
from backup_lambda.manifest import Manifest
from backup_lambda.objects import Expiry, folder
from backup_lambda.proof import Proof
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
    former_keys: Sequence[str] = ()  # fingerprints of keys that signed earlier

    async def apply(self, task: RetentionTask, seconds_left: Callable[[], float]) -> RetentionResult:
        """The plan with the task's digest, oldest first, as far as the time allows. Raises StalePlan and AwsError."""
        plan, failed = None, False
        result = RetentionResult(digest=task.digest, complete=False, expired=[], cleaned=[], objects_deleted=0)
        time = asyncio.get_running_loop().time
        begun = time()
        try:
            async with asyncio.timeout(min(ENDS_WITHIN_SECONDS, seconds_left())):
                plan = await retention.checked(self.store, self.policy, task.digest, self.now)
                await self._check_what_is_relied_upon(plan)
                for item in reversed([each for each in plan.items if each.action != "keep"]):
                    if seconds_left() < KEPT_SECONDS or time() - begun > BEGUN_WITHIN_SECONDS:
                        return result
                    try:
                        left = await self._remove(item, plan, task, result)
                    except AwsError as error:  # the others are not to wait for this one
                        failed, left = True, str(error)
                    if left:
                        log.warning("%s: its data is left: %s", item.backup_id, left)
                        result.left[item.backup_id] = left
                result.complete = not failed
        except TimeoutError:
            if plan is None:
                raise AwsUnavailable("the plan could not be made in time: nothing was done") from None
            log.warning("retention stopped, as its time was over: the next plan names what is left")
        return result

    async def _check_what_is_relied_upon(self, plan: RetentionPlan) -> None:
        """Others are deleted because these are kept: so these must be what we signed. Raises PlanRefused."""
        kept = [each.backup_id for each in plan.items if each.action == "keep" and each.state == "proven"]
        gate = asyncio.Semaphore(candidates.READ_AT_ONCE)

        async def check(backup_id: str) -> None:
            async with gate:
                try:
                    await self._check_signatures(backup_id)
                except (SignatureInvalid, ValidationError) as error:
                    raise PlanRefused(
                        f"{backup_id} is kept in the place of others, and is not what was signed: {error}. Nothing was"
                        " deleted. Find out who wrote it: `verify` names all that is altered."
                    ) from error

        if any(each.action == "expire" for each in plan.items):
            await asyncio.gather(*(check(each) for each in kept))

    async def _check_signatures(self, backup_id: str) -> None:
        """Of its manifest, and of the proof by which it is proven. Raises SignatureInvalid and ValidationError."""
        names, where = await objects.names_of(self.store, backup_id), folder(backup_id)

        async def signed(stem: str, heading: bytes) -> bytes:
            if not {f"{stem}.json", f"{stem}.sig"} <= names:
                raise SignatureInvalid(f"{stem}.sig is missing")
            body, signature = [(await self.store.get(f"{where}{stem}.{kind}")).body for kind in ("json", "sig")]
            signing.check(body, signature, await self._trusted(), heading)
            return body

        manifest = await signed("manifest", signing.MANIFEST)
        if Manifest.model_validate_json(manifest).id != backup_id:
            raise SignatureInvalid("it is the manifest of another backup")
        for number in objects.numbers(names):
            proof = Proof.model_validate_json(await signed(f"proof/{number}", signing.PROOF))
            about = (proof.backup_id, proof.number, proof.manifest_sha256)
            if about != (backup_id, number, hashlib.sha256(manifest).hexdigest()):
                raise SignatureInvalid(f"proof/{number}.json is about something else")
            if proof.verdict == "proven":
                return
        raise SignatureInvalid("no proof of it says that it is proven")

    async def _trusted(self) -> set[str]:
        return {signing.fingerprint(await self.signer.public_key()), *self.former_keys}

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
            found = Expiry.model_validate_json(theirs)
            same = found == expiry.model_copy(
                update={"expired_at": found.expired_at, "requested_by": found.requested_by}
            )
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
            signing.check(body, signature, await self._trusted(), EXPIRY)
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
    return Keeper(S3Store(s3, settings.bucket), signer, settings.retention, now, settings.former_keys)
