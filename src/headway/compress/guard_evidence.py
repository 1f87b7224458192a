"""What is laid before the guard: two models' outputs on rows that chose nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, Link, Schema, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Some of the judging rows that belong together.

    Attributes:
        name: for the report, such as ``item = 7``.
        rows: their indices.
    """

    name: str
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Two models' raw outputs on the same untouched rows, for one task.

    Attributes:
        labels: ``[rows]`` of 0 and 1.
        baseline: raw outputs ``[rows]`` of the original model.
        optimized: raw outputs ``[rows]`` of the optimised one.
        groups: query or user of each row ``[rows]``, or None where rows are independent.
        task: its name, for the report.
        slices: of which none may lose much, even where the whole does not.
        shared_rows: share of the rows that also stand among the training rows; None if that
            was not looked for.
    """

    labels: NDArray[Any]
    baseline: NDArray[Any]
    optimized: NDArray[Any]
    groups: NDArray[Any] | None = None
    task: str = "click"
    slices: tuple[Slice, ...] = ()
    shared_rows: float | None = None

    def check(self) -> None:
        """Refuse a baseline that nothing can be compared with.

        Raises:
            DataError: if an output of it is not finite, or all are the same.
        """
        baseline = np.asarray(self.baseline)
        bad = int((~np.isfinite(baseline)).sum())
        if bad:
            raise DataError(
                f"{bad} of {len(baseline)} outputs of the original model for task {self.task!r} "
                "are NaN or infinite; train it again"
            )
        if len(baseline) > 1 and baseline.min() == baseline.max():
            raise DataError(
                f"the original model gives every row the same output for task {self.task!r}; "
                "any model is as good, train it again"
            )


def evidence_of_tasks(
    schema: Schema,
    labels: NDArray[Any],
    baseline: NDArray[Any],
    optimized: NDArray[Any],
    groups: NDArray[Any] | None = None,
) -> list[Evidence]:
    """Split arrays ``[rows, tasks]`` into one piece of evidence per task.

    Raises:
        DataError: if shapes differ.
        UsageError: if a task is not a click-like one, for which AUC says nothing.
    """
    if not labels.shape == baseline.shape == optimized.shape:
        raise DataError(
            f"labels {labels.shape}, baseline {baseline.shape} and optimised "
            f"{optimized.shape} outputs must have one shape, [rows, tasks]"
        )
    for task in schema.tasks:
        if task.link is not Link.SIGMOID:
            raise UsageError(
                f"task {task.name!r} has the link {task.link}; the guard judges sigmoid tasks"
            )
    return [
        Evidence(labels[:, i], baseline[:, i], optimized[:, i], groups, task.name)
        for i, task in enumerate(schema.tasks)
    ]
