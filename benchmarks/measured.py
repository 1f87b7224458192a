"""Plans measured on this machine's cores, all on the same arrivals."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from host import Host
from numpy.typing import NDArray
from options import amount, count
from scipy.optimize import isotonic_regression

from headway.core import Ns, Plan, Sla, from_seconds
from headway.engine import machine_facts, usable_cores
from headway.measure import RunRecord, estimate_percentiles
from headway.simulate import Machine, simulate_busy
from headway.workload import Schedule, draw_schedule

MODELS = ("rmc1", "rmc3", "wnd", "din")
KINDS = ("kept", "discarded", "unsteady")
PERCENTILES = (50.0, 95.0, 99.0)
TIMEOUT = Ns(2_000_000_000)
FEWEST = 120
Row = dict[str, Any]


class Met(NamedTuple):
    """One run.

    Attributes:
        latency_ns: of the queries after its warm-up.
        busy_ns: worker time of all queries.
        sent_ns: when each was handed over, the generator being late at times.
    """

    latency_ns: NDArray[np.float64]
    busy_ns: int
    sent_ns: NDArray[np.int64]


Turn = dict[str, Met]
"""Runs by plan, all of the same arrivals."""
Turns = list[Turn]


class Bench:
    """Draws schedules for a host, runs plans on it and predicts the runs."""

    def __init__(self, host: Host, seconds: float) -> None:
        """Take a host, and the least seconds of a run."""
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

        return draw_schedule(rate, max(self.seconds, FEWEST / rate), sizes, rng), chosen

    def together(self, plans: dict[str, Plan], rate: float, seed: int) -> Turn:
        """Measure plans on the same schedule, in any order."""
        schedule, chosen = self.schedule(rate, seed)
        found: Turn = {}
        for name in np.random.default_rng(seed).permutation(list(plans)).tolist():
            run = partial(self.host.open_loop, plans[name], schedule, chosen)
            record, busy_ns = self.host.steady.through(run)
            sent_ns = np.maximum(record.sent_ns, schedule.intended_ns)
            found[name] = Met(_after(record, schedule), busy_ns, sent_ns)
        return found

    def predict(
        self, plans: dict[str, Plan], machine: Machine, rate: float, seed: int, met: Turn
    ) -> Turn:
        """Simulate what ``together`` measured, from the moments at which queries were sent."""
        schedule, _ = self.schedule(rate, seed)
        found: Turn = {}
        for name, plan in plans.items():
            rng = np.random.default_rng(seed)
            sent_ns = met[name].sent_ns
            length = max(schedule.duration_ns, int(sent_ns[-1]) + 1)
            sent = Schedule(sent_ns, schedule.sizes, length)
            record, busy_ns = simulate_busy(machine, plan, sent, rng)
            latency_ns = _after(replace(record, intended_ns=schedule.intended_ns), schedule)
            busy = min(1.0, busy_ns / length / machine.workers(plan))
            outside_ns = self.host.outside_ns(len(latency_ns), busy, rng)
            found[name] = Met(latency_ns + outside_ns, busy_ns, sent_ns)
        return found


def _after(record: RunRecord, schedule: Schedule) -> NDArray[np.float64]:
    return record.after(min(from_seconds(0.3), schedule.duration_ns // 10)).latency_ns


def served(plan: Plan) -> Plan:
    """Return the plan with a deadline that a server can live with."""
    return msgspec.structs.replace(plan, timeout_ns=TIMEOUT)


def sweep(bench: Bench, plans: dict[str, Plan], rates: Sequence[float], turns: int) -> list[Turns]:
    """Return latencies by rate and turn; within a turn all plans meet the same arrivals."""
    found: list[Turns] = [[] for _ in rates]
    for turn in range(turns):
        for at, rate in enumerate(rates):
            found[at].append(bench.together(plans, rate, len(rates) * turn + at))
        show_turn(turn, turns)
    return found


def show_turn(turn: int, turns: int) -> None:
    """Say on stderr how far a measurement has come."""
    print(f"  turn {turn + 1} of {turns} done", file=sys.stderr, flush=True)


def late_shares(turns: Turns, name: str, sla: Sla) -> NDArray[np.float64]:
    """Return the share of late queries of a plan, refused ones among them, ``[turns]``."""
    return np.array([np.mean(turn[name].latency_ns > sla.limit_ns) for turn in turns])


def throughput(late: Sequence[float], rates: Sequence[float], sla: Sla) -> float:
    """Return the rate at which so many are late as the SLA allows.

    The share of late ones is made to rise with the rate by isotonic regression, so that a slow
    moment of the host at a low rate does not decide alone, and to rise evenly between two rates.

    Args:
        late: share of late queries at each rate.
        rates: queries/s, rising.
        sla: what must hold.

    Returns:
        0 if the lowest rate has too many already, the highest rate if even that holds.
    """
    allowed = 1 - sla.percentile / 100
    if not len(late):
        return 0.0
    rising = isotonic_regression(late).x
    if rising[0] > allowed:
        return 0.0
    if rising[-1] <= allowed:
        return float(rates[-1])
    at = int(np.argmax(rising > allowed))
    part = (allowed - rising[at - 1]) / (rising[at] - rising[at - 1])
    return float(rates[at - 1] + part * (rates[at] - rates[at - 1]))


def percentiles(turns: Turns, name: str) -> list[float]:
    """Return p50, p95 and p99 of a plan in ms over all turns together."""
    latency = np.concatenate([turn[name].latency_ns for turn in turns])
    return [p.value_ms for p in estimate_percentiles(latency, PERCENTILES)]


def usual_percentiles(turns: Turns, name: str) -> list[float]:
    """Return the medians over the turns of each turn's own p50, p95 and p99 in ms.

    One slow moment of the host, which makes the tail of all turns together, is one of many here.
    """
    each = [percentiles([turn], name) for turn in turns]
    return np.median(each, axis=0).tolist()


def target_for(machine: Machine, times: float) -> Sla:
    """Return a p95 target of so many times what a query of 256 takes on the busy machine."""
    middle = float(np.interp(256, *np.array(machine.rested_service, float).T))
    return Sla(percentile=95.0, limit_ns=Ns(int(times * middle * machine.interference)))


def add_options(parser: argparse.ArgumentParser, turns: int) -> None:
    """Add what both scripts that measure plans can be told."""
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rows", type=count(), default=100_000, help="of a table")
    parser.add_argument("--precision", default="f32", choices=("f32", "reduced"))
    parser.add_argument("--seconds", type=amount(0.05), default=0.5, help="of a run at least")
    parser.add_argument("--rounds", type=count(), default=8, help="of a calibration, per size")
    parser.add_argument("--queries", type=count(100), default=2000, help="of a simulated run")
    parser.add_argument("--turns", type=count(2), default=turns, help="at each rate")
    parser.add_argument("--workers", type=count(), default=usable_cores())


def prepare(args: argparse.Namespace, folder: Path) -> dict[str, Bench]:
    """Compile the models."""
    print(f"{machine_facts().cpu}, {args.workers} workers, {args.precision}")
    found = {}
    for name in args.models:
        found[name] = Bench(Host(name, folder, args.rows, args.precision), args.seconds)
        print(f"  {name} compiled", flush=True)
    return found


def show_steady(hosts: dict[str, Bench]) -> Row:
    """Print and return how many runs counted."""
    runs = {k: sum(getattr(bench.host.steady, k) for bench in hosts.values()) for k in KINDS}
    print("runs " + ", ".join(f"{kind} {count}" for kind, count in runs.items()))
    return runs


def write_json(path: Path | None, **figures: object) -> None:
    """Write figures with machine and date, if there is a path; again after each model."""
    if path is not None:
        told = {"machine": machine_facts().cpu, "date": time.strftime("%Y-%m-%d")}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told | figures, indent=1) + "\n")
