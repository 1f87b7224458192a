"""The search over compression recipes against a plain grid of the same points.

One small model, trained here: DLRM on MovieLens-100K where its files are, else on generated rows.
The grid evaluates every point untrained and fully trained, takes the better, and puts it together
in every composition; the search decides which are worth that. Both use the same code for each
evaluation, share prefixes of the passes among their points, and seek the verdict of as many
finalists on the test rows. Then the two bundles are measured turn by turn. Each has a store of
its own, so neither gains by what the other did. Margins are wider than the guard's defaults: so
few rows cannot prove less.

Examples:
    python benchmarks/search.py --quick
    python benchmarks/search.py --json out/search.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from headway.bundle import Provenance, write_bundle
from headway.cli.config import read_config
from headway.cli.pages.frontier import frontier_page
from headway.compress import (
    DistilSettings,
    GuardSettings,
    Job,
    LightweightSettings,
    OptimizeResult,
    OptimizeSettings,
    PruneSettings,
    SearchReport,
    SearchSettings,
    Space,
    sample_queries,
    search_model,
)
from headway.compress.search import final_settings, judge_points, report_of, taken_name
from headway.compress.search_evaluate import Evaluator
from headway.compress.search_results import PointReport
from headway.compress.store import Store
from headway.core import Clock, MonotonicClock
from headway.data import SyntheticSettings, generate, load_data
from headway.engine import compare_latency, load_model, machine_facts
from headway.models import DlrmSettings, TrainSettings, build_model, train

LATENCY_TARGET, TIME_TARGET = 1.05, 0.2
"""Of the grid's best latency, and of its time."""
HERE = Path(__file__).resolve().parent
MOVIELENS = HERE.parent.parent / "shared/data/ml-100k"
_GENERATED = SyntheticSettings(
    train=36_000, valid=4000, choose=6000, test=14_000, users=5000, items=8000, creatives=5000,
    sellers=3000, publishers=2000, dim=16, history=40,
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a way of searching came to."""

    report: SearchReport
    optimized: OptimizeResult
    seconds: float
    cpu_seconds: float


def world(args: argparse.Namespace) -> Job:
    """Return a trained model with its data."""
    if args.data.is_dir():
        config = read_config(HERE.parent / "examples/movielens.yaml", args.data)
        data: Any = load_data(config.data, HERE)
        recipe, model_settings = config.train, config.model
        name = "movielens:dlrm"
    else:
        data = generate(_GENERATED, np.random.default_rng(0))
        recipe = TrainSettings(epochs=3, batch_size=1024)
        model_settings = DlrmSettings(bottom_mlp=(32, 16), predict_mlp=(128, 64))
        name = "generated:dlrm"
    recipe = msgspec.structs.replace(recipe, epochs=min(recipe.epochs, args.epochs))
    model = build_model(model_settings, data.schema, seed=recipe.seed)
    result = train(model, data.train, data.valid, recipe)
    print(f"{name}: {len(data.train):,} training rows, valid AUC {result.valid_auc:.4f}")
    provenance = Provenance(created_unix=0, headway="benchmark", model="dlrm")
    return Job(name=name, model=model, data=data, provenance=provenance)


def settings_of(args: argparse.Namespace) -> tuple[SearchSettings, OptimizeSettings]:
    space = Space()
    if args.quick:
        space = Space(table_energy=(1.0, 0.99), layer_energy=(1.0,), flops=(1.0, 0.5, 0.25, 0.1))
    search = SearchSettings(
        space=space,
        lightweight=LightweightSettings(rows=args.observe),
        prune=PruneSettings(rows=args.observe),
        rungs=(
            DistilSettings(rows=32_768, batch_size=1024),
            DistilSettings(epochs=args.distil, batch_size=1024),
        ),
        budget_s=args.budget,
        measure_s=args.seconds,
    )
    guard = GuardSettings(
        margin_auc=args.margin, margin_log_loss=args.margin, margin_ndcg=2 * args.margin
    )
    optimize = OptimizeSettings(
        tables=("f32", "int8"), dense=("f32", "int8"), sizes=(256,), guard=guard
    )
    return search, optimize


def run_search(
    job: Job, search: SearchSettings, optimize: OptimizeSettings, folder: Path, clock: Clock
) -> tuple[SearchReport, OptimizeResult]:
    found = search_model(job, search, optimize, folder, clock)
    return found.report, found.optimized


def run_grid(
    job: Job, search: SearchSettings, optimize: OptimizeSettings, folder: Path, clock: Clock
) -> tuple[SearchReport, OptimizeResult]:
    """Evaluate every point in full, one after another."""
    optimize = final_settings(search, optimize)
    evaluator = Evaluator(job, search, optimize, Store(folder, job.model), clock)
    points = []
    for point in search.space.points():
        tried = {rung: evaluator.quality(point, rung) for rung in (0, search.last)}
        best = min(tried, key=lambda rung: tried[rung].over)
        points.append(
            PointReport(
                name=point.name,
                point=point,
                rung=search.last,
                best_rung=best,
                quality=tried[best],
                finish=evaluator.finish(point, best),
                fits=tried[best].over <= 1,
            )
        )
    optimized = judge_points(job, search, optimize, evaluator, clock, points)
    report = report_of(search, points, 0.0, "all points were tried")
    taken, verdict = taken_name(optimized, points), optimized.guard.verdict
    return msgspec.structs.replace(report, taken=taken, verdict=verdict), optimized


def timed(run: Callable[..., tuple[SearchReport, OptimizeResult]], *given: Any) -> Outcome:
    clock = MonotonicClock()
    start, cpu = clock.now(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        report, optimized = run(*given, Path(folder), clock)
    seconds, cpu = (clock.now() - start) / 1e9, time.process_time() - cpu
    return Outcome(msgspec.structs.replace(report, seconds=seconds), optimized, seconds, cpu)


def latencies(job: Job, outcomes: dict[str, Outcome], seconds: float) -> dict[str, float]:
    """Return median microseconds of each bundle at N = 256, measured turn by turn."""
    queries = {256: sample_queries(job.data.choose, 256, 64, np.random.default_rng(0))}
    with tempfile.TemporaryDirectory() as folder:
        runners = {}
        for name, outcome in outcomes.items():
            path = Path(folder) / name
            write_bundle(path, replace(outcome.optimized.parts, name=name))
            runners[name] = load_model(path, threads=1).runner()
        found = compare_latency(runners, queries, MonotonicClock(), seconds)
    return {name: float(np.median(samples[256])) / 1000 for name, samples in found.items()}


def show(outcomes: dict[str, Outcome], us: dict[str, float]) -> dict[str, Any]:
    """Print the table and return its figures."""
    lines: dict[str, Any] = {}
    print(f"\n{'':8}{'points':>8}{'tried':>7}{'finished':>10}{'wall s':>9}{'CPU s':>8}{'us':>9}")
    for name, outcome in outcomes.items():
        points: Sequence[PointReport] = outcome.report.points
        tried = sum(p.rung is not None for p in points)
        finished = sum(p.finish is not None for p in points)
        print(
            f"{name:8}{len(points):>8}{tried:>7}{finished:>10}{outcome.seconds:>9.1f}"
            f"{outcome.cpu_seconds:>8.1f}{us[name]:>9.1f}  {outcome.report.taken!r}, "
            f"{outcome.report.verdict}; {outcome.report.stopped}"
        )
        lines[name] = {
            "tried": tried,
            "finished": finished,
            "seconds": outcome.seconds,
            "cpu_seconds": outcome.cpu_seconds,
            "us": us[name],
            "report": msgspec.to_builtins(outcome.report),
        }
    search, grid = outcomes["search"], outcomes["grid"]
    figures = {
        "latency": (us["search"] / us["grid"], LATENCY_TARGET),
        "wall time": (search.seconds / grid.seconds, TIME_TARGET),
        "CPU time": (search.cpu_seconds / grid.cpu_seconds, TIME_TARGET),
    }
    for name, (figure, target) in figures.items():
        print(f"  {name}, search over grid: {figure:.3f} (target at most {target:g})")
        lines[f"{name} ratio"], lines[f"{name} target"] = figure, target
    return lines


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=MOVIELENS, help="folder of MovieLens-100K")
    parser.add_argument("--margin", type=float, default=0.005, help="of AUC and log loss")
    parser.add_argument("--epochs", type=int, default=20, help="most epochs of the original")
    parser.add_argument("--distil", type=int, default=3, help="epochs of a point fully trained")
    parser.add_argument("--observe", type=int, default=16_384, help="rows that the passes observe")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring for each point")
    parser.add_argument("--budget", type=float, default=900.0, help="seconds of the search")
    parser.add_argument("--quick", action="store_true", help="8 points; under five minutes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--page", type=Path, help="also write the search's frontier as HTML")
    args = parser.parse_args(given)
    if args.quick:
        args.seconds, args.observe, args.epochs = 0.4, 4096, min(args.epochs, 6)
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    facts = machine_facts()
    date = time.strftime("%Y-%m-%d")
    print(f"{facts.cpu}, {facts.usable_cores} cores, {facts.system}; {date}")
    job = world(args)
    search, optimize = settings_of(args)
    outcomes = {"search": timed(run_search, job, search, optimize)}
    outcomes["grid"] = timed(run_grid, job, search, optimize)
    lines = show(outcomes, latencies(job, outcomes, max(4.0, args.seconds)))
    if args.page:
        args.page.write_text(frontier_page(outcomes["search"].report, job.name))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": facts.cpu, "system": facts.system, "date": date, "model": job.name}
        args.json.write_text(json.dumps({**told, **lines}, indent=1))


if __name__ == "__main__":
    main()
