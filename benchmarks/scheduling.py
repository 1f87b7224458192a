"""The schedulers measured on this machine's cores, and the simulator held against the machine.

Real engines behind the serving executor, open loop, Poisson arrivals, production sizes; the
network is left out (see host.py). For each model and target: throughput of the static baseline,
DeepRecSched (split size by its climb, in the simulator of this machine) and Headway's adaptive
policy, found by bracketing and bisection with a confirming run, and the tails at half of
DeepRecSched's throughput, turn by turn. Then the simulator: calibrated before each run by single
queries, it predicts p50, p95 and p99 of five loads for two plans.

Examples:
    python benchmarks/scheduling.py --quick
    python benchmarks/scheduling.py --json out/scheduling.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from host import Host
from simulated import Prober, adaptive, fixed

from headway.core import MonotonicClock, Ns, Plan, Sla, from_seconds, static_baseline
from headway.engine import machine_facts, usable_cores
from headway.measure import LbtSettings, RunRecord, estimate_percentiles, find_lbt
from headway.simulate import Machine, simulate
from headway.tune import Trials, hill_climb
from headway.workload import Schedule, draw_schedule

MODELS = ("rmc1", "rmc3", "wnd", "din")
LOADS = (0.3, 0.45, 0.6, 0.75, 0.9)
TARGETS = {"tight": 2.5, "medium": 6.0}
PERCENTILES = (50.0, 95.0, 99.0)
LARGEST = 1000
TIMEOUT = Ns(10_000_000_000)
Row = dict[str, Any]


class Bench:
    """Draws schedules for a host and runs plans on them."""

    def __init__(self, host: Host, seconds: float) -> None:
        self.host = host
        self.seconds = seconds

    def schedule(self, rate: float, seed: int) -> tuple[Schedule, np.ndarray]:
        """Return arrivals whose sizes are those of the chosen queries of the pool."""
        rng = np.random.default_rng([seed, 5])
        chosen = np.empty(0, np.int64)

        def sizes(count: int, source: np.random.Generator) -> np.ndarray:
            nonlocal chosen
            chosen = source.integers(len(self.host.sizes), size=count)
            return self.host.sizes[chosen]

        seconds = max(self.seconds, 250 / rate)
        return draw_schedule(rate, seconds, sizes, rng), chosen

    def run(self, plan: Plan, rate: float, seed: int) -> RunRecord:
        """Measure a fresh schedule and cut the warm-up."""
        schedule, chosen = self.schedule(rate, seed)
        return self.host.open_loop(plan, schedule, chosen).after(self._warm(schedule))

    def predict(self, machine: Machine, plan: Plan, rate: float, seed: int) -> RunRecord:
        """Simulate the same schedule."""
        schedule, _ = self.schedule(rate, seed)
        record = simulate(machine, plan, schedule, np.random.default_rng(seed))
        return record.after(self._warm(schedule))

    def lbt(self, plan: Plan, sla: Sla, start: float) -> float:
        """Return the measured throughput of a plan."""
        settings = LbtSettings(
            sla=sla, start_qps=start, growth=1.4, tolerance=0.03, lowest_qps=start / 20,
            evaluations=14,
        )  # fmt: skip
        return find_lbt(lambda rate, seed: self.run(plan, rate, seed), settings).lbt_qps

    def _warm(self, schedule: Schedule) -> int:
        return min(from_seconds(0.5), schedule.duration_ns // 10)


def served(plan: Plan) -> Plan:
    """Return the plan with a deadline that a server can live with."""
    return msgspec.structs.replace(plan, timeout_ns=TIMEOUT)


def plans_for(machine: Machine, sla: Sla, queries: int) -> tuple[dict[str, Plan], dict[str, float]]:
    """Return the three plans and their simulated throughput on the machine as calibrated."""
    prober = Prober(sla, queries, 8, 0.05, most_work=20_000)
    trials = Trials(partial(prober.score, machine), MonotonicClock())
    static = fixed(machine, static_baseline(machine.cores, LARGEST).split_size)
    found = hill_climb(trials, static, tolerance=0.02).best
    assert found is not None
    plans = {
        "static": served(static),
        "deeprecsched": served(found.plan),
        "headway": served(adaptive(machine, sla)),
    }
    simulated = {
        "static": prober.score(machine, plans["static"]).lbt_qps,
        "deeprecsched": found.score.lbt_qps,
        "headway": prober.score(machine, plans["headway"]).lbt_qps,
    }
    return plans, simulated


def compare(bench: Bench, name: str, args: argparse.Namespace) -> list[Row]:
    """Measure throughput and tails of the three plans for both targets."""
    rows = []
    machine = bench.host.calibrate(args.rounds, args.workers)
    middle = float(np.interp(256, *np.array(machine.service, float).T))
    for level, factor in TARGETS.items():
        sla = Sla(percentile=95.0, limit_ns=Ns(int(factor * middle * machine.interference)))
        plans, simulated = plans_for(machine, sla, args.queries)
        row: Row = {"model": name, "level": level, "sla_ms": sla.limit_ns / 1e6}
        row["split"] = plans["deeprecsched"].split_size
        row["simulated"] = simulated
        row["lbt"] = {
            plan: bench.lbt(plans[plan], sla, max(1.0, 0.5 * simulated[plan])) for plan in plans
        }
        half = 0.5 * (row["lbt"]["deeprecsched"] or simulated["deeprecsched"])
        row["tails"] = []
        for seed in range(args.seeds):
            turn: Row = {}
            for plan in ("deeprecsched", "headway"):
                record = bench.run(plans[plan], half, 1000 + seed)
                p95, p99 = estimate_percentiles(record.latency_ns, (95.0, 99.0))
                turn[plan] = (p95.value_ms, p99.value_ms)
            row["tails"].append(turn)
        rows.append(row)
        print(line_of(row), flush=True)
    return rows


def line_of(row: Row) -> str:
    lbt, simulated = row["lbt"], row["simulated"]
    parts = [row["model"], row["level"], f"{row['sla_ms']:.2f}", str(row["split"])]
    parts += [f"{lbt[p]:.0f} ({simulated[p]:.0f})" for p in ("static", "deeprecsched", "headway")]
    base = lbt["deeprecsched"]
    parts += [f"{lbt['headway'] / base:.2f}x" if base else "-"]
    for place in (0, 1):
        ratios = [t["headway"][place] / t["deeprecsched"][place] for t in row["tails"]]
        parts.append(f"{np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    return " | ".join(parts)


def hold(bench: Bench, name: str, lbt: Row, args: argparse.Namespace) -> list[Row]:
    """Hold the simulator against the machine at five loads for two plans."""
    rows = []
    for load in LOADS:
        machine = bench.host.calibrate(args.rounds, args.workers)
        sla = Sla(percentile=95.0, limit_ns=Ns(int(lbt["sla_ms"] * 1e6)))
        plans = {
            "fixed": served(fixed(machine, lbt["split"])),
            "adaptive": served(adaptive(machine, sla)),
        }
        rate = load * lbt["lbt"]["deeprecsched"]
        for kind, plan in plans.items():
            record = bench.run(plan, rate, 77)
            told = bench.predict(machine, plan, rate, 77)
            real = [p.value_ms for p in estimate_percentiles(record.latency_ns, PERCENTILES)]
            said = [p.value_ms for p in estimate_percentiles(told.latency_ns, PERCENTILES)]
            rows.append(
                {"model": name, "plan": kind, "load": load, "measured": real, "simulated": said}
            )
            cells = [
                f"{m:.2f} / {s:.2f} ({s / m - 1:+.0%})" for m, s in zip(real, said, strict=True)
            ]
            print(" | ".join([name, kind, f"{load:.0%}", *cells]), flush=True)
    return rows


def errors_of(rows: list[Row]) -> np.ndarray:
    """Return |simulated / measured - 1| of all percentiles that both have."""
    pairs = [(m, s) for row in rows for m, s in zip(row["measured"], row["simulated"], strict=True)]
    known = np.array([p for p in pairs if np.isfinite(p).all()])
    return np.abs(known[:, 1] / known[:, 0] - 1) if len(known) else np.empty(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rows", type=int, default=100_000, help="of a table")
    parser.add_argument("--precision", default="f32", choices=("f32", "reduced"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of a run")
    parser.add_argument("--rounds", type=int, default=24, help="of a calibration, per size")
    parser.add_argument("--queries", type=int, default=6000, help="of a simulated run")
    parser.add_argument("--seeds", type=int, default=3, help="turns of the tails")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--quick", action="store_true", help="one model, short runs")
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()
    if args.quick:
        args.models, args.seconds, args.rounds = args.models[:1], 1.5, 12
        args.queries, args.seeds = 2000, 1
    facts = machine_facts()
    print(f"{facts.cpu}, {args.workers} workers, {time.strftime('%Y-%m-%d')}, {args.precision}")
    table, held = [], []
    with tempfile.TemporaryDirectory() as folder:
        hosts = {}
        for name in args.models:
            began = time.perf_counter()
            hosts[name] = Bench(Host(name, Path(folder), args.rows, args.precision), args.seconds)
            print(f"  {name} compiled in {time.perf_counter() - began:.0f} s", flush=True)
        print("\nMEASURED queries/s that hold p95 (simulated in brackets); tails at half load")
        print("model | target | p95 ms | split | static | DeepRecSched | Headway | over DRS | "
              "p95 over DRS | p99 over DRS")  # fmt: skip
        for name, bench in hosts.items():
            table += compare(bench, name, args)
        print("\nmodel | plan | load | p50 measured / simulated ms | p95 | p99")
        for name, bench in hosts.items():
            lbt = next(r for r in table if r["model"] == name and r["level"] == "medium")
            held += hold(bench, name, lbt, args)
    errors = errors_of(held)
    if len(errors):
        middle, worst = float(np.median(errors)), float(errors.max())
        print(
            f"\nsimulator against machine over {len(errors)} percentiles: median error "
            f"{middle:.1%} (target 10%: {'met' if middle <= 0.1 else 'MISSED'}), worst "
            f"{worst:.1%} (target 25%: {'met' if worst <= 0.25 else 'MISSED'})"
        )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": facts.cpu, "date": time.strftime("%Y-%m-%d"), "throughput": table}
        args.json.write_text(json.dumps(told | {"simulator": held}, indent=1) + "\n")


if __name__ == "__main__":
    main()
