"""Timing what could run a tower, and checking that all of it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import Clock, Scope, from_seconds
from headway.engine.dense import Tower, open_tower
from headway.engine.seam import DenseCall, DenseEngine
from headway.engine.turns import take_turns

_ROTATED = 3
Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class DenseTrial:
    """What one engine took and gave.

    Attributes:
        latency_us: median by rows in a run.
        error: largest difference of an output from the first engine's, as a share of its spread.
    """

    latency_us: Mapping[int, float]
    error: float


def try_dense(
    towers: Sequence[Tower],
    scope: Scope,
    rows: Sequence[int],
    clock: Clock,
    seconds: float = 0.1,
    *,
    samples: Sequence[Feed] = (),
) -> list[DenseTrial]:
    """Return each tower's times, measured turn by turn on drawn inputs, and its difference.

    Args:
        towers: ways to run one tower, all with the same layout.
        scope: which tower of a model they are.
        rows: rows in one run.
        clock: what tells the time.
        seconds: for each number of rows.
        samples: what the tower is fed in earnest, to compare outputs on; drawn inputs otherwise.
    """
    engines = [open_tower(scope, tower) for tower in towers]
    calls = [engine.caller() for engine in engines]
    outputs, layout = list(towers[0].layout.outputs), towers[0].layout
    mapped = "row_to_query" in layout.inputs
    times: list[dict[int, float]] = [{} for _ in towers]
    wrong = _errors(calls, outputs, samples) if samples else [0.0 for _ in towers]
    for count in rows:
        feeds = [_drawn(engines[0], count, seed, mapped=mapped) for seed in range(_ROTATED)]
        if not samples:
            errors = _errors(calls, outputs, feeds)
            wrong = [max(pair) for pair in zip(wrong, errors, strict=True)]
        turns: list[Callable[[int], object]] = [
            partial(_once, call, outputs, feeds) for call in calls
        ]
        for found, taken in zip(
            times, take_turns(turns, clock, from_seconds(seconds)), strict=True
        ):
            found[count] = float(np.median(taken)) / 1000
    return [DenseTrial(found, error) for found, error in zip(times, wrong, strict=True)]


def _once(call: DenseCall, outputs: list[str], feeds: Sequence[Feed], turn: int) -> object:
    return call(outputs, feeds[turn % len(feeds)])


def _errors(calls: Sequence[DenseCall], outputs: list[str], feeds: Sequence[Feed]) -> list[float]:
    """Return each call's largest change against the first, as a share of an output's spread."""
    first, *others = [outputs_on(call, outputs, feeds) for call in calls]
    found = [0.0]
    for other in others:
        changes = [
            float(np.abs(array - wanted).max() / (wanted.std() or 1.0))
            for array, wanted in zip(other, first, strict=True)
        ]
        found.append(max(changes))
    return found


def outputs_on(
    call: DenseCall, outputs: Sequence[str], feeds: Sequence[Feed]
) -> list[NDArray[np.float32]]:
    """Return each output for all feeds, ``[rows, ...]``."""
    runs = [call(outputs, feed) for feed in feeds]
    return [np.concatenate([run[place] for run in runs]) for place in range(len(outputs))]


def _drawn(engine: DenseEngine, rows: int, seed: int, *, mapped: bool) -> Feed:
    rng = np.random.default_rng(seed)
    feed: dict[str, NDArray[Any]] = {
        name: rng.standard_normal((1 if name.startswith("hidden.") else rows, *shape), np.float32)
        for name, shape in engine.inputs.items()
        if name != "row_to_query"
    }
    if mapped:
        feed["row_to_query"] = np.zeros(rows, np.int64)
    return feed
