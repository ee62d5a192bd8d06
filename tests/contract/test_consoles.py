"""Two services, deployed apart, with one look: what they have in common is the same in both."""

from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "services"
ALIKE = (
    "shown.py",
    "static/console.css",
    "static/console.js",
    "static/favicon.svg",
    "static/theme.js",
    "templates/audit.html",
    "templates/base.html",
    "templates/parts.html",
    "templates/refused.html",
)


@pytest.mark.parametrize("name", ALIKE)
def test_both_consoles_look_alike(name: str) -> None:
    of_notes, of_scheduler = (
        (SERVICES / service / "console" / name).read_text() for service in ("notes_api", "scheduler")
    )
    assert of_notes == of_scheduler


def test_no_page_has_script_or_style_in_it() -> None:
    for template in SERVICES.glob("*/console/templates/*.html"):
        text = template.read_text()
        assert "<style" not in text, template
        assert " style=" not in text, template
        assert "<script>" not in text, template
        assert not [word for word in text.split() if word.startswith("on") and '="' in word], template
