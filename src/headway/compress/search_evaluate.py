"""What it takes to know a point: its passes, its loss, its latency; each done once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import exp, log
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.bundle import GuardEntry
from headway.compress.built import build, one_thread, scored
from headway.compress.choose import measure_samples, try_compositions
from headway.compress.composition import Composition
from headway.compress.guard import evidence_of_tasks, judge, worst
from headway.compress.job import Job
from headway.compress.passes import Material, Stage, first_stage, run_pass
from headway.compress.rows import sample_rows
from headway.compress.search_results import WORST, Finish, Quality, Speed
from headway.compress.search_settings import Point, SearchSettings
from headway.compress.settings import OptimizeSettings
from headway.compress.store import (
    Store,
    hash_of_model,
    hash_of_rows,
    key_of,
    prefix_parts,
)
from headway.compress.throughput import simulate_lbt
from headway.core import Clock, to_seconds
from headway.engine import Samples, machine_facts
from headway.models import predict

_REFERENCE = "reference"
_DRAW_ROWS, _DRAW_QUERIES, _DRAW_RESAMPLES, _DRAW_CALIBRATION = range(4)


class Evaluator:
    """Evaluates points at rungs; what the store holds is not done again.

    Every draw has a generator of its own, seeded alike each time, so that neither the order of
    the evaluations nor an interruption changes what comes out.
    """

    def __init__(
        self,
        job: Job,
        settings: SearchSettings,
        optimize: OptimizeSettings,
        store: Store,
        clock: Clock,
    ) -> None:
        """Score the choosing rows with the original.

        Args:
            job: the original and its data; of the test rows only the number is used.
            settings: of the search.
            optimize: compositions, margins and query sizes.
            store: of results.
            clock: what latency and seconds are measured with.
        """
        self._job = job
        self._settings = settings
        self._optimize = msgspec.structs.replace(optimize, measure_s=settings.measure_s)
        self._plain = msgspec.structs.replace(self._optimize, tables=("f32",), dense=("f32",))
        self._store = store
        self._clock = clock
        rows = sample_rows(job.data.choose, optimize.choose_rows, self._rng(_DRAW_ROWS))
        self._choose = scored(job.model, rows)
        self._original = first_stage(job.model, job.data.schema)

    def stage(self, point: Point, rung: int) -> Stage:
        """Return what the passes of a point leave at a rung."""
        return self.stages(point, rung)[-1]

    def stages(self, point: Point, rung: int) -> list[Stage]:
        """Return what each pass leaves, the original first."""
        recipe = self._settings.recipe(point, rung)
        found = [self._original]
        for name in recipe.passes:
            before = found[-1]

            def make(name: str = name, before: Stage = before) -> Stage:
                rng = np.random.default_rng(self._settings.seed)
                return run_pass(before, name, recipe, self._material, (rng, self._clock))

            found.append(self._store.stage(self._stage_key(point, rung, name), make))
        return found

    def quality(self, point: Point, rung: int) -> Quality:
        """Return what a point lost on the choosing rows at a rung, in f32."""

        def make() -> Quality:
            start = self._clock.now()
            entry = None if point.off else self._judged(self.stage(point, rung))
            seconds = to_seconds(self._clock.now() - start)
            return _unchanged(seconds) if entry is None else self._quality(entry, seconds)

        guard = self._optimize.guard
        asked = [guard, self._settings.rounds, self._settings.finalists, len(self._job.data.test)]
        key = self._key("quality", point, rung, asked)
        return self._store.record(key, Quality, make)

    def speed(self, point: Point) -> Speed:
        """Return how fast a point is in f32, beside the original; training changes nothing."""

        def make() -> Speed:
            start = self._clock.now()
            found = self._compositions(self.stage(point, 0), point, self._plain)
            samples = self._measured(found)
            own, reference = samples[found[0].name], samples[_REFERENCE]
            ratio = 1.0 if point.off else self._cost(own) / self._cost(reference)
            seconds = to_seconds(self._clock.now() - start)
            return Speed(
                ratio=ratio, us=_medians(own), reference_us=_medians(reference), seconds=seconds
            )

        return self._store.record(self._key("speed", point, 0, self._timing), Speed, make)

    def finish(self, point: Point, rung: int) -> Finish:
        """Return how fast a point is in the best of all compositions, trained as at a rung."""

        def make() -> Finish:
            start = self._clock.now()
            stage = self.stage(point, rung)
            compositions = self._compositions(stage, point, self._optimize)
            samples = self._measured(compositions)
            reference = self._cost(samples[_REFERENCE])
            costs = {c.name: self._cost(samples[c.name]) / reference for c in compositions}
            rows = self._choose.rows.narrowed(stage.schema)
            variant = compositions[0].variant
            trials = try_compositions(
                compositions,
                self._choose,
                {variant: predict(stage.model, rows)},
                self._optimize,
                self._rng(_DRAW_RESAMPLES),
                {c.name: {0: 1.0} for c in compositions},
            )
            open_to = [t.name for t in trials if not t.rejected or t.composition.exact]
            steady = [
                t.name for t in trials if t.composition.steady or self._optimize.batch_dependent
            ]
            best = min(open_to, key=lambda name: costs[name], default="")
            return Finish(
                composition=best,
                ratio=costs[best] if best else WORST,
                fastest=min(costs[name] for name in steady),
                f32=costs[compositions[0].name],
                seconds=to_seconds(self._clock.now() - start),
            )

        key = self._key("finish", point, rung, [self._timing, self._optimize])
        return self._store.record(key, Finish, make)

    @cached_property
    def _material(self) -> Material:
        data = self._job.data
        return Material.of(self._job.model, data.train, data.valid)

    @cached_property
    def _reference(self) -> Composition:
        return self._compositions(self._original, Point(), self._plain)[0]

    @cached_property
    def _made_from(self) -> dict[str, str]:
        data = self._job.data
        return {
            "model": hash_of_model(self._job.model),
            "train": hash_of_rows(data.train),
            "valid": hash_of_rows(data.valid),
        }

    @cached_property
    def _choose_hash(self) -> str:
        return hash_of_rows(self._choose.rows)

    @cached_property
    def _timing(self) -> list[Any]:
        """What a time depends on besides the model."""
        facts, settings = machine_facts(), self._settings
        machine = [facts.cpu, facts.usable_cores, facts.system]
        sizes = self._optimize.sizes
        return [machine, sizes, settings.measure_s, settings.objective, settings.sla]

    def _rng(self, what: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, what])

    def _stage_key(self, point: Point, rung: int, name: str) -> str:
        parts = prefix_parts(self._settings.recipe(point, rung), name)
        return key_of(**self._made_from, passes=parts, seed=self._settings.seed)

    def _key(self, what: str, point: Point, rung: int, asked: Any) -> str:
        """Return the key of something measured on a stage and the choosing rows."""
        passes = self._settings.recipe(point, rung)
        rows, seed = self._choose_hash, self._settings.seed
        return key_of(
            **self._made_from, what=what, passes=passes, choose=rows, asked=asked, seed=seed
        )

    def _judged(self, stage: Stage) -> GuardEntry:
        rows, choose = self._choose.rows.narrowed(stage.schema), self._choose
        raw = predict(stage.model, rows)
        guard = msgspec.structs.replace(self._optimize.guard, rounds=self._settings.rounds)
        rng = self._rng(_DRAW_RESAMPLES)
        pieces = evidence_of_tasks(
            choose.rows.schema, choose.rows.labels, choose.raw, raw, choose.groups
        )
        looks = self._settings.finalists
        return worst([judge(evidence, guard, rng, looks=looks) for evidence in pieces])

    def _quality(self, entry: GuardEntry, seconds: float) -> Quality:
        # The judge's bound tightens with the square root of the rows. The two parts differ by
        # chance, by this many standard deviations of one on the choosing rows; one is allowed for.
        share = (len(self._choose.rows) / max(1, len(self._job.data.test))) ** 0.5
        apart = (1 + share**2) ** 0.5
        share += apart / NormalDist().inv_cdf(entry.confidence)
        return Quality(
            delta_auc=entry.delta_auc,
            delta_auc_low=entry.delta_auc_low,
            delta_auc_high=entry.delta_auc_high,
            delta_log_loss=entry.delta_log_loss,
            over=_over(entry, share),
            verdict=entry.verdict,
            seconds=seconds,
        )

    def _compositions(
        self, stage: Stage, point: Point, settings: OptimizeSettings
    ) -> list[Composition]:
        variant = "" if point.off else point.name
        rng = self._rng(_DRAW_CALIBRATION)
        (built,) = build({variant: stage}, self._job.data.train, settings, rng, _silent)
        return built.compositions

    def _measured(self, compositions: list[Composition]) -> dict[str, dict[int, Samples]]:
        chance_and_time = self._rng(_DRAW_QUERIES), self._clock
        beside = {_REFERENCE: self._reference.model.runner()}
        with one_thread():
            return measure_samples(
                compositions, beside, self._choose.rows, self._optimize, chance_and_time
            )

    def _cost(self, samples: Mapping[int, Samples]) -> float:
        """Return microseconds: of a query, or of each query at the highest rate."""
        if self._settings.objective == "lbt":
            rate = simulate_lbt(samples, self._settings.sla, self._settings.seed).lbt_qps
            return 1e6 / rate if rate > 0 else WORST
        medians = _medians(samples).values()
        return exp(sum(map(log, medians)) / len(medians))


def _over(entry: GuardEntry, share: float) -> float:
    """Return the largest loss in margins, with this many times its uncertainty."""
    found = (
        _bound(entry.delta_auc, entry.delta_auc_low, -1, share, entry.margin_auc),
        _bound(entry.delta_log_loss, entry.delta_log_loss_high, 1, share, entry.margin_log_loss),
    )
    return max(found)


def _bound(delta: float | None, end: float | None, sign: int, share: float, margin: float) -> float:
    if delta is None or end is None:
        return WORST
    return min(WORST, (sign * delta + share * abs(end - delta)) / margin)


def _medians(samples: Mapping[int, NDArray[np.int64]]) -> dict[str, float]:
    return {str(n): max(1.0, float(np.median(ns))) / 1000 for n, ns in samples.items()}


def _unchanged(seconds: float) -> Quality:
    """Return the quality of the original: nothing is lost, and that is certain."""
    return Quality(
        delta_auc=0.0,
        delta_auc_low=0.0,
        delta_auc_high=0.0,
        delta_log_loss=0.0,
        over=0.0,
        verdict="pass",
        seconds=seconds,
    )


def _silent() -> None:
    """Say nothing."""
