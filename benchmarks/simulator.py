"""The simulator held against this machine: p50, p95 and p99 of five loads, fixed and adaptive.

Real engines behind the serving executor, open loop, Poisson arrivals, production sizes, measured
in steady moments (see steady.py) in turns. The simulator is told the service times of single
queries, rested and at work, one core and all of them busy, taken before, between and after the
turns; then it predicts the very arrivals that were measured. Loads are parts of the throughput
that the fixed plan was measured to hold within a p95 target.

Examples:
    python benchmarks/simulator.py --quick
    python benchmarks/simulator.py --json out/simulator.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measured import (
    Bench,
    Row,
    Turn,
    Turns,
    add_options,
    late_shares,
    percentiles,
    prepare,
    served,
    show_steady,
    show_turn,
    sweep,
    target_for,
    throughput,
    write_json,
)
from simulated import Prober, adaptive, fixed

from headway.core import Sla
from headway.simulate import Machine

LOADS = (0.3, 0.45, 0.6, 0.75, 0.9)
RATES = (0.6, 0.75, 0.9, 1.05)
TIMES = 6.0
SPLIT = 1024
SEED = 500
MEDIAN_TARGET, WORST_TARGET = 0.10, 0.25


def highest_rate(bench: Bench, machine: Machine, sla: Sla, args: argparse.Namespace) -> float:
    """Return the rate that the fixed plan was measured to hold, near the simulated one."""
    plan = fixed(machine, SPLIT)
    told = Prober(sla, args.queries, 8, 0.05).score(machine, plan).lbt_qps
    rates = [part * told for part in RATES]
    found = sweep(bench, {"fixed": served(plan)}, rates, max(2, args.turns // 2))
    known = [(rate, turns) for rate, turns in zip(rates, found, strict=True) if turns]
    late = [float(late_shares(turns, "fixed", sla).mean()) for _, turns in known]
    return throughput(late, [rate for rate, _ in known], sla) or rates[0]


def hold(bench: Bench, name: str, args: argparse.Namespace) -> list[Row]:
    """Measure and predict five loads for two plans."""
    first = bench.calibrate(args.rounds, args.workers)
    sla = target_for(first, TIMES)
    rate = highest_rate(bench, first, sla, args)
    plans = {"fixed": served(fixed(first, SPLIT)), "adaptive": served(adaptive(first, sla))}
    measured: dict[float, dict[int, Turn]] = {load: {} for load in LOADS}
    for turn in range(args.turns):
        for load in LOADS:
            one = bench.together(plans, load * rate, SEED + turn)
            if one is not None:
                measured[load][SEED + turn] = one
        bench.calibrate(args.rounds, args.workers)
        show_turn(turn, args.turns)
    simulated = {
        load: [
            bench.predict(plans, one, args.workers, load * rate, seed) for seed, one in runs.items()
        ]
        for load, runs in measured.items()
    }
    return [row_of(name, kind, load, rate, list(measured[load].values()), simulated[load])
            for load in LOADS if measured[load] for kind in plans]  # fmt: skip


def row_of(name: str, plan: str, load: float, rate: float, real: Turns, told: Turns) -> Row:
    """Return and print p50, p95 and p99 in ms as measured and as simulated."""
    pair = percentiles(real, plan), percentiles(told, plan)
    cells = [f"{m:.2f} / {s:.2f} ({s / m - 1:+.0%})" for m, s in zip(*pair, strict=True)]
    print(" | ".join([name, plan, f"{load:.0%}", f"{load * rate:.0f}", *cells, str(len(real))]),
          flush=True)  # fmt: skip
    row = {"model": name, "plan": plan, "load": load, "rate_qps": load * rate, "turns": len(real)}
    return row | {"measured": pair[0], "simulated": pair[1]}


def errors_of(rows: list[Row]) -> np.ndarray:
    """Return |simulated / measured - 1| of all percentiles that both have."""
    pairs = [(m, s) for row in rows for m, s in zip(row["measured"], row["simulated"], strict=True)]
    known = np.array([p for p in pairs if np.isfinite(p).all()])
    return np.abs(known[:, 1] / known[:, 0] - 1) if len(known) else np.empty(0)


def show_errors(rows: list[Row]) -> None:
    """Print how far the simulator is off, in the middle and at worst."""
    errors = errors_of(rows)
    if not len(errors):
        return
    parts = [
        f"{title} error {value:.1%} (target {target:.0%}: {'met' if value <= target else 'MISSED'})"
        for title, value, target in (
            ("median", float(np.median(errors)), MEDIAN_TARGET),
            ("worst", float(errors.max()), WORST_TARGET),
        )
    ]
    print(f"\nsimulator against machine over {len(errors)} percentiles: " + ", ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, turns=6)
    parser.add_argument("--quick", action="store_true", help="one model, few turns")
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()
    if args.quick:
        args.models, args.turns = args.models[:1], 2
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        hosts = prepare(args, Path(folder), strict=True)
        print("\nmodel | plan | load | queries/s | p50 measured / simulated ms | p95 | p99 | turns")
        for name, bench in hosts.items():
            rows += hold(bench, name, args)
            write_json(args.json, rows=rows)
    show_errors(rows)
    write_json(args.json, rows=rows, runs=show_steady(hosts))


if __name__ == "__main__":
    main()
