from dataclasses import dataclass

import pytest

from tests.deploy import probe
from tests.deploy.account import Account, Keys
from tests.servers import Aws

STACK = "probe-backup"
SECRET = "probe-database-url"


@dataclass(frozen=True)
class Deployed:
    """The stack, with the probe for a package, and who may call it."""

    account: Account
    parameters: dict[str, str]
    outputs: dict[str, str]
    scheduler: Keys
    ops: Keys
    nobody: Keys  # a user of the account without any right


@pytest.fixture(scope="session")
def deployed(aws: Aws) -> Deployed:
    account = Account(aws)
    parameters = {
        "CodeBucket": "probe-code",
        "CodeKey": account.upload(probe.package()),
        "DatabaseSecretArn": account.secret(SECRET),
        "RequireTls": "false",
    }
    outputs = account.deploy(STACK, parameters)
    for key in ("backups/there/request.json", "idempotency/there.json"):
        account.client("s3").put_object(Bucket=outputs["BucketName"], Key=key, Body=b"{}")
    return Deployed(
        account,
        parameters,
        outputs,
        scheduler=account.user("probe-scheduler", outputs["SchedulerPolicyArn"]),
        ops=account.user("probe-ops", outputs["OpsPolicyArn"]),
        nobody=account.user("probe-nobody"),
    )
