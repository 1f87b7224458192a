"""Which composition to seek a verdict for: errors on the choosing rows, measured latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from headway.compress.composition import Composition
from headway.compress.guard import evidence_of_tasks, judge, worst
from headway.compress.rows import sample_queries, score_dataset
from headway.compress.settings import OptimizeSettings
from headway.core import Clock, Runner
from headway.data import Dataset
from headway.engine import Samples, compare_latency

ORIGINAL = "original"
_QUERIES = 64  # rotated through, so that no single query stays in the caches
Raw = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A part of the data with the original model's raw outputs ``[rows, tasks]`` on it."""

    rows: Dataset
    raw: Raw

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Query of each row, or None where every row is a query of its own."""
        apart = self.rows.queries == len(self.rows)
        return None if apart else self.rows.row_to_query


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What the choosing rows and the clock said about a composition.

    Attributes:
        composition: what was tried.
        max_error: largest change of a raw output, as a share of the outputs' spread.
        mean_error: root mean square change, likewise.
        rejected: why it is out, or an empty string.
        latency_us: median by query size.
    """

    composition: Composition
    max_error: float
    mean_error: float
    rejected: str
    latency_us: Mapping[int, float]

    @property
    def name(self) -> str:
        """Of the composition."""
        return self.composition.name

    @property
    def cost(self) -> float:
        """Geometric mean of the latencies, so that every query size counts alike."""
        return exp(sum(log(us) for us in self.latency_us.values()) / len(self.latency_us))


def try_compositions(
    compositions: Sequence[Composition],
    choose: Scored,
    own: Mapping[str, Raw],
    settings: OptimizeSettings,
    rng: np.random.Generator,
    latency_us: Mapping[str, Mapping[int, float]],
) -> list[Trial]:
    """Return one trial per composition, in order.

    A composition is out if it changes the outputs of its own module by more than
    ``settings.error_limit``, if the guard can prove already on the choosing rows that it loses,
    or, where it is made from a smaller model, if it did lose more than a margin there.

    Args:
        compositions: what is tried.
        choose: rows that choose, with the original's outputs.
        own: each variant's outputs on them, by its name.
        settings: what is accepted.
        rng: source of the bootstrap.
        latency_us: median by composition and query size.
    """
    trials = []
    for composition in compositions:
        rows = choose.rows.narrowed(composition.model.schema)
        raw = score_dataset(composition.model.runner(), rows)
        largest, mean = errors(raw, own[composition.variant])
        rejected = ""
        if not mean <= settings.error_limit:
            rejected = (
                f"changes outputs by {mean:.2g} of their spread, "
                f"accepted are {settings.error_limit:g}"
            )
        elif not (composition.steady or settings.batch_dependent):
            rejected = "scores a row differently when other rows share its batch"
        elif not composition.exact:
            rejected = _loses(raw, choose, settings, rng, smaller=bool(composition.variant))
        trials.append(Trial(composition, largest, mean, rejected, latency_us[composition.name]))
    return trials


def _loses(
    raw: Raw,
    choose: Scored,
    settings: OptimizeSettings,
    rng: np.random.Generator,
    *,
    smaller: bool,
) -> str:
    """Return why outputs are not worth a look at the test rows, or an empty string."""
    guard = settings.guard
    pieces = evidence_of_tasks(
        choose.rows.schema, choose.rows.labels, choose.raw, raw, choose.groups
    )
    entry = worst([judge(evidence, guard, rng) for evidence in pieces])
    if entry.verdict == "fail":
        return f"fails on the choosing rows: {entry.reason}"
    lost, risen = -(entry.delta_auc or 0.0), entry.delta_log_loss or 0.0
    if smaller and (lost > guard.margin_auc or risen > guard.margin_log_loss):
        return (
            f"AUC fell by {max(0.0, lost):.5f} and log loss rose by {max(0.0, risen):.5f} on the "
            "choosing rows, more than the margin"
        )
    return ""


def measure(
    compositions: Iterable[Composition],
    original: Runner,
    rows: Dataset,
    settings: OptimizeSettings,
    chance_and_time: tuple[np.random.Generator, Clock],
) -> dict[str, dict[int, float]]:
    """Return median microseconds by composition and query size, measured turn by turn.

    The original model is measured among them, as ``original``.
    """
    samples = measure_samples(compositions, {ORIGINAL: original}, rows, settings, chance_and_time)
    return {
        name: {size: max(1.0, float(np.median(ns))) / 1000 for size, ns in by_size.items()}
        for name, by_size in samples.items()
    }


def measure_samples(
    compositions: Iterable[Composition],
    others: Mapping[str, Runner],
    rows: Dataset,
    settings: OptimizeSettings,
    chance_and_time: tuple[np.random.Generator, Clock],
) -> dict[str, dict[int, Samples]]:
    """Return nanoseconds by composition, or name of another runner, and query size.

    All take turns on the same queries.
    """
    rng, clock = chance_and_time
    runners = dict(others)
    runners.update({c.name: c.model.runner() for c in compositions})
    queries = {size: sample_queries(rows, size, _QUERIES, rng) for size in settings.sizes}
    return compare_latency(
        runners, queries, clock, settings.measure_s, tasks=len(rows.schema.tasks)
    )


def rank(trials: Sequence[Trial], settings: OptimizeSettings) -> list[Trial]:
    """Return the trials in the order in which they are judged, f32 throughout last.

    Fastest first; among those within ``settings.tie`` of the fastest the smallest. At most
    ``settings.attempts`` come before f32 throughout, none that are slower than it, and one of
    each smaller model: where that is not proven, others of the same model hardly are.
    """
    left = [t for t in trials if not t.rejected or t.composition.exact]
    order: list[Trial] = []
    while left:
        limit = min(t.cost for t in left) * (1 + settings.tie)
        best = min((t for t in left if t.cost <= limit), key=lambda t: t.composition.size_bytes)
        if len(order) == settings.attempts:
            best = next(t for t in left if t.composition.exact)
        order.append(best)
        if best.composition.exact:
            break
        same = best.composition.variant
        left = [t for t in left if t is not best and not (same and t.composition.variant == same)]
    return order


def errors(raw: Raw, original: Raw) -> tuple[float, float]:
    """Return largest and root mean square change, as shares of each task's spread.

    The worst task counts.
    """
    spread = original.astype(np.float64).std(axis=0)
    change = np.abs(raw.astype(np.float64) - original) / spread
    return float(change.max()), float(np.sqrt(np.square(change).mean(axis=0)).max())
