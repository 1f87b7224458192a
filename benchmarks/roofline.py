"""How far each tower of the nine models is from the least it can take on this machine.

Bundles in f32 and reduced, one thread, warm, queries that rotate. The work of a tower is rows of
tables and multiply-adds; its limit is these rows read and not used, and the products at the best
rate that any engine here reaches in that precision, or the weights read once if that takes
longer, and sigmoids and the like at the rate of Headway's own. Limits are measured in the same
run. They are taken not to overlap, and no time is allowed for a call or for other element-wise
work. A distance is the measured time over the limit, and one above
3x at N = 256 needs a reason in this file, which is printed beside it.

Examples:
    python benchmarks/roofline.py --quick
    python benchmarks/roofline.py --models dien --precisions reduced --json out/roofline.json
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import msgspec
import numpy as np
import torch

import headway
from headway.compress import Precision
from headway.core import MonotonicClock
from headway.engine import Profile, ProfileSettings, load_model, machine_facts, profile
from headway.models import SCOPES, STYLES, ZOO, build_model, zoo

SIZES, AT = (64, 256, 1000), 256
PRECISIONS = ("f32", "reduced")
TARGET = 3.0
QUIET = 20.0  # interruptions a second; beyond, times of more than some ms are not the tower's
WHOLE = "whole query"
ANY = "any model"
Row = dict[str, Any]

_ONE_ROW = (
    "one row: the call and each of its steps cost tens of us whatever they do, and a product of "
    "one row loads every weight for a single multiply-add"
)
# Model, tower, bundle to the reason; "any model" where no other is given.
REASONS: dict[tuple[str, str, str], str] = {
    **{
        ("din", tower, "reduced"): "five sixths of its multiply-adds are attention by the query's "
        "own matrix, which stays in f32, and is held here against int8"
        for tower in ("candidate", WHOLE)
    },
    (ANY, "query", "f32"): _ONE_ROW,
    (ANY, "query", "reduced"): f"{_ONE_ROW}; rounding comes on top",
    **{
        ("dien", "query", bundle): "a recurrent layer over the history: its positions wait for "
        "each other, and each is a few products of one row, in ONNX Runtime"
        for bundle in PRECISIONS
    },
    **{
        ("din", "query", bundle): "writes a matrix of all positions of the history, 1.2 MB for "
        "the candidates to multiply by: two element-wise operations a value"
        for bundle in PRECISIONS
    },
}


def reason_of(row: Row) -> str | None:
    """Return why a tower is so far from its limit, or None if nobody wrote it down."""
    keys = ((name, row["tower"], row["precision"]) for name in (row["model"], ANY))
    return next((REASONS[key] for key in keys if key in REASONS), None)


def rows_of(found: Profile, about: Row) -> list[Row]:
    """Return a row for each tower, number of candidates and kind of ids, and for all together."""
    kinds = {str(work.tower): work.precision for work in found.towers}
    rows: list[Row] = []
    for limit in found.limits:
        told = msgspec.to_builtins(limit)
        rows.append(about | told | {"products": kinds[told["tower"]]})
    for ids, size in sorted({(row["ids"], row["rows"]) for row in rows}):
        parts = [row for row in rows if (row["ids"], row["rows"]) == (ids, size)]
        rows.append(about | whole_of(parts) | {"ids": ids, "rows": size})
    return rows


def whole_of(parts: Sequence[Row]) -> Row:
    """Return a query's towers together."""
    summed = ("looked_up", "looked_up_bytes", "multiply_adds")
    times = ("lookups_ns", "dense_ns", "curves_ns", "measured_ns")
    total: Row = {name: sum(part[name] for part in parts) for name in summed + times}
    least = max(1.0, total["lookups_ns"] + total["dense_ns"] + total["curves_ns"])
    return total | {"tower": WHOLE, "products": "", "distance": total["measured_ns"] / least}


def measure(name: str, precision: Precision, args: argparse.Namespace) -> tuple[Profile, list[Row]]:
    made = zoo(name, style=args.style, scopes=args.scopes, max_rows=args.rows)
    model = build_model(made.settings, made.schema).eval()
    settings = ProfileSettings(
        rows=tuple(args.sizes), concurrency=(1,), ids=tuple(args.ids), seconds=args.seconds
    )
    with tempfile.TemporaryDirectory() as folder:
        headway.compile(model, made.schema, Path(folder) / "bundle", precision=precision)
        loaded = load_model(Path(folder) / "bundle", threads=1)
        before, start = getrusage(RUSAGE_SELF).ru_nivcsw, time.perf_counter()
        found = profile(loaded, settings, MonotonicClock(), np.random.default_rng(0))
        stops = getrusage(RUSAGE_SELF).ru_nivcsw - before
    about = {
        "model": name,
        "precision": precision,
        "interrupted_per_s": stops / (time.perf_counter() - start),
    }
    return found, rows_of(found, about)


