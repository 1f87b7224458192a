"""How long whole queries take in a runner, measured warm and fairly interleaved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from headway.core import Clock, Query, Runner, from_seconds
from headway.engine.ranker import raw_outputs
from headway.engine.turns import Samples, take_turns


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
        calls: list[Callable[[int], object]] = [
            partial(_score, runner, queries, tasks) for runner in runners.values()
        ]
        for name, samples in zip(runners, take_turns(calls, clock, share), strict=True):
            result[name][size] = samples
    return result


def _score(runner: Runner, queries: Sequence[Query], tasks: int, turn: int) -> object:
    return raw_outputs(runner, [queries[turn % len(queries)]], tasks)
