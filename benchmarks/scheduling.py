"""The schedulers measured on this machine's cores, and the simulator held against the machine.

Real engines behind the serving executor, open loop, Poisson arrivals, production sizes; the
network is left out (see host.py). A shared host changes its speed within seconds, so a run counts
only if all cores were at full speed before and after it (see steady.py), and nothing is measured
once: at each rate all plans serve the same arrivals, turn by turn, and a figure is that of all
turns together, its interval a bootstrap over the turns.

For each model and target: the rate up to which p95 holds for the static baseline, DeepRecSched
(split size by its climb, in the simulator of this machine) and Headway's adaptive policy; and the
tails at half of DeepRecSched's. Then the simulator: with the service times of single queries
before and after each turn it predicts p50, p95 and p99 of five loads for two plans.

Examples:
    python benchmarks/scheduling.py --quick
    python benchmarks/scheduling.py --json out/scheduling.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from host import Host
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from simulated import Prober, adaptive, fixed
from steady import Steady

from headway.core import MonotonicClock, Ns, Plan, Sla, from_seconds, static_baseline
from headway.engine import machine_facts, usable_cores
from headway.measure import RunRecord, estimate_percentiles
from headway.simulate import Machine, simulate
from headway.tune import Trials, hill_climb
from headway.workload import Schedule, draw_schedule

MODELS = ("rmc1", "rmc3", "wnd", "din")
LOADS = (0.3, 0.45, 0.6, 0.75, 0.9)
RATES = (0.35, 0.5, 0.65, 0.8, 1.0)
TARGETS = {"tight": 2.5, "medium": 6.0}
PERCENTILES = (50.0, 95.0, 99.0)
MEDIAN_TARGET, WORST_TARGET = 0.10, 0.25
LARGEST = 1000
TIMEOUT = Ns(2_000_000_000)
DRAWS = 500
Row = dict[str, Any]
Turns = list[NDArray[np.int64]]


class Bench:
    """Draws schedules for a host, runs plans on it and predicts the runs."""

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

        return draw_schedule(rate, max(self.seconds, 200 / rate), sizes, rng), chosen

    def run(self, plan: Plan, rate: float, seed: int) -> NDArray[np.int64]:
        """Measure a fresh schedule and return the latencies after the warm-up."""
        schedule, chosen = self.schedule(rate, seed)
        record = self.host.steady.through(lambda: self.host.open_loop(plan, schedule, chosen))
        return self._after(record, schedule)

    def predict(self, machine: Machine, plan: Plan, rate: float, seed: int) -> NDArray[np.int64]:
        """Simulate the same schedule."""
        schedule, _ = self.schedule(rate, seed)
        record = simulate(machine, plan, schedule, np.random.default_rng(seed))
        return self._after(record, schedule)

    def _after(self, record: RunRecord, schedule: Schedule) -> NDArray[np.int64]:
        return record.after(min(from_seconds(0.3), schedule.duration_ns // 10)).latency_ns


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
    return plans, {name: prober.score(machine, plan).lbt_qps for name, plan in plans.items()}


def sweep(
    bench: Bench, plans: dict[str, Plan], rates: Sequence[float], turns: int
) -> dict[str, list[Turns]]:
    """Return latencies by plan, rate and turn; within a turn all plans meet the same arrivals."""
    found: dict[str, list[Turns]] = {name: [[] for _ in rates] for name in plans}
    for turn in range(turns):
        for at, rate in enumerate(rates):
            names = list(plans)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found[name][at].append(bench.run(plans[name], rate, 100 * turn + at))
    return found


def late_shares(found: dict[str, list[Turns]], sla: Sla) -> dict[str, NDArray[np.float64]]:
    """Return the share of late queries, refused ones among them, ``[rates, turns]`` by plan."""
    return {
        name: np.array([[np.mean(t > sla.limit_ns) for t in turns] for turns in by_rate])
        for name, by_rate in found.items()
    }


def throughput(late: NDArray[np.float64], rates: Sequence[float], sla: Sla) -> float:
    """Return the rate at which so many are late as the SLA allows.

    The share of late ones is made to rise with the rate by isotonic regression, so that a slow
    moment of the host at a low rate does not decide alone, and to rise evenly between two rates.

    Args:
        late: float64 ``[rates]``, share of late queries.
        rates: queries/s, rising.
        sla: what must hold.

    Returns:
        0 if the lowest rate has too many already, the highest rate if even that holds.
    """
    allowed = 1 - sla.percentile / 100
    rising = isotonic_regression(late).x
    if rising[0] > allowed:
        return 0.0
    if rising[-1] <= allowed:
        return float(rates[-1])
    at = int(np.argmax(rising > allowed))
    part = (allowed - rising[at - 1]) / (rising[at] - rising[at - 1])
    return float(rates[at - 1] + part * (rates[at] - rates[at - 1]))


def compare(bench: Bench, name: str, args: argparse.Namespace) -> list[Row]:
    """Measure throughput and tails of the three plans for both targets."""
    rows = []
    for level, factor in TARGETS.items():
        machine = bench.host.calibrate(args.rounds, args.workers)
        middle = float(np.interp(256, *np.array(machine.rested_service, float).T))
        sla = Sla(percentile=95.0, limit_ns=Ns(int(factor * middle * machine.interference)))
        plans, simulated = plans_for(machine, sla, args.queries)
        rates = [part * max(simulated.values()) for part in RATES]
        found = sweep(bench, plans, rates, args.turns)
        row: Row = {"model": name, "level": level, "sla_ms": sla.limit_ns / 1e6, "rates": rates}
        row["split"] = plans["deeprecsched"].split_size
        row["simulated"] = simulated
        late = late_shares(found, sla)
        row["late"] = {plan: shares.tolist() for plan, shares in late.items()}
        row["lbt"] = {plan: throughput(late[plan].mean(axis=1), rates, sla) for plan in plans}
        row["over"] = interval(late, rates, sla)
        half = 0.5 * (row["lbt"]["deeprecsched"] or rates[0])
        some = {plan: plans[plan] for plan in ("deeprecsched", "headway")}
        row["half_qps"] = half
        row["tails"] = tails(sweep(bench, some, [half], args.turns))
        rows.append(row)
        print(line_of(row), flush=True)
    return rows


def draws(turns: int) -> NDArray[np.int64]:
    """Return turns drawn with replacement, one row per bootstrap."""
    return np.random.default_rng(1).integers(turns, size=(DRAWS, turns))


def interval(
    late: dict[str, NDArray[np.float64]], rates: Sequence[float], sla: Sla
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of throughput over DeepRecSched's, the same turns drawn for both."""
    ratios: dict[str, list[float]] = {"static": [], "headway": []}
    for some in draws(late["static"].shape[1]):
        qps = {name: throughput(s[:, some].mean(axis=1), rates, sla) for name, s in late.items()}
        for name, values in ratios.items():
            if qps["deeprecsched"]:
                values.append(qps[name] / qps["deeprecsched"])
    return {
        name: (float(np.percentile(v, 2.5)), float(np.percentile(v, 97.5)))
        for name, v in ratios.items()
        if v
    }


