"""Stacks on free ports and in folders of their own."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from deploy.local import home as homes
from tests.system.stack import Stack

PORTS = 8  # of a stack, in a row


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that runs; tests that share it leave it running."""
    with ExitStack() as leaving:
        stack = _new_stack(tmp_path_factory.mktemp("shared"), leaving)
        stack.up()
        yield stack


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[Callable[[], Stack]]:
    """Makes stacks that have not been started; each is stopped and removed after the test."""
    with ExitStack() as leaving:
        numbers = count()
        yield lambda: _new_stack(tmp_path / f"stack-{next(numbers)}", leaving)


def _new_stack(folder: Path, leaving: ExitStack) -> Stack:
    folder.mkdir(exist_ok=True)
    stack = Stack(folder / "home", _free_ports())
    leaving.callback(homes.remove, stack.home)
    leaving.callback(lambda: stack.process and stack.down())
    return stack


def _free_ports() -> int:
    """The first of PORTS in a row that nobody listens on."""
    for first in range(20_000, 30_000, PORTS):
        try:
            for port in range(first, first + PORTS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError("no free ports")
