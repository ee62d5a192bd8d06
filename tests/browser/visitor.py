"""Somebody who looks at the consoles, and notes what a person would not see: errors, refusals, requests elsewhere."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from tests.system.stack import Stack

SHOOTING = os.environ.get("HOLDFAST_SCREENSHOTS", "")
SIZES = {"wide": (1280, 900), "narrow": (360, 740)}
TOKENS = {"/admin": "NOTES_TOKEN", "/ops": "SCHEDULER_TOKEN"}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_REPORTS = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
});
"""
expect.set_options(timeout=30_000)


class Visitor:
    """`expected` are statuses that are no mistake, as the 403 of who has no right."""

    def __init__(self, context: BrowserContext, stack: Stack) -> None:
        self.context = context
        self.stack = stack
        self.url = stack.env["NOTES_URL"]
        self.wrong: list[str] = []
        self.expected: set[int] = set()
        context.add_init_script(_REPORTS)
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.wrong.append(f"script: {error.error}"))
        context.on("request", self._asked)
        self.page: Page = context.new_page()

    @classmethod
    @contextmanager
    def arriving(
        cls, browser: Browser, stack: Stack, color: Literal["light", "dark"] = "light", size: str = "wide"
    ) -> Iterator["Visitor"]:
        width, height = SIZES[size]
        context = browser.new_context(
            color_scheme=color, viewport={"width": width, "height": height}, timezone_id="Europe/Ljubljana"
        )
        context.set_default_timeout(30_000)
        one = cls(context, stack)
        try:
            yield one
        finally:
            context.close()
        assert not one.wrong, one.wrong

    def sign_in(self, console: str, token: str = "") -> None:
        self.goes_to(f"{console}/login")
        self.sign_in_here(console, token)

    def sign_in_here(self, console: str, token: str = "") -> None:
        """Where a link has led to the door."""
        self.page.get_by_label("Token").fill(token or self.stack.env[TOKENS[console]])
        self.presses("Sign in")

    def goes_to(self, path: str) -> None:
        self.page.goto(self.url + path)

    def presses(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def follows(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).first.click()

    def writes(self, **fields: str) -> None:
        """Into the fields with these names."""
        for name, text in fields.items():
            self.page.locator(f"[name={name}]:visible").fill(text)

    def sees(self, text: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()

    def heading(self, text: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_role("heading", level=1, name=text)).to_be_visible()

    def obstacles(self, axe: str) -> list[str]:
        """What keeps people out: rules of WCAG 2.2 AA that are broken, and having to scroll sideways."""
        if not self.page.evaluate("Boolean(window.axe)"):
            self.page.evaluate(axe)
        found: dict[str, Any] = self.page.evaluate(
            "(rules) => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES
        )
        wide = not self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        return [f"{self.page.url}: wider than the screen"] * wide + [
            f"{self.page.url}: {each['id']}: {node['target']} {node.get('failureSummary', '')[:300]}"
            for each in found["violations"]
            for node in each["nodes"][:3]
        ]

    def shoots(self, name: str) -> None:
        """For people to look at, where HOLDFAST_SCREENSHOTS names a folder."""
        if SHOOTING:
            self.page.screenshot(path=Path(SHOOTING) / f"{name}.png", full_page=True)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(
            f"status of {each}" in message.text for each in self.expected
        ):
            self.wrong.append(f"console: {message.text} ({message.location.get('url')})")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", self.stack.env["AWS_ENDPOINT_URL"])):
            self.wrong.append(f"elsewhere: {request.url}")
