"""Many machines on one virtual clock behind one load balancer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import Sla, UsageError, from_seconds, to_seconds
from headway.simulate.crew import Crew
from headway.simulate.faults import Failures, Faults, Stragglers
from headway.simulate.member import MachineKind
from headway.simulate.scale import Known, Policy, Scaler, Signals
from headway.simulate.series import FleetRun, Series, percentiles_ms
from headway.workload import Schedule

BalancerName = Literal[
    "random", "round-robin", "power-of-two", "shortest-queue", "least-expected-finish"
]


class Autoscale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the number of machines of one kind follows the load.

    Attributes:
        policy: which says how many.
        kind: name of the kind; empty: the first one.
        least: machines of the kind at least.
        most: at most.
        look_s: between two looks of the policy.
        startup_s: from the order of a machine until it takes queries.
        lbt_qps: latency-bounded throughput of one machine; 0: found by simulating one.
    """

    policy: Policy
    kind: str = ""
    least: Annotated[int, Meta(ge=1)] = 1
    most: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    look_s: Annotated[float, Meta(gt=0)] = 5.0
    startup_s: Annotated[float, Meta(ge=0)] = 30.0
    lbt_qps: Annotated[float, Meta(ge=0)] = 0.0


class FleetSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet to simulate.

    Attributes:
        kinds: its machines.
        sla: what must hold.
        balancer: name of how queries are spread.
        failures: how machines go away; None: never.
        stragglers: which are slow; None: none.
        autoscale: how their number changes; None: never.
    """

    kinds: tuple[MachineKind, ...]
    sla: Sla = Sla()
    balancer: BalancerName = "least-expected-finish"
    failures: Failures | None = None
    stragglers: Stragglers | None = None
    autoscale: Autoscale | None = None

    def __post_init__(self) -> None:
        """Refuse a fleet that cannot be.

        Raises:
            UsageError: naming the setting.
        """
        names = [kind.name for kind in self.kinds]
        if len(set(names)) < len(names):
            raise UsageError(f"every kind of machine has a name of its own, not {names}")
        if not any(kind.count for kind in self.kinds):
            raise UsageError("a fleet starts with at least one machine; raise machines.count")
        scale = self.autoscale
        if scale is not None and scale.kind not in {"", *names}:
            raise UsageError(f"autoscale.kind {scale.kind!r} is none of the machines {names}")
        if scale is not None and scale.least > scale.most:
            raise UsageError(f"autoscale.least {scale.least} is above autoscale.most {scale.most}")

    @property
    def scaled(self) -> int:
        """Index of the kind that is scaled."""
        names = [kind.name for kind in self.kinds]
        wanted = self.autoscale.kind if self.autoscale is not None else ""
        return names.index(wanted) if wanted else 0


def simulate_fleet(
    spec: FleetSpec,
    blocks: Iterable[Schedule],
    window_s: float,
    rng: np.random.Generator,
    known: Known | None = None,
    progress: Callable[[int], None] | None = None,
) -> FleetRun:
    """Run consecutive blocks of a schedule through a fleet; equal seeds give equal runs.

    Memory does not grow with the number of queries.

    Args:
        spec: the fleet.
        blocks: of one schedule, one after the other.
        window_s: length of a window of the series.
        rng: of scatter, balancing, failures and stragglers, each with a source of its own.
        known: what an autoscaling policy is told.
        progress: told how many queries have arrived, after each block.

    Raises:
        UsageError: if the policy is not told a machine's throughput and needs it, or no block
            comes.
    """
    return _Run(spec, window_s, rng, known).run(blocks, progress)


class _Run:
    """Windows and looks of one run; the machines are the crew's."""

    def __init__(
        self, spec: FleetSpec, window_s: float, rng: np.random.Generator, known: Known | None
    ) -> None:
        self._spec = spec
        self._series = Series(spec.sla, max(1, from_seconds(window_s)))
        faults = Faults(spec.failures, spec.stragglers)
        self._crew = Crew(spec.kinds, spec.balancer, self._series, spec.sla, faults, rng)
        self._looked = (0, 0, 0, 0)
        self._turned = (0, 0, 0)
        self._end = 0
        self._scaler: Scaler | None = None
        if spec.autoscale is not None:
            self._scaler = spec.autoscale.policy.scaler(known or Known())

    def run(self, blocks: Iterable[Schedule], progress: Callable[[int], None] | None) -> FleetRun:
        crew = self._crew
        crew.begin()
        crew.at(self._series.length_ns, self._window_over)
        if self._spec.autoscale is not None:
            crew.at(from_seconds(self._spec.autoscale.look_s), self._look)
        advance, arrive, agenda = crew.advance, crew.arrive, crew.agenda
        number = duration = 0
        for block in blocks:
            duration = self._end = block.duration_ns
            for now, size in zip(block.intended_ns.tolist(), block.sizes.tolist(), strict=True):
                if agenda[0][0] <= now:
                    self._catch_up(now)
                advance(now)
                arrive(number, size, now)
                number += 1
            if progress is not None:
                progress(number)
        if not number:
            raise UsageError("no query arrived; raise the rate or the duration")
        self._catch_up(duration)
        crew.advance(duration)
        self._turn(duration)
        return self._result(number, duration)

    def _catch_up(self, until: int) -> None:
        """Do what is due: windows, looks, faults, machines that come."""
        agenda, advance = self._crew.agenda, self._crew.advance
        while agenda[0][0] <= until:
            when, _, action = heappop(agenda)
            advance(when)
            action(when)

    def _window_over(self, now: int) -> None:
        if now < self._end:  # whoever comes at the very end belongs to the last window
            self._turn(now)
        self._crew.at(now + self._series.length_ns, self._window_over)

    def _turn(self, now: int) -> None:
        """Begin another window."""
        length = now - self._series.now.start_ns
        account, kinds = self._crew.account, range(len(self._spec.kinds))
        account.advance(now)
        busy = sum(self._crew.busy_ns(kind) for kind in kinds)
        seen = (sum(account.live_ns), sum(account.worker_ns), busy)
        live, workers, busy = (a - b for a, b in zip(seen, self._turned, strict=True))
        self._turned = seen
        self._series.turn(now, live / length, busy / max(1, workers))

    def _look(self, now: int) -> None:
        """Let the policy say how many machines there should be."""
        scale, scaler, crew = self._spec.autoscale, self._scaler, self._crew
        assert scale is not None
        assert scaler is not None
        kind = self._spec.scaled
        crew.account.advance(now)
        seen = (now, crew.arrived, crew.account.worker_ns[kind], crew.busy_ns(kind))
        passed, arrived, workers, busy = (a - b for a, b in zip(seen, self._looked, strict=True))
        self._looked = seen
        signals = Signals(
            rate_qps=arrived / to_seconds(passed),
            utilisation=min(1.0, busy / max(1, workers)),
            machines=crew.machines(kind),
            ready=crew.ready(kind),
            waiting=crew.waiting(),
        )
        wanted = max(scale.least, min(scale.most, scaler.wanted(signals, now)))
        crew.resize(kind, wanted, now, from_seconds(scale.startup_s))
        crew.at(now + from_seconds(scale.look_s), self._look)

    def _result(self, number: int, duration: int) -> FleetRun:
        """Let what is open end, and sum up; machines count until the schedule's end."""
        crew, series, kinds = self._crew, self._series, self._spec.kinds
        account = crew.account
        paid_s = [to_seconds(ns) for ns in account.paid_ns]
        workers, busy = account.worker_ns.copy(), [crew.busy_ns(i) for i in range(len(kinds))]
        crew.finish()
        windows = series.end()
        sla = self._spec.sla
        (tail,) = percentiles_ms(series.latency, (), sla)
        joules = cost = 0.0
        for kind, seconds, spent in zip(kinds, paid_s, busy, strict=True):
            machine = kind.machine
            cost += seconds / 3600 * machine.price_per_hour
            joules += seconds * machine.idle_watts
            joules += to_seconds(spent) / kind.workers * (machine.busy_watts - machine.idle_watts)
        return FleetRun(
            queries=number,
            refused=series.refused,
            late=series.late,
            failed=series.failed,
            retried=crew.retried,
            lightened=crew.lightened,
            latency=series.latency,
            windows=windows,
            violations=series.violations,
            violation_s=sum((w.seconds for w in windows if w.missed), 0.0),
            met=tail * 1e6 <= sla.limit_ns,
            utilisation=sum(busy) / max(1, sum(workers)),
            machine_hours=sum(paid_s) / 3600,
            most_machines=account.most,
            cost=cost,
            joules=joules,
            seconds=to_seconds(duration),
        )
