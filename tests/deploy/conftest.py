from dataclasses import dataclass

import pytest

from tests.deploy import probe
from tests.deploy.account import Account, Keys
from tests.servers import Aws

STACK = "probe-backup"
HARDENED, PRIVATE, STRICT = "probe-hardened", "probe-private", "probe-strict"
# What the stacks of the network and of the databases say, which the emulator has no servers for.
PUBLISHED = {
    "holdfast-network": [
        *(f"{kind}Subnet{zone}" for kind in ("Public", "Private") for zone in "AB"),
        "WorkerSecurityGroup",
    ],
    "holdfast-data": ["Endpoint", "ResourceId", "ProofEndpoint", "ProofResourceId", "Authorities"],
}
TABLE = "notes.notes.json.gz"
DATA, INDEX = f"backups/there/data/{TABLE}", f"backups/there/index/{TABLE}"
MANIFEST, SIGNATURE, PROOF = (f"backups/there/{name}" for name in ("manifest.json", "manifest.sig", "proof/1.json"))
KEPT = (DATA, INDEX, MANIFEST, SIGNATURE, PROOF)
REQUEST, KEY_RECORD = "backups/there/request.json", "idempotency/there.json"
RESULT = "restores/there/result.json"


@dataclass(frozen=True)
class Deployed:
    """A stack, with the probe for a package, and who may call it."""

    account: Account
    stack: str
    parameters: dict[str, str]
    outputs: dict[str, str]
    names: dict[str, str]  # what calls speak of: outputs, parameters, log groups, an upload, versions of objects
    scheduler: Keys
    console: Keys
    ops: Keys
    nobody: Keys  # a user of the account without any right


@pytest.fixture(scope="session")
def deployed(aws: Aws) -> Deployed:
    """As the template's defaults make it: encrypted by S3, no Object Lock; signed with a secret's key."""
    account = Account(aws)
    return _deploy(account, STACK, {"SigningKeyArn": account.secret("probe-signing-key")})


@pytest.fixture(scope="session")
def hardened(aws: Aws) -> Deployed:
    """Signed and encrypted by KMS, under Object Lock; and restores reach the live database."""
    account = Account(aws)
    key_arn = account.key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    signing_key_arn = account.key("ECC_NIST_EDWARDS25519", "SIGN_VERIFY")
    more = {
        "RestoresLive": "true",
        "SigningKeyArn": signing_key_arn,
        "KmsKeyArn": key_arn,
        "ObjectLockDays": "1",
        "RestoreDatabaseSecretArn": account.secret("probe-restore-database-url"),
    }
    return _deploy(account, HARDENED, more)


@pytest.fixture(scope="session")
def private(aws: Aws) -> Deployed:
    """In a VPC, let in to its databases by IAM, and with a task for what takes long; it restores, too."""
    account, ssm = Account(aws), Account(aws).client("ssm")
    for stack, names in PUBLISHED.items():
        for name in names:
            ssm.put_parameter(
                Name=f"/{stack}/{name}", Value=f"{name.lower()}-of-{stack}", Type="String", Overwrite=True
            )
    more = {
        "SigningKeyArn": account.secret("probe-signing-key"),
        "DatabaseSecretArn": "",
        "ProofDatabaseSecretArn": "",
        "RestoresLive": "true",
        "InVpc": "true",
        "WorkerImage": "holdfast/backup_lambda",
        "TaskFromBytes": "0",
    }
    return _deploy(account, PRIVATE, more)


@pytest.fixture(scope="session")
def strict(aws: Aws) -> Deployed:
    """As on AWS, where plain HTTP, which is all that the emulator speaks, is refused."""
    account = Account(aws)
    return _deploy(account, STRICT, {"SigningKeyArn": account.secret("probe-signing-key"), "RequireTls": "true"})


def _deploy(account: Account, stack: str, more: dict[str, str]) -> Deployed:
    parameters = {
        "CodeBucket": "probe-code",
        "CodeKey": account.upload(probe.package()),
        "DatabaseSecretArn": account.secret("probe-database-url"),
        "ProofDatabaseSecretArn": account.secret("probe-proof-database-url"),
        "RequireTls": "false",
        **more,
    }
    outputs = account.deploy(stack, parameters)
    if "ObjectLockDays" in more:
        _lock_and_encrypt(account, outputs["BucketName"], more["KmsKeyArn"])
    return Deployed(
        account,
        stack,
        parameters,
        outputs,
        names={**parameters, **outputs, **_things_of(account, stack, outputs)},
        scheduler=account.user(f"{stack}-scheduler", outputs["SchedulerPolicyArn"]),
        console=account.user(f"{stack}-console", outputs["ConsolePolicyArn"]),
        ops=account.user(f"{stack}-ops", outputs["OpsPolicyArn"]),
        nobody=account.user(f"{stack}-nobody"),
    )


def _lock_and_encrypt(account: Account, bucket: str, key_arn: str) -> None:
    """What the template says of the bucket and the emulator's CloudFormation passes over."""
    s3 = account.client("s3")
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    by_default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key_arn}
    rules = [{"ApplyServerSideEncryptionByDefault": by_default, "BucketKeyEnabled": True}]
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules})


def _things_of(account: Account, stack: str, outputs: dict[str, str]) -> dict[str, str]:
    bucket, s3 = outputs["BucketName"], account.client("s3")
    versions = {
        key: s3.put_object(Bucket=bucket, Key=key, Body=b"{}")["VersionId"]
        for key in (REQUEST, KEY_RECORD, RESULT, *KEPT)
    }
    subscribed = account.client("sns").subscribe(
        TopicArn=outputs["TopicArn"], Protocol="email", Endpoint="ada@example.com", ReturnSubscriptionArn=True
    )
    return {
        "ApiLog": account.physical_id(stack, "ApiLog"),
        "WorkerLog": account.physical_id(stack, "WorkerLog"),
        **({"TaskLogArn": _log_arn(account, stack, "TaskLog")} if stack == PRIVATE else {}),
        "KeeperLog": account.physical_id(stack, "KeeperLog"),
        "SubscriptionArn": subscribed["SubscriptionArn"],
        "NobodysSubscriptionArn": f"{outputs['TopicArn']}:00000000-0000-0000-0000-000000000000",
        "UploadId": s3.create_multipart_upload(Bucket=bucket, Key=DATA)["UploadId"],
        "RequestVersion": versions[REQUEST],
        "DataVersion": versions[DATA],
        "IndexVersion": versions[INDEX],
    }


def _log_arn(account: Account, stack: str, name: str) -> str:
    prefix = {"logGroupNamePrefix": account.physical_id(stack, name)}
    return str(account.client("logs").describe_log_groups(**prefix)["logGroups"][0]["arn"])
