"""Search in an owner's notes: words in title, tags and content, or titles that are nearly the words asked for.

`websearch_to_tsquery` reads what people type: words, "phrases", `or`, and `-` for what a note should not have. Nothing
that a client sends is put together with SQL, or with the text of such a query. A word that is in half of the
notes is answered as fast as one that is in a few, since of many matches only the newest are ranked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, NamedTuple
from uuid import UUID

import asyncpg

from notes_api.db import Connection, Row, planned_anew
from notes_api.lists import Filters, passing
from notes_api.notes import LISTED

Mode = Literal["words", "prefix", "fuzzy"]

RANKED = 1_000
SIMILARITY = 0.3  # of trigrams, from which on a title is nearly the words: two letters changed places in one of seven
SHOWN = 20_000  # characters of a content of which a snippet is made: its time is theirs
LOOKED_IN = 100_000  # characters of a longer content that are looked through for where they begin
PATIENCE_MS = 500  # with the way that the planner has chosen

# Characters that stand for the marks, and for `<`, which a highlight takes for the beginning of a tag that it drops.
# They are removed from texts before, so that a note cannot have them, and HTML is made of them after all is escaped.
_BEGIN, _END, _LESS = "\x02", "\x03", "\x04"
_PLAIN = "translate({}, e'<\\x02\\x03\\x04', e'\\x04')"

_PARSE = """
select query::text, querytree(query) as tree from websearch_to_tsquery(notes.search_language(), $1) as query
"""
_LEXEME = re.compile(r"'((?:[^']|'')*)'")
_LEXEME_OR_AND = re.compile(r"('(?:[^']|'')*')|&")
_LEXEME_OR_BOTH = re.compile(r"('(?:[^']|'')*')|&|<(?:-|\d+)>")
_ENDS_WITH_A_LEXEME = re.compile(r"(?:^|[&|(>] )'(?:[^']|'')*'$")


def _search(matches: str, rank: str, title: str, snippet: str) -> str:
    """A statement. In braces: `condition` and `beyond`, and names of parameters, of `Wanted` and others.

    The planner takes the index of words, or walks from the newest note on where a word is in many. Only what is on the
    page is joined with its note, and highlighted.
    """
    return f"""
with matching as materialized (
    select id, title, search, updated_at from notes.notes where {{condition}} and {matches}
    order by updated_at desc, id desc limit {RANKED} + 1
), newest as (
    select id, {rank} as rank from (select * from matching order by updated_at desc, id desc limit {RANKED}) as newest
), best as (
    select id, rank from newest where {{beyond}} order by rank desc, id desc limit {{limit}}
)
select {LISTED}, rank, {title} as title_marked, {snippet} as snippet_marked,
    (select count(*) from matching) <= {RANKED} as ranked_all
