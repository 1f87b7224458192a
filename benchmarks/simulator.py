"""The simulator held against this machine: p50, p95 and p99 of five loads, fixed and adaptive.

Real engines behind the serving executor, open loop, Poisson arrivals, production sizes, in short
runs, turn by turn; runs in which the host stopped the cores are done again (see steady.py). The
simulator is told the service times of single queries, rested and at work, one core and all of
them busy, taken before, between and after the turns; then it predicts the very arrivals that were
measured, from the moments at which the generator, on the same cores, got round to each. Loads are
parts of the throughput that the fixed plan was measured to hold within a p95 target.

A shared host also changes its speed from one run to the next, by a quarter and more, which no
calibration foresees: the time that workers were busy, over the simulated one, tells by how much. So
percentiles are those of the middle turn, measured and simulated alike; those of all turns together,
whose tail is the slowest turn's, are told beside.

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
    usual_percentiles,
    write_json,
)
from options import result_file
from simulated import Prober, adaptive, fixed

from headway.core import Sla
from headway.simulate import Machine

LOADS = (0.3, 0.45, 0.6, 0.75, 0.9)
RATES = (0.6, 0.75, 0.9, 1.05)
TIMES = 6.0
SPLIT = 1024
SEED = 500
MEDIAN_TARGET, WORST_TARGET = 0.10, 0.25
OF = {"": "the middle turn", "_together": "all turns together"}


def highest_rate(bench: Bench, machine: Machine, sla: Sla, args: argparse.Namespace) -> float:
    """Return the rate that the fixed plan was measured to hold, near the simulated one."""
    plan = fixed(machine, SPLIT)
    told = Prober(sla, args.queries, 8, 0.05).score(machine, plan).lbt_qps
    rates = [part * told for part in RATES]
    found = sweep(bench, {"fixed": served(plan)}, rates, max(2, args.turns // 2))
    late = [float(np.median(late_shares(turns, "fixed", sla))) for turns in found]
    return throughput(late, rates, sla) or rates[0]


def hold(bench: Bench, name: str, args: argparse.Namespace) -> list[Row]:
    """Measure and predict five loads for two plans."""
    host, seeds = bench.host, range(SEED, SEED + args.turns)
    first = host.calibrate(args.rounds, args.workers)
    sla = target_for(first, TIMES)
    rate = highest_rate(bench, first, sla, args)
    plans = {"fixed": served(fixed(first, SPLIT)), "adaptive": served(adaptive(first, sla))}
    measured: dict[float, Turns] = {load: [] for load in LOADS}
    for turn, seed in enumerate(seeds):
        for load in LOADS:
            measured[load].append(bench.together(plans, load * rate, seed))
        machine = host.calibrate(args.rounds, args.workers)
        show_turn(turn, args.turns)
    rows = []
    for load, runs in measured.items():
        qps = load * rate
        told = [
            bench.predict(plans, machine, qps, seed, met)
            for seed, met in zip(seeds, runs, strict=True)
        ]
        for plan in plans:
            slower = [m[plan].busy_ns / t[plan].busy_ns for m, t in zip(runs, told, strict=True)]
            row: Row = {"model": name, "plan": plan, "load": load, "rate_qps": qps}
            row |= {"slower": slower, "queries": len(runs[0][plan].latency_ns)}
            for kind, turns in (("measured", runs), ("simulated", told)):
                row[kind] = usual_percentiles(turns, plan)
                row[f"{kind}_together"] = percentiles(turns, plan)
            print(line_of(row), flush=True)
            rows.append(row)
    return rows


def line_of(row: Row) -> str:
    cells = [
        f"{real:.2f} / {told:.2f} ({told / real - 1:+.0%})"
        for real, told in zip(row["measured"], row["simulated"], strict=True)
    ]
    low, middle, high = np.percentile(row["slower"], (5, 50, 95))
    busy = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    head = [row["model"], row["plan"], f"{row['load']:.0%}", f"{row['rate_qps']:.0f}"]
    return " | ".join([*head, *cells, busy])


def errors_of(rows: list[Row], of: str) -> np.ndarray:
    """Return |simulated / measured - 1| of all percentiles that both have."""
    columns = [zip(row["measured" + of], row["simulated" + of], strict=True) for row in rows]
    pairs = [pair for column in columns for pair in column]
    known = np.array([p for p in pairs if np.isfinite(p).all()])
    return np.abs(known[:, 1] / known[:, 0] - 1) if len(known) else np.empty(0)


def show_errors(rows: list[Row]) -> None:
    """Print how far the simulator is off, in the middle and at worst."""
    print()
    for of, title in OF.items():
        errors = errors_of(rows, of)
        if not len(errors):
            continue
        parts = [
            f"{word} error {value:.1%} (target {target:.0%}: {'met' if value <= target else 'MISSED'})"
            for word, value, target in (
                ("median", float(np.median(errors)), MEDIAN_TARGET),
                ("worst", float(errors.max()), WORST_TARGET),
            )
        ]
        within = int((errors <= WORST_TARGET).sum())
        print(f"simulator against machine, {len(errors)} percentiles of {title}: " + ", ".join(parts)
              + f", {within} within {WORST_TARGET:.0%}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, turns=12)
    parser.add_argument("--quick", action="store_true", help="one model, few turns")
    parser.add_argument("--json", type=result_file, help="write all figures there")
    args = parser.parse_args()
    if args.quick:
        args.models, args.turns = args.models[:1], 3
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        hosts = prepare(args, Path(folder))
        print("\nmodel | plan | load | queries/s | p50 measured / simulated ms | p95 | p99 | "
              "busy over simulated [5 %, 95 % of runs]")  # fmt: skip
        for name, bench in hosts.items():
            rows += hold(bench, name, args)
            write_json(args.json, rows=rows)
    show_errors(rows)
    write_json(args.json, rows=rows, runs=show_steady(hosts))


if __name__ == "__main__":
    main()
