"""Which values activations take: seen while a float32 model scores rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.compress.quantize import Range, activations, fit_range, with_outputs
from headway.compress.rows import score_dataset
from headway.core import Scope
from headway.data import Dataset
from headway.engine import CompiledModel, DenseCall, OnnxEngine

_KEPT_VALUES = 1 << 18
_KEPT_ROWS, _KEPT_RUNS = 2048, 16
Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was seen of a float32 model.

    Attributes:
        ranges: of the activations that ``quantize_dense`` wants, by scope and name.
        samples: some of what its towers were fed, by scope.
    """

    ranges: Mapping[Scope, Mapping[str, Range]]
    samples: Mapping[Scope, tuple[Feed, ...]]


def calibrate(model: CompiledModel, graphs: Mapping[Scope, bytes], rows: Dataset) -> Calibration:
    """Return what activations the rows lead to, and what the towers are fed then.

    Args:
        model: in float32; consumed, its towers are put under watch.
        graphs: ONNX bytes of its towers by scope.
        rows: what is scored to see the activations.
    """
    watched: dict[Scope, _Watch] = {}
    for scope, (layout, _) in list(model.towers.items()):
        names = activations(graphs[scope])
        watched[scope] = _Watch(graphs[scope], names)
        model.towers[scope] = (layout, watched[scope])
    score_dataset(model.runner(), rows)
    return Calibration(
        {scope: watch.ranges() for scope, watch in watched.items()},
        {scope: tuple(watch.samples) for scope, watch in watched.items()},
    )


class _Watch:
    """Stands in for a tower's engine and keeps a sample of the values on the way."""

    def __init__(self, graph: bytes, names: tuple[str, ...]) -> None:
        engine = OnnxEngine(with_outputs(graph, names))
        self._call = engine.caller()
        self.inputs, self.outputs = engine.inputs, engine.outputs
        made = set(self.outputs)
        self._names = {name: name if name in made else f"seen.{name}" for name in names}
        self._kept: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        self._rng = np.random.default_rng(0)
        self.samples: list[Feed] = []

    def caller(self) -> DenseCall:
        """Return what runs the graph."""
        return self._run

    def _run(self, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[NDArray[np.float32]]:
        kept = sum(max(map(len, sample.values())) for sample in self.samples)
        if kept < _KEPT_ROWS and len(self.samples) < _KEPT_RUNS:
            self.samples.append({name: np.array(values) for name, values in feed.items()})
        found = self._call([*outputs, *self._names.values()], feed)
        for name, values in zip(self._names, found[len(outputs) :], strict=True):
            self._kept[name].append(self._some(values.reshape(-1)))
        return found[: len(outputs)]

    def ranges(self) -> dict[str, Range]:
        """Return the range of each watched activation."""
        return {
            name: fit_range(self._some(np.concatenate(kept))) for name, kept in self._kept.items()
        }

    def _some(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return at most so many values; the largest and smallest are always among them."""
        if len(values) <= _KEPT_VALUES:
            return values
        ends = values[[values.argmin(), values.argmax()]]
        drawn = values[self._rng.integers(len(values), size=_KEPT_VALUES)]
        return np.concatenate([ends, drawn])
