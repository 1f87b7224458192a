"""Finds embeddings in an ONNX graph by what they compute, whatever operations they are made of.

An exporter writes ``embedding_bag`` as a ``Loop``, as a masked ``Gather`` with a ``ReduceSum``, as
a product with counts. So no pattern is matched: all that depends on one feature's ids alone is
run in ONNX Runtime on drawn ids, and a value is a lookup if it equals one on all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headway.core import (
    Bag,
    CaptureError,
    IdFeature,
    Pooling,
    Ragged,
    Schema,
    Sparse,
    pad_sequence,
)
from headway.core import Sequence as SequenceFeature
from headway.graph.capture import PartKind
from headway.graph.onnx_import_file import OnnxFile
from headway.graph.onnx_import_inputs import Given

Array = NDArray[Any]
Form = Literal["row", "bag", "sequence", "masked", "mask", "unmask"]
_ROWS = 11
_LARGE = 1 << 16
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Found:
    """A value that can be had from a feature's columns.

    Attributes:
        form: ``row`` of a table; pooled ``bag``; ``sequence`` of rows; rows ``masked`` with 0;
            the ``mask`` itself, or its opposite.
        feature: whose ids they are.
        table: the constant that holds the rows; empty for masks.
        shape: of the value, -1 for its first axis.
        fill: id of the padding, where a row of the table stands for it; None where none does.
    """

    form: Form
    feature: IdFeature
    table: str
    shape: tuple[int, ...]
    fill: int | None = None


@dataclass(slots=True, eq=False)
class _Drawn:
    """Ids of one feature, and how the model's inputs hold them."""

    column: Ragged
    fill: int
    feed: dict[str, Array] = field(default_factory=dict)


class LookupFinder:
    """Knows a graph's constants and which inputs each value depends on."""

    def __init__(self, file: OnnxFile, schema: Schema) -> None:
        self._file = file
        self._schema = schema
        self._made_by = {name: node for node in file.graph.node for name in node.output}
        self.fills: dict[str, int] = {}

    def find(self, feature: IdFeature, given: Sequence[Given]) -> dict[str, Found]:
        """Return the values that are lookups of the feature or masks, by name.

        Args:
            feature: what to look for.
            given: its inputs, without the mask.

        Raises:
            CaptureError: if what the ids go into cannot be run.
        """
        nodes = self._own_nodes({g.name for g in given})
        failed: Exception | None = None
        best: dict[str, Found] = {}
        for fill in _fills(feature, given):
            drawn = self._draw(feature, given, fill)
            try:
                values = self._run(nodes, drawn.feed)
            except Exception as error:  # noqa: BLE001 - ONNX Runtime's have no parent class
                failed = error
                continue
            found = dict(self._matches(feature, nodes, values, drawn))
            if any(f.table for f in found.values()) and len(found) > len(best):
                best = found
                self.fills[feature.name] = fill
        if failed is not None and not best:
            raise CaptureError(
                f"what the ids of {feature.name!r} go into cannot be run in ONNX Runtime: "
                f"{str(failed).strip()[:300]}; check that the file runs there"
            )
        return best

    def _own_nodes(self, inputs: set[str]) -> list[onnx.NodeProto]:
        """Return in order the nodes that depend on these inputs and on no others."""
        others = {value.name for value in self._file.inputs} - inputs
        touched, mine = set(others), set(inputs)
        nodes = []
        for node in self._file.graph.node:
            reads = set(_reads(node))
            if reads & touched:
                touched.update(node.output)
            else:
                nodes.append(node)
                if reads & mine:
                    mine.update(node.output)
        needed: set[str] = set()
        kept = []
        for node in reversed(nodes):
            if set(node.output) & (mine | needed):
                needed.update(_reads(node))
                kept.append(node)
        return kept[::-1]

    def _draw(self, feature: IdFeature, given: Sequence[Given], fill: int) -> _Drawn:
        rng = np.random.default_rng(0)
        top = self._schema.table(feature.table).rows
        padded = any(part.kind is PartKind.IDS for part in given)
        least = 1 if fill == 0 and padded and top > 1 else 0  # id 0 would be taken for padding
        if isinstance(feature, Sparse):
            ids = rng.integers(0, top, _ROWS)
            ids[:2] = (0, top - 1)
            drawn = _Drawn(Ragged(ids, np.arange(_ROWS + 1)), fill)
        else:
            most = feature.max_length
            lengths = [0, most, 1, 1, *rng.integers(0, most + 1, _ROWS - 4)]
            rows = [rng.integers(least, top, n) for n in lengths]
            rows[2][:], rows[3][:] = least, top - 1
            drawn = _Drawn(Ragged.from_rows(rows), fill)
        for part in given:
            drawn.feed[part.name] = _as_given(part, drawn)
        return drawn

    def _run(self, nodes: list[onnx.NodeProto], feed: dict[str, Array]) -> dict[str, Array]:
        """Return every value that these nodes make, run on their own."""
        reads = {name for node in nodes for name in _reads(node)}
        constants = {n: a for n, a in self._file.constants.items() if n in reads}
        large = {n: a for n, a in constants.items() if a.nbytes > _LARGE}
        made = [name for node in nodes for name in node.output if name]
        graph = helper.make_graph(
            nodes,
            "lookups",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
                )
                for name, array in (feed | large).items()
            ],
            [onnx.ValueInfoProto(name=name) for name in made],
            [numpy_helper.from_array(a, n) for n, a in constants.items() if n not in large],
        )
        opset = helper.make_opsetid("", self._file.opset)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(made, feed | large) if made else []
        return {n: v for n, v in zip(made, values, strict=True) if isinstance(v, np.ndarray)}

    def _matches(
        self,
        feature: IdFeature,
        nodes: list[onnx.NodeProto],
        values: dict[str, Array],
        drawn: _Drawn,
    ) -> Iterator[tuple[str, Found]]:
        """Yield the values that are lookups or masks."""
        wanted = list(self._lookups(feature, drawn))
        for node in nodes:
            for name in node.output:
                value = values.get(name)
                if value is None or not value.ndim or len(value) != _ROWS:
                    continue
                for found, expected in wanted:
                    if found.table and found.table not in self._sources(name):
                        continue
                    if _equal(value, expected):
                        shape = (-1, *value.shape[1:])
                        fill = found.fill
                        yield name, Found(found.form, feature, found.table, shape, fill)
                        break

    def _lookups(self, feature: IdFeature, drawn: _Drawn) -> Iterator[tuple[Found, Array]]:
        """Yield what the feature can become, with its value on the drawn ids."""
        declared = self._schema.table(feature.table)
        column, fill = drawn.column, drawn.fill
        ids, mask = column.values, np.zeros((0, 0), np.float32)
        if isinstance(feature, SequenceFeature):
            ids, mask = pad_sequence(column, feature.max_length)
        for name, table in self._file.constants.items():
            if table.shape != (declared.rows, declared.dim) or table.dtype.kind != "f":
                continue
            if isinstance(feature, Bag):
                yield Found("bag", feature, name, ()), _pooled(table, column, feature.pooling)
            elif isinstance(feature, SequenceFeature):
                rows = table[ids]
                yield Found("masked", feature, name, ()), rows * mask[..., None]
                yield (
                    Found("sequence", feature, name, (), fill or None),
                    np.where(mask[..., None] > 0, rows, table[fill]),
                )
            else:
                yield Found("row", feature, name, ()), table[column.values]
        if isinstance(feature, SequenceFeature):
            yield Found("mask", feature, "", ()), mask
            yield Found("unmask", feature, "", ()), 1 - mask

    def _sources(self, name: str) -> set[str]:
        """Return the constants that a value is made of."""
        found: set[str] = set()
        seen, waiting = set(), [name]
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in self._file.constants:
                found.add(value)
            elif value in self._made_by:
                waiting += _reads(self._made_by[value])
        return found