def tails(found: dict[str, list[Turns]]) -> Row:
    """Return p95 and p99 in ms, and Headway's over DeepRecSched's with a 95 % interval."""
    whole = list(range(len(found["headway"][0])))
    row: Row = {name: percentiles(by_rate[0], whole) for name, by_rate in found.items()}
    ratios = np.array(
        [
            np.divide(percentiles(found["headway"][0], some), percentiles(found["deeprecsched"][0], some))
            for some in draws(len(whole))
        ]
    )  # fmt: skip
    row["ratio"] = np.divide(row["headway"], row["deeprecsched"]).tolist()
    row["low"], row["high"] = (np.percentile(ratios, q, axis=0).tolist() for q in (2.5, 97.5))
    return row


def percentiles(turns: Turns, some: Sequence[int]) -> list[float]:
    """Return p50, p95 and p99 in ms over some turns together."""
    latency = np.concatenate([turns[i] for i in some])
    return [p.value_ms for p in estimate_percentiles(latency, PERCENTILES)]


def line_of(row: Row) -> str:
    lbt, simulated = row["lbt"], row["simulated"]
    parts = [row["model"], row["level"], f"{row['sla_ms']:.2f}", str(row["split"])]
    parts += [f"{lbt[p]:.0f} ({simulated[p]:.0f})" for p in ("static", "deeprecsched", "headway")]
    base = lbt["deeprecsched"]
    for name in ("static", "headway"):
        low, high = row["over"].get(name, (float("nan"), float("nan")))
        parts.append(f"{lbt[name] / base:.2f}x [{low:.2f}, {high:.2f}]" if base else "-")
    told = row["tails"]
    for place in (1, 2):
        parts.append(
            f"{told['ratio'][place]:.2f}x [{told['low'][place]:.2f}, {told['high'][place]:.2f}]"
        )
    return " | ".join(parts)


