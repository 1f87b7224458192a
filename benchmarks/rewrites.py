"""Which rewrite gave what: multiply-adds and latency of each model with rewrites on and off.

Every model is lowered with no rewrite at all ("off"), with hoisting alone, with hoisting and one
more, with each one left out, and with all; each time the fastest engine runs its f32 towers. All
of a model take turns on the same queries, in one thread. Without hoisting most other rewrites have
nothing to move, so each is tried together with it. A way that leaves the towers as another
one does is shown as "-" and not measured again. Multiply-adds are those of the graph's account.

Examples:
    python benchmarks/rewrites.py --quick
    python benchmarks/rewrites.py --models din dien --ways without --json out/rewrites.json
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headway.bundle import pack_table
from headway.compress import OptimizeSettings
from headway.compress.towers import as_tower, build_towers
from headway.core import MonotonicClock, Runner, Schema
from headway.data import Dataset
from headway.engine import CompiledModel, TableRecords, compare_latency, machine_facts, raw_outputs
from headway.graph import ALL, Captured, Lowered, Rewrite, capture, explain, lower, partition
from headway.models import SCOPES, STYLES, ZOO, Scopes, build_model, zoo
from headway.workload import draw_queries

OFF, EVERY = "off", "all"
WAYS = ("with", "without")
TARGET = 1.05  # times the fastest way of a model that "all" may take
SAME = 5e-5  # of the outputs' spread
PLAIN = OptimizeSettings(tables=("f32",), dense=("f32",))


@dataclass
class Found:
    """A model with some of the rewrites; no time if its towers are another's, or there are none."""

    model: str
    scopes: str
    way: str
    multiply_adds: int
    same_as: str = ""
    failed: str = ""
    p50_us: float | None = None
    change: float | None = None


def ways_of(kinds: Sequence[str]) -> dict[str, frozenset[Rewrite]]:
    """Return the rewrites of each way to lower a model, by what it is called."""
    found: dict[str, frozenset[Rewrite]] = {OFF: frozenset()}
    if "with" in kinds:
        base = frozenset({Rewrite.HOIST})
        found["hoist"] = base
        found |= {f"hoist + {x}": base | {x} for x in Rewrite if x is not Rewrite.HOIST}
    if "without" in kinds:
        found |= {f"without {rewrite}": ALL - {rewrite} for rewrite in Rewrite}
    return found | {EVERY: ALL}


def lowered_with(
    captured: Captured, rewrites: frozenset[Rewrite], rows: int
) -> tuple[Lowered, int]:
    """Return the towers, and what they cost for a query of so many candidates."""
    parts = partition(captured, rewrites)
    return lower(parts), explain(captured, parts, rows).after


def towers_of(lowered: Lowered) -> tuple[Any, ...]:
    """Return what makes two ways the same."""
    query = lowered.query_tower
    return (None if query is None else query.onnx, lowered.candidate_tower.onnx)


def records_of(lowered: Lowered) -> dict[str, TableRecords]:
    """Return float32 tables, which all ways of a model share."""
    return {
        name: TableRecords("f32", table.shape[1], pack_table(table, "f32")).resident()
        for name, table in lowered.tables.items()
    }


def runner_of(lowered: Lowered, tables: dict[str, TableRecords], schema: Schema) -> Runner:
    """Return the towers, each in its fastest engine."""
    built = build_towers(lowered, tables, PLAIN, _one_row(schema))["f32"]
    query = None if built.query is None else as_tower(built.query)
    return CompiledModel(schema, tables, query, as_tower(built.candidate)).runner()


def _one_row(schema: Schema) -> Dataset:
    """Return rows that would calibrate int8, of which there is none."""
    (query,) = draw_queries(schema, np.ones(1, np.int64), np.random.default_rng(0))
    labels = np.zeros((1, len(schema.tasks)), np.float32)
    return Dataset(schema, query.context, query.candidates, np.zeros(1, np.int64), labels)


