"""How a backup, or a proof of it, has ended: what there is to announce."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from backup_lambda.errors import NothingToTell
from backup_lambda.manifest import Manifest
from backup_lambda.schemas import Backup, EventType, ProofOut, State

Severity = Literal["info", "warning", "error"]
_KINDS: dict[State, EventType] = {
    "proven": "backup.proven",
    "stored": "backup.stored",
    "suspect": "backup.suspect",
    "broken": "backup.broken",
    "failed": "backup.failed",
    "cancelled": "backup.cancelled",
}
_SEVERITIES: dict[EventType, Severity] = {
    "backup.proven": "info",
    "backup.stored": "info",
    "backup.suspect": "warning",
    "backup.broken": "error",
    "backup.failed": "error",
    "backup.cancelled": "warning",
}


@dataclass(frozen=True)
class Ending:
    """The end of a backup, or of its later `proof`, and what its notice tells beside it. Raises NothingToTell.

    `signed_by` is the fingerprint of the key that signed the manifest. `newest_proven` is what can be relied upon
    instead; it is not looked for when the backup itself is proven. None may also mean that it could not be asked.
    `changed` is told with the backup's own end only.
    """

    backup: Backup
    at: datetime
    proof: ProofOut | None = None
    signed_by: str | None = None
    newest_proven: Manifest | None = None
    newest_proven_known: bool = True
    changed: str | None = None  # that much of it is other than it was, in words

    def __post_init__(self) -> None:
        if self.backup.state not in _KINDS:
            raise NothingToTell(f"{self.backup.id} is {self.backup.state}: that is no end to tell of")

    @property
    def id(self) -> str:
        """Of the event: the same whenever this end is announced."""
        return f"{self.backup.id}{f'.proof.{self.proof.number}' if self.proof else ''}.{self.kind}"

    @property
    def kind(self) -> EventType:
        """A later proof that was not finished leaves the backup in its state, and is told like one that stays due."""
        if self.proof and self.proof.verdict == "unfinished":
            return "backup.stored"
        return _KINDS[self.backup.state]

    @property
    def severity(self) -> Severity:
        return "warning" if self.kind == "backup.stored" and self.unproven_because else _SEVERITIES[self.kind]

    @property
    def unproven_because(self) -> str | None:
        """Why a proof that was due told nothing."""
        return (self.proof.reason if self.proof else None) or self.backup.reason

    @property
    def ended_at(self) -> datetime:
        proof = self.proof or self.backup.proof
        return (proof.ended_at if proof else self.backup.ended_at) or self.at
