"""What a load generator can hide: gaps drawn from the wrong law, and waiting that is not counted.

Two flaws of a published generator, each beside the truth, simulated. Its gaps between queries
are whole milliseconds drawn from a Poisson distribution, so at a mean gap of 25 ms their
coefficient of variation is 0.2 where a Poisson process has 1. And it stamps a query's arrival
after a put that blocks while the queue is full, so that the worst waiting is left out
("coordinated omission").

Examples:
    python benchmarks/arrivals.py
    python benchmarks/arrivals.py --quick --json out/arrivals.json
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from options import count, result_file
from simulated import MEAN_SIZE, PROFILES, WARM, fixed, machines, plan_capacity

from headway.core import Plan
from headway.measure import estimate_percentiles
from headway.simulate import Machine, simulate
from headway.workload import (
    DeepRecSysCompat,
    Poisson,
    Schedule,
    draw_schedule,
    fixed_sizes,
    production_sizes,
)

LOADS = (0.5, 0.7, 0.85, 0.95)
GAPS_MS = (4.0, 10.0)
SIGMA = 0.5
# p99 of the true process over p99 of the published generator's gaps, found in an independent
# simulation of one server with lognormal times (sigma 0.5).
EXPECTED = {
    (10.0, 0.5): 1.83, (10.0, 0.7): 2.41, (10.0, 0.85): 2.92, (10.0, 0.95): 2.89,
    (4.0, 0.5): 1.57, (4.0, 0.7): 1.87, (4.0, 0.85): 2.18, (4.0, 0.95): 2.63,
}  # fmt: skip
OMISSION_LOADS = (0.8, 0.95, 1.05, 1.2)
OFF_TARGET = 0.1
QUEUE = 1024
CLIENTS = 16
Row = dict[str, Any]


def one_server(gap_ms: float, load: float, rng: np.random.Generator) -> Machine:
    """Return a machine of one worker with lognormal times and a mean of load times the gap."""
    ratios = np.exp(rng.normal(-(SIGMA**2) / 2, SIGMA, 100_000))
    return Machine(
        cores=1,
        service=((1, int(gap_ms * 1e6 * load)),),
        ratios=tuple((ratios / ratios.mean()).tolist()),
    )


def p99_ms(machine: Machine, plan: Plan, schedule: Schedule, seed: int) -> float:
    record = simulate(machine, plan, schedule, np.random.default_rng(seed))
    record = record.after(int(schedule.duration_ns * WARM))
    (found,) = estimate_percentiles(record.latency_ns, (99.0,))
    return found.value_ms


def gaps(queries: int, seed: int) -> list[Row]:
    """Return p99 under true and published gaps, for one server and for eight cores of a model."""
    rows = []
    for gap in GAPS_MS:
        for load in LOADS:
            machine = one_server(gap, load, np.random.default_rng(seed))
            rows.append(
                both(f"one server, {gap:g} ms", machine, 1e3 / gap, load, queries)
                | {"expected": EXPECTED[gap, load]}
            )
    cores = machines(PROFILES, 8, 1.1)["wnd"]
    split = 128
    most = plan_capacity(cores, fixed(cores, split))
    rows += [both("wnd, 8 cores", cores, load * most, load, queries, split) for load in LOADS]
    return rows


def both(
    name: str, machine: Machine, rate: float, load: float, queries: int, split: int = 0
) -> Row:
    """Return p99 of both kinds of gaps at a rate."""
    sizes = production_sizes if split else fixed_sizes(1)
    plan = fixed(machine, split or 1)
    found = {}
    for kind, arrivals in (("true", Poisson()), ("published", DeepRecSysCompat())):
        rng = np.random.default_rng([11, int(rate * 100)])
        schedule = draw_schedule(rate, queries / rate, sizes, rng, arrivals)
        found[kind] = p99_ms(machine, plan, schedule, 3)
    return {"case": name, "load": load, "rate_qps": rate, **found}


def omission(load: float, queries: int, seed: int) -> Row:
    """Return p99 by intended arrival and by the stamp of a generator that waits.

    One server with lognormal times; a generator that blocks while 1,024 queries wait, and a
    closed loop of 16 clients, each of which sends when its last query is answered and it is due.
    """
    rng = np.random.default_rng(seed)
    intended = np.cumsum(rng.exponential(1.0, queries))
    service = np.exp(rng.normal(-(SIGMA**2) / 2, SIGMA, queries)) * load
    row: Row = {"load": load}
    truth, _ = waiting(intended, service, queries)
    row["intended"] = float(np.percentile(truth - intended, 99))
    for name, limit in (("blocking put", QUEUE), ("16 clients", CLIENTS)):
        done, stamped = waiting(intended, service, limit)
        row[name] = float(np.percentile(done - stamped, 99))
        row[f"{name}, from intended"] = float(np.percentile(done - intended, 99))
    return row


def waiting(
    intended: NDArray[np.float64], service: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return when queries are done and when they were sent, with at most ``limit`` open at once.

    The generator's gaps are kept from its last put, as a loop of sleep and put does it.
    """
    done, sent = np.empty(len(intended)), np.empty(len(intended))
    free = last = 0.0
    gap = np.diff(intended, prepend=0.0)
    for i in range(len(intended)):
        last += gap[i]
        if i >= limit:
            last = max(last, done[i - limit])
        sent[i] = last
        free = max(free, last) + service[i]
        done[i] = free
    return done, sent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=count(100), default=200_000, help="of each run")
    parser.add_argument("--quick", action="store_true", help="30,000 queries")
    parser.add_argument("--json", type=result_file, help="write the figures there")
    args = parser.parse_args()
    queries = 30_000 if args.quick else args.queries
    print(f"SIMULATED, {queries:,} queries; mean query size {MEAN_SIZE:g}\n")
    print("case | load | queries/s | p99 true ms | p99 with published gaps ms | hidden | expected")
    rows = gaps(queries, 0)
    for row in rows:
        expected = f"{row['expected']:.2f}x" if "expected" in row else "-"
        print(
            f"{row['case']} | {row['load']:.0%} | {row['rate_qps']:.0f} | {row['true']:.1f} | "
            f"{row['published']:.1f} | {row['true'] / row['published']:.2f}x | {expected}"
        )
    known = [(r["true"] / r["published"], r["expected"]) for r in rows if "expected" in r]
    off = float(np.median([abs(found / wanted - 1) for found, wanted in known]))
    print(
        f"median distance from the independent simulation {off:.1%} (target {OFF_TARGET:.0%}: "
        f"{'met' if off <= OFF_TARGET else 'MISSED'})"
    )
    print("\nload | p99 from intended arrival | stamped after a blocking put (1,024) | 16 clients")
    print("one server, mean gaps of 1; a load over 100 % has no steady state, its p99 grows")
    omitted = [omission(load, queries, 5) for load in OMISSION_LOADS]
    for row in omitted:
        print(
            f"{row['load']:.0%} | {row['intended']:.1f} | {row['blocking put']:.1f} "
            f"({row['intended'] / row['blocking put']:.1f}x hidden) | {row['16 clients']:.1f} "
            f"({row['intended'] / row['16 clients']:.1f}x hidden)"
        )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"gaps": rows, "omission": omitted}, indent=1) + "\n")


if __name__ == "__main__":
    main()
