"""AWS behind one module: clients, their time limits, and what their errors mean.

aioboto3 pins an old botocore, so that it may have to be replaced: only its clients are used, none of its transfers.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from backup_lambda.errors import AwsRefused, AwsUnavailable, ObjectChanged

CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 3}, connect_timeout=3, read_timeout=20, max_pool_connections=32
)
ASKING = "lambda, asking"  # a client of Lambda for what is waited for
_OF_SERVICE = {
    # Links are signed as everything else is: by default they would have a signature that S3 takes in old regions only.
    "s3": CONFIG.merge(Config(signature_version="s3v4")),
    # Whoever asks has 28 s. A question that took so long would only be asked again.
    ASKING: CONFIG.merge(Config(connect_timeout=2, read_timeout=25, retries={"total_max_attempts": 1})),
}
# A condition did not hold; another conditional write was under way; If-Match for an object that is not there; a
# multipart upload that was completed, but whose answer we lost. An answer to HEAD has no body, and only its status.
_CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "NoSuchUpload", "404", "412"}
_TRY_AGAIN = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException"}


@asynccontextmanager
async def clients(*services: str) -> AsyncIterator[list[Any]]:
    """Clients of the services named, for the running event loop. Making the first one blocks the loop for a moment.

    What follows a comma in a name says what the client is for.
    """
    session = aioboto3.Session()
    async with AsyncExitStack() as stack:
        made = [session.client(name.partition(",")[0], config=_OF_SERVICE.get(name, CONFIG)) for name in services]
        yield [await stack.enter_async_context(client) for client in made]


@contextmanager
def errors_named() -> Iterator[None]:
    """Turns what a client raises into our AwsUnavailable, AwsRefused or ObjectChanged."""
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        said = f"{error.operation_name} was answered {code}"
        if code in _CHANGED:
            raise ObjectChanged(said) from error
        if error.response["ResponseMetadata"].get("HTTPStatusCode", 500) >= 500 or code in _TRY_AGAIN:
            raise AwsUnavailable(said) from error
        raise AwsRefused(said) from error
    except (BotoCoreError, OSError, TimeoutError) as error:
        raise AwsUnavailable(f"AWS did not answer: {type(error).__name__}") from error


def told(answer: Mapping[str, Any], name: str) -> str:
    """What an answer must say. Raises AwsUnavailable when it does not: it may not be AWS that answered."""
    if not answer.get(name):
        raise AwsUnavailable(f"AWS answered without {name}")
    return str(answer[name])


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "without a code"))
