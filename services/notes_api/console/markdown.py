"""Markdown as HTML that may stand in a page of ours: nothing in it runs, and nothing in it is asked for elsewhere."""

import asyncio

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

_TAGS = {
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s", "a"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
}
_READER = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
MAX_CHARACTERS = 100_000  # of a longer note its text is shown: the time that this takes is everybody's


async def html(text: str) -> Markup:
    """In a thread, so that other requests go on."""
    return await asyncio.to_thread(_html, text)


def _html(text: str) -> Markup:
    """Pictures are not shown: whoever wrote a note would learn who reads it."""
    if len(text) > MAX_CHARACTERS:
        return Markup("<pre>{}</pre>").format(text)
    made = nh3.clean(
        _READER.render(text),
        tags=_TAGS,
        attributes={"a": {"href", "title"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(made)  # noqa: S704 - it was cleaned
