"""Programs drawn at random, what feeds them, and what plain NumPy makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.bundle import (
    Concat,
    Map,
    Product,
    Program,
    QueryDots,
    QueryProduct,
    Rest,
    Slice,
    Softmax,
    Step,
    Steps,
    Weave,
)

ACTIVATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
COMBINATIONS: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "subtract": lambda x, y: x - y,
    "subtract-from": lambda x, y: y - x,
}


def reference(program: Program, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The steps in float64, codes rounded as their words say."""
    widths = program.widths()
    values: dict[str, NDArray[Any]] = {
        name: feed[name][feed["row_to_query"]] if name.startswith("hidden.") else feed[name]
        for name in program.steps.inputs
    }
    for step in program.steps.steps:
        if isinstance(step, Concat):
            values[step.result] = np.concatenate([values[s] for s in step.sources], 1)
        elif isinstance(step, Slice):
            values[step.result] = values[step.source][:, step.start : step.stop]
        elif isinstance(step, Softmax):
            grown = np.exp(values[step.source] - values[step.source].max(1, keepdims=True))
            values[step.result] = grown / grown.sum(1, keepdims=True)
        elif isinstance(step, Rest):
            codes = np.rint(values[step.source].astype(np.float32) / step.codes.scale)
            codes = np.clip(codes + step.codes.zero, 0, 255) - step.codes.zero
            values[step.result] = values[step.source] - codes * step.codes.scale
        elif isinstance(step, Weave):
            values[step.result] = woven(program, step, values[step.source])
        elif isinstance(step, QueryDots):
            vectors = values[step.matrix].reshape(len(values[step.source]), -1, widths[step.source])
            values[step.result] = np.einsum("rpi,ri->rp", vectors, values[step.source])
        else:
            values[step.result] = transformed(program, step, values)
    return {name: values[value] for name, value in program.steps.outputs.items()}


def woven(program: Program, step: Weave, source: NDArray[Any]) -> NDArray[Any]:
    weight = program.tensors[step.weight].astype(np.float64)
    places = source.reshape(len(source), -1, len(weight))
    matrix = np.einsum("rpi,io->ripo", places, weight)
    if step.shift:
        matrix += program.tensors[step.shift][:, None]
    return np.asarray(matrix.reshape(len(source), -1))


def transformed(
    program: Program, step: Product | QueryProduct | Map, values: dict[str, NDArray[Any]]
) -> NDArray[Any]:
    x, pieces = values[step.source].astype(np.float64), 1
    if isinstance(step, QueryProduct):
        matrices = values[step.matrix].reshape(len(values[step.matrix]), x.shape[1], -1)
        x = np.einsum("ri,rio->ro", x, np.broadcast_to(matrices, (len(x), *matrices.shape[1:])))
    if isinstance(step, Product):
        weight = program.tensors[step.weight].astype(np.float64)
        if step.codes is not None:
            codes = np.rint(x.astype(np.float32) / step.codes.scale) + step.codes.zero
            x = (np.clip(codes, 0, 255) - step.codes.zero) * step.codes.scale
            weight = weight * program.tensors[f"{step.weight}.scale"]
        pieces = step.groups
        x = x.reshape(len(x), pieces, len(weight))
        if step.scaled_by:
            own = values[step.scaled_by][:, :, None] * weight
            x = x @ (own + (program.tensors[step.shift] if step.shift else 0))
        else:
            x = x @ weight
        x = x.reshape(len(x), weight.shape[1] * pieces)
    if step.bias:
        x = x + np.tile(program.tensors[step.bias], pieces)
    if step.other:
        other = values[step.other]
        repeats = pieces if 1 < other.shape[1] < x.shape[1] else 1
        x = COMBINATIONS[step.combine](x, np.tile(other, repeats))
    if step.activation == "prelu":
        return np.where(x > 0, x, x * np.tile(program.tensors[step.slope], pieces))
    return np.asarray(ACTIVATIONS[step.activation](x))


