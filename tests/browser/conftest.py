"""Chromium before a stack of its own, and somebody who looks at the consoles with it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from tests.browser.visitor import Visitor
from tests.system.stack import Stack, new_stack_in

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LEFT_OUT = "the consoles were not tried in a browser, since there is no Chromium: apt-get install chromium"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(LEFT_OUT)
    # Its sandbox is not for root.
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=arguments)
        except Error as error:
            pytest.skip(f"{LEFT_OUT} ({found} cannot be started: {error.message.splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ExitStack() as leaving:
        stack = new_stack_in(tmp_path_factory.mktemp("browser"), leaving)
        stack.up()
        yield stack


@pytest.fixture
def visitor(browser: Browser, stack: Stack) -> Iterator[Visitor]:
    """By daylight, at a wide screen. In the end nothing was wrong behind what was seen."""
    with Visitor.arriving(browser, stack) as one:
        yield one


@pytest.fixture(scope="session")
def axe() -> str:
    """The script that looks for what keeps people out."""
    return (Path(__file__).parents[2] / ".venv/spectral/node_modules/axe-core/axe.min.js").read_text()
