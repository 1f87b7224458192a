"""Workers that stay on their cores beside workers that the system moves: the tails of both.

Real engines behind the serving executor, open loop, Poisson arrivals, production sizes, with a
worker for every core; the network is left out (see host.py). Both ways serve the same arrivals in
short runs, in any order, turn by turn. A figure is the median over the turns of one over the
other; its interval is a bootstrap over the turns. Loads are parts of the rate at which all workers
would always be busy with whole queries.

Examples:
    python benchmarks/pinning.py --quick
    python benchmarks/pinning.py --json out/pinning.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measured import (
    Bench,
    Row,
    add_options,
    percentiles,
    prepare,
    served,
    show_steady,
    show_turn,
    target_for,
    write_json,
)
from numpy.typing import NDArray
from options import result_file
from simulated import adaptive, fixed

from headway.core import Plan
from headway.simulate import busy_qps

LOADS = (0.2, 0.4, 0.6)
SPLIT, TIMES = 1024, 6.0
DRAWS = 500
TARGET = 0.95
P95 = 1


def ratios(bench: Bench, plan: Plan, rate: float, seed: int) -> NDArray[np.float64]:
    """Return p50, p95 and p99 of workers that stay over those of workers that move."""
    found = {}
    for pinned in np.random.default_rng(seed).permutation([True, False]).tolist():
        bench.host.pinned = pinned
        found[pinned] = percentiles([bench.together({"plan": plan}, rate, seed)], "plan")
    with np.errstate(invalid="ignore"):  # both refused too many: no number, and left out below
        return np.divide(found[True], found[False])


def compare(bench: Bench, name: str, args: argparse.Namespace) -> list[Row]:
    """Measure two plans at all loads, both ways."""
    machine = bench.host.calibrate(args.rounds, args.workers)
    sla = target_for(machine, TIMES)
    plans = {"fixed": served(fixed(machine, SPLIT)), "adaptive": served(adaptive(machine, sla))}
    rate = busy_qps(machine, plans["fixed"], bench.host.sizes)
    found: dict[tuple[str, float], list[NDArray[np.float64]]] = {}
    for turn in range(args.turns):
        for load in LOADS:
            for kind, plan in plans.items():
                one = ratios(bench, plan, load * rate, turn)
                found.setdefault((kind, load), []).append(one)
        show_turn(turn, args.turns)
    return [row_of(name, *key, np.array(turns)) for key, turns in found.items()]


def row_of(name: str, plan: str, load: float, turns: NDArray[np.float64]) -> Row:
    """Return and print the medians of ratios ``[turns, percentiles]`` with 95 % intervals.

    A turn in which either refused more than a percentile leaves out says nothing of that.
    """
    rng = np.random.default_rng(1)
    cells, told = [], []
    for column in turns.T:
        known = column[np.isfinite(column) & (column > 0)]
        drawn = (
            [np.median(rng.choice(known, len(known))) for _ in range(DRAWS)] if len(known) else []
        )
        low, high = np.percentile(drawn, (2.5, 97.5)) if drawn else (np.nan, np.nan)
        middle = float(np.median(known)) if len(known) else np.nan
        told.append((middle, float(low), float(high)))
        cells.append(f"{middle:.2f}x [{low:.2f}, {high:.2f}]")
    print(" | ".join([name, plan, f"{load:.0%}", *cells, str(len(turns))]), flush=True)
    return {"model": name, "plan": plan, "load": load, "over": told}


def show_target(rows: list[Row]) -> None:
    """Print p95 at the lowest load, where it should matter most, beside what is aimed at."""
    low = [row["over"][P95][0] for row in rows if row["load"] == LOADS[0]]
    middle = float(np.exp(np.nanmean(np.log(low))))
    word = "met" if middle <= TARGET else "MISSED"
    print(f"\np95 at {LOADS[0]:.0%}, geometric mean: {middle:.2f}x (target {TARGET:g}x: {word})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, turns=16)
    parser.add_argument("--quick", action="store_true", help="one model, few turns")
    parser.add_argument("--json", type=result_file, help="write all figures there")
    args = parser.parse_args()
    if args.quick:
        args.models, args.turns = args.models[:1], 6
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        hosts = prepare(args, Path(folder))
        print("\nMEASURED, workers that stay over workers that move, 95 % intervals")
        print("model | plan | load | p50 | p95 | p99 | turns")
        for name, bench in hosts.items():
            rows += compare(bench, name, args)
            write_json(args.json, rows=rows)
    show_target(rows)
    write_json(args.json, rows=rows, runs=show_steady(hosts))


if __name__ == "__main__":
    main()
