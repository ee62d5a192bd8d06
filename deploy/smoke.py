"""Whether a deployed backup stack does what it is for: `python -m deploy.smoke STACK`, or `make smoke STACK=...`.

It asks for a backup, and leaves it there.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import boto3
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

WITHIN_SECONDS = 1200  # the worker function has 900
LOOK_AGAIN_SECONDS = 2.0
UNDER_WAY = ("queued", "running")


class NotWell(Exception):
    """The stack did not do what it is for; the message says what."""


def url_of(session: Any, stack: str) -> str:
    """As the stack has published it."""
    found: str = session.client("ssm").get_parameter(Name=f"/{stack}/ApiUrl")["Parameter"]["Value"]
    return found


def smoke(session: Any, url: str, say: Callable[[str], object]) -> None:
    """`url` is the gateway's, with its stage. Raises NotWell, and what boto3 and httpx raise."""
    signer = SigV4Auth(session.get_credentials().get_frozen_credentials(), "execute-api", session.region_name)
    with httpx.Client(timeout=30) as http:

        def ask(method: str, path: str, content: Any = None) -> Any:
            body = None if content is None else json.dumps(content)
            signed = AWSRequest(method, f"{url}/{path}", data=body, headers={"Content-Type": "application/json"})
            signer.add_auth(signed)
            answer = http.request(method, f"{url}/{path}", content=body, headers=dict(signed.headers.items()))
            if answer.status_code >= 400:
                raise NotWell(f"{method} /{path} was answered with {answer.status_code}: {answer.text}")
            return answer.json()

        unsigned = http.get(f"{url}/backups")
        if unsigned.status_code != 403:
            raise NotWell(f"a call without a signature was answered with {unsigned.status_code}, and not refused")
        say("a call without a signature is refused")

        backup = ask("POST", "backups", {"label": "smoke"})
        say(f"backup {backup['id']} was asked for")
        deadline = time.monotonic() + WITHIN_SECONDS
        while (backup := ask("GET", f"backups/{backup['id']}"))["state"] in UNDER_WAY:
            if time.monotonic() > deadline:
                raise NotWell(f"backup {backup['id']} is still {backup['state']} after {WITHIN_SECONDS} s")
            time.sleep(LOOK_AGAIN_SECONDS)
        if backup["state"] != "proven":
            raise NotWell(f"backup {backup['id']} ended as {backup['state']}: {backup.get('failure') or ''}")
        say(f"backup {backup['id']} is proven")

        heard = [each for each in ask("GET", "subscriptions")["items"] if each["id"]]
        say(f"{len(heard)} addresses hear of it" if heard else "nobody would hear of a failure: subscribe somebody")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.smoke", description=__doc__.partition("\n")[0])
    parser.add_argument("stack", nargs="?", default="holdfast-backup", help="its name in the account")
    parser.add_argument("--url", help="of its gateway, where that is not the one that the stack has published")
    given = parser.parse_args(arguments)
    try:
        session = boto3.session.Session()
        if session.get_credentials() is None or session.region_name is None:
            raise NotWell(
                "there are no AWS credentials or no Region: set AWS_PROFILE, or AWS_DEFAULT_REGION beside the keys"
            )
        smoke(session, given.url or url_of(session, given.stack), print)
    except (NotWell, BotoCoreError, ClientError, httpx.HTTPError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