def _fills(feature: IdFeature, given: Sequence[Given]) -> tuple[int, ...]:
    """Return what the model may have its rows filled up with; 0 is what the engine uses."""
    padded = any(part.kind is PartKind.IDS for part in given)
    return (0, -1) if padded and not isinstance(feature, Sparse) else (0,)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """Return the values that a node reads, those of its inner graphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            for inner in graph.node:
                names += [name for name in _reads(inner) if name not in own]
                own.update(inner.output)
            names += [v.name for v in graph.output if v.name not in own]
    return names


def _as_given(part: Given, drawn: _Drawn) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(part.type)
    column = drawn.column
    if part.kind is PartKind.VALUES:
        return column.values.astype(dtype)
    if part.kind is PartKind.OFFSETS:
        return column.offsets.astype(dtype)
    if isinstance(part.feature, Bag | SequenceFeature):
        width = part.shape[1] or part.feature.max_length
        return column.padded(width, drawn.fill).astype(dtype)
    return column.values.astype(dtype).reshape((_ROWS, *[1] * (len(part.shape) - 1)))


def _pooled(table: Array, column: Ragged, pooling: Pooling) -> Array:
    out = np.zeros((len(column), table.shape[1]), np.float64)
    for row in range(len(column)):
        vectors = table[column.slice(row, row + 1).values].astype(np.float64)
        if len(vectors):
            out[row] = vectors.mean(axis=0) if pooling is Pooling.MEAN else vectors.sum(axis=0)
    return out


def _equal(value: Array, expected: Array) -> bool:
    """Tell whether two values are the same but for axes of length 1 and rounding."""
    shape = [n for n in value.shape if n != 1]
    if shape != [n for n in expected.shape if n != 1]:
        return False
    found, wanted = value.reshape(-1).astype(np.float64), expected.reshape(-1).astype(np.float64)
    scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
    return bool((np.abs(found - wanted) <= _TOLERANCE * scale).all())
