"""``headway demo``: the whole product on generated data, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway import __version__
from headway.bundle import Provenance
from headway.cli.benching import measure_harness, point_of, points_of
from headway.cli.optimizing import composition, guard_steps, optimize_into
from headway.cli.pages.demo import HEAD, build, rows
from headway.cli.processes import ServerProcess, validate_apart
from headway.cli.results import DemoResult, Percentiles, Point, Side, ratio_range, ratios
from headway.cli.terminal import Terminal, milliseconds
from headway.cli.training import fit
from headway.cli.turns import Turns, in_turns
from headway.compress import Job, OptimizeResult, OptimizeSettings
from headway.core import MonotonicClock, Sla, to_seconds, unix_seconds
from headway.data import SyntheticSettings, generate
from headway.engine import machine_facts
from headway.loadgen import Bench
from headway.loadgen import BenchSettings as RunSettings
from headway.measure import LbtResult, LbtSettings, RunRecord, find_lbt
from headway.models import DlrmSettings, TrainSettings, build_model, save_checkpoint

SIZES = (64, 256, 1024)
MODEL = DlrmSettings(bottom_mlp=(256, 128, 32), predict_mlp=(512, 128))
"""The shape of DLRM-RMC2's dense parts (DeepRecSys, table 1)."""
_TURNS, _QUERIES_A_TURN = 6, 50
_START_QPS, _LOWEST_QPS = 100.0, 10.0
_EVALUATIONS = 14
_SHARES = (0.25, 0.5, 0.75)
_HISTOGRAM_SEED, _CURVE_SEED = 10_000, 20_000
_QUICK_ROWS = 50_000
_GUARD_ROWS = 60_000
"""With fewer the guard could not exclude a loss that sits in few rows."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the command line said; ``rows`` trains, ``seconds`` is one load measurement."""

    out: Path
    rows: int
    seconds: float
    sla: Sla
    seed: int


@dataclass(frozen=True, slots=True)
class _Made:
    """What stands on disk before anything is served."""

    checkpoint: Path
    bundle: Path
    best_auc: float
    result: OptimizeResult


def run_demo(settings: DemoSettings, terminal: Terminal) -> int:
    """Do everything, print one table, write ``report.html``; returns the exit code."""
    clock = MonotonicClock()
    start = clock.now()
    settings.out.mkdir(parents=True, exist_ok=True)
    made = _make(settings, terminal)
    with terminal.step("loading the bundle in a process without torch"):
        apart = validate_apart(made.bundle)
    served = _Served(settings, terminal)
    with served.both(made.checkpoint, made.bundle) as benches:
        torch_loaded = apart.torch_loaded or served.torch_loaded
        latency = served.one_by_one(benches)
        lbt = served.lbt(benches)
        below = served.below(benches, lbt)
        samples = served.same_schedule(benches, lbt)
    with terminal.step("measuring the harness itself"):
        harness = measure_harness(settings.seed, max(found.lbt_qps for found in lbt.values()))
    sides = {
        name: _side(name, made, latency[name], lbt[name]) for name in ("baseline", "optimized")
    }
    points = {name: below[name] + points_of(found) for name, found in lbt.items()}
    guard = made.result.guard
    result = DemoResult(
        machine=_machine(),
        date=datetime.fromtimestamp(unix_seconds(), UTC).strftime("%Y-%m-%d"),
        seconds=round(to_seconds(clock.now() - start), 1),
        sla=str(settings.sla),
        best_auc=made.best_auc,
        baseline=sides["baseline"],
        optimized=sides["optimized"],
        ratio=ratios(sides["baseline"], sides["optimized"]),
        lbt_ratio_range=ratio_range(sides, points),
        guard=guard,
        steps=guard_steps(made.result),
        choices=list(made.result.choices),
        composition=composition(made.result),
        torch_in_server=torch_loaded,
        harness=harness,
        points=points,
        notes=[f"{name}: {found.note}" for name, found in lbt.items() if found.note],
        files={
            "bundle": str(made.bundle),
            "checkpoint": str(made.checkpoint),
            "report": str(settings.out / "report.html"),
        },
    )
    (settings.out / "report.html").write_text(build(result, settings.sla, samples))
    _show(result, terminal)
    return 0 if guard.verdict == "pass" else 3


