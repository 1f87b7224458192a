"""What optimising gave, as it is printed, drawn and given to machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headway.bundle import Choice, GuardEntry
from headway.compress.chain import Chain
from headway.compress.job import OptimizeResult
from headway.compress.verdict import Step


class PassSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass over the module did, in how many seconds."""

    name: str
    seconds: float
    facts: Mapping[str, Any]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was done and what it cost; the same from the command line and from Python.

    Attributes:
        bundle: where it was written; None if it was not.
        name: of the bundle.
        composition: formats of the tables and towers taken, and of which model.
        guard: the verdict on it.
        steps: verdicts on the way, the taken composition's last.
        choices: every composition tried.
        latency_us: median by composition and query size, in microseconds; ``original`` is the
            module in torch.
        original_bytes: of the model's parameters and buffers.
        size_bytes: of the tables and towers taken.
        equality: largest change of the f32 towers against the model, as a share of the spread.
        notes: what was hoisted and what stopped it.
        warnings: doubts about data or model.
        passes: what each pass over the module did.
        chain: what each prefix of the passes brings, where that was measured.
    """

    bundle: str | None
    name: str
    composition: str
    guard: GuardEntry
    steps: tuple[Step, ...]
    choices: tuple[Choice, ...]
    latency_us: dict[str, dict[str, float]]
    original_bytes: int
    size_bytes: int
    equality: float
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    passes: tuple[PassSummary, ...] = ()
    chain: Chain | None = None


def summarise(
    result: OptimizeResult, name: str, *, bundle: str | None = None, chain: Chain | None = None
) -> Summary:
    """Return what people and machines are told of a result."""
    return Summary(
        bundle=bundle,
        name=name,
        composition=next(choice.name for choice in result.choices if choice.chosen),
        guard=result.guard,
        steps=result.steps,
        choices=result.choices,
        latency_us={
            name: {str(size): us for size, us in by_size.items()}
            for name, by_size in result.latency_us.items()
        },
        original_bytes=result.original_bytes,
        size_bytes=result.size_bytes,
        equality=result.equality,
        notes=result.notes,
        warnings=result.warnings,
        passes=tuple(
            PassSummary(name=stage.name, seconds=stage.seconds, facts=dict(stage.facts))
            for stage in result.passes
        ),
        chain=chain,
    )
