"""A torch module that runs the nodes of an ONNX graph, its embeddings as torch knows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from headway.core import Bag, CaptureError, Pooling, Schema
from headway.core import Sequence as SequenceFeature
from headway.graph.capture import PartKind
from headway.graph.onnx_import_file import OnnxFile, attributes
from headway.graph.onnx_import_inputs import Given
from headway.graph.onnx_import_lookups import Found
from headway.graph.onnx_import_ops import LINEAR, TENSOR_OPS, RawShape, Step, Value
from headway.graph.onnx_import_shapes import MOVING_OPS, on_sizes

_OPS = TENSOR_OPS | MOVING_OPS
_ONLY_ON_SIZES = {"Mod", "ReduceProd"}
_MOST_SIZES = 64
_RAW = {PartKind.IDS, PartKind.VALUES, PartKind.OFFSETS}
_SHAPES = {"Shape", "Size"}
_PASSING = {"Cast", "Identity"}


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is run to get the outputs.

    Attributes:
        steps: in order.
        found: what is had from features instead of being computed, by name.
        given: inputs.
        outputs: names, one per task or one for all.
    """

    steps: tuple[Step, ...]
    found: Mapping[str, Found]
    given: tuple[Given, ...]
    outputs: tuple[str, ...]


def plan_steps(
    file: OnnxFile, found: Mapping[str, Found], given: Sequence[Given], outputs: Sequence[str]
) -> Plan:
    """Return the nodes that the outputs need, lookups left out.

    Raises:
        CaptureError: naming the node that is not read, or that takes ids other than for a lookup.
    """
    raw = {g.name: g for g in given if g.kind in _RAW}
    made_by = {name: node for node in file.graph.node for name in node.output}
    needed, steps = set(outputs), []
    for node in reversed(file.graph.node):
        if not (set(node.output) & needed) or all(n in found for n in node.output if n in needed):
            continue
        step = _step(node, made_by, raw)
        needed.update(name for name in step.inputs if name and name not in found)
        steps.append(step)
    steps.reverse()
    read = {name for step in steps for name in step.inputs} | set(outputs)
    kept = {name: f for name, f in found.items() if name in read}
    return Plan(tuple(_joined(steps, file)), kept, tuple(given), tuple(outputs))


class OnnxModule(nn.Module):
    """Runs a plan on features as ``core.model_inputs`` makes them; its constants are parameters."""

    def __init__(self, plan: Plan, constants: Mapping[str, NDArray[Any]], schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self._plan = plan
        self._buffer_of: dict[str, str] = {}
        self._plain: dict[str, Value] = {"": None}
        # Modules of their own, so that what is said of an operation names its node.
        self.nodes = nn.ModuleDict(
            {f"{step.name.replace('.', '_')}_{i}": _Node(step) for i, step in enumerate(plan.steps)}
        )
        read = {name for step in plan.steps for name in step.inputs} | set(plan.outputs)
        read |= {f.table for f in plan.found.values() if f.table}
        for name, value in constants.items():
            if name in read:
                self._keep(name, value)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return raw outputs, float ``[rows, tasks]``."""
        values = dict(self._plain)
        values |= {name: getattr(self, own) for name, own in self._buffer_of.items()}
        for given in self._plan.given:
            values[given.name] = _input(given, features[given.feature.name])
        for name, found in self._plan.found.items():
            table = values.get(found.table)
            values[name] = _look_up(found, features[found.feature.name], table)
        for step, node in zip(self._plan.steps, self.nodes.values(), strict=True):
            results = node(*[values[name] for name in step.inputs])
            values |= dict(zip(step.outputs, results, strict=False))
        tasks = len(self.schema.tasks)
        columns = [values[name] for name in self._plan.outputs]
        if len(columns) == 1:
            return cast("Tensor", columns[0]).reshape(-1, tasks)
        return torch.cat([column.reshape(-1, 1) for column in columns], dim=1)

    def _keep(self, name: str, value: NDArray[Any]) -> None:
        kind, small = value.dtype.kind, value.ndim <= 1 and value.size <= _MOST_SIZES
        if kind in "iu" and small:
            self._plain[name] = value.tolist()
        elif kind == "f" and value.ndim == 0:
            self._plain[name] = float(value)
        else:
            if kind not in "fiub":
                raise CaptureError(f"the constant {name!r} is {value.dtype}, which is not read")
            own = f"constant_{len(self._buffer_of)}"
            self._buffer_of[name] = own
            self.register_buffer(own, torch.from_numpy(np.ascontiguousarray(value).copy()))


class _Node(nn.Module):
    """One node; gives a tuple of its results."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    def forward(self, *inputs: Value) -> tuple[Value, ...]:
        """Run the node.

        Raises:
            CaptureError: naming it, if it cannot run on these inputs.
        """
        step, result = self._step, None
        try:
            if not any(isinstance(value, Tensor | RawShape | float) for value in inputs):
                result = on_sizes(step, inputs)
            if result is None:
                result = _OPS[step.op](step, inputs)
        except CaptureError as error:
            raise CaptureError(f"the node {step.name!r} ({step.op}): {error}") from error
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            shapes = [list(v.shape) if hasattr(v, "shape") else v for v in inputs]
            raise CaptureError(
                f"the node {step.name!r} ({step.op}) cannot run on {shapes}: {error}"
            ) from error
        return result if isinstance(result, tuple) else (result,)


def _step(
    node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], raw: Mapping[str, Given]
) -> Step:
    name = node.name or (node.output[0] if node.output else "")
    if node.domain not in {"", "ai.onnx"} or (
        node.op_type not in _OPS and node.op_type not in _ONLY_ON_SIZES
    ):
        full = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise CaptureError(
            f"the node {name!r} has the operation {full!r}, which is not read; write the model "
            f"with others of ONNX ({', '.join(sorted(_OPS))}) or give the torch module instead"
        )
    inputs = tuple(node.input)
    if node.op_type in _SHAPES:
        inputs = (_source(inputs[0], made_by),)
    for used in inputs:
        if used in raw and node.op_type not in _SHAPES:
            raise CaptureError(_misused(raw[used], name, node.op_type))
    return Step(node.op_type, name, inputs, tuple(node.output), attributes(node))