def synthetic_settings(train: int) -> SyntheticSettings:
    """Return the generator's settings; a small demo also judges on fewer rows and ids."""
    if train >= _QUICK_ROWS:
        return SyntheticSettings(train=train)
    share = train / 300_000
    return SyntheticSettings(
        train=train,
        valid=max(2000, train // 8),
        choose=max(2000, train // 8),
        test=max(_GUARD_ROWS, train // 2),
        users=max(1000, int(200_000 * share)),
        items=max(2000, int(350_000 * share)),
        creatives=max(1000, int(200_000 * share)),
        sellers=max(1000, int(100_000 * share)),
        publishers=max(1000, int(60_000 * share)),
    )


def _make(settings: DemoSettings, terminal: Terminal) -> _Made:
    with terminal.step("generating impressions with a known truth"):
        world = generate(synthetic_settings(settings.rows), np.random.default_rng(settings.seed))
    model = build_model(MODEL, world.schema, seed=settings.seed)
    train = TrainSettings(epochs=1, batch_size=2048, seed=settings.seed)
    fit(model, (world.train, world.valid), train, terminal)
    checkpoint = settings.out / "checkpoint"
    facts = {"headway": __version__, "data": "generated", "rows": str(settings.rows)}
    save_checkpoint(checkpoint, model, MODEL, world.schema, world.transforms.to_json(), facts)
    bundle = settings.out / "bundle"
    provenance = Provenance(
        created_unix=unix_seconds(),
        headway=__version__,
        model="dlrm",
        details={"data": "generated", "rows": str(settings.rows)},
    )
    job = Job(name="demo", model=model, data=world, provenance=provenance)
    result = optimize_into(job, OptimizeSettings(), bundle, settings.seed, terminal)
    return _Made(checkpoint, bundle, world.best_auc("test"), result)


class _Served:
    """Both servers side by side; only the one being measured has work."""

    def __init__(self, settings: DemoSettings, terminal: Terminal) -> None:
        self._settings = settings
        self._terminal = terminal
        self.torch_loaded = True

    @contextmanager
    def both(self, checkpoint: Path, bundle: Path) -> Iterator[dict[str, Bench]]:
        """Serve the checkpoint by torch eager and the bundle compiled, each in its own process."""
        run = RunSettings(
            seconds=self._settings.seconds,
            max_seconds=4 * self._settings.seconds,
            seed=self._settings.seed,
            grace_s=1.0,
        )
        with ExitStack() as stack:
            with self._terminal.step("starting both servers"):
                eager = stack.enter_context(ServerProcess(checkpoint, ["--name", "baseline"]))
                compiled = stack.enter_context(ServerProcess(bundle, ["--name", "optimized"]))
            self.torch_loaded = compiled.ready.torch_loaded
            yield {
                "baseline": Bench(eager.ready.url, "baseline", run),
                "optimized": Bench(compiled.ready.url, "optimized", run),
            }

    def one_by_one(self, benches: Mapping[str, Bench]) -> dict[str, dict[str, Percentiles]]:
        """Return latency by side, size and percentile on idle servers, side after side in turn."""
        samples: dict[str, dict[int, list[NDArray[np.float64]]]] = {
            name: {size: [] for size in SIZES} for name in benches
        }
        total = _TURNS * len(SIZES) * len(benches)
        with self._terminal.step("latency by query size, one query at a time", total) as step:
            for turn in range(_TURNS):
                for size in SIZES:
                    # Nobody is always the one after another.
                    for name in sorted(benches, reverse=bool(turn % 2)):
                        bench = benches[name]
                        record = bench.one_by_one(size, _QUERIES_A_TURN, seed=turn)
                        samples[name][size].append(record.latency_ns / 1e6)
                        step.note(f"{name}, N = {size}")
        return {
            name: {str(size): _percentiles(np.concatenate(s)) for size, s in by_size.items()}
            for name, by_size in samples.items()
        }

    def lbt(self, benches: Mapping[str, Bench]) -> dict[str, LbtResult]:
        """Return the latency-bounded throughput of each side; their runs take turns."""
        settings = LbtSettings(
            sla=self._settings.sla, start_qps=_START_QPS, evaluations=_EVALUATIONS
        )
        text = f"searching the highest rates with {settings.sla}"
        with self._terminal.step(text, _EVALUATIONS * len(benches)) as step:

            def job(name: str, bench: Bench) -> Callable[[Turns], LbtResult]:
                def search(turns: Turns) -> LbtResult:
                    def evaluate(rate: float, seed: int) -> RunRecord:
                        with turns.turn(name):
                            step.note(f"{name}, {rate:.0f} queries/s")
                            return bench.rate(rate, seed, settings.sla)

                    return find_lbt(evaluate, bench.within_reach(settings))

                return search

            return in_turns({name: job(name, bench) for name, bench in benches.items()})

    def below(
        self, benches: Mapping[str, Bench], lbt: Mapping[str, LbtResult]
    ) -> dict[str, list[Point]]:
        """Return runs at shares of each side's LBT, side after side in turn, for the curves."""
        points: dict[str, list[Point]] = {name: [] for name in benches}
        total = len(_SHARES) * len(benches)
        with self._terminal.step("the curves below the highest rates", total) as step:
            for number, share in enumerate(_SHARES):
                for name, bench in benches.items():
                    rate = max(_LOWEST_QPS, share * lbt[name].lbt_qps)
                    record = bench.rate(rate, seed=_CURVE_SEED + number)
                    points[name].append(point_of(record, self._settings.sla))
                    step.note(f"{name}, {rate:.0f} queries/s")
        return points

    def same_schedule(
        self, benches: Mapping[str, Bench], lbt: Mapping[str, LbtResult]
    ) -> dict[str, NDArray[np.float64]]:
        """Return every latency in ms of both sides under one schedule, for the histogram."""
        rate = max(lbt["baseline"].lbt_qps / 2, _LOWEST_QPS)
        with self._terminal.step(f"the same {rate:.0f} queries/s at both"):
            return {
                name: bench.rate(rate, seed=_HISTOGRAM_SEED).latency_ns / 1e6
                for name, bench in benches.items()
            }


def _percentiles(samples_ms: NDArray[np.float64]) -> Percentiles:
    return {f"p{p}": float(np.percentile(samples_ms, p)) for p in (50, 95, 99)}


def _side(name: str, made: _Made, latency: dict[str, Percentiles], lbt: LbtResult) -> Side:
    guard = made.result.guard
    # Without an AUC the verdict is "fail", and then no bundle was written to be served.
    optimized = float("nan") if guard.auc_optimized is None else guard.auc_optimized
    folder = made.checkpoint if name == "baseline" else made.bundle
    return Side(
        auc=guard.auc_baseline if name == "baseline" else optimized,
        latency_ms=latency,
        lbt_qps=lbt.lbt_qps,
        lbt_cps=lbt.lbt_cps,
        size_bytes=sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    )


def _machine() -> str:
    facts = machine_facts()
    memory = facts.memory_bytes / 2**30
    return f"{facts.cpu}, {facts.usable_cores} cores, {memory:.0f} GiB, {facts.system}"


def _show(result: DemoResult, terminal: Terminal) -> None:
    terminal.table(f"headway demo on {result.machine}, {result.date}", HEAD, rows(result))
    cost = result.harness
    lines = [
        f"taken: {result.composition}; guard judged on {result.guard.rows:,} rows that chose nothing",
        f"the serving process {'has' if result.torch_in_server else 'has not'} loaded torch",
        (
            f"the harness itself at {cost.rate_qps:.0f} queries/s: p50 {milliseconds(cost.null_p50_ms)}, "
            f"p99 {milliseconds(cost.null_p99_ms)}, lag p99 {milliseconds(cost.lag_p99_ms)}"
        ),
        *(f"note: {note}" for note in result.notes),
        f"{result.seconds:.0f} s in all; report: {result.files['report']}",
        f"next: headway serve {result.files['bundle']}",
    ]
    for line in lines:
        terminal.result(line)
    terminal.object(result)
