"""What stands between two services in a test."""

from collections.abc import AsyncIterator

import pytest

from tests.backup_lambda.world import World, a_world
from tests.servers import Aws


@pytest.fixture
async def world(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    for name, value in aws.variables.items():
        monkeypatch.setenv(name, value)
    async with a_world() as world:
        yield world
