"""Small fleets for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from headway.core import Ns, Plan, Sla
from headway.simulate import FleetRun, FleetSpec, Known, Machine, MachineKind, simulate_fleet
from headway.workload import Poisson, Process, fixed_sizes, production_sizes, stream_schedule

MS = 1_000_000
SERVICE = ((1, 200_000), (64, 700_000), (256, 2_200_000), (1024, 8_400_000))
SCATTER = tuple(np.exp(np.random.default_rng(9).normal(0, 0.4, 512)).tolist())
SLA = Sla(95.0, Ns(25 * MS))


def kind(name: str = "box", count: int = 4, cores: int = 2, slower: int = 1) -> MachineKind:
    """Machines that take about 2 ms for a query; a core bears about 480 queries/s."""
    service = tuple((n, ns * slower) for n, ns in SERVICE)
    machine = Machine(
        cores=cores, service=service, ratios=SCATTER, price_per_hour=2.0, idle_watts=100,
        busy_watts=300,
    )  # fmt: skip
    plan = Plan(workers=cores, policy="adaptive", service=service, refuse_late=False)
    return MachineKind(name=name, machine=machine, plan=plan, count=count)


def fly(
    rate: float,
    seconds: float,
    *,
    arrivals: Process | None = None,
    known: Known | None = None,
    seed: int = 0,
    window_s: float = 0.5,
    sizes: int = 0,
    block: int = 10_000,
    **fleet: Any,
) -> FleetRun:
    """Run a fleet; of four small machines where nothing else is said."""
    spec = FleetSpec(**{"kinds": (kind(),), "sla": SLA, **fleet})
    blocks = stream_schedule(
        rate,
        seconds,
        fixed_sizes(sizes) if sizes else production_sizes,
        np.random.default_rng(seed),
        arrivals or Poisson(),
        block,
    )
    return simulate_fleet(spec, blocks, window_s, np.random.default_rng(seed + 1), known)


def p99(run: FleetRun) -> float:
    """Return it in milliseconds."""
    return run.latency.percentiles((99.0,))[0].value_ms
