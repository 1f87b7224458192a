"""Latency-bounded throughput of one worker, simulated from service times that were measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from headway.core import Sla
from headway.measure import LbtResult, LbtSettings, Outcome, RunRecord, find_lbt
from headway.workload import draw_schedule, production_sizes

_QUERIES = 6000
_TOLERANCE = 0.01


def simulate_lbt(samples: Mapping[int, NDArray[np.int64]], sla: Sla, seed: int = 0) -> LbtResult:
    """Return the highest rate at which one worker, first come first served, holds an SLA.

    Arrivals are a Poisson process and query sizes those of production. A query takes the median
    time of its size, read between the sizes measured, times a ratio drawn from what the nearest
    of them showed. The wait follows from that by Lindley's recursion (1952), so nothing but the
    service times is measured; no server, socket or second worker has a part in it.

    Args:
        samples: nanoseconds of whole queries by query size, two sizes at least.
        sla: what must hold.
        seed: of the schedules.
    """
    sizes = np.array(sorted(samples), np.float64)
    medians = np.array([np.median(samples[int(size)]) for size in sizes])
    ratios = [samples[int(size)] / median for size, median in zip(sizes, medians, strict=True)]

    def evaluate(rate: float, number: int) -> RunRecord:
        rng = np.random.default_rng(number)
        schedule = draw_schedule(rate, _QUERIES / rate, production_sizes, rng)
        service = service_times(schedule.sizes, sizes, medians)
        nearest = np.abs(schedule.sizes[:, None] - sizes).argmin(axis=1)
        for place, ratio in enumerate(ratios):
            own = nearest == place
            service[own] *= rng.choice(ratio, int(own.sum()))
        done = completions(schedule.intended_ns, service)
        return RunRecord(
            intended_ns=schedule.intended_ns,
            sent_ns=schedule.intended_ns,
            done_ns=done,
            status=np.full(len(done), Outcome.OK, np.uint8),
            sizes=schedule.sizes,
            duration_ns=schedule.duration_ns,
        )

    start = 0.5e9 / float(np.interp(178, sizes, medians))  # half of what the median query allows
    settings = LbtSettings(
        sla=sla, start_qps=start, lowest_qps=start / 1e4, tolerance=_TOLERANCE, seed=seed
    )
    return find_lbt(evaluate, settings)


def service_times(
    wanted: NDArray[np.int64], sizes: NDArray[np.float64], medians: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the time of queries of any size, by lines through the sizes measured.

    Beyond the first and the last the line through the two nearest goes on, but no query takes
    less than half of the shortest time measured.
    """
    place = np.clip(np.searchsorted(sizes, wanted) - 1, 0, len(sizes) - 2)
    slope = (medians[place + 1] - medians[place]) / (sizes[place + 1] - sizes[place])
    found = medians[place] + slope * (wanted - sizes[place])
    return np.asarray(np.maximum(found, medians.min() / 2), np.float64)


def completions(
    arrivals_ns: NDArray[np.int64], service_ns: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return when each query is done if one worker takes them in order."""
    busy = np.cumsum(service_ns)
    # done = busy + max over earlier queries of (arrival - what was busy before it).
    waited = np.maximum.accumulate(arrivals_ns - (busy - service_ns))
    return np.asarray(np.rint(busy + waited), np.int64)
