"""A module and a schema become one plain graph over named features."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind

from headway.core import (
    Bag,
    CaptureError,
    Columns,
    Dense,
    Feature,
    Schema,
    Scope,
    Sparse,
    model_inputs,
    take_rows,
)
from headway.graph.functional import plain
from headway.graph.golden import example_columns
from headway.graph.nodes import CASTS, NOISE, RESHAPES, where
from headway.graph.recurrent import whole_recurrences
from headway.graph.simplify import simplify

EXACT_IN_FLOAT32 = 2**24
_TORCH = str(Path(torch.__file__).parent)


class PartKind(StrEnum):
    """Which tensor of a feature an input is."""

    DENSE = "dense"
    IDS = "ids"
    VALUES = "values"
    OFFSETS = "offsets"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class Part:
    """One input tensor of the captured graph."""

    feature: Feature
    kind: PartKind

    @property
    def scope(self) -> Scope:
        """The scope of the feature it belongs to."""
        return self.feature.scope


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A model as a graph of row-wise operations.

    Attributes:
        module: takes one tensor per entry of ``inputs``, in order; gives ``[rows, tasks]``.
        inputs: placeholder name to what it holds.
        names: constant's attribute in ``module`` to the parameter's name in the model.
        schema: what the model was captured with.
        warnings: what the caller should know, as sentences.
    """

    module: fx.GraphModule
    inputs: dict[str, Part]
    names: dict[str, str]
    schema: Schema
    warnings: tuple[str, ...]


def capture(model: nn.Module, schema: Schema) -> Captured:
    """Return the model's evaluation-mode graph in few forms, with any number of rows.

    The model is called once or twice on drawn rows and left as it was. Parameters are shared
    with it, not copied.

    Args:
        model: ``forward(features)`` as made by ``core.model_inputs``, giving raw outputs
            float32 ``[rows, tasks]``.
        schema: the features, tables and tasks of the model.

    Raises:
        CaptureError: naming the place and the remedy, if the model cannot be captured, gives
            another shape, or lets the score of one row depend on other rows.
    """
    traced = trace(model, schema)
    simplify(traced.module)
    placeholders = traced.module.graph.find_nodes(op="placeholder")
    used = {traced.inputs[node.name].feature.name for node in placeholders if node.users}
    ignored = [
        f"feature {f.name!r} is not used by the model; its values change nothing"
        for f in schema.features
        if f.name not in used
    ]
    return replace(traced, warnings=(*ignored, *traced.warnings))


def trace(model: nn.Module, schema: Schema) -> Captured:
    """Return the model's graph as it was written, every parameter a constant of its own.

    Nothing is folded, so each constant is one tensor of the model; see ``capture``.

    Raises:
        CaptureError: as ``capture``.
    """
    parts = [Part(f, kind) for f in schema.features for kind in _kinds(f)]
    columns = example_columns(schema, np.random.default_rng(0))
    flat = _Flat(model, parts)
    with _evaluation(model):
        output = _call(flat, _tensors(columns, schema, _dtype(model)), "running")
        _check_output(output, schema)
        _check_rows_apart(flat, columns, schema, output)
        program = _export(flat, _tensors(columns, schema, _dtype(model)), parts)
    module, inputs, names = _plain_module(program, parts)
    return Captured(module, inputs, names, schema, tuple(_rounded_ids(module, inputs, schema)))


class _Flat(nn.Module):
    """Gives the features as separate tensors, so that their order is ours."""

    def __init__(self, model: nn.Module, parts: list[Part]) -> None:
        super().__init__()
        self.model = model
        self._parts = parts

    def forward(self, *tensors: Tensor) -> Any:
        """Call the model with the features as it knows them."""
        features: dict[str, Any] = {}
        for part, tensor in zip(self._parts, tensors, strict=True):
            name = part.feature.name
            features[name] = (features[name], tensor) if name in features else tensor
        return self.model(features)


def _kinds(feature: Feature) -> tuple[PartKind, ...]:
    if isinstance(feature, Dense):
        return (PartKind.DENSE,)
    if isinstance(feature, Sparse):
        return (PartKind.IDS,)
    if isinstance(feature, Bag):
        return (PartKind.VALUES, PartKind.OFFSETS)
    return (PartKind.IDS, PartKind.MASK)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _tensors(columns: Columns, schema: Schema, dtype: torch.dtype) -> list[Tensor]:
    tensors: list[Tensor] = []
    for value in model_inputs(columns, schema).values():
        for array in value if isinstance(value, tuple) else (value,):
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return tensors


def _check_output(output: object, schema: Schema) -> None:
    wanted = f"one float tensor [rows, {len(schema.tasks)}], a column per task of the schema"
    if not isinstance(output, Tensor):
        raise CaptureError(f"the model returns a {type(output).__name__}; return {wanted}")
    if output.dim() != 2 or output.shape != (7, len(schema.tasks)):
        raise CaptureError(
            f"the model returns the shape {list(output.shape)} for 7 rows; return {wanted}"
        )
    if not output.is_floating_point():
        raise CaptureError(f"the model returns {output.dtype}; return {wanted}")
    if not output.isfinite().all():
        raise CaptureError(
            "the model returns NaN or infinity for drawn features, some with empty bags and "
            "histories; guard divisions and softmax against rows that hold nothing"
        )


