"""What a person reads: answers on stdout, and everything else on stderr; in colour only at a terminal."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

WIDTH_OF_A_PIPE = 10_000  # nothing is cut or folded for want of room where nobody looks
COLOURS = {
    "proven": "green", "completed": "green", "stored": "cyan", "queued": "yellow", "running": "yellow",
    "suspect": "bold red", "broken": "bold red", "failed": "bold red", "cancelled": "red", "expired": "dim",
    "added": "green", "removed": "red", "changed": "yellow", "keep": "green", "expire": "red", "clean": "red",
}  # fmt: skip
Tell: TypeAlias = Callable[[str, int], None]  # what is being done, and per cent


class Terminal:
    """A broken pipe ends the process, with 1: what could not be written was not told."""

    def __init__(self) -> None:
        self._out = _console(stderr=False)
        self._said = _console(stderr=True)

    @property
    def is_watched(self) -> bool:
        """Whether somebody is there who can be asked."""
        return sys.stdin.isatty() and self._said.is_terminal

    def answer(self, body: bytes) -> None:
        """JSON for a script: the very bytes, and a newline."""
        try:
            sys.stdout.buffer.write(body.rstrip(b"\n") + b"\n")
            sys.stdout.flush()
        except BrokenPipeError:
            self._out.on_broken_pipe()

    def print(self, line: str) -> None:
        self._out.print(Text(printable(line)), soft_wrap=True)

    def say(self, text: str) -> None:
        for line in text.split("\n"):
            self._said.print(Text(printable(line)), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, aside: bool = False) -> None:
        """A column whose name begins with `#` is of numbers. `aside`: on stderr."""
        console = self._said if aside else self._out
        table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
        for name in columns:
            table.add_column(name.lstrip("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(each), style=COLOURS.get(each, "")) for each in row))
        if console.is_terminal:
            console.print(table)
        else:
            with console.capture() as drawn:
                console.print(table)
            lines = (line.rstrip() for line in drawn.get().splitlines())
            console.print(Text("\n".join(lines)), soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Tell]:
        """A bar at a terminal; elsewhere a line whenever there is news."""
        said = ""

        def tell(what: str, percent: int) -> None:
            nonlocal said
            if self._said.is_terminal:
                bar.update(task, description=printable(what), completed=percent)
            elif said != (said := what):
                self.say(what)

        columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %")
        with Progress(*columns, console=self._said, transient=True, disable=not self._said.is_terminal) as bar:
            task = bar.add_task("", total=100)
            yield tell

    @contextmanager
    def log(self, name: str, level: int) -> Iterator[None]:
        """Meanwhile, show what the logger of this name says: between progress bars, and not through them."""
        logger, said = logging.getLogger(name), _Said(self)
        before = logger.level, logger.propagate
        logger.addHandler(said)
        logger.setLevel(level)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(said)
            logger.setLevel(before[0])
            logger.propagate = before[1]


class _Said(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.say(self.format(record))


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_PIPE
    return console


def printable(text: str) -> str:
    """On one line, and nothing in it that a terminal obeys."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
