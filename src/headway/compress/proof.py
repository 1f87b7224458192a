"""What proves a bundle: towers equal to the model, and golden queries with their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headway.bundle import DensePrecision, Golden
from headway.compress.choose import errors
from headway.compress.composition import Composition
from headway.core import CaptureError, Query, Runner
from headway.engine import raw_outputs

_GOLDEN_NOISE: Mapping[DensePrecision, float] = {
    "f32": 1e-4,
    "bf16": 3e-2,
    "int8": 1e-2,
    "int8-dynamic": 1e-2,
}
"""Accepted change at replay as a share of the outputs' spread: another machine sums in another
order, and a sum that falls on the edge of an int8 step then changes by that step. One that has no
bfloat16 computes in float32, and then the whole of the rounding shows."""


def change_on(
    runner: Runner, original: Runner, queries: Sequence[Query], tasks: int
) -> tuple[float, float]:
    """Return largest and root mean square change of the outputs, as ``choose.errors``.

    Each query is scored alone.
    """
    found = [raw_outputs(runner, [q], tasks)[0] for q in queries]
    wanted = [raw_outputs(original, [q], tasks)[0] for q in queries]
    return errors(np.concatenate(found), np.concatenate(wanted))


def check_equal(equality: float, limit: float, remedy: str) -> None:
    """Accept f32 towers that change no output by more than float32 rounding does.

    Raises:
        CaptureError: if they do, or if the change is NaN.
    """
    if not equality <= limit:
        raise CaptureError(
            f"the f32 towers differ from the model by {equality:.2g} of the outputs' spread, "
            f"accepted are {limit:.2g}; {remedy}"
        )


def record_golden(
    composition: Composition, questions: Sequence[Query], spread: float
) -> tuple[tuple[Golden, ...], float]:
    """Return the queries with this composition's outputs, and the tolerance at replay."""
    runner, tasks = composition.model.runner(), len(composition.model.schema.tasks)
    golden = tuple((q, raw_outputs(runner, [q], tasks)[0]) for q in questions)
    widest = float(np.concatenate([raw for _, raw in golden]).std())
    return golden, _GOLDEN_NOISE[composition.dense] * max(spread, widest, 1e-6)
