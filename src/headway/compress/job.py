"""What is optimised, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from headway.bundle import BundleParts, Choice, GuardEntry, Provenance
from headway.compress.passes import Stage
from headway.compress.verdict import Step
from headway.core import NotProvenError, Schema
from headway.data import Dataset

Progress = Callable[[str, int, int], None]
"""Called before each stage: what begins, how many are done, how many there are."""


def teller(stages: Sequence[str], progress: Progress | None) -> Callable[[], None]:
    """Return what to call as each stage begins."""
    waiting = iter(enumerate(stages))

    def tell() -> None:
        done, stage = next(waiting)
        if progress is not None:
            progress(stage, done, len(stages))

    return tell


class _ToJson(Protocol):
    def to_json(self) -> bytes: ...


class Splits(Protocol):
    """The encoded parts of a data set, such as ``data.Prepared`` and ``data.Synthetic``."""

    @property
    def schema(self) -> Schema:
        """Of all parts."""
        ...

    @property
    def transforms(self) -> _ToJson | None:
        """Raw features to encoded ones, for the bundle; None where callers encode."""
        ...

    @property
    def train(self) -> Dataset:
        """What the model learnt from; activations are calibrated on it."""
        ...

    @property
    def valid(self) -> Dataset:
        """Stopped the training; must share no rows with ``test``."""
        ...

    @property
    def choose(self) -> Dataset:
        """Chooses a composition."""
        ...

    @property
    def test(self) -> Dataset:
        """Judges, and chooses nothing."""
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Job:
    """What to optimise.

    Attributes:
        name: of the bundle, and of the model in a server.
        model: trained; ``forward(features)`` as made by ``core.model_inputs``.
        data: rows to calibrate, choose and judge with.
        provenance: goes into the bundle.
    """

    name: str
    model: nn.Module
    data: Splits
    provenance: Provenance


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OptimizeResult:
    """What was done and what it cost, and the parts of the bundle.

    Attributes:
        parts: give them to ``bundle.write_bundle``, with a report if wanted.
        guard: the verdict on the composition taken; on its worst task.
        steps: verdicts on the way, the taken composition's last.
        choices: every composition tried.
        latency_us: median by composition and query size; ``original`` is the eager model.
        original_bytes: of the model's parameters and buffers.
        size_bytes: of the tables and towers taken.
        equality: largest change of the f32 towers against the model, as a share of the spread.
        notes: what was hoisted and what stopped it.
        warnings: doubts about data or model.
        passes: what each pass over the module left, in order.
    """

    parts: BundleParts
    guard: GuardEntry
    steps: tuple[Step, ...]
    choices: tuple[Choice, ...]
    latency_us: Mapping[str, Mapping[int, float]]
    original_bytes: int
    size_bytes: int
    equality: float
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    passes: tuple[Stage, ...] = ()

    def check(self, *, allow_unproven: bool = False) -> None:
        """Accept a result that may be published.

        Raises:
            NotProvenError: if the guard did not pass; with ``allow_unproven`` only if it
                failed.
        """
        if self.guard.verdict == "pass" or (allow_unproven and self.guard.verdict != "fail"):
            return
        remedy = "keep the model as it is, or widen the margin if that much loss is acceptable"
        if self.guard.rows_to_decide is not None:
            remedy = f"judge on about {self.guard.rows_to_decide:,} rows, or allow unproven bundles"
        elif self.guard.verdict == "not proven":
            remedy = "mend that, or allow unproven bundles"
        raise NotProvenError(f"the guard says {self.guard.verdict}: {self.guard.reason}; {remedy}")
