"""The real servers that tests run on, each started once per session."""

import secrets
from collections.abc import Iterator

import pytest

from deploy.local import emulator as aws_emulator
from deploy.local import valkey
from tests.servers import EMULATOR_PYTHON, Aws, Cluster, free_port, postgres, private_directory, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with postgres() as server:
        yield Cluster(server)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with private_directory() as home:
        port, password = free_port(), secrets.token_urlsafe(16)
        with running(valkey.program(home, port, password), home):
            yield valkey.url(port, password)


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    with private_directory() as home:
        port, access_key, secret_key = free_port(), "AKIAROOTROOTROOTROOT", secrets.token_urlsafe(30)
        with running(aws_emulator.program(EMULATOR_PYTHON, home, port, access_key, secret_key), home):
            yield Aws(aws_emulator.endpoint_url(port), aws_emulator.REGION, access_key, secret_key)
