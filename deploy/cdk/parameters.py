"""What a deployment of a stack says about itself, what it tells other stacks, and what depends on either."""

from collections.abc import Mapping
from typing import Any

from aws_cdk import (
    Acknowledgment,
    Aws,
    CfnCondition,
    CfnElement,
    CfnOutput,
    CfnParameter,
    Fn,
    Stack,
    Token,
    Validations,
)
from aws_cdk import aws_ssm as ssm

from deploy.cdk import policies

ZONES = ("A", "B")


def publish(stack: Stack, values: Mapping[str, str]) -> None:
    """Outputs of a stack, for other stacks as parameters of SSM, so that each is deployed without the others."""
    for name, value in values.items():
        CfnOutput(stack, name, value=value)
        ssm.CfnParameter(stack, f"{name}Parameter", name=f"/{Aws.STACK_NAME}/{name}", type="String", value=value)


def published(stack_name: str, name: str) -> str:
    """What the stack of that name has published, read when it is needed: a condition may be that there is no such."""
    return f"{{{{resolve:ssm:/{stack_name}/{name}}}}}"


def one_of(condition: CfnCondition, value: Any, otherwise: Any) -> str:
    return Token.as_string(Fn.condition_if(condition.logical_id, value, otherwise))


class _Parameters:
    """A value of each is a reference, which CloudFormation resolves. A condition is true or false of a deployment."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def stack(self, name: str) -> str:
        """The name of another stack, which says by it what it has published."""
        return self._text(f"{name}Stack", f"Name of the {name.lower()} stack", default=f"holdfast-{name.lower()}")

    def _require_tls(self) -> None:
        """For stacks that are deployed into an emulator as well."""
        self.tls = self._switch(
            "RequireTls", "false only for an emulator of AWS that speaks plain HTTP", name="Tls", default="true"
        )

    def _text(self, name: str, description: str, **more: Any) -> str:
        return CfnParameter(self._stack, name, description=description, **more).value_as_string

    def _number(self, name: str, description: str, **more: Any) -> str:
        return self._text(name, description, type="Number", **{"min_value": 0, **more})

    def _switch(self, parameter: str, description: str, *, name: str, default: str = "false") -> CfnCondition:
        chosen = self._text(parameter, description, allowed_values=["true", "false"], default=default)
        return self._is(name, chosen, "true")

    def _is(self, name: str, value: str, other: str) -> CfnCondition:
        return CfnCondition(self._stack, name, expression=Fn.condition_equals(value, other))

    def _is_not(self, name: str, value: str, other: str) -> CfnCondition:
        return CfnCondition(self._stack, name, expression=Fn.condition_not(Fn.condition_equals(value, other)))

    def _not(self, name: str, condition: Any) -> CfnCondition:
        return CfnCondition(self._stack, name, expression=Fn.condition_not(condition))

    def _both(self, name: str, *conditions: Any) -> CfnCondition:
        return CfnCondition(self._stack, name, expression=Fn.condition_and(*conditions))


class NetworkParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.cidr = self._text(
            "Cidr", "Addresses of the VPC", default="10.20.0.0/16", allowed_pattern=r"\d+\.\d+\.\d+\.\d+/(16|17|18)"
        )
        self.uses_kms = self._switch(
            "UsesKms", "Whether the worker signs or encrypts with KMS", name="WithKms", default="true"
        )
        self.reads_secrets = self._switch(
            "ReadsSecrets", "Whether the worker logs in to databases by secrets, and not by IAM", name="WithSecrets"
        )
        self.runs_tasks = self._switch(
            "RunsTasks", "Whether the worker hands on what takes longer than a function may", name="WithTasks"
        )


class DataParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.network = self.stack("Network")
        self.authorities = self._text(
            "AuthorityPem",
            "PEM of the authority rds-ca-rsa2048-g1 of this Region, from AWS's trust store; see docs/deploy.md",
            allowed_pattern=r"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----\s*",
        )
        self.database_class = self._text("DatabaseClass", "Of the database", default="db.t4g.small")
        self.database_storage = self._gib("DatabaseStorage", "Of the database, at first", "20")
        self.database_max_storage = self._number(
            "DatabaseMaxStorage", "GiB to which it may grow, and the proofs' as well", default="200", min_value=22
        )
        self.multi_az = self._switch(
            "MultiAz", "Whether a standby in the other zone takes over, of PostgreSQL and of Valkey", name="TwoZones"
        )
        self.proof_class = self._text("ProofClass", "Of the server that proofs run on", default="db.t4g.micro")
        self.proof_storage = self._gib("ProofStorage", "Of that server: twice the rows, or more", "20")
        self.cache_class = self._text("CacheClass", "Of Valkey", default="cache.t4g.micro")

    def _gib(self, name: str, of: str, default: str) -> str:
        return self._number(name, f"GiB {of[:1].lower()}{of[1:]}", default=default, min_value=20)


class ClusterParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.network = self.stack("Network")
        self.certificate = self._text(
            "CertificateArn",
            "Certificate of ACM for the name that clients use",
            allowed_pattern=r"arn:[^:]+:acm:[^:]+:\d{12}:certificate/.+",
        )


class ServiceParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.network, self.data, self.cluster = self.stack("Network"), self.stack("Data"), self.stack("Cluster")
        self.image = self._text("Image", "Image for arm64, with its tag or digest", min_length=1)
        self.cpu = self._text("Cpu", "Of a container: 1024 is a whole one", default="256")
        self.memory = self._text("Memory", "MiB of a container", default="512")
        self.at_least = self._number(
            "AtLeast", "So many containers run in any case; 0 before the first migrations", default="2"
        )
        self.none_yet = self._is("NoneYet", self.at_least, "0")
        self.at_most = self._number("AtMost", "And so many when there is much to do", default="6")

    def http_targets(self) -> str:
        return self._text(
            "HttpTargets", "How URLs begin that schedules may call, separated by commas; empty: none", default=""
        )


class HostParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.network, self.data = self.stack("Network"), self.stack("Data")
        self.storage, self.backup = self.stack("Storage"), self.stack("Backup")
        self.instance_type = self._text("InstanceType", "One for arm64", default="t4g.small")
        self.image = self._text("ImageId", "Machine image of Ubuntu 24.04 for arm64", type="AWS::EC2::Image::Id")
        self.code_bucket = self._text("CodeBucket", "Bucket with what compose.yaml needs on the host", min_length=3)
        self.bundle = self._text("Bundle", "Its key there", allowed_pattern=r"host/.+\.tar\.gz")
        self.version = self._text("Version", "Tag of the images of all services, at first", min_length=1)


class WatchParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.data, self.backup = self.stack("Data"), self.stack("Backup")
        self.cluster, self.host = self.stack("Cluster"), self.stack("Host")
        self.notes_api = self._text("NotesApiStack", "Name of the stack of the notes API", default="holdfast-notes-api")
        self.scheduler = self.stack("Scheduler")
        self.host_instance = self._text(
            "HostInstance", "Id of the host's machine; published: what its stack said at first", default="published"
        )
        self.host_named = self._is_not("HostNamed", self.host_instance, "published")
        where = self._text(
            "Services", "Where the services run", allowed_values=["host", "ecs", "elsewhere"], default="host"
        )
        self.on_host, self.on_ecs = self._is("OnHost", where, "host"), self._is("OnEcs", where, "ecs")
        on_rds = self._text("Databases", "Where PostgreSQL is", allowed_values=["rds", "elsewhere"], default="rds")
        self.on_rds = self._is("OnRds", on_rds, "rds")
        self.connections = self._number("Connections", "To PostgreSQL: so many are too many", default="80")


class StorageParameters(_Parameters):
    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self._require_tls()
        self.cors_origins = self._text(
            "CorsOrigins",
            "Origins whose pages may upload and download attachments, as https://app.example.org, separated by commas;"
            " empty: none",
            default="",
        )
        self.static_files = self._switch(
            "StaticFiles", "Whether there is a bucket of static files, behind CloudFront", name="WithStaticFiles"
        )
        self.browsers_come = self._is_not("BrowsersCome", self.cors_origins, "")


class Parameters(_Parameters):
    """Of the backup stack."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self._require_tls()
        Validations.of(stack).acknowledge(
            Acknowledgment(id="CloudFormation-Validate::W2509", reason="They are the secrets' names, not the secrets"),
            Acknowledgment(id="CloudFormation-Validate::F3017", reason="Without a KMS key nothing is told one"),
        )
        self.code_bucket = CfnParameter(stack, "CodeBucket", description="Bucket of the functions' package")
        self.code_key = CfnParameter(stack, "CodeKey", description="A new package needs a new key to be deployed")
        self._network()
        self._databases()
        self._backups()
        self._proofs()
        self.of_retention = {
            "HOLDFAST_RETENTION": self._text(
                "Retention",
                "Which backups retention keeps; the newest proven one and those under way it keeps always",
                default="last 7, daily 14, weekly 8, monthly 24, labelled, proven 3",
                min_length=1,
            )
        }
        self.of_worker = {
            **self._urls(),
            "HOLDFAST_SIGNING_KEY": self.signing_key,
            "HOLDFAST_FORMER_KEYS": self.former_keys,
            "HOLDFAST_OBJECT_LOCK_DAYS": self.object_lock_days,
            "HOLDFAST_PROVE": self.prove,
            **self._choices(),
        }

    def _network(self) -> None:
        network = self.stack("Network")
        self.private = self._switch(
            "InVpc", "Whether the worker is in the private subnets of the network stack", name="Private"
        )
        self.subnets = [published(network, f"PrivateSubnet{zone}") for zone in ZONES]
        self.security_group = published(network, "WorkerSecurityGroup")
        self.worker_image = self._text(
            "WorkerImage",
            "Image of services/backup_lambda, as a task of which the worker does what takes longer than a function may;"
            " empty: none does",
            default="",
        )
        self.with_task = self._is_not("WithTask", self.worker_image, "")
        self.task_subnets = [published(network, f"PublicSubnet{zone}") for zone in ZONES]
        self.task_from_bytes = self._number(
            "TaskFromBytes",
            "Size of the database at which the task takes the function's place; 0: always",
            default="10000000000",
        )

    def _databases(self) -> None:
        self.data_stack = self.stack("Data")
        self.database_secret = self._text(
            "DatabaseSecretArn",
            "Secret whose string is the postgresql:// URL of role notes_backup; empty: the data stack's databases,"
            " where IAM lets the worker in",
            default="",
        )
        self.by_iam = self._is("ByIam", self.database_secret, "")
        self.by_password = self._not("ByPassword", self.by_iam)
        self.proof_database_secret = self._text(
            "ProofDatabaseSecretArn",
            "Secret whose string is the postgresql:// URL of a role that may create databases, on the server that"
            " proofs run on, which should not be the one that is backed up",
            default="",
        )
        self.restores_live = self._switch(
            "RestoresLive", "Whether rows may be restored into the live database", name="IntoLive"
        )
        self.restore_database_secret = self._text(
            "RestoreDatabaseSecretArn",
            "Secret whose string is the postgresql:// URL of role notes_restore, if they may",
            default="",
        )
        self.restores_by_password = self._both("RestoresByPassword", self.restores_live, self.by_password)
        self.restores_by_iam = self._both("RestoresByIam", self.restores_live, self.by_iam)
        self.database_ca = self._text(
            "DatabaseCa",
            "PEM of the authorities that vouch for a database of somebody else; empty: its URL says how to connect",
            default="",
        )

    @property
    def databases(self) -> policies.Databases:
        def user(name: str, resource_id: str) -> str:
            place = f"arn:{Aws.PARTITION}:rds-db:{Aws.REGION}:{Aws.ACCOUNT_ID}:dbuser"
            return f"{place}:{published(self.data_stack, resource_id)}/{name}"

        return policies.Databases(
            secrets=[self.database_secret, self.proof_database_secret],
            live_secret=self.restore_database_secret,
            users=[user("notes_backup", "ResourceId"), user("notes_proof", "ProofResourceId")],
            live_user=user("notes_restore", "ResourceId"),
            by_password=self.by_password,
            by_iam=self.by_iam,
            live_by_password=self.restores_by_password,
            live_by_iam=self.restores_by_iam,
        )

    def _urls(self) -> dict[str, str]:
        def either(role: str, endpoint: str, database: str, secret: str) -> str:
            url = f"postgresql+iam://{role}@{published(self.data_stack, endpoint)}/{database}"
            return one_of(self.by_iam, url, secret)

        live = either("notes_restore", "Endpoint", "holdfast", self.restore_database_secret)
        return {
            "HOLDFAST_DATABASE": either("notes_backup", "Endpoint", "holdfast", self.database_secret),
            "HOLDFAST_PROOF_DATABASE": either("notes_proof", "ProofEndpoint", "postgres", self.proof_database_secret),
            "HOLDFAST_RESTORE_DATABASE": one_of(self.restores_live, live, ""),
            "HOLDFAST_DATABASE_CA": one_of(self.by_iam, published(self.data_stack, "Authorities"), self.database_ca),
        }

    def _backups(self) -> None:
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
        self.prove = self._text(
            "Prove",
            "Whether each backup is restored and compared when it is stored, or only when asked for",
            default="always",
            allowed_values=["always", "on_demand"],
        )

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