def measure(name: str, scopes: Scopes, args: argparse.Namespace) -> list[Found]:
    """Return every way to lower a model; those that differ are measured."""
    made = zoo(name, style=args.style, scopes=scopes, max_rows=args.rows)
    captured = capture(build_model(made.settings, made.schema).eval(), made.schema)
    ways, found = ways_of(args.ways), []
    seen: dict[Any, str] = {}
    runners: dict[str, Runner] = {}
    tables: dict[str, TableRecords] = {}
    # The two that others are compared with come first.
    for way in dict.fromkeys((OFF, EVERY, *ways)):
        try:
            lowered, cost = lowered_with(captured, ways[way], args.size)
        except Exception as error:  # what cannot be lowered is a result too
            if way in {OFF, EVERY}:
                raise
            found.append(Found(name, scopes, way, 0, failed=str(error).splitlines()[0]))
            continue
        tables = tables or records_of(lowered)
        first = seen.setdefault(towers_of(lowered), way)
        found.append(Found(name, scopes, way, cost, "" if first == way else first))
        if first == way:
            runners[way] = runner_of(lowered, tables, made.schema)
    queries = draw_queries(
        made.schema, np.full(8, args.size), np.random.default_rng(0), lengths="full"
    )
    tasks, seconds = len(made.schema.tasks), args.seconds * max(2, len(runners)) / 8
    taken = compare_latency(runners, {args.size: queries}, MonotonicClock(), seconds, tasks=tasks)
    wanted = raw_outputs(runners[OFF], queries[:1], tasks)[0]
    for one in found:
        if one.way in runners:
            one.p50_us = float(np.median(taken[one.way][args.size])) / 1000
            changed = raw_outputs(runners[one.way], queries[:1], tasks)[0] - wanted
            one.change = float(np.abs(changed).max() / wanted.std())
    return sorted(found, key=lambda one: list(ways).index(one.way))


def line_of(one: Found, off: Found, every: Found) -> str:
    """Return a row of the table."""
    if one.failed:
        return f"{one.model:9}{one.way:24} cannot be lowered: {one.failed[:90]}"
    counted = f"{one.model:9}{one.way:24}{one.multiply_adds / 1e6:11.2f}"
    if one.p50_us is None or not off.p50_us:
        return f"{counted}{'-':>8}{'-':>10}{'-':>8}{'-':>8}  as {one.same_as}"
    all_us = every.p50_us or off.p50_us
    return (
        f"{counted}{off.multiply_adds / one.multiply_adds:7.2f}x{one.p50_us / 1000:10.3f}"
        f"{off.p50_us / one.p50_us:7.2f}x{all_us / one.p50_us:7.2f}x"
    )


def verdicts(found: Sequence[Found]) -> list[str]:
    """Return sentences that hold one model's figures against their targets."""
    timed = {one.way: one.p50_us for one in found if one.p50_us is not None}
    every = timed.get(EVERY, timed[OFF])
    best = min(timed, key=lambda way: timed[way])
    times = every / timed[best]
    met = "met" if times <= TARGET else "MISSED"
    change = max(one.change or 0.0 for one in found)
    same = "met" if change <= SAME else "MISSED"
    return [
        f'  "all" over the fastest way, "{best}": {times:.2f}x (at most {TARGET:g}x): {met}',
        f"  cannot be lowered: {sum(bool(one.failed) for one in found)} (target 0)",
        f"  change against off: {change:.1e} of the spread (at most {SAME:g}): {same}",
    ]


def show(found: Sequence[Found], size: int) -> None:
    print(f"\n{found[0].scopes} scopes, N = {size}; multiply-adds in millions a query, p50 in ms,")
    print("less = multiply-adds of off over these; faster = times as fast as off, and as all")
    print(
        f"{'model':9}{'rewrites':24}{'mult-adds':>11}{'less':>8}{'p50':>10}{'faster':>8}{'of all':>8}"
    )
    named = {one.way: one for one in found}
    for one in found:
        print(line_of(one, named[OFF], named[EVERY]))
    print("\n".join(verdicts(found)), flush=True)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--style", default="repo", choices=STYLES)
    parser.add_argument("--scopes", nargs="+", default=list(SCOPES), choices=SCOPES)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--size", type=int, default=256, metavar="N")
    parser.add_argument("--rows", type=int, default=100_000, help="most rows of a table")
    parser.add_argument("--seconds", type=float, default=12.0, help="for eight ways of a model")
    parser.add_argument("--quick", action="store_true", help="under five minutes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args(given)
    if args.quick:
        args.scopes, args.seconds, args.rows = ["default"], 2.0, min(args.rows, 20_000)
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    facts, date = machine_facts(), time.strftime("%Y-%m-%d")
    print(f"{facts.cpu}, {facts.usable_cores} cores, {facts.system}; {date}; presets {args.style}")
    rows: list[dict[str, Any]] = []
    for scopes in args.scopes:
        for name in args.models:
            found = measure(name, scopes, args)
            show(found, args.size)
            rows += [asdict(one) for one in found]
            gc.collect()
            if args.json:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                told = {"machine": facts.cpu, "system": facts.system, "date": date, "rows": rows}
                args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