def _source(name: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    """Return what a value of the same shape was made of."""
    while name in made_by and made_by[name].op_type in _PASSING:
        name = made_by[name].input[0]
    return name


def _misused(given: Given, node: str, op: str) -> str:
    feature = given.feature
    start = f"the ids of {feature.name!r} go into the node {node!r} ({op}), and no value made of "
    if isinstance(feature, Bag):
        return (
            f"{start}them alone is the {feature.pooling.value} of rows of its table "
            f"{feature.table!r}; pool them so (an empty bag gives zeros), check the schema's "
            "pooling, and fill padded ids up with -1 or 0"
        )
    name = getattr(feature, "table", "")
    return (
        f"{start}them alone is a row of its table {name!r}; look ids up as they come in, in one "
        "constant of the table's shape [rows, dim], and compute ids in the transforms"
    )


def _joined(steps: list[Step], file: OnnxFile) -> list[Step]:
    """Write a product with a constant matrix and the constant added to it as one linear step."""
    uses = Counter(name for step in steps for name in step.inputs)
    uses.update(value.name for value in file.graph.output)
    products = {step.outputs[0]: step for step in steps if _is_linear(step, file)}
    out: list[Step] = []
    dropped: set[str] = set()
    for step in steps:
        source = next((n for n in step.inputs if n in products and uses[n] == 1), None)
        bias = next((n for n in step.inputs if n in file.constants), None)
        if step.op == "Add" and source and bias:
            product = products[source]
            wide = file.constants[product.inputs[1]].shape[1]
            if file.constants[bias].shape[-1:] == (wide,) == (file.constants[bias].size,):
                dropped.add(source)
                inputs = (product.inputs[0], product.inputs[1], bias)
                out.append(replace(step, op=LINEAR, inputs=inputs))
                continue
        out.append(step)
    return [s for s in out if s.outputs[0] not in dropped]


def _is_linear(step: Step, file: OnnxFile) -> bool:
    if step.op != "MatMul" or step.inputs[1] not in file.constants:
        return False
    return file.constants[step.inputs[1]].ndim == 2


def _input(given: Given, value: Any) -> Value:
    feature = given.feature
    if given.kind is PartKind.DENSE:
        return value.reshape(-1) if len(given.shape) == 1 else value
    if given.kind is PartKind.MASK:
        return value[1]
    if isinstance(feature, Bag):
        values, offsets = value
        if given.kind is PartKind.IDS:
            return RawShape((offsets.shape[0] - 1, given.shape[1] or feature.max_length))
        return RawShape(tuple((values if given.kind is PartKind.VALUES else offsets).shape))
    ids = value[0] if isinstance(value, tuple) else value
    return RawShape((*ids.shape, *[1] * (len(given.shape) - ids.dim())))


def _look_up(found: Found, value: Any, table: Tensor | None) -> Tensor:
    """Return a value that is had from a feature's ids, or from its mask."""
    rows = _mask(found, value[1]) if table is None else _rows(found, value, table)
    return rows.reshape(found.shape)


def _mask(found: Found, mask: Tensor) -> Tensor:
    return mask if found.form == "mask" else 1 - mask


def _rows(found: Found, value: Any, table: Tensor) -> Tensor:
    feature = found.feature
    if isinstance(feature, Bag):
        mode = "mean" if feature.pooling is Pooling.MEAN else "sum"
        vectors: Tensor = functional.embedding_bag(
            value[0], table, value[1], mode=mode, include_last_offset=True
        )
        return vectors
    if not isinstance(feature, SequenceFeature):
        return functional.embedding(value, table)
    ids, mask = value
    rows = functional.embedding(ids, table)
    if found.form == "masked":
        masked: Tensor = rows * mask.unsqueeze(-1)
        return masked
    if found.fill is None:
        return rows
    return torch.where(mask.unsqueeze(-1) > 0, rows, table[found.fill])
