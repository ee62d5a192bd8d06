"""How we log in to PostgreSQL: by the URL's password, or, on RDS, by a token that IAM vouches for.

`postgresql://user:password@host:port/database` holds a password, `postgresql+iam://user@host:port/database` none: a
token is signed for each connection, with the credentials that botocore finds. It is good for a quarter of an hour, and
sent only to a server that its certificate names. See "IAM database authentication" in Amazon's guide to RDS.
"""

import asyncio
import tempfile
from functools import cache
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.session import get_session

BY_PASSWORD, BY_IAM = "postgresql", "postgresql+iam"
TOKEN_SECONDS = 900  # RDS takes none that is good for longer


def arguments(url: str) -> dict[str, Any]:
    """What `asyncpg.connect` takes for it. Raises ValueError."""
    address = urlsplit(url)
    if address.scheme != BY_IAM:
        return {"dsn": url}
    if not (address.username and address.hostname) or address.password is not None:
        raise ValueError("with IAM there are a user and a host, and no password")

    async def token() -> str:
        return await asyncio.to_thread(_token, address)  # credentials may come by HTTP

    # A mode in the URL would give way to this one.
    return {"dsn": address._replace(scheme=BY_PASSWORD).geturl(), "password": token, "ssl": "verify-full"}


def trusting(url: str, authorities: str) -> str:
    """The URL with TLS to a server that one of the authorities, which are PEM, vouches for. Without any, as it is."""
    if not authorities:
        return url
    address = urlsplit(url)
    files = f"sslmode=verify-full&sslrootcert={quote(_kept(authorities))}"
    return address._replace(query=f"{address.query}&{files}" if address.query else files).geturl()


def _token(address: SplitResult) -> str:
    """The same as boto3's `generate_db_auth_token`, which would read the description of all of RDS for it."""
    session = get_session()
    credentials, region = session.get_credentials(), session.get_config_variable("region")
    if credentials is None or region is None:
        raise ValueError("there are no AWS credentials or no region to log in to the database with")
    place = f"https://{address.hostname}:{address.port or 5432}/"
    request = AWSRequest("GET", f"{place}?Action=connect&DBUser={quote(unquote(address.username or ''), safe='')}")
    SigV4QueryAuth(credentials.get_frozen_credentials(), "rds-db", region, TOKEN_SECONDS).add_auth(request)
    return str(request.url).removeprefix("https://")


@cache
def _kept(authorities: str) -> str:
    """The path of a file with them, which is what asyncpg takes."""
    with tempfile.NamedTemporaryFile("w", prefix="database-ca-", suffix=".pem", delete=False) as file:
        file.write(authorities)
    return file.name
