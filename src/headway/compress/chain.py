"""What each prefix of the chain of passes brings: size, operations, latency, quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from headway.bundle import GuardEntry, row_bytes
from headway.compress.built import Built, build, one_thread, prove_equal, scored
from headway.compress.choose import Trial, measure_samples, try_compositions
from headway.compress.composition import Composition
from headway.compress.job import Job, Progress, teller
from headway.compress.passes import Stage, first_stage
from headway.compress.rows import sample_rows
from headway.compress.settings import OptimizeSettings
from headway.compress.throughput import simulate_lbt
from headway.compress.verdict import Judge
from headway.core import Clock, Schema, Sla, Sparse, UsageError
from headway.engine import Samples
from headway.engine.torch_eager import TorchRunner
from headway.models import count_cost, predict

CHAIN_STAGES = (
    "scoring the original",
    "capturing each prefix",
    "composing",
    "measuring",
    "judging",
)
ROUNDED = "quantize"


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of whole queries of one size, on one core, in microseconds."""

    p50_us: float
    p95_us: float
    samples: int


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One prefix of the chain: the model with all passes up to a name.

    Attributes:
        name: of the last pass; ``original`` before any.
        composition: what the compiled model is put together from.
        dense_parameters: outside the tables.
        table_parameters: in the tables.
        flops: of matrix products for one candidate, as the module computes them.
        candidate_bytes: of table rows that one candidate needs, lists at full length, in the
            formats of the composition.
        size_bytes: of tables and towers on disk.
        eager: latency of the module in torch, by query size; None where no module has the
            rounding.
        compiled: latency of the composition, by query size.
        eager_lbt_qps: latency-bounded throughput of one worker with the module in torch,
            simulated from the measured times; likewise ``lbt_qps`` of the composition.
        guard: the verdict on the compiled model, against the original.
        seconds: that the pass took.
        facts: what the pass did.
    """

    name: str
    composition: str
    dense_parameters: int
    table_parameters: int
    flops: int
    candidate_bytes: int
    size_bytes: int
    eager: dict[str, Times] | None
    compiled: dict[str, Times]
    eager_lbt_qps: float | None
    lbt_qps: float
    guard: GuardEntry
    seconds: float
    facts: dict[str, Any]


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """Every prefix of the chain, the original first.

    Latencies of all were measured turn by turn on the same queries; ``looks`` is the number of
    verdicts that shared the guard's error.
    """

    name: str
    sla: str
    links: tuple[Link, ...]
    looks: int

    def ratio(self, size: int, place: int = -1) -> float:
        """Return the median latency of a prefix over that of the original in torch."""
        first, link = self.links[0], self.links[place]
        if first.eager is None:
            return float("nan")
        return link.compiled[str(size)].p50_us / first.eager[str(size)].p50_us


@dataclass(frozen=True, slots=True, eq=False)
class _Speed:
    """How fast something is: by query size, and under load."""

    times: dict[str, Times]
    lbt_qps: float

    @classmethod
    def of(cls, samples: Mapping[int, Samples], sla: Sla) -> _Speed:
        times = {str(size): _times(ns) for size, ns in samples.items()}
        return cls(times, simulate_lbt(samples, sla).lbt_qps)


@dataclass(frozen=True, slots=True, eq=False)
class _Prefix:
    """A prefix as it is measured and judged."""

    built: Built
    trial: Trial
    eager: str


def check_sizes(settings: OptimizeSettings) -> None:
    """Accept settings whose query sizes throughput can be simulated from.

    Raises:
        UsageError: if there is but one.
    """
    if len(set(settings.sizes)) < 2:
        raise UsageError(
            "the chain's throughput is simulated from the latency of two query sizes or more, "
            f"optimize.sizes is {settings.sizes}; name another, or leave the chain out"
        )


def measure_chain(
    job: Job,
    stages: Sequence[Stage],
    settings: OptimizeSettings,
    chance_and_time: tuple[np.random.Generator, Clock],
    progress: Progress | None = None,
    *,
    sla: Sla | None = None,
) -> Chain:
    """Return what each prefix of the chain brings.

    Every prefix is compiled, in f32 and, for the last, in the fastest composition that changes
    outputs little enough. All are measured in one run, in torch and compiled. Each gets a verdict
    against the original; the verdicts share the guard's error, so each is held to more than it
    would be alone.

    Args:
        job: the original and its data.
        stages: what each pass left, in order, as ``run_pass`` returns them.
        settings: compositions, query sizes, margins.
        chance_and_time: source of drawn rows and of the bootstrap; and what latency is measured
            with.
        progress: called before each part.
        sla: that throughput is bounded by; p95 within 25 ms by default.

    Raises:
        CaptureError: if a model cannot be captured, or its towers do not equal it.
        DataError: if the data cannot judge.
        UsageError: if the settings name one query size only.
    """
    check_sizes(settings)
    rng, _ = chance_and_time
    tell = teller(CHAIN_STAGES, progress)
    tell()
    data = job.data
    everything = [first_stage(job.model, data.schema), *stages]
    choose = scored(job.model, sample_rows(data.choose, settings.choose_rows, rng))
    built = _compose(everything, job, settings, rng, tell)
    own = {
        b.compositions[0].variant: predict(b.stage.model, choose.rows.narrowed(b.stage.schema))
        for b in built
    }
    for each in built:
        prove_equal(each, choose, own, settings)
    tell()
    compositions = [c for b in built for c in b.compositions]
    eager = {f"torch {b.stage.name}": TorchRunner(b.stage.model, b.stage.schema) for b in built}
    with one_thread():
        samples = measure_samples(compositions, eager, choose.rows, settings, chance_and_time)
    medians = {
        name: {size: max(1.0, float(np.median(ns))) / 1000 for size, ns in by_size.items()}
        for name, by_size in samples.items()
    }
    trials = try_compositions(compositions, choose, own, settings, rng, medians)
    prefixes = _prefixes(built, trials)
    tell()
    court = Judge(scored(job.model, data.test), settings.guard, len(prefixes), rng, data.train)
    target = sla or Sla()
    speeds = {name: _Speed.of(by_size, target) for name, by_size in samples.items()}
    links = [_link(name, prefix, speeds, court) for name, prefix in prefixes.items()]
    return Chain(name=job.name, sla=str(target), links=tuple(links), looks=len(prefixes))


def _compose(
    stages: Sequence[Stage],
    job: Job,
    settings: OptimizeSettings,
    rng: np.random.Generator,
    tell: Callable[[], None],
) -> list[Built]:
    """Return all stages in f32, and the last in every composition of the settings."""
    plain = msgspec.structs.replace(settings, tables=("f32",), dense=("f32",))
    variants = {stage.name if place else "": stage for place, stage in enumerate(stages)}
    (last,) = list(variants)[-1:]
    whole = {last: variants.pop(last)}
    built = build(variants, job.data.train, plain, rng, tell) if variants else []
    return [*built, *build(whole, job.data.train, settings, rng, tell if not built else _silent)]


def _silent() -> None:
    """Say nothing."""


def _prefixes(built: Sequence[Built], trials: Sequence[Trial]) -> dict[str, _Prefix]:
    of = {id(trial.composition): trial for trial in trials}
    found = {}
    for each in built:
        found[each.stage.name] = _Prefix(
            each, of[id(each.compositions[0])], f"torch {each.stage.name}"
        )
    last = built[-1]
    rounded = [of[id(c)] for c in last.compositions if not c.unrounded]
    rounded = [t for t in rounded if _close(t)]
    if rounded:
        best = min(rounded, key=lambda t: t.cost)
        found[ROUNDED] = _Prefix(last, best, "")
    return found


def _close(trial: Trial) -> bool:
    """Tell whether a composition may be taken, but for its verdict."""
    return not trial.rejected or "choosing rows" in trial.rejected


def _link(name: str, prefix: _Prefix, speeds: Mapping[str, _Speed], court: Judge) -> Link:
    stage, composition = prefix.built.stage, prefix.trial.composition
    cost = count_cost(stage.model, stage.schema)
    eager = speeds.get(prefix.eager)
    return Link(
        name=name,
        composition=composition.name,
        dense_parameters=cost.dense_parameters,
        table_parameters=cost.table_parameters,
        flops=cost.flops,
        candidate_bytes=_candidate_bytes(composition, stage.schema),
        size_bytes=composition.size_bytes,
        eager=eager.times if eager else None,
        compiled=speeds[composition.name].times,
        eager_lbt_qps=eager.lbt_qps if eager else None,
        lbt_qps=speeds[composition.name].lbt_qps,
        guard=court.verdict(prefix.trial),
        seconds=stage.seconds if prefix.eager else 0.0,
        facts=dict(stage.facts) if prefix.eager else {},
    )


def _candidate_bytes(composition: Composition, schema: Schema) -> int:
    """Return the bytes of table rows that a candidate needs, all features counted."""
    total = 0
    for feature in schema.id_features():
        part = composition.table_parts[feature.table]
        lookups = 1 if isinstance(feature, Sparse) else feature.max_length
        total += lookups * row_bytes(schema.table(feature.table).dim, part.format)
    return total


def _times(samples: Samples) -> Times:
    us = np.asarray(samples, np.float64) / 1000
    return Times(p50_us=float(np.median(us)), p95_us=float(np.percentile(us, 95)), samples=len(us))
