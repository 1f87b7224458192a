"""``headway profile --operators``: where zoo models spend their time, beside what was published."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from headway.cli.terminal import Terminal, number, size
from headway.core import UsageError

if TYPE_CHECKING:  # rows are read for bundles too, where there may be no torch
    from headway.models import Cost, OperatorShares, PublishedShares, Style

MAX_ROWS = 500_000
"""Of every table, so that models of 100 GB fit; far more than the caches hold."""


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model at one number of rows: measured here, and published if it was."""

    model: str
    rows: int
    measured: OperatorShares
    published: PublishedShares | None


class Operators(msgspec.Struct, frozen=True, kw_only=True):
    """What the command prints as JSON.

    Attributes:
        style: whose sizes the models have.
        table_rows: cap on the rows of every table.
        costs: per candidate, of the models at their full size.
        shares: of time, on one core, every row with uniform ids of its own.
    """

    style: str
    table_rows: int
    costs: dict[str, Cost]
    shares: tuple[Shares, ...]


def show_operators(
    model: str,
    style: Style,
    rows: Sequence[int],
    terminal: Terminal,
    *,
    max_rows: int = MAX_ROWS,
) -> None:
    """Measure and print the shares of time by kind of operator, with the published ones.

    The loads are as they were published: nothing is shared by the rows of a batch, ids are
    uniform, lists are full.

    Args:
        model: a name of the zoo, or ``all``.
        style: ``paper`` or ``repo``.
        rows: batch sizes.
        terminal: where to print.
        max_rows: cap on the rows of every table.

    Raises:
        UsageError: if there is no such model or style, or no rows.
    """
    # Else torch's profiler writes a line at each start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from headway.models import ZOO, zoo, zoo_cost

    if not rows or min(rows) < 1:
        raise UsageError(f"--rows takes numbers from 1, like 1,64,1024; got {list(rows)}")
    names = tuple(ZOO) if model == "all" else (model,)
    costs = {name: zoo_cost(zoo(name, style)) for name in names}
    shares: list[Shares] = []
    with terminal.step("measuring operators", len(names) * len(rows)) as step:
        for name in names:
            for found in _measure(name, style, rows, max_rows):
                shares.append(found)
                step.at(len(shares), len(names) * len(rows), f"{name}, {found.rows} rows")
    result = Operators(style=style, table_rows=max_rows, costs=costs, shares=tuple(shares))
    _print_costs(result, terminal)
    _print_shares(result, terminal)
    terminal.object(result)


def parse_rows(text: str) -> tuple[int, ...]:
    """Read ``1,64,1024``.

    Raises:
        UsageError: if the text has another form.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
        raise UsageError(f"cannot read --rows {text!r}; write numbers from 1, like 1,64,1024")
    return tuple(map(int, parts))


def _measure(name: str, style: Style, rows: Sequence[int], max_rows: int) -> Iterator[Shares]:
    from headway.models import PUBLISHED_SHARES, build_model, operator_shares, zoo

    entry = zoo(name, style, scopes="all-candidate", max_rows=max_rows)
    model = build_model(entry.settings, entry.schema)
    for count in rows:
        rng = np.random.default_rng(0)
        measured = operator_shares(model, entry.schema, count, rng=rng, ids="uniform")
        published = PUBLISHED_SHARES.get(name, {}).get(count)
        yield Shares(model=name, rows=count, measured=measured, published=published)


def _print_costs(result: Operators, terminal: Terminal) -> None:
    terminal.table(
        f"cost per candidate before hoisting, {result.style} sizes, float32",
        ("model", "MFLOP", "rows read", "bytes read", "dense parameters", "tables"),
        [
            (
                name,
                f"{cost.flops / 1e6:.3g}",
                number(cost.lookups),
                number(cost.embedding_bytes),
                number(cost.dense_parameters),
                size(4 * cost.table_parameters),
            )
            for name, cost in result.costs.items()
        ],
    )


def _print_shares(result: Operators, terminal: Terminal) -> None:
    from headway.models import KINDS

    terminal.table(
        f"per cent of time by kind of operator (published), torch eager on one core, "
        f"{result.style} sizes, tables of at most {result.table_rows:,} rows",
        ("model", "rows", *KINDS),
        [(s.model, number(s.rows), *(_share(s, kind) for kind in KINDS)) for s in result.shares],
    )
    if any(s.published for s in result.shares):
        terminal.result("published: DeepRecSys, Caffe2 on CPU, at the sizes of its repository")


def _share(shares: Shares, kind: str) -> str:
    measured = 100 * getattr(shares.measured, kind)
    published = getattr(shares.published, kind, None)
    beside = "" if published is None else f" ({100 * published:.2g})"
    return f"{measured:.0f} %{beside}" if measured else f"-{beside}"