from best join notes.notes using (id) cross join lateral (
    select case when octet_length(content) <= {SHOWN} then content else substr(content, greatest(1,
        regexp_instr(left(content, {LOOKED_IN}), {{place}}, 1, 1, 0, 'i') - 300), {SHOWN}) end as part
) as shown
order by rank desc, id desc
"""  # noqa: S608  # constants


_BY_WORDS = _search(
    matches="search @@ {query}::tsquery",
    rank="ts_rank(search, {ranked}::tsquery, 1)",  # by the logarithm of the length: else long notes win
    title=f"""ts_headline(notes.search_language(), {_PLAIN.format("title")}, {{marked}}::tsquery,
        e'StartSel=\\x02, StopSel=\\x03, HighlightAll=true')""",
    snippet=f"""ts_headline(notes.search_language(), {_PLAIN.format("part")}, {{marked}}::tsquery,
        e'StartSel=\\x02, StopSel=\\x03, MaxFragments=2, MaxWords=30, MinWords=15, FragmentDelimiter=" … "')""",
)
_BY_TITLE = _search(
    matches="title %> {query}::text",
    rank="word_similarity({query}::text, title)",
    title=_PLAIN.format("title"),
    snippet=_PLAIN.format("left(part, 200)"),
)
_AS_PLANNED = f"""
set local pg_trgm.word_similarity_threshold = {SIMILARITY};
set local statement_timeout = {PATIENCE_MS}
"""
# What is left is to collect what matches from the index of words.
_BY_INDEX = f"""
set local pg_trgm.word_similarity_threshold = {SIMILARITY};
set local enable_indexscan = off;
set local enable_seqscan = off
"""


class Place(NamedTuple):
    """Where a note stands among the best."""

    rank: float
    id: UUID

    @classmethod
    def read(cls, written: Sequence[Any]) -> "Place":
        rank, id_ = written
        return cls(rank, UUID(id_))

    def written(self) -> Sequence[Any]:
        """As JSON has it, which is exact."""
        return [self.rank, str(self.id)]


@dataclass(frozen=True)
class Wanted:
    """What is searched for: `query` is for the database, and empty when nothing can match, for which `hint` is why."""

    mode: Mode
    filters: Filters
    query: str
    ranked: str = ""  # any word of it: for words that go together, the time goes by the square of their places
    marked: str = ""  # any word or phrase of it, since a snippet may hold no more than one
    place: str = ""  # an expression for where in a content it is, near enough
    hint: str | None = None


@dataclass(frozen=True)
class Found:
    rows: Sequence[Row]  # with rank, title_marked and snippet_marked
    last: Place | None  # of the rows, when there are more
    ranked_all: bool


async def understand(connection: Connection, q: str, mode: Mode, filters: Filters) -> Wanted:
    if mode == "fuzzy":
        hint = None if any(map(str.isalnum, q)) else "Letters or digits are needed: titles are compared by them."
        return Wanted(mode, filters, "" if hint else q, hint=hint)
    try:
        row = await connection.fetchrow(_PARSE, q)
    except asyncpg.InternalServerError:  # operators within each other, as 32 times `-` before a word
        return Wanted(mode, filters, "", hint="Add a word without `-`: this many of them cannot be understood.")
    assert row
    query, positive = row["query"], row["tree"]
    if not query:
        return Wanted(mode, filters, "", hint="Add a word: common ones and punctuation are not searched for.")
    if positive == "T":
        return Wanted(mode, filters, "", hint="Add a word that notes should have: `-` only narrows what is found.")
    # The texts are PostgreSQL's own, with its quotes. A word that is excluded, or in a phrase that is, stays whole.
    if mode == "prefix" and _ENDS_WITH_A_LEXEME.search(query):
        query, positive = f"{query}:*", f"{positive}:*"
    ranked = _LEXEME_OR_BOTH.sub(lambda found: found[1] or "|", positive)
    marked = _LEXEME_OR_AND.sub(lambda found: found[1] or "|", positive)
    longest = max(_LEXEME.findall(positive), key=len).replace("''", "'")  # likely the rarest
    return Wanted(mode, filters, query, ranked, marked, rf"\m{re.escape(longest)}")


async def best(connection: Connection, owner: UUID, wanted: Wanted, after: Place | None, limit: int) -> Found:
    """Up to `limit` notes, the best first, after a place. Of more than RANKED that match, the newest are ranked."""
    if not wanted.query:
        return Found([], None, ranked_all=True)
    condition, values = passing(owner, wanted.filters)
    statement = _BY_TITLE if wanted.mode == "fuzzy" else _BY_WORDS
    given = {name: getattr(wanted, name) for name in ("query", "ranked", "marked", "place")} | {"limit": limit + 1}
    used = {name: value for name, value in given.items() if f"{{{name}}}" in statement}
    numbers = {name: f"${number}" for number, name in enumerate(used, len(values) + 1)}
    values += used.values()
    if after:
        values += after
    beyond = f"(rank, id) < (${len(values) - 1}::real, ${len(values)}::uuid)" if after else "true"
    statement = statement.format(condition=condition, beyond=beyond, **numbers)
    try:
        rows = await _rows(connection, _AS_PLANNED, statement, values)
    except asyncpg.QueryCanceledError:
        # Statistics are of all owners' notes: of a word that is in many of theirs and in few of these, the planner
        # expects to meet enough on a walk through the newest, and walks through all.
        rows = await _rows(connection, _BY_INDEX, statement, values)
    last = Place(rows[limit - 1]["rank"], rows[limit - 1]["id"]) if len(rows) > limit else None
    return Found(rows[:limit], last, ranked_all=all(row["ranked_all"] for row in rows))


async def _rows(connection: Connection, settings: str, statement: str, values: Sequence[Any]) -> Sequence[Row]:
    async with planned_anew(connection, settings):
        return await connection.fetch(statement, *values)


def as_html(marked: str) -> str:
    """What is found in <mark>; all else is text."""
    text = escape(marked.replace(_LESS, "<"))
    return text.replace(_BEGIN, "<mark>").replace(_END, "</mark>")
