"""The steps of ``headway tune``: measure, search, confirm, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from headway.bundle import replace_plan
from headway.cli.terminal import Terminal, milliseconds, number
from headway.cli.tune_evaluators import (
    Demand,
    OnServer,
    OnSimulator,
    machine_of,
    measure_service,
)
from headway.cli.tune_report import Evaluator, Row, Search, TuneReport, show
from headway.cli.tune_search import TOLERANCE, Searched, search_plans
from headway.core import (
    Clock,
    MonotonicClock,
    NotProvenError,
    Ns,
    Plan,
    Sla,
    UsageError,
    to_ms,
    to_seconds,
)
from headway.engine import Profile, load_model
from headway.scheduler import ServiceTimes
from headway.simulate import Machine
from headway.tune import Budget, Trial, Trials, check_bayes, choose
from headway.workload import Workload

LEAST_BUDGET_S = 15.0
_PROFILE_SHARE, _LONGEST_PROFILE_S = 0.1, 12.0
_SEARCH_SHARE = 0.5
_RUNS_PER_PLAN = 11
_AROUND_A_RUN_S = 0.7
_SHORTEST_RUN_S, _LONGEST_RUN_S = 0.5, 5.0
_PLANS_OF_A_REAL_SEARCH = 10
_REAL_SHARE = 0.6
_QUERIES = 1000
STATIC, CLIMBED, CHOSEN = "static baseline", "DeepRecSched", "best found"
FOLLOWS = "follows the load"


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """What the command line said."""

    sla: Sla
    workload: str = "production"
    evaluator: Evaluator = "simulated"
    search: Search = "adaptive"
    budget_s: float = 120.0
    confirm: bool = True
    write: bool = True
    report: Path | None = None
    seed: int = 0


def tune_bundle(
    path: Path, settings: TuneSettings, terminal: Terminal, clock: Clock | None = None
) -> int:
    """Tune and print; returns the exit code, 3 if no plan meets the SLA.

    Raises:
        UsageError: if a setting or the budget is off.
        BundleError: if there is no sound bundle.
        MissingDependencyError: if the search needs a package that is not installed.
        NotProvenError: if the SLA is below what one query takes.
    """
    workload = Workload.parse(settings.workload)
    if not settings.budget_s >= LEAST_BUDGET_S:
        raise UsageError(
            f"a budget of {settings.budget_s:g} s is too small to measure service times and to "
            f"try plans; give --budget {LEAST_BUDGET_S:g} or more"
        )
    if settings.search == "bayes":
        check_bayes()
    if settings.report is not None:  # found out now rather than after the search
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        settings.report.open("a").close()
    job = _Job(path, settings, terminal, clock or MonotonicClock())
    found = job.run(Demand(workload, settings.sla, settings.seed))
    if settings.write and found.met:
        replace_plan(path, found.row(found.chosen).plan)
        found = msgspec.structs.replace(found, written=True)
    if settings.report is not None:
        from headway.cli.pages.tune import build_tune

        settings.report.write_text(build_tune(found, settings.sla))
        terminal.say(f"report: {settings.report}")
    show(found, settings.sla, terminal)
    return 0 if found.met else 3


def check_reachable(machine: Machine, demand: Demand) -> None:
    """Refuse an SLA that an idle machine could not meet.

    Raises:
        NotProvenError: with what the decisive query takes.
    """
    least = ServiceTimes(machine.service).of(-(-demand.decisive // machine.cores))
    if least > demand.sla.limit_ns:
        raise NotProvenError(
            f"{demand.sla} cannot be met here: a query of {demand.decisive:,} candidates, the "
            f"p{demand.sla.percentile:g} of this workload, takes {milliseconds(to_ms(int(least)))} "
            f"on the idle machine when {machine.cores} workers share it; loosen the SLA, or make "
            "the model or the queries smaller"
        )


class _Job:
    """One tuning under way: where, how, and how much time is left."""

    def __init__(
        self, path: Path, settings: TuneSettings, terminal: Terminal, clock: Clock
    ) -> None:
        self._path, self._settings = path, settings
        self._terminal, self._clock = terminal, clock
        self._begun = clock.now()
        self._notes: list[str] = []

    def run(self, demand: Demand) -> TuneReport:
        profile, start = self._profile(demand)
        machine = machine_of(profile)
        check_reachable(machine, demand)
        start = msgspec.structs.replace(
            start,
            workers=machine.cores,
            service=machine.service,
            tower_ns=Ns(machine.tower_ns),
        )
        simulator = OnSimulator(machine, demand, self._clock, _QUERIES)
        server = OnServer(self._path, demand, self._clock, _guess(simulator), self._terminal.say)
        searched, trials = self._search(simulator, server, start, demand)
        rows = self._rows(searched, simulator, server)
        chosen = searched.best
        if self._settings.evaluator != "real":
            chosen, rows = self._confirm(searched, rows, server)
        name = next(row.name for row in rows if row.plan == chosen.plan)
        return TuneReport(
            bundle=str(self._path),
            sla=str(self._settings.sla),
            workload=self._settings.workload,
            machine=f"{profile.machine.cpu}, {machine.cores} usable cores",
            fingerprint=profile.fingerprint,
            service=machine.service,
            interference=machine.interference,
            evaluator=self._settings.evaluator,
            search=self._settings.search,
            met=chosen.score.lbt_qps > 0,
            chosen=name,
            written=False,
            rows=rows,
            trials=list(trials.all),
            trials_are="measured" if self._settings.evaluator == "real" else "simulated",
            notes=self._notes,
            seconds=self._passed(),
        )

    def _profile(self, demand: Demand) -> tuple[Profile, Plan]:
        """Return the bundle's service times, and its plan with this SLA as its target."""
        loaded = load_model(self._path)
        seconds = min(_LONGEST_PROFILE_S, _PROFILE_SHARE * self._settings.budget_s)
        with self._terminal.step("measuring service times") as step:
            found = measure_service(loaded, demand, seconds, self._clock, step.told)
        limit = demand.sla.limit_ns
        plan = loaded.manifest.plan
        return found, msgspec.structs.replace(
            plan,
            target_ns=limit,
            # Whoever gave the old plan its deadline did not know of a longer target.
            timeout_ns=Ns(max(plan.timeout_ns, 4 * limit)),
            accelerators=0,
            offload_candidates=0,
        )

    def _search(
        self, simulator: OnSimulator, server: OnServer, start: Plan, demand: Demand
    ) -> tuple[Searched, Trials]:
        settings = self._settings
        real = settings.evaluator == "real"
        share = 1.0 if real or not self._measures else _SEARCH_SHARE
        if real:
            server.run_s = self._run_length(_PLANS_OF_A_REAL_SEARCH)
        done = 0

        def told(trial: Trial) -> None:
            nonlocal done
            done += 1
            step.at(done, None, f"{trial.purpose}: {number(trial.score.lbt_qps)} queries/s")

        budget = Budget(seconds=max(1.0, share * self._left()))
        trials = Trials(server if real else simulator, self._clock, budget, told)
        where = "on a server" if real else "in simulation"
        with self._terminal.step(f"searching plans {where}: {settings.search}") as step:
            rng = np.random.default_rng([settings.seed, 14])
            found = search_plans(trials, settings.search, start, demand.largest, rng)
        if found.note:
            self._notes.append(found.note)
        return found, trials

    @property
    def _measures(self) -> bool:
        return self._settings.confirm or self._settings.evaluator != "simulated"

    def _rows(self, found: Searched, simulator: OnSimulator, server: OnServer) -> list[Row]:
        named = {
            STATIC: found.static,
            CLIMBED: found.climbed,
            FOLLOWS: found.adaptive,
            CHOSEN: found.best,
        }
        rows: list[Row] = []
        for name, trial in named.items():
            if trial is not None and all(row.plan != trial.plan for row in rows):
                plan = trial.plan
                if self._settings.report is not None and plan in simulator.figures:
                    simulator.add_low_rates(plan)
                rows.append(
                    Row(
                        name=name,
                        plan=plan,
                        simulated=simulator.figures.get(plan),
                        measured=server.figures.get(plan),
                    )
                )
        return rows

    def _confirm(
        self, found: Searched, rows: list[Row], server: OnServer
    ) -> tuple[Trial, list[Row]]:
        """Measure the plan that simulation chose, and with ``both`` the others; choose again."""
        if not self._measures or not found.best.score.lbt_qps:
            self._notes += [
                f"{row.name}: {row.simulated.note}"
                for row in rows
                if row.simulated is not None and not row.simulated.lbt_qps
            ]
            self._notes.append("nothing was measured on a server: all figures are simulated")
            return found.best, rows
        plans = [found.best.plan]
        if self._settings.evaluator == "both":
            plans += [row.plan for row in rows if row.plan != found.best.plan]
        server.run_s = self._run_length(len(plans))
        measured = Trials(server, self._clock, Budget(seconds=max(1.0, self._left())))
        for plan in plans:
            name = next(row.name for row in rows if row.plan == plan)
            with self._terminal.step(f"measuring on a server: {name}"):
                measured.of(plan, "measured")
        if measured.spent and len(measured.all) < len(plans):
            self._notes.append(f"not all plans were measured: {measured.spent}")
        best = choose(measured.all, TOLERANCE)
        assert best is not None, "the first plan is measured whatever time is left"
        note = server.figures[best.plan].note
        if note:
            self._notes.append(note)
        replace = msgspec.structs.replace
        return best, [replace(row, measured=server.figures.get(row.plan)) for row in rows]

    def _run_length(self, plans: int) -> float:
        """Return seconds of one run, so that all runs of so many plans fit into what is left."""
        each = self._left() / (plans * _RUNS_PER_PLAN) - _AROUND_A_RUN_S
        return min(_LONGEST_RUN_S, max(_SHORTEST_RUN_S, each))

    def _passed(self) -> float:
        return to_seconds(self._clock.now() - self._begun)

    def _left(self) -> float:
        return self._settings.budget_s - self._passed()


def _guess(simulator: OnSimulator) -> Callable[[Plan], float]:
    """Return where a measured search begins: below what simulation found, if it was asked."""

    def guess(plan: Plan) -> float:
        known = simulator.figures.get(plan)
        if known is not None and known.lbt_qps:
            return _REAL_SHARE * known.lbt_qps
        return _REAL_SHARE / 2 * simulator.expected_qps(plan)

    return guess