def feed_of(program: Program, rows: int, queries: int = 3) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rows)
    feed: dict[str, NDArray[Any]] = {
        name: rng.standard_normal((queries if name.startswith("hidden.") else rows, n), np.float32)
        for name, n in program.steps.inputs.items()
    }
    feed["row_to_query"] = rng.integers(0, queries, rows)
    return feed


class _Draft:
    """A program that grows by steps over values made before."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        width = st.integers(1, 150)
        self.inputs = {name: draw(width) for name in ("embedded", "hidden.0", "dense.a")}
        self.widths = dict(self.inputs)
        self.tensors: dict[str, NDArray[np.float32]] = {}
        self.steps: list[Step] = []

    def grow(self) -> None:
        kinds = (self.product, self.product, self.map, self.concat, self.slice, self.softmax)
        make = self.draw(st.sampled_from(kinds))
        result, source = f"v{len(self.steps)}", self.draw(st.sampled_from(sorted(self.widths)))
        step, self.widths[result] = make(result, source)
        self.steps.append(step)

    def tensor(self, *shape: int) -> str:
        name = f"t{len(self.tensors)}"
        made = self.rng.standard_normal(shape) / np.sqrt(shape[0] if len(shape) > 1 else 1)
        self.tensors[name] = made.astype(np.float32)
        return name

    def extras(self, columns: int, pieces: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = {"activation": self.draw(st.sampled_from([*ACTIVATIONS, "prelu"]))}
        if found["activation"] == "prelu":
            found["slope"] = self.tensor(columns)
        with_bias: bool = self.draw(st.booleans())
        if with_bias:
            found["bias"] = self.tensor(columns)
        others = [name for name, n in self.widths.items() if n in {columns * pieces, 1}]
        with_other: bool = self.draw(st.booleans())
        if others and with_other:
            found["other"] = self.draw(st.sampled_from(others))
            found["combine"] = self.draw(st.sampled_from(sorted(COMBINATIONS)))
        return found

    def product(self, result: str, source: str) -> tuple[Step, int]:
        width = self.widths[source]
        pieces = self.draw(st.sampled_from([n for n in range(1, 151) if width % n == 0][:4]))
        sizes = st.integers(1, max(1, 150 // pieces))
        columns = self.draw(st.one_of(sizes, st.just(1), st.just(self.inputs["hidden.0"])))
        weight = self.tensor(width // pieces, columns)
        extras = self.extras(columns, pieces)
        step = Product(result=result, source=source, weight=weight, groups=pieces, **extras)
        return step, columns * pieces

    def map(self, result: str, source: str) -> tuple[Step, int]:
        columns = self.widths[source]
        return Map(result=result, source=source, **self.extras(columns)), columns

    def concat(self, result: str, _source: str) -> tuple[Step, int]:
        names = st.sampled_from(sorted(self.widths))
        sources = tuple(self.draw(names) for _ in range(self.draw(st.integers(1, 3))))
        return Concat(result=result, sources=sources), sum(self.widths[s] for s in sources)

    def slice(self, result: str, source: str) -> tuple[Step, int]:
        start = self.draw(st.integers(0, self.widths[source] - 1))
        columns = self.draw(st.integers(1, self.widths[source] - start))
        return Slice(result=result, source=source, start=start, stop=start + columns), columns

    def softmax(self, result: str, source: str) -> tuple[Step, int]:
        return Softmax(result=result, source=source), self.widths[source]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Chains with side inputs, pieces, concatenations and slices of odd widths."""
    draft = _Draft(draw)
    for _ in range(draw(st.integers(1, 7))):
        draft.grow()
    last = f"v{len(draft.steps) - 1}"
    outputs = {"output": last, "second": draw(st.sampled_from(sorted(draft.widths)))}
    return Program(
        Steps(inputs=draft.inputs, outputs=outputs, steps=tuple(draft.steps)), draft.tensors
    )
