"""How long whole queries take in a runner, measured warm and fairly interleaved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.core import Clock, Query, Runner, from_seconds
from headway.engine.ranker import raw_outputs

Samples = NDArray[np.int64]
"""Durations in nanoseconds, in the order measured."""
_LEAST_ROUNDS = 5
_WARM_ROUNDS = 3


def measure_latency(
    runner: Runner, queries: Sequence[Query], clock: Clock, *, seconds: float = 1.0, tasks: int = 1
) -> Samples:
    """Return the time of each whole query, its query tower included; inputs rotate.

    Args:
        runner: what to measure; it is warmed up first.
        queries: checked queries, best more than the caches hold.
        clock: what tells the time.
        seconds: how long to go on; at least five queries are measured.
        tasks: of the model.
    """
    return compare_latency({"": runner}, {0: queries}, clock, seconds, tasks=tasks)[""][0]


def compare_latency(
    runners: Mapping[str, Runner],
    queries_by_size: Mapping[int, Sequence[Query]],
    clock: Clock,
    seconds: float,
    *,
    tasks: int = 1,
) -> dict[str, dict[int, Samples]]:
    """Measure several runners on the same queries, turn by turn, so that drift hits all alike.

    Args:
        runners: by name.
        queries_by_size: for each query size the queries to rotate through.
        clock: what tells the time.
        seconds: for everything together, shared evenly among the sizes.
        tasks: of the model.

    Returns:
        Samples by runner and size, equally many for all runners of a size.
    """
    share = from_seconds(seconds / max(1, len(queries_by_size)))
    result: dict[str, dict[int, Samples]] = {name: {} for name in runners}
    for size, queries in queries_by_size.items():
        for runner in runners.values():
            for turn in range(_WARM_ROUNDS):
                raw_outputs(runner, [queries[turn % len(queries)]], tasks)
        for name, samples in _take_turns(runners, queries, clock, share, tasks).items():
            result[name][size] = np.array(samples, np.int64)
    return result


def _take_turns(
    runners: Mapping[str, Runner], queries: Sequence[Query], clock: Clock, share: int, tasks: int
) -> dict[str, list[int]]:
    samples: dict[str, list[int]] = {name: [] for name in runners}
    names = list(runners)
    end, turn = clock.now() + share, 0
    while turn < _LEAST_ROUNDS or clock.now() < end:
        query = queries[turn % len(queries)]
        first = turn % len(names)  # nobody is always the one after another
        for name in names[first:] + names[:first]:
            start = clock.now()
            raw_outputs(runners[name], [query], tasks)
            samples[name].append(clock.now() - start)
        turn += 1
    return samples
