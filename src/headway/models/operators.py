"""Where an unchanged model spends its time, by kind of operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from headway.core import Schema, UsageError
from headway.models.attention import AttentionUnit, InterestAttention
from headway.models.costs import draw_features
from headway.models.layers import RankingModel
from headway.models.recurrent import Augru
from headway.workload import Skew

Kind = Literal["embedding", "dense", "attention", "recurrent", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_LABEL = "headway."
_MODULES: tuple[tuple[type[nn.Module], Kind], ...] = (
    (AttentionUnit, "attention"),
    (InterestAttention, "attention"),
    (Augru, "recurrent"),
    (nn.GRU, "recurrent"),
)
_OPERATORS: dict[str, Kind] = {
    "aten::embedding": "embedding",
    "aten::embedding_bag": "embedding",
    "aten::linear": "dense",
}


class OperatorShares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the time inside torch's operators, 0 to 1, which sum to 1.

    Attributes:
        embedding: lookups, pooled or not.
        dense: linear layers outside attention and recurrence.
        attention: everything inside attention units, their linear layers too.
        recurrent: everything inside recurrent layers.
        other: activations, concatenations, dots and crosses.
    """

    embedding: float
    dense: float
    attention: float
    recurrent: float
    other: float


def operator_shares(
    model: RankingModel,
    schema: Schema,
    rows: int,
    *,
    rng: np.random.Generator,
    ids: Skew = "zipf",
    repeats: int = 5,
) -> OperatorShares:
    """Measure the shares of a model's time on one core, with torch's profiler.

    Drawn rows rotate, so that no table is warm from the call before. The profiler adds about a
    microsecond to each operator, which at one row flatters models of few operators. The model
    is put into evaluation mode.

    Args:
        model: of the zoo.
        schema: of the model.
        rows: candidates per call.
        rng: draws the rows.
        ids: skew of the ids; ``uniform`` is the worst case for caches.
        repeats: calls that are measured, after two that are not.

    Raises:
        UsageError: if there is nothing to measure.
    """
    if rows < 1 or repeats < 1:
        raise UsageError(f"shares need at least one row and one call, not {rows} and {repeats}")
    batches = [draw_features(schema, rows, rng, ids=ids) for _ in range(min(repeats, 4) + 2)]
    model.eval()
    with _one_thread(), _labels(model), torch.inference_mode():
        for batch in batches[-2:]:
            model(batch)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for i in range(repeats):
                model(batches[i % len(batches)])
    times: Counter[Kind] = Counter()
    for event in profiler.events() or ():
        if not event.name.startswith(_LABEL):
            times[_kind(event)] += event.self_cpu_time_total
    total = times.total()
    return OperatorShares(**{kind: times[kind] / total for kind in KINDS})


def _kind(event: FunctionEvent) -> Kind:
    """Tell what an operator belongs to: a lookup, else the module around it, else what it is."""
    names = []
    step: FunctionEvent | None = event
    while step is not None:
        names.append(step.name)
        step = step.cpu_parent
    known = {_OPERATORS[name] for name in names if name in _OPERATORS}
    if "embedding" in known:
        return "embedding"
    inside = [name.removeprefix(_LABEL) for name in names if name.startswith(_LABEL)]
    for kind in KINDS:
        if kind in inside:
            return kind
    return "dense" if known else "other"


@contextmanager
def _labels(model: nn.Module) -> Iterator[None]:
    """Mark what runs inside attention units and recurrent layers."""
    handles = []
    for module in model.modules():
        kind = next((kind for cls, kind in _MODULES if isinstance(module, cls)), None)
        if kind is not None:
            enter, leave = _marks(kind)
            handles += [
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _marks(kind: Kind) -> tuple[Callable[..., None], Callable[..., None]]:
    open_marks: list[Any] = []

    def enter(*_: object) -> None:
        open_marks.append(record_function(_LABEL + kind))
        open_marks[-1].__enter__()

    def leave(*_: object) -> None:
        open_marks.pop().__exit__(None, None, None)

    return enter, leave


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
