"""Reads an ONNX file without trusting it: sizes, versions and paths are checked before use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper

from headway.core import CaptureError

OLDEST_OPSET = 17
MAX_FILE_BYTES = 2 << 30
MAX_TENSOR_BYTES = 256 << 30
MAX_NODES = 100_000
_OWN_DOMAINS = {"", "ai.onnx"}
_HALF = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_OTHER_FLOATS = _HALF | {onnx.TensorProto.DOUBLE}
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class OnnxFile:
    """What a file says, with its tensors taken out of the graph.

    Attributes:
        graph: functions inlined; constants stand in ``constants`` alone.
        constants: initializers and ``Constant`` nodes by name.
        inputs: what the caller must give.
        opset: version of the standard operations.
        half: whether weights are of 16 bits in the file, so that its own outputs are rounded.
    """

    graph: onnx.GraphProto
    constants: Mapping[str, Array]
    inputs: tuple[onnx.ValueInfoProto, ...]
    opset: int
    half: bool


def read_onnx(path: str | Path) -> OnnxFile:
    """Read a model with its external data, which must lie beside it or below.

    Raises:
        CaptureError: naming what is off: a missing or damaged file, another opset, external data
            that is missing, too short or elsewhere, or a graph that is not valid.
    """
    file = Path(path)
    model = _parse(file)
    opset = _opset(model, file)
    if len(model.graph.node) > MAX_NODES:
        raise CaptureError(f"{file} has {len(model.graph.node)} nodes; the limit is {MAX_NODES}")
    if model.graph.sparse_initializer:
        raise CaptureError(f"{file} holds sparse initializers; store them as plain tensors")
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        _refuse_inner_files(node, file)
    half = any(t.data_type in _HALF for t in model.graph.initializer)
    constants = dict(_initializers(model.graph, file))
    given = [v for v in model.graph.input if v.name not in constants]
    _take_out(model, constants, given)
    try:
        onnx.checker.check_model(model)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except Exception as error:  # its errors have no parent of their own
        raise CaptureError(f"{file} is not valid ONNX: {_first_line(error)}") from error
    constants |= _constant_nodes(model.graph, file)
    return OnnxFile(model.graph, constants, tuple(given), opset, half)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as plain values and arrays."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {
        name: numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
        for name, value in given.items()
    }


def _parse(file: Path) -> onnx.ModelProto:
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise CaptureError(f"{file} is not a file; give the .onnx file itself")
        if size > MAX_FILE_BYTES:
            raise CaptureError(
                f"{file} has {size} bytes, the limit of the format is {MAX_FILE_BYTES}; store the "
                "tensors as external data"
            )
        model = onnx.ModelProto()
        model.ParseFromString(file.read_bytes())
    except OSError as error:
        raise CaptureError(f"cannot read {file}: {error.strerror or error}") from error
    except (DecodeError, ValueError) as error:
        raise CaptureError(f"{file} is damaged or no ONNX model; export it again") from error
    if not model.graph.node:
        raise CaptureError(f"{file} holds no graph, so it is damaged or no ONNX model")
    return model


def _opset(model: onnx.ModelProto, file: Path) -> int:
    versions = [o.version for o in model.opset_import if o.domain in _OWN_DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if not versions or not OLDEST_OPSET <= versions[0] <= newest:
        found = f"opset {versions[0]}" if versions else "no opset"
        raise CaptureError(
            f"{file} has {found}; read are {OLDEST_OPSET} to {newest}, so export it with "
            f"opset_version={OLDEST_OPSET} or later"
        )
    return int(versions[0])


def _refuse_inner_files(node: onnx.NodeProto, file: Path) -> None:
    """Let only the model's own tensors lie in other files; who runs inner ones checks no paths."""
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        tensors = [attribute.t] if attribute.HasField("t") else list(attribute.tensors)
        sparse = [attribute.sparse_tensor, *attribute.sparse_tensors]
        sparse += [s for graph in graphs for s in graph.sparse_initializer]
        tensors += [t for s in sparse for t in (s.values, s.indices)]
        tensors += [t for graph in graphs for t in graph.initializer]
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
            raise CaptureError(
                f"the node {node.name or node.op_type!r} of {file} holds a tensor that lies in "
                "another file; only initializers of the model itself may, export it so"
            )
        for graph in graphs:
            for inner in graph.node:
                _refuse_inner_files(inner, file)


