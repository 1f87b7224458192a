"""Simulated machines of the DeepRecSys experiments: profiles, plans and their throughput."""

from __future__ import annotations

import json
import time
from math import inf
from pathlib import Path

import msgspec
import numpy as np

from headway.core import Ns, Plan, Sla, from_ms
from headway.measure import LbtSettings, RunRecord, find_lbt
from headway.simulate import GTX_1080_TI, Machine, accelerated, busy_qps, capacity_qps, simulate
from headway.tune import Score
from headway.workload import draw_schedule, production_sizes

HERE = Path(__file__).resolve().parent
PROFILES = HERE / "torch_eager.json"
MEDIUM_MS = {"ncf": 5, "wnd": 25, "mt-wnd": 25, "rmc1": 100, "rmc2": 400, "rmc3": 100}
MEDIUM_MS |= {"din": 100, "dien": 35}
LEVELS = {"low": 0.5, "medium": 1.0, "high": 1.5}
MEAN_SIZE = 238.8
LARGEST = 1000
NEVER_NS = Ns(3_600_000_000_000)
WARM = 0.2
FEWEST = 200


def machines(path: Path, cores: int, interference: float = 1.0) -> dict[str, Machine]:
    """Return a machine of so many cores for each model, from measured times of one core.

    Args:
        path: what ``eager_profiles.py`` wrote.
        cores: of the machine.
        interference: with all cores busy; more if more was measured, which is of two cores only.
    """
    told = json.loads(path.read_text())
    middle = told["percentiles"].index(50.0)
    found = {}
    for name, model in told["models"].items():
        rows = sorted(int(n) for n in model["ns"])
        times = np.maximum.accumulate([model["ns"][str(n)][middle] for n in rows])
        found[name] = Machine(
            cores=cores,
            service=tuple(zip(rows, times.astype(int).tolist(), strict=True)),
            interference=max(interference, model.get("interference") or 1.0),
        )
    return found


def with_gpu(machine: Machine, model: str) -> Machine:
    """Return the machine with the accelerator that was published for the model."""
    return msgspec.structs.replace(
        machine,
        accelerators=1,
        accelerator_service=accelerated(machine.service, GTX_1080_TI[model]),
    )


def bound_qps(machine: Machine, within_ns: float = inf) -> float:
    """Return the rate at which every device is busy at its best batch size, done within so long."""
    return capacity_qps(machine, MEAN_SIZE, within_ns=within_ns)


def fixed(machine: Machine, split: int, offload: int = 0) -> Plan:
    """Return a plan of DeepRecSched: nothing is refused, nothing expires."""
    return Plan(
        workers=machine.cores,
        split_size=split,
        accelerators=machine.accelerators if offload else 0,
        offload_candidates=offload,
        timeout_ns=NEVER_NS,
        queue_candidates=10**9,
    )


def adaptive(machine: Machine, sla: Sla, *, refuse: bool = True) -> Plan:
    """Return Headway's plan; it knows the service times, interference it has to learn."""
    return Plan(
        workers=machine.cores,
        policy="adaptive",
        split_size=4096,
        service=machine.service,
        tower_ns=Ns(machine.tower_ns),
        target_ns=sla.limit_ns,
        refuse_late=refuse,
        accelerators=machine.accelerators,
        accelerator_service=machine.accelerator_service,
        timeout_ns=NEVER_NS,
        queue_candidates=10**9,
    )


def run(machine: Machine, plan: Plan, rate: float, queries: int, seed: int) -> RunRecord:
    """Simulate a fresh schedule and cut the warm-up."""
    rng = np.random.default_rng([seed, 7])
    schedule = draw_schedule(rate, queries / rate, production_sizes, rng)
    record = simulate(machine, plan, schedule, rng)
    return record.after(int(schedule.duration_ns * WARM))


class Prober:
    """Finds throughput; longer runs where the target is loose, or a backlog would go unseen."""

    def __init__(
        self, sla: Sla, queries: int, targets: float, tolerance: float, most_work: int = 10**7
    ) -> None:
        """Say how long runs are.

        Args:
            sla: what must hold.
            queries: of a run at least.
            targets: length of a run at least, in limits of the SLA.
            tolerance: of the throughput.
            most_work: chunks of a run at most, about.
        """
        self.sla = sla
        self._queries = queries
        self._targets = targets
        self._tolerance = tolerance
        self._most_work = most_work

    def queries(self, rate: float, plan: Plan) -> int:
        """Return how many queries a run of that rate has; fewer where each is much work."""
        wanted = max(self._queries, self._targets * self.sla.limit_ns * rate / 1e9)
        chunks = max(1.0, MEAN_SIZE / plan.split_size)
        return int(max(FEWEST, min(wanted, self._most_work / chunks)))

    def score(self, machine: Machine, plan: Plan) -> Score:
        """Return what a plan is worth, for the searches of ``headway.tune``."""
        began = time.process_time()
        qps = self.lbt(machine, plan, 0.8 * plan_capacity(machine, plan))
        return Score(lbt_qps=qps, cost_s=time.process_time() - began)

    def lbt(self, machine: Machine, plan: Plan, start: float) -> float:
        """Return the highest rate that holds the SLA, or 0."""
        settings = LbtSettings(
            sla=self.sla,
            start_qps=start,
            growth=1.2,
            tolerance=self._tolerance,
            lowest_qps=start / 50,
            evaluations=30,
        )
        return find_lbt(
            lambda rate, seed: run(machine, plan, rate, self.queries(rate, plan), seed), settings
        ).lbt_qps


def plan_capacity(machine: Machine, plan: Plan) -> float:
    """Return the rate at which a plan's workers would never be idle, production's sizes given."""
    return busy_qps(machine, plan, production_sizes(4000, np.random.default_rng(0)))


def sla_of(model: str, level: str) -> Sla:
    """Return the p95 target of a model at a level."""
    return Sla(percentile=95.0, limit_ns=from_ms(MEDIUM_MS[model] * LEVELS[level]))