def line_of(row: Row) -> str:
    """Return a row of the table; times in microseconds."""
    far = row["rows"] == AT and row["distance"] > TARGET
    mark = f"  above {TARGET:g}x" if far else ""
    return (
        f"{row['model']:8} {row['precision']:8}{row['tower']:12}{row['products']:6}{row['ids']:8}"
        f"{row['rows']:5}{row['looked_up']:9,.0f}{row['looked_up_bytes'] / 1e3:10,.0f}"
        f"{row['multiply_adds'] / 1e6:9.2f}{row['lookups_ns'] / 1e3:9.1f}"
        f"{row['dense_ns'] / 1e3:9.1f}{row['curves_ns'] / 1e3:9.1f}{row['measured_ns'] / 1e3:10.1f}{row['distance']:7.2f}x{mark}"
    )


def head() -> str:
    return (
        f"{'model':8} {'bundle':8}{'tower':12}{'in':6}{'ids':8}{'N':>5}{'lookups':>9}{'kB':>10}"
        f"{'M mult':>9}{'tables':>9}{'dense':>9}{'curves':>9}{'took, us':>10}{'over':>8}"
    )


def judged(rows: Iterable[Row]) -> tuple[list[str], int]:
    """Return a line for each distance above the target, and how many have no reason."""
    lines, missing = [], 0
    for row in rows:
        if row["rows"] != AT or row["distance"] <= TARGET:
            continue
        why = reason_of(row)
        missing += why is None
        named = f"{row['model']} {row['precision']}, {row['tower']}, {row['ids']} ids"
        lines.append(f"  {named}: {row['distance']:.1f}x: {why or 'NO REASON WRITTEN'}")
    return lines, missing


def ceilings_of(found: Profile) -> str:
    """Return the rates that towers are held against, best of each precision."""
    assert found.ceilings is not None
    best: dict[str, Any] = {}
    for rate in sorted(found.ceilings.products, key=lambda rate: rate.multiply_adds_per_s):
        best[rate.precision] = rate
    told = [
        f"{name} {rate.multiply_adds_per_s / 1e9:.0f} G/s in {rate.engine}"
        for name, rate in sorted(best.items())
    ]
    reads = ", ".join(
        f"{read.size_bytes >> 10} KiB {read.bytes_per_s / 1e9:.1f}"
        for read in found.ceilings.sequential
    )
    curves = f"curves {found.ceilings.curves_per_s / 1e9:.1f} G/s"
    return f"  multiply-adds: {'; '.join(told)}; {curves}; in order, GB/s: {reads}"


def show(rows: Sequence[Row]) -> int:
    """Print what was found against the target; return how many reasons are missing."""
    lines, missing = judged(rows)
    whole = [r["distance"] for r in rows if r["tower"] == WHOLE and r["rows"] == AT]
    if whole:
        print(f"\nwhole queries at N = {AT}: at most {max(whole):.2f}x (target {TARGET:g}x)")
    print(f"towers and queries above {TARGET:g}x at N = {AT}: {len(lines)}, each with its reason")
    print("\n".join(lines))
    print(f"without a reason: {missing} (target 0): {'MISSED' if missing else 'met'}")
    return missing


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--style", default="repo", choices=STYLES)
    parser.add_argument("--scopes", default="default", choices=SCOPES)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--ids", nargs="+", default=["zipf", "uniform"])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="N")
    parser.add_argument("--rows", type=int, default=100_000, help="most rows of a table")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each bundle")
    parser.add_argument("--quick", action="store_true", help="under five minutes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args(given)
    if args.quick:
        args.ids, args.sizes, args.seconds = ["zipf"], [AT], 3.0
        args.rows = min(args.rows, 20_000)
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    facts, date = machine_facts(), time.strftime("%Y-%m-%d")
    print(f"{facts.cpu}, {facts.usable_cores} cores, {facts.system}; {date}; presets {args.style}")
    rows: list[Row] = []
    print(head())
    for name in args.models:
        for precision in args.precisions:
            found, made = measure(name, precision, args)
            print("\n".join(map(line_of, made)) + "\n" + ceilings_of(found))
            stops = made[0]["interrupted_per_s"]
            busy = "; THE CORE IS NOT QUIET" if stops > QUIET else ""
            print(f"  interrupted {stops:.0f} times a second{busy}", flush=True)
            rows += made
            gc.collect()
            if args.json:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                told = {"machine": facts.cpu, "system": facts.system, "date": date, "rows": rows}
                args.json.write_text(json.dumps(told, indent=1))
    if show(rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
