"""What a deployment of a stack says about itself: the template's parameters, and the conditions on them."""

from typing import Any

from aws_cdk import Acknowledgment, CfnCondition, CfnElement, CfnParameter, Fn, Stack, Validations


class _Parameters:
    """A value of each is a reference, which CloudFormation resolves. A condition is true or false of a deployment."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        require_tls = self._text(
            "RequireTls",
            "false only for an emulator of AWS that speaks plain HTTP",
            allowed_values=["true", "false"],
            default="true",
        )
        self.tls = CfnCondition(self._stack, "Tls", expression=Fn.condition_equals(require_tls, "true"))

    def _text(self, name: str, description: str, **more: Any) -> str:
        return CfnParameter(self._stack, name, description=description, **more).value_as_string

    def _number(self, name: str, description: str, **more: Any) -> str:
        return self._text(name, description, type="Number", **{"min_value": 0, **more})

    def _is_not(self, name: str, value: str, other: str) -> CfnCondition:
        return CfnCondition(self._stack, name, expression=Fn.condition_not(Fn.condition_equals(value, other)))


class StorageParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.cors_origins = self._text(
            "CorsOrigins",
            "Origins whose pages may upload and download attachments, as https://app.example.org, separated by commas;"
            " empty: none",
            default="",
        )
        self.browsers_come = self._is_not("BrowsersCome", self.cors_origins, "")


class Parameters(_Parameters):
    """Of the backup stack."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        Validations.of(stack).acknowledge(
            Acknowledgment(id="CloudFormation-Validate::W2509", reason="They are the secrets' names, not the secrets"),
            Acknowledgment(id="CloudFormation-Validate::F3017", reason="Without a KMS key nothing is told one"),
        )
        self.code_bucket = CfnParameter(stack, "CodeBucket", description="Bucket of the functions' package")
        self.code_key = CfnParameter(stack, "CodeKey", description="A new package needs a new key to be deployed")
        self._backups()
        self._proofs()
        self._restores()
        self.of_retention = {
            "HOLDFAST_RETENTION": self._text(
                "Retention",
                "Which backups retention keeps; the newest proven one and those under way it keeps always",
                default="last 7, daily 14, weekly 8, monthly 24, labelled, proven 3",
                min_length=1,
            )
        }
        self.of_worker = {
            "HOLDFAST_DATABASE": self.database_secret,
            "HOLDFAST_PROOF_DATABASE": self.proof_database_secret,
            "HOLDFAST_RESTORE_DATABASE": self.restore_database_secret,
            "HOLDFAST_SIGNING_KEY": self.signing_key,
            "HOLDFAST_FORMER_KEYS": self.former_keys,
            "HOLDFAST_OBJECT_LOCK_DAYS": self.object_lock_days,
            "HOLDFAST_PROVE": self.prove,
            **self._choices(),
        }

    def _backups(self) -> None:
        self.database_secret = self._text(
            "DatabaseSecretArn", "Secret whose string is the postgresql:// URL of role notes_backup"
        )
        self.signing_key = self._text(
            "SigningKeyArn",
            "Signs manifests: a KMS key (ECC_NIST_EDWARDS25519), or a secret whose string is an Ed25519 private key"
            " in PEM",
            allowed_pattern=r"arn:[^:]+:(kms:[^:]+:\d{12}:key|secretsmanager:[^:]+:\d{12}:secret)[/:].+",
        )
        self.former_keys = self._text(
            "FormerKeys",
            "SHA-256 of the public keys that signed earlier backups, in hexadecimal digits, separated by commas",
            default="",
        )
        self.kms_key = self._text(
            "KmsKeyArn",
            "KMS key that new objects are encrypted with; empty: S3's own keys",
            default="",
            allowed_pattern=r"|arn:[^:]+:kms:[^:]+:\d{12}:key/.+",
        )
        self.encrypted_by_kms = self._is_not("EncryptedByKms", self.kms_key, "")
        self.object_lock_days = self._number(
            "ObjectLockDays",
            "For so many days nobody can delete a backup's data and manifest; 0: no Object Lock. A bucket that once"
            " had it keeps it",
            default="0",
        )
        self.locked = self._is_not("Locked", self.object_lock_days, "0")

    def _proofs(self) -> None:
        self.proof_database_secret = self._text(
            "ProofDatabaseSecretArn",
            "Secret whose string is the postgresql:// URL of a role that may create databases, on the server that"
            " proofs run on, which should not be the one that is backed up",
        )
        self.prove = self._text(
            "Prove",
            "Whether each backup is restored and compared when it is stored, or only when asked for",
            default="always",
            allowed_values=["always", "on_demand"],
        )

    def _restores(self) -> None:
        self.restore_database_secret = self._text(
            "RestoreDatabaseSecretArn",
            "Secret whose string is the postgresql:// URL of role notes_restore; empty: nothing is restored into the"
            " live database",
            default="",
        )
        self.restores_live = self._is_not("RestoresLive", self.restore_database_secret, "")

    def _choices(self) -> dict[str, str]:
        """What only the worker asks for, by its setting."""
        return {
            "HOLDFAST_SCHEMAS": self._text(
                "Schemas", "Schemas to back up, separated by commas", default="notes,scheduler", min_length=1
            ),
            "HOLDFAST_INCLUDE_TABLES": self._text(
                "IncludeTables", "Tables to back up: patterns of schema.table, with *", default="*", min_length=1
            ),
            "HOLDFAST_EXCLUDE_TABLES": self._text("ExcludeTables", "Tables to leave out, in the same form", default=""),
            "HOLDFAST_SUSPECT_FALL_PERCENT": self._number(
                "SuspectFallPercent",
                "A table that lost more of its rows since the last proven backup is suspect",
                default="50",
                min_value=1,
                max_value=100,
            ),
            "HOLDFAST_CHANGED_PERCENT": self._number(
                "ChangedPercent",
                "It is told when more of a table's rows are other than in the last proven backup",
                default="50",
                min_value=1,
                max_value=100,
            ),
            "HOLDFAST_REPROVE_AFTER_DAYS": self._number(
                "ReproveAfterDays", "Age of a proof at which a backup is proven again; 0: never", default="30"
            ),
            "HOLDFAST_PROOF_ROOM_BYTES": self._text(
                "ProofRoomBytes",
                "What scratch databases may take on the server that proofs run on; empty: nothing is checked",
                default="",
                allowed_pattern=r"|[1-9]\d*",
            ),
        }


def short_name(element: CfnElement) -> str:
    """The names in the code without CDK's hash: people meet them in events, alarms and docs/rights.md."""
    parts = (part.split(".")[0] for part in element.node.path.split("/")[1:])
    return "".join(filter(str.isalnum, "".join(part for part in parts if part not in ("Default", "Resource"))))
