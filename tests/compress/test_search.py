"""Halving on a landscape that is known, and the whole search on a small model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from headway.bundle import Provenance
from headway.compress import (
    DistilSettings,
    GuardSettings,
    Job,
    LightweightSettings,
    OptimizeSettings,
    Point,
    PointReport,
    PruneSettings,
    SearchReport,
    SearchResult,
    SearchSettings,
    Space,
    Stage,
    frontier,
    run_pass,
    search_evaluate,
    search_model,
)
from headway.compress.search import REPORT
from headway.compress.search_results import Finish, Quality, Speed
from headway.compress.search_rungs import Rungs, finalists
from headway.compress.store import Store
from headway.core import MonotonicClock, UsageError
from headway.data import Synthetic, SyntheticSettings, generate
from headway.models import DlrmSettings, TrainSettings, build_model, train

SETTINGS = SearchSettings()


class Landscape:
    """Loss and latency by formula, every knob counting; and a count of what was asked."""

    def __init__(self, steep: float = 6.0, learns: float = 0.5, second: float = 0.0) -> None:
        self.asked: Counter[tuple[str, Point, int]] = Counter()
        self.seconds = 0.0
        self._steep, self._learns, self._second = steep, learns, second

    def loss(self, point: Point, rung: int) -> float:
        """Return margins lost."""
        gone = 3 - point.table_energy - point.layer_energy - point.flops
        return self._steep * gone**2 * (self._learns**rung)

    def cost(self, point: Point) -> float:
        thin = 1.2 if point.layer_energy < 1 else 1.0
        return (0.2 + 0.6 * point.flops) * thin * (0.5 + 0.5 * point.table_energy)

    def quality(self, point: Point, rung: int) -> Quality:
        self._note("quality", point, rung)
        over = self.loss(point, rung)
        return Quality(
            delta_auc=-over / 1000,
            delta_auc_low=-over / 900,
            delta_auc_high=-over / 1100,
            delta_log_loss=0.0,
            over=over,
            verdict="not proven",
            seconds=1.0,
        )

    def speed(self, point: Point) -> Speed:
        self._note("speed", point, 0)
        return Speed(ratio=self.cost(point), us={}, reference_us={}, seconds=1.0)

    def finish(self, point: Point, rung: int) -> Finish:
        self._note("finish", point, rung)
        cost = self.cost(point)
        return Finish(composition="c", ratio=cost * 0.9, fastest=cost * 0.9, f32=cost, seconds=1.0)

    def _note(self, what: str, point: Point, rung: int) -> None:
        self.asked[what, point, rung] += 1
        self.seconds += self._second


def searched(land: Landscape, settings: SearchSettings = SETTINGS) -> list[PointReport]:
    rungs = Rungs(settings.space.points(), land, settings, lambda: land.seconds)
    return rungs.run()


def best_of_all(land: Landscape, settings: SearchSettings) -> float:
    """Return the least cost of the points that fit at any rung, by trying them all."""
    fit = [
        p
        for p in settings.space.points()
        if min(land.loss(p, rung) for rung in range(settings.last + 1)) <= 1
    ]
    return min(land.cost(p) for p in fit) * 0.9


def test_the_space_has_sixty_points_the_original_first_and_none_twice() -> None:
    points = Space().points()
    assert len(set(points)) == len(points) == 60
    assert points[0].off
    assert sum(point.off for point in points) == 1
    assert len({point.name for point in points}) == 60


def test_knobs_that_are_off_make_no_second_point() -> None:
    points = Space(flops=(1.0, 0.5), multiple=(16, 32), layer_energy=(1.0,)).points()
    assert len(points) == 3 * (1 + 2)
    assert len({point.name for point in points}) == 9


@rules(deadline=None, max_examples=40)
@given(steep=st.floats(0.5, 40.0), learns=st.floats(0.2, 1.0), most=st.integers(1, 3))
def test_the_search_finds_the_best_of_all_where_loss_and_latency_are_monotone(
    steep: float, learns: float, most: int
) -> None:
    # Nothing is given up that training could still recover.
    recover = (learns**-2, learns**-1)
    settings = msgspec.structs.replace(SETTINGS, finalists=most, recover=recover)
    land = Landscape(steep, learns)
    found = finalists(searched(land, settings), 1)
    wanted = best_of_all(land, settings)
    if wanted < 0.9 * land.cost(Point()):
        assert found[0].ratio == pytest.approx(wanted)
    assert max(land.asked.values(), default=0) == 1


def test_nothing_is_evaluated_twice_and_most_points_never() -> None:
    land = Landscape()
    searched(land)
    assert set(land.asked.values()) == {1}
    tried = {point for what, point, _ in land.asked if what == "quality"}
    trained = [point for what, point, rung in land.asked if what == "quality" and rung == 2]
    finished = [point for what, point, _ in land.asked if what == "finish"]
    assert len(tried) < 60
    assert len(trained) <= 60 / 5
    assert len(finished) <= 60 / 5


def test_every_point_that_got_no_further_says_why() -> None:
    points = searched(Landscape())
    assert len(points) == 60
    for point in points:
        assert bool(point.dropped) != (point.finish is not None)


def test_a_point_that_lost_is_no_finalist() -> None:
    land = Landscape(steep=1e8)
    points = searched(land)
    assert finalists(points, 5) == []
    assert [p.name for p in points if p.finish is not None] == ["original"]


def test_a_point_whose_every_composition_loses_gives_way_to_a_slower_one() -> None:
    class Brittle(Landscape):
        def finish(self, point: Point, rung: int) -> Finish:
            found = super().finish(point, rung)
            bad = point.flops < 0.4
            return msgspec.structs.replace(found, composition="") if bad else found

    points = searched(Brittle(steep=1.0, learns=0.1))
    best = finalists(points, 1)[0]
    assert best.point.flops == 0.4
    assert any("no composition" in p.dropped for p in points)


def test_the_budget_stops_the_search_with_the_best_so_far() -> None:
    whole = Landscape(second=1.0)
    searched(whole)
    for budget in (1.0, whole.seconds / 3, whole.seconds * 0.8):
        land = Landscape(second=1.0)
        settings = msgspec.structs.replace(SETTINGS, budget_s=budget)
        rungs = Rungs(settings.space.points(), land, settings, lambda land=land: land.seconds)  # type: ignore[misc]
        points = rungs.run()
        # What was begun is brought to its end: two trainings and a measurement at most.
        assert land.seconds <= budget + 4
        assert rungs.stopped == "time was up"
        assert points[0].finish is not None
        assert any(p.dropped == "time was up" for p in points)


def test_points_are_told_of_as_they_become_known() -> None:
    land, seen = Landscape(), []

    def told(points: Sequence[PointReport]) -> None:
        seen.append(sum(p.rung is not None for p in points))

    Rungs(Space().points(), land, SETTINGS, lambda: 0.0, told).run()
    assert seen == sorted(seen)
    assert len(seen) == sum(land.asked.values())


def point_at(name: str, ratio: float, delta: float) -> PointReport:
    speed = Speed(ratio=ratio, us={}, reference_us={}, seconds=0.0)
    quality = Landscape().quality(Point(), 0)
    quality = msgspec.structs.replace(quality, delta_auc=delta)
    return PointReport(name=name, point=Point(), rung=0, quality=quality, speed=speed)


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    points = [
        point_at("beaten", 0.5, -0.002),
        point_at("fast", 0.4, -0.001),
        point_at("good", 0.9, 0.001),
        point_at("slow", 1.0, 0.001),
        PointReport(name="unknown", point=Point()),
    ]
    assert [p.name for p in frontier(points)] == ["fast", "good"]


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"search\.recover has 1"):
        SearchSettings(recover=(2.0,))
    with pytest.raises(UsageError, match="rate"):
        SearchSettings(rate=1)


# The whole search.

SMALL = SearchSettings(
    space=Space(table_energy=(1.0,), layer_energy=(1.0,), flops=(1.0, 0.5, 0.2)),
    lightweight=LightweightSettings(multiple=4, rows=1000),
    prune=PruneSettings(multiple=4, rows=1000),
    rungs=(DistilSettings(batch_size=256, rows=1000), DistilSettings(batch_size=256)),
    measure_s=0.05,
)
OPTIMIZE = OptimizeSettings(
    measure_s=0.05,
    sizes=(16, 64),
    tables=("f32",),
    dense=("f32",),
    guard=GuardSettings(
        margin_auc=0.05,
        margin_log_loss=0.05,
        margin_ndcg=None,
        margin_calibration=None,
        margin_ece=None,
        margin_slice=None,
        rounds=200,
    ),
)


@pytest.fixture(scope="module")
def job() -> Job:
    sizes = SyntheticSettings(
        train=3000, valid=500, choose=1500, test=3000, users=200, items=200, creatives=200,
        sellers=200, publishers=200, history=4, dim=8,
    )  # fmt: skip
    data: Synthetic = generate(sizes, np.random.default_rng(0))
    torch.set_num_threads(1)
    model = build_model(DlrmSettings(bottom_mlp=(16, 8), predict_mlp=(64, 32)), data.schema)
    train(model, data.train, data.valid, TrainSettings(epochs=1, batch_size=256))
    provenance = Provenance(created_unix=0, headway="0", model="dlrm")
    return Job(name="m", model=model, data=data, provenance=provenance)


@pytest.fixture
def passes_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    run: list[str] = []
    real = run_pass

    def counted(before: Stage, name: str, *rest: Any) -> Stage:
        run.append(name)
        return real(before, name, *rest)

    monkeypatch.setattr(search_evaluate, "run_pass", counted)
    return run


def search(job: Job, folder: Path, **changes: Any) -> SearchResult:
    settings = msgspec.structs.replace(SMALL, **changes)
    return search_model(job, settings, OPTIMIZE, folder, MonotonicClock())


def stripped(report: SearchReport) -> SearchReport:
    """Leave out how long the search took, and which finalist won.

    Finalists are timed anew against each other at the end; nearly equal ones may change places.
    """
    return msgspec.structs.replace(report, seconds=0.0, taken="")


class InterruptedSearchError(Exception):
    pass


def test_a_search_goes_on_where_it_was_interrupted(
    job: Job, tmp_path: Path, passes_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.write
    written: list[str] = []

    def breaks(store: Store, key: str, record: msgspec.Struct) -> None:
        real(store, key, record)
        written.append(key)
        if len(written) == 12:
            raise InterruptedSearchError

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", breaks)
        with pytest.raises(InterruptedSearchError):
            search(job, tmp_path)
    begun = Store(tmp_path, job.model).record(REPORT, SearchReport, pytest.fail)
    assert begun.stopped == "under way"
    assert begun.best
    first = len(passes_run)
    second = search(job, tmp_path)
    assert first > 0
    again = len(passes_run)
    result = search(job, tmp_path)
    assert stripped(result.report) == stripped(second.report)
    last = {p.name for p in finalists(result.report.points, SMALL.finalists)}
    assert {result.report.taken, second.report.taken} <= last
    assert len(passes_run) == again  # the third time nothing was left to do
    made = Counter(passes_run)
    assert made["prune"] <= 2
    assert made["distil"] <= 4

    kept = Store(tmp_path, job.model).record(REPORT, SearchReport, pytest.fail)
    assert kept.taken == result.report.taken
    assert kept.verdict == result.optimized.guard.verdict == "pass"


@pytest.fixture(scope="module")
def once(job: Job, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """Search once for several tests, and see that the model given is left as it was."""
    before = {name: p.clone() for name, p in job.model.named_parameters()}
    result = search(job, tmp_path_factory.mktemp("store"))
    for name, parameter in job.model.named_parameters():
        assert torch.equal(parameter, before[name])
    return result


def test_the_point_taken_is_what_the_bundle_holds(once: SearchResult) -> None:
    (taken,) = [c.name for c in once.optimized.choices if c.chosen]
    assert once.report.taken != "original"
    assert taken.startswith(once.report.taken)
    assert once.optimized.passes[0].name == "prune"
    (point,) = [p for p in once.report.points if p.name == once.report.taken]
    assert point.fits
    assert point.ratio is not None
    text = msgspec.json.encode(once.report)
    assert msgspec.json.decode(text, type=SearchReport) == once.report


@pytest.mark.slow
def test_equal_seeds_lose_equally(job: Job, once: SearchResult, tmp_path: Path) -> None:
    a, b = once.report, search(job, tmp_path).report
    for one, other in zip(a.points, b.points, strict=True):
        if one.quality is not None and other.quality is not None and one.rung == other.rung:
            assert one.quality.delta_auc == other.quality.delta_auc
            assert one.quality.over == other.quality.over


def test_with_margins_that_nothing_keeps_the_original_is_published(
    job: Job, tmp_path: Path
) -> None:
    guard = msgspec.structs.replace(OPTIMIZE.guard, margin_auc=1e-6, margin_log_loss=1e-6)
    optimize = msgspec.structs.replace(OPTIMIZE, guard=guard)
    result = search_model(job, SMALL, optimize, tmp_path, MonotonicClock())
    assert result.report.taken == result.report.best == "original"
    assert not any(p.fits for p in result.report.points if not p.point.off)


@pytest.mark.slow
def test_throughput_can_be_what_is_sought(job: Job, tmp_path: Path) -> None:
    result = search(job, tmp_path, objective="lbt")
    assert result.report.objective == "lbt"
    measured = [p for p in result.report.points if p.speed is not None or p.finish is not None]
    assert all(p.ratio is not None and 0 < p.ratio < 10 for p in measured)
