"""What people see while they wait, and what machines read at the end."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

_FIGURE = re.compile(r"^([-+]?[\d.,]+(e[-+]\d+)?( ?(ms|us|s|x|%|B|kB|MB|GB|k|M|G|T|numbers))?)?$")

_WIDE = 240


class Terminal:
    """Writes results to standard output and everything said on the way to standard error.

    Progress bars appear on a terminal only; elsewhere each step is one plain line.

    Args:
        json: print one JSON object instead of tables.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        # Where nobody looks there is no edge that a table would have to be cut at.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
        self._out = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
        self._err = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Tell what is going on; never part of a result."""
        self._err.print(Text(text))

    def result(self, text: str) -> None:
        """Print a line of the result, unless JSON was asked for."""
        if not self.json:
            self._out.print(Text(text))

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of the result, unless JSON was asked for."""
        if self.json:
            return
        table = Table(
            title=Text(title, style="bold"),
            title_justify="left",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            show_header=any(head),
        )
        for i, name in enumerate(head):
            figures = i > 0 and all(_FIGURE.match(row[i]) for row in rows)
            table.add_column(name, justify="right" if figures else "left", no_wrap=i == 0)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    def object(self, value: Any) -> None:
        """Print the result as one JSON object, if JSON was asked for."""
        if self.json:
            raw = msgspec.json.format(msgspec.json.encode(value), indent=2)
            sys.stdout.write(raw.decode() + "\n")
            sys.stdout.flush()

    @contextmanager
    def step(self, text: str, total: int | None = None) -> Iterator[Step]:
        """Show one step of the work with a bar (``total`` known) or a spinner."""
        if not self._err.is_terminal:
            self.say(text)
            yield Step(None)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self._err) as progress:
            yield Step(progress, progress.add_task(text, total=total, note=""))
            task = progress.tasks[0]
            progress.update(task.id, total=task.total or 1, completed=task.total or 1)


class Step:
    """A step that is under way."""

    def __init__(self, progress: Progress | None, task: Any = None) -> None:
        self._progress = progress
        self._task = task

    def at(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far the step has come."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)

    def told(self, what: str, done: int, total: int) -> None:
        """Say what begins and how many parts are done, as ``compress.Progress``."""
        self.at(done, total, what)

    def note(self, text: str) -> None:
        """Show a word beside the bar."""
        if self._progress is not None:
            self._progress.update(self._task, note=text, advance=1)


def milliseconds(value: float) -> str:
    """Return a latency for people: three significant digits, or 'none' for infinity."""
    if value != value or value == float("inf"):  # noqa: PLR0124 - NaN is unequal to itself
        return "none"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def number(value: float) -> str:
    """Return a rate or a count for people, with thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count_of(value: int) -> str:
    """Return a large count for people: three digits with k, M, G or T."""
    scaled = float(value)
    for unit in ("", "k", "M", "G"):
        if scaled < 999.5:
            return f"{scaled:.3g}{unit}"
        scaled /= 1000
    return f"{scaled:.3g}T"