def hold(bench: Bench, name: str, lbt: Row, args: argparse.Namespace) -> list[Row]:
    """Hold the simulator against the machine at five loads for two plans."""
    sla = Sla(percentile=95.0, limit_ns=Ns(int(lbt["sla_ms"] * 1e6)))
    measured: dict[tuple[str, float], Turns] = {}
    simulated: dict[tuple[str, float], Turns] = {}
    before = bench.host.calibrate(args.rounds, args.workers)
    plans = {
        "fixed": served(fixed(before, lbt["split"])),
        "adaptive": served(adaptive(before, sla)),
    }
    for turn in range(args.turns):
        rates = {load: load * lbt["lbt"]["deeprecsched"] for load in LOADS}
        for load, rate in rates.items():
            for kind, plan in plans.items():
                measured.setdefault((kind, load), []).append(bench.run(plan, rate, 500 + turn))
        after = bench.host.calibrate(args.rounds, args.workers)
        for load, rate in rates.items():
            for kind, plan in plans.items():
                # Half of the prediction with the times before the turn, half with those after it.
                simulated.setdefault((kind, load), []).extend(
                    bench.predict(machine, plan, rate, 500 + turn) for machine in (before, after)
                )
        before = after
    rows = []
    for (kind, load), turns in measured.items():
        told = simulated[kind, load]
        real, said = (percentiles(t, range(len(t))) for t in (turns, told))
        rows.append(
            {"model": name, "plan": kind, "load": load, "measured": real, "simulated": said}
        )
        cells = [f"{m:.2f} / {s:.2f} ({s / m - 1:+.0%})" for m, s in zip(real, said, strict=True)]
        print(" | ".join([name, kind, f"{load:.0%}", *cells]), flush=True)
    return rows


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


def show_steady(found: list[Steady]) -> Row:
    """Print and return how many runs counted."""
    runs = {k: sum(getattr(s, k) for s in found) for k in ("kept", "discarded", "unsteady")}
    print(
        f"runs at full speed {runs['kept']}; done again since the host slowed down "
        f"{runs['discarded']}; taken all the same {runs['unsteady']}"
    )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rows", type=int, default=100_000, help="of a table")
    parser.add_argument("--precision", default="f32", choices=("f32", "reduced"))
    parser.add_argument("--seconds", type=float, default=1.0, help="of a run")
    parser.add_argument("--rounds", type=int, default=8, help="of a calibration, per size")
    parser.add_argument("--queries", type=int, default=2000, help="of a simulated run")
    parser.add_argument("--turns", type=int, default=5, help="at each rate")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--patience", type=float, default=20.0, help="s to wait for full speed")
    parser.add_argument("--quick", action="store_true", help="one model, short runs")
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()
    if args.quick:
        args.models, args.turns = args.models[:1], 2
    facts = machine_facts()
    print(f"{facts.cpu}, {args.workers} workers, {time.strftime('%Y-%m-%d')}, {args.precision}")
    table, held = [], []
    with tempfile.TemporaryDirectory() as folder:
        hosts = {}
        for name in args.models:
            began = time.perf_counter()
            hosts[name] = Bench(
                Host(name, Path(folder), args.rows, args.precision, args.patience), args.seconds
            )
            print(f"  {name} compiled in {time.perf_counter() - began:.0f} s", flush=True)
        print(
            "\nMEASURED queries/s that hold p95 (simulated in brackets), over DeepRecSched's with "
            "95 % intervals; tails at half of DeepRecSched's rate (aim for p95: at most 0.5x)"
        )
        print("model | target | p95 ms | split | static | DeepRecSched | Headway | static over DRS | "
              "Headway over DRS | p95 over DRS | p99 over DRS")  # fmt: skip
        for name, bench in hosts.items():
            table += compare(bench, name, args)
        print("\nmodel | plan | load | p50 measured / simulated ms | p95 | p99")
        for name, bench in hosts.items():
            lbt = next(r for r in table if r["model"] == name and r["level"] == "medium")
            if lbt["lbt"]["deeprecsched"]:
                held += hold(bench, name, lbt, args)
    show_errors(held)
    runs = show_steady([bench.host.steady for bench in hosts.values()])
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": facts.cpu, "date": time.strftime("%Y-%m-%d"), "throughput": table}
        args.json.write_text(json.dumps(told | {"runs": runs, "simulator": held}, indent=1) + "\n")


if __name__ == "__main__":
    main()
