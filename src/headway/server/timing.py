"""How long workers take, measured before the first query, so that an adaptive policy knows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from statistics import median

import msgspec
import numpy as np

from headway.core import Clock, HeadwayError, Knots, Ns, Piece, Plan, Query, Runner, Schema, Scope
from headway.server.settings import ServedModel
from headway.workload import draw_queries

_log = logging.getLogger("headway.server")
_SIZES = (1, 64, 256, 1024)
_REPEATS = 5


def with_times(plan: Plan, model: ServedModel, clock: Clock, *, learnt: bool) -> Plan:
    """Return the plan with the service times that an adaptive policy needs and it lacks.

    Times of a lighter version are dropped where there is none, or queries would be counted as
    degraded that are not.

    Args:
        plan: to be completed.
        model: whose runners are measured, on one that is made for this and closed again.
        clock: tells the time.
        learnt: the model's own times are known from its work.

    Raises:
        HeadwayError: if the lighter version fails; nothing else could tell its times.
    """
    if model.lighter is None:
        plan = msgspec.structs.replace(plan, lighter_service=())
    if plan.policy != "adaptive":
        return plan
    if not plan.service and not learnt:
        try:
            service, tower = service_times(model.new_runner, model.schema, clock)
        except HeadwayError as error:
            _log.warning("model %s: %s; its times are learnt while serving", model.name, error)
        else:
            plan = msgspec.structs.replace(plan, service=service, tower_ns=tower)
    if model.lighter is not None and not plan.lighter_service:
        lighter, _ = service_times(model.lighter.new_runner, model.schema, clock)
        plan = msgspec.structs.replace(plan, lighter_service=lighter)
    return plan


def service_times(
    new_runner: Callable[[], Runner], schema: Schema, clock: Clock
) -> tuple[Knots, Ns]:
    """Return the median times of a runner for drawn queries of some sizes, and of its query tower.

    Raises:
        HeadwayError: if the runner fails on one of them.
    """
    sizes = _SIZES if schema.of_scope(Scope.CANDIDATE) else _SIZES[:1]
    queries = draw_queries(
        schema, np.repeat(np.array(sizes, np.int64), _REPEATS + 1), np.random.default_rng(0)
    )
    knots: list[tuple[int, int]] = []
    tower = 0
    with closing(new_runner()) as runner:
        for number, size in enumerate(sizes):
            some = queries[number * (_REPEATS + 1) :][: _REPEATS + 1]
            # The first of a size is slower than any that follows.
            taken = [_time(runner, query, schema, clock) for query in some][1:]
            least = knots[-1][1] if knots else 1
            knots.append((size, max(least, int(median(whole for _, whole in taken)))))
            if not number:
                # As part of the shortest: after larger ones the tower finds the caches empty and
                # may take longer than that whole query, which would make later chunks free.
                tower = int(knots[0][1] * median(part / max(1, whole) for part, whole in taken))
    return tuple(knots), Ns(tower)


def _time(runner: Runner, query: Query, schema: Schema, clock: Clock) -> tuple[int, int]:
    """Return what the query tower took, and all of it."""
    out = np.empty((query.size, len(schema.tasks)), np.float32)
    start = clock.now()
    try:
        hidden = runner.query(query.context)
        between = clock.now()
        runner.candidates([Piece(hidden, query.candidates, 0, query.size, out)])
    except Exception as error:
        raise HeadwayError(
            f"a drawn query of {query.size} candidates could not be scored "
            f"({type(error).__name__}: {error}); give the service times in the plan"
        ) from error
    return between - start, clock.now() - start
