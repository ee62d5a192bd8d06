"""Stacks on free ports and in folders of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.system.stack import Stack, new_stack_in


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that runs; tests that share it leave it running."""
    with ExitStack() as leaving:
        stack = new_stack_in(tmp_path_factory.mktemp("shared"), leaving)
        stack.up()
        yield stack


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[Callable[[], Stack]]:
    """Makes stacks that have not been started; each is stopped and removed after the test."""
    with ExitStack() as leaving:
        numbers = count()
        yield lambda: new_stack_in(tmp_path / f"stack-{next(numbers)}", leaving)