def _initializers(graph: onnx.GraphProto, file: Path) -> Iterator[tuple[str, Array]]:
    left = MAX_TENSOR_BYTES
    for tensor in graph.initializer:
        array = _array(tensor, file)
        left -= array.nbytes
        if left < 0:
            raise CaptureError(f"the tensors of {file} are over {MAX_TENSOR_BYTES} bytes together")
        yield tensor.name, array


def _array(tensor: onnx.TensorProto, file: Path) -> Array:
    try:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        array: Array = _external(tensor, file) if external else numpy_helper.to_array(tensor)
        # Of one width throughout, as the towers will be.
        return array.astype(np.float32) if tensor.data_type in _OTHER_FLOATS else array
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise CaptureError(
            f"the tensor {tensor.name!r} of {file} is damaged: {_first_line(error)}"
        ) from error


def _external(tensor: onnx.TensorProto, file: Path) -> Array:
    """Return a tensor that lies in another file, which may not be outside the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    place = entries.get("location", "")
    target = _beside(file, place, tensor.name)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    count, start = prod(tensor.dims), int(entries.get("offset", 0))
    length = int(entries.get("length", count * dtype.itemsize))
    if min(tensor.dims, default=0) < 0 or start < 0 or length != count * dtype.itemsize:
        raise CaptureError(
            f"the tensor {tensor.name!r} says {length} bytes at {start} of {place!r}, its shape "
            f"{list(tensor.dims)} needs {count * dtype.itemsize}; export the model again"
        )
    size = target.stat().st_size
    if start + length > size:
        raise CaptureError(
            f"the external data {place!r} has {size} bytes, the tensor {tensor.name!r} ends at "
            f"{start + length}; it was cut off, copy it again"
        )
    values: Array = np.fromfile(target, np.uint8, length, offset=start)
    return values.view(dtype).reshape(tuple(tensor.dims))


def _beside(file: Path, place: str, name: str) -> Path:
    """Return the file of external data, refusing to leave the model's folder, links included."""
    parts = PurePosixPath(place.replace("\\", "/"))
    named = f"the tensor {name!r} lies in {place!r}"
    outside = parts.is_absolute() or ".." in parts.parts or ":" in place or "\0" in place
    if not place or outside:
        raise CaptureError(
            f"{named}, which is not beside the model; external data must lie in its folder"
        )
    target = file.parent / parts
    if not target.is_file():
        raise CaptureError(f"{named}, which is not there; put that file beside {file}")
    if not target.resolve().is_relative_to(file.parent.resolve()):
        raise CaptureError(f"{named}, a link that leads out of the model's folder; copy the file")
    return target


def _take_out(
    model: onnx.ModelProto, constants: Mapping[str, Array], given: list[onnx.ValueInfoProto]
) -> None:
    """Leave of the initializers only what they are called and what type they have."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    infos = [
        helper.make_tensor_value_info(name, types[name], array.shape)
        for name, array in constants.items()
    ]
    del model.graph.initializer[:]
    del model.graph.value_info[:]
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in given]
    del model.graph.input[:]
    model.graph.input.extend([*kept, *infos])


def _constant_nodes(graph: onnx.GraphProto, file: Path) -> dict[str, Array]:
    """Take the ``Constant`` nodes out of the graph."""
    found: dict[str, Array] = {}
    rest = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in _OWN_DOMAINS:
            rest.append(node)
            continue
        value = helper.get_attribute_value(node.attribute[0])
        if isinstance(value, onnx.TensorProto):
            found[node.output[0]] = _array(value, file)
        else:
            dtype = np.float32 if node.attribute[0].name.startswith("value_float") else np.int64
            found[node.output[0]] = np.array(value, dtype)
    del graph.node[:]
    graph.node.extend(rest)
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