def _check_rows_apart(flat: _Flat, columns: Columns, schema: Schema, output: Tensor) -> None:
    rows = np.array([5, 0, 3])
    tensors = _tensors(take_rows(columns, rows), schema, output.dtype)
    again = _call(flat, tensors, "running")
    # Rounding grows with the values, a true dependence shows beside their spread.
    tolerance = 1e-3 * float(output.std()) + 1e-5 * float(output.abs().max()) + 1e-9
    if not (torch.abs(again - output[rows]) <= tolerance).all():
        raise CaptureError(
            "the score of a row changes with the other rows of its batch, so candidates cannot "
            "be split or batched; make every operation act on each row alone (no sum, softmax "
            "or norm over the rows, no randomness in evaluation mode)"
        )


def _call(flat: _Flat, tensors: list[Tensor], doing: str) -> Any:
    try:
        return flat(*tensors)
    except Exception as error:
        raise _explained(error, flat, doing) from error


def _export(flat: _Flat, tensors: list[Tensor], parts: list[Part]) -> ExportedProgram:
    rows = Dim("rows", min=2)
    dims: list[dict[int, Any]] = []
    for part in parts:
        if part.kind is PartKind.VALUES:
            dims.append({0: Dim(f"total_{part.feature.name}", min=2)})
        else:
            dims.append({0: rows + 1 if part.kind is PartKind.OFFSETS else rows})
    try:
        with whole_recurrences(flat.model):
            program = export(flat, tuple(tensors), dynamic_shapes=(tuple(dims),))
        if plain(program.graph):
            return program
        # Makes it functional: in-place operations are gone, linear and embedding stay whole.
        return cast("ExportedProgram", program.run_decompositions({}))
    except Exception as error:
        raise _explained(error, flat, "capturing") from error


def _explained(error: Exception, flat: _Flat, doing: str) -> CaptureError:
    """Return an error that names the user's line, found by leaving out torch's own frames."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith((_TORCH, "<")) or file == __file__:
            continue
        owner = frame.f_locals.get("self")
        names = [n for n, m in flat.model.named_modules() if m is owner]
        module = f" in module {names[0] or 'the model itself'!r}" if names else ""
        place = f" at {file}:{line}{module}"
    remedy = "keep to tensor operations of static rank whose results do not steer Python"
    if "DataDependent" in type(error).__name__:
        remedy = "replace the branch on a tensor's value by torch.where or by a mask"
    elif isinstance(error, KeyError):
        remedy = "use the features of the schema by their names, or add the feature to the schema"
    elif "onstraint" in str(error) or "specialized" in str(error):
        remedy = "do not fix the number of rows; use -1 or x.shape[0] where rows are meant"
    # What follows is advice on torch itself.
    text = str(error).strip().split("\n\n")[0]
    return CaptureError(
        f"{doing} the model failed{place}: {type(error).__name__}: {text}; {remedy}"
    )


def _plain_module(
    program: ExportedProgram, parts: list[Part]
) -> tuple[fx.GraphModule, dict[str, Part], dict[str, str]]:
    """Turn lifted parameters back into attributes and keep only the one output."""
    root = nn.Module()
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    inputs: dict[str, Part] = {}
    names: dict[str, str] = {}
    waiting = iter(parts)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op == "placeholder" and specs[node.name].kind is InputKind.USER_INPUT:
            values[node] = graph.node_copy(node)
            inputs[values[node].name] = next(waiting)
        elif node.op == "placeholder":
            target = str(specs[node.name].target)
            attribute = f"constant_{len(names)}"
            names[attribute] = target.removeprefix("model.")
            root.register_buffer(attribute, _constant(program, target))
            values[node] = graph.get_attr(attribute)
            values[node].meta = dict(node.meta)
        elif node.op == "output":
            graph.output(values[_only_output(program, node)])
        else:
            values[node] = graph.node_copy(node, lambda n: values[n])
    return fx.GraphModule(root, graph), inputs, names


def _rounded_ids(module: fx.GraphModule, inputs: dict[str, Part], schema: Schema) -> list[str]:
    """Name the features whose larger ids the model itself takes for others.

    It packs them with numbers; here they stay ids, so scores are those of the right rows.
    """
    found = []
    for node in module.graph.find_nodes(op="placeholder"):
        feature = inputs[node.name].feature
        if isinstance(feature, Dense) or schema.table(feature.table).rows <= EXACT_IN_FLOAT32:
            continue
        waiting = list(node.users)
        while waiting:
            user = waiting.pop()
            if user.target in (*RESHAPES, *NOISE):
                waiting += user.users
            elif user.target in CASTS and user.meta["val"].dtype is torch.float32:
                found.append(
                    f"feature {feature.name!r} passes through float32, where the model takes ids "
                    f"beyond {EXACT_IN_FLOAT32:,} for others; here they are looked up as they are"
                )
                break
    return found


def _constant(program: ExportedProgram, target: str) -> Tensor:
    value = program.state_dict.get(target, program.constants.get(target))
    if not isinstance(value, Tensor):
        raise CaptureError(f"the model holds {target!r}, which is not a tensor; make it a buffer")
    return value.detach()


def _only_output(program: ExportedProgram, output: fx.Node) -> fx.Node:
    results = output.args[0]
    if not isinstance(results, tuple | list):
        raise CaptureError("the model returns no tensor; return one float tensor [rows, tasks]")
    found: fx.Node | None = None
    for spec, value in zip(program.graph_signature.output_specs, results, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT and isinstance(value, fx.Node):
            found = value
        elif spec.kind is not OutputKind.USER_OUTPUT:
            changed = str(spec.target).removeprefix("model.")
            at = where(value) if isinstance(value, fx.Node) else ""
            raise CaptureError(
                f"the model changes {changed!r} while scoring{at}; "
                "keep buffers and inputs untouched in evaluation mode"
            )
    if found is None:
        raise CaptureError("the model returns no tensor; return one float tensor [rows, tasks]")
    return found
