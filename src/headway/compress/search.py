"""The search for the fastest bundle that keeps its quality, over the passes' settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from headway.compress.job import Job, OptimizeResult, Progress
from headway.compress.passes import Recipe
from headway.compress.pipeline import optimize_model
from headway.compress.search_evaluate import Evaluator
from headway.compress.search_results import PointReport, SearchReport
from headway.compress.search_rungs import Rungs, finalists
from headway.compress.search_settings import Point, SearchSettings
from headway.compress.settings import OptimizeSettings
from headway.compress.store import Store
from headway.core import Clock, to_seconds

REPORT = "search"
"""Under this name the store holds the report, as far as it has come."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """The bundle found, and all that was learnt on the way.

    Attributes:
        report: every point, and the one taken.
        optimized: its parts and verdict, as ``optimize_model`` gives them; with no point that
            passed, those of the original.
    """

    report: SearchReport
    optimized: OptimizeResult


def search_model(
    job: Job,
    settings: SearchSettings,
    optimize: OptimizeSettings,
    folder: Path,
    clock: Clock,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the fastest of many smaller models whose guard passes, within a time budget.

    Successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
    Hyperparameter Optimization", AISTATS 2016) over the points of the space, see ``Rungs``.
    Points are compared on the choosing rows; the test rows are looked at once, at the end, by
    at most ``settings.finalists`` points in order of speed, which share the guard's error. The
    original stands behind them. What was evaluated lies in the folder under the hash of all
    that went into it: a search that is interrupted goes on where it was, and the report there
    always holds the best so far.

    Args:
        job: the original and its data.
        settings: where and how long.
        optimize: compositions, margins, query sizes; its own passes are left out.
        folder: of the store; made if it is not there.
        clock: of latency and of the budget.
        progress: called as points become known, with how many are decided.

    Raises:
        CaptureError: if the original cannot be captured.
        DataError: if the data cannot judge.
        UsageError: if there are no rows to learn from.
    """
    start = clock.now()
    optimize = final_settings(settings, optimize)
    store = Store(folder, job.model)
    evaluator = Evaluator(job, settings, optimize, store, clock)

    def spent() -> float:
        return to_seconds(clock.now() - start)

    def told(points: Sequence[PointReport]) -> None:
        store.write(REPORT, report_of(settings, points, spent(), "under way"))
        if progress is not None:
            done = sum(bool(p.dropped) or p.finish is not None for p in points)
            progress("searching", done, len(points))

    rungs = Rungs(settings.space.points(), evaluator, settings, spent, told)
    points = rungs.run()
    optimized = judge_points(job, settings, optimize, evaluator, clock, points)
    report = report_of(settings, points, spent(), rungs.stopped)
    report = msgspec.structs.replace(
        report, taken=taken_name(optimized, points), verdict=optimized.guard.verdict
    )
    store.write(REPORT, report)
    return SearchResult(report, optimized)


def final_settings(settings: SearchSettings, optimize: OptimizeSettings) -> OptimizeSettings:
    """Return how finalists are put together and judged: by speed, each with one look."""
    return msgspec.structs.replace(optimize, passes=Recipe(), attempts=settings.finalists, tie=0.0)


def judge_points(
    job: Job,
    settings: SearchSettings,
    optimize: OptimizeSettings,
    evaluator: Evaluator,
    clock: Clock,
    points: Sequence[PointReport],
) -> OptimizeResult:
    """Return the fastest of the best points that passes on the test rows, or the original."""
    best = finalists(points, settings.finalists)
    smaller = {p.name: evaluator.stages(p.point, p.best_rung)[1:] for p in best}
    chance_and_time = np.random.default_rng(settings.seed), clock
    return optimize_model(job, optimize, chance_and_time, smaller=smaller)


def report_of(
    settings: SearchSettings, points: Sequence[PointReport], seconds: float, stopped: str
) -> SearchReport:
    """Return the report on points as far as they are known."""
    best = finalists(points, 1)
    return SearchReport(
        objective=settings.objective,
        points=tuple(points),
        best=best[0].name if best else Point().name,
        seconds=seconds,
        stopped=stopped,
    )


def taken_name(optimized: OptimizeResult, points: Sequence[PointReport]) -> str:
    """Return the name of the point that was taken."""
    (chosen,) = [choice.name for choice in optimized.choices if choice.chosen]
    names = [p.name for p in points if not p.point.off and chosen.startswith(f"{p.name}, tables")]
    return names[0] if names else Point().name
