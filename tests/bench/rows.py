"""Notes with the entropy of real text, the same ones at every run."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from uuid import UUID

WORDS = 20_000
TEXT_WORDS = 2_000_000
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
COLUMNS = ("id", "owner", "title", "content", "tags", "revision", "created_at", "updated_at")
BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)


def notes(count: int, seed: int = 7) -> Iterator[tuple[object, ...]]:
    """About 920 bytes each as JSON, of which gzip leaves a third, as it does of English.

    What a note says is cut out of one long text. gzip looks back over 35 notes, within which no text is met again.
    """
    chance = random.Random(seed)  # one for all notes: as many give the same first ones
    vocabulary = _vocabulary(chance)
    text = _text(chance, vocabulary)
    owners = [UUID(int=chance.getrandbits(128), version=4) for _ in range(200)]
    for number in range(count):
        at = int(chance.random() * (len(text) - 2_000))
        begin = text.index(" ", at) + 1
        end = text.index(" ", begin + 150 + int(chance.random() * 1_020))
        title_end = text.index(" ", begin + 20)
        made = BEGINNING + timedelta(seconds=61 * number, microseconds=int(chance.random() * 1e6))
        # uuidv7, which the database gives to new notes: 48 bits of milliseconds, then chance.
        stamp = int(made.timestamp() * 1000) << 80
        key = UUID(int=stamp | 0x7 << 76 | chance.getrandbits(76) & ~(0xC << 60) | 0x8 << 60)
        edits = int(chance.random() * 3)
        tags = [vocabulary[int(chance.random() ** 3 * 400)] for _ in range(edits + 1)]
        yield (
            key,
            owners[int(chance.random() ** 2 * len(owners))],
            text[begin:title_end].capitalize(),
            text[title_end + 1 : end],
            tags,
            1 + edits,
            made,
            made + timedelta(hours=7 * edits * chance.random()),
        )


def _vocabulary(chance: random.Random) -> list[str]:
    weights = range(len(LETTERS), 0, -1)
    return ["".join(chance.choices(LETTERS, weights, k=chance.randint(2, 10))) for _ in range(WORDS)]


def _text(chance: random.Random, vocabulary: list[str]) -> str:
    """Words by Zipf's law, in sentences and paragraphs."""
    weights = list(accumulate(1 / rank**1.1 for rank in range(1, WORDS + 1)))
    words = chance.choices(vocabulary, cum_weights=weights, k=TEXT_WORDS)
    begin = 0
    while begin < TEXT_WORDS:
        end = min(begin + chance.randint(4, 20), TEXT_WORDS) - 1
        words[begin] = words[begin].capitalize()
        words[end] += chance.choice([".", ".", ".", ".\n\n", "?", ":\n- "])
        begin = end + 1
    return " ".join(words)
