"""The real servers that tests run on, each started once per session."""

import os
import secrets
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from deploy.local import emulator as aws_emulator
from deploy.local import valkey
from tests.servers import EMULATOR_PYTHON, Aws, Cluster, free_port, postgres, private_directory, running

MEMORY = "/dev/shm"
ENOUGH_BYTES = 8 * 1024**3


def pytest_configure() -> None:
    """Servers keep their files in memory where they may: making a database takes up to 30 times as long on a disk."""
    settings.register_profile("holdfast", deadline=None)  # how long an example takes is this machine's business
    settings.load_profile("holdfast")
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    found = os.statvfs(MEMORY)
    if found.f_bavail * found.f_frsize >= ENOUGH_BYTES and not found.f_flag & os.ST_NOEXEC:
        tempfile.tempdir = MEMORY


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
