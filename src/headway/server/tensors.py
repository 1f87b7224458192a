"""The Open Inference Protocol's infer call: bytes to a query, scores to bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import (
    Column,
    Dense,
    Feature,
    Ns,
    Query,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sparse,
    TooLargeError,
    from_seconds,
)
from headway.server.settings import ServerSettings

PAD = -1
"""Fills up rows of bags and sequences; dropped wherever it stands."""
OUTPUT = "scores"

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]


class _TensorParameters(msgspec.Struct, frozen=True, gc=False):
    binary_data_size: Annotated[int, Meta(ge=0)] | None = None


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    datatype: str
    parameters: _TensorParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class _OutputParameters(msgspec.Struct, frozen=True, gc=False):
    binary_data: bool | None = None
    classification: int = 0


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: _OutputParameters | None = None


class _Parameters(msgspec.Struct, frozen=True, gc=False):
    timeout: Annotated[int, Meta(ge=0)] | None = None
    binary_data_output: bool = False


class _Infer(msgspec.Struct, frozen=True):
    inputs: list[_Tensor]
    id: str = ""
    outputs: list[_Output] | None = None
    parameters: _Parameters | None = None


_infer = msgspec.json.Decoder(_Infer)
_decoders: dict[tuple[type, bool], msgspec.json.Decoder[Any]] = {
    (float, False): msgspec.json.Decoder(list[float]),
    (float, True): msgspec.json.Decoder(list[list[float]]),
    (int, False): msgspec.json.Decoder(list[int]),
    (int, True): msgspec.json.Decoder(list[list[int]]),
}


@dataclass(frozen=True, slots=True)
class InferCall:
    """A checked query and how its reply is wanted."""

    query: Query
    binary: bool


@dataclass(slots=True)
class _Columns:
    """The columns read so far; ``size`` is -1 until a candidate-level tensor told it."""

    context: dict[str, Column] = field(default_factory=dict)
    candidates: dict[str, Column] = field(default_factory=dict)
    size: int = -1
    told_by: str = ""


class _Slot:
    """What the tensor of one feature must look like."""

    __slots__ = ("dtype", "limit", "name", "per_query", "ragged", "table", "type", "width")

    def __init__(self, feature: Feature, schema: Schema) -> None:
        self.name = feature.name
        self.per_query = feature.scope is Scope.QUERY
        self.ragged = False
        self.width = 0
        self.limit = 0
        self.table = ""
        self.type: Literal["FP32", "INT64"] = "INT64"
        self.dtype: np.dtype[Any] = np.dtype(np.int64)
        if isinstance(feature, Dense):
            self.type, self.dtype, self.width = "FP32", np.dtype(np.float32), feature.width
            return
        self.table = feature.table
        self.limit = schema.table(feature.table).rows
        if not isinstance(feature, Sparse):
            self.ragged, self.width = True, feature.max_length

    @property
    def wanted_shape(self) -> str:
        """The shape in words, as an error says it."""
        rows = "1" if self.per_query else "candidates"
        if not self.width:
            return f"[{rows}]"
        return f"[{rows}, 0 to {self.width}]" if self.ragged else f"[{rows}, {self.width}]"


class InferCodec:
    """Reads and writes infer calls of one model."""

    def __init__(self, name: str, version: str, schema: Schema, settings: ServerSettings) -> None:
        self._slots = {f.name: _Slot(f, schema) for f in schema.features}
        self._per_candidate = any(not slot.per_query for slot in self._slots.values())
        self._max_candidates = settings.max_candidates
        self._max_timeout = from_seconds(settings.max_timeout_s)
        self._prefix = b'{"model_name":"%b","model_version":"%b",' % (
            name.encode(),
            version.encode(),
        )

    def decode(self, body: bytes, header_length: int | None) -> InferCall:
        """Return the call that a request's body holds.

        Args:
            body: the whole body.
            header_length: how many of its bytes are JSON, the rest being tensors; None if all.

        Raises:
            QueryError: naming the first thing that does not fit, be it syntax or a feature.
        """
        # A writable copy: it puts the tensors at an aligned address and engines may rely on
        # plain arrays, which views of immutable bytes are not.
        tensors = bytearray()
        if header_length is not None:
            tensors = bytearray(memoryview(body)[header_length:])
            body = body[:header_length]
        request = parse(_infer, body)
        columns = self._columns(request.inputs, tensors)
        timeout, binary = self._wishes(request)
        size = columns.size if self._per_candidate else 1
        query = Query(request.id, columns.context, columns.candidates, size, timeout)
        return InferCall(query, binary)

    def encode(self, call: InferCall, scores: NDArray[np.float32]) -> tuple[Headers, bytes]:
        """Return headers and body of the reply with these scores."""
        shape = b",".join([b"%d" % n for n in scores.shape])
        given = call.query.id
        head = self._prefix
        if given:
            head += b'"id":%b,' % msgspec.json.encode(given)
        head += b'"outputs":[{"name":"scores","datatype":"FP32","shape":[%b],' % shape
        if not call.binary:
            data = msgspec.json.encode(scores.reshape(-1).tolist())
            return [JSON], b'%b"data":%b}]}' % (head, data)
        head += b'"parameters":{"binary_data_size":%d}}]}' % scores.nbytes
        headers = [OCTETS, (b"inference-header-content-length", b"%d" % len(head))]
        return headers, head + scores.tobytes()

    def _wishes(self, request: _Infer) -> tuple[Ns | None, bool]:
        binary, timeout = False, None
        parameters = request.parameters
        if parameters is not None:
            binary = parameters.binary_data_output
            if parameters.timeout:
                timeout = Ns(min(parameters.timeout * 1000, self._max_timeout))
        if request.outputs:
            binary = _wanted_output(request.outputs, binary=binary)
        return timeout, binary

    def _columns(self, inputs: list[_Tensor], tensors: bytearray) -> _Columns:
        columns = _Columns()
        offset = 0
        for tensor in inputs:
            slot = self._slots.get(tensor.name)
            if slot is None:
                raise QueryError(
                    f"unknown input {tensor.name[:128]!r}; the model has {sorted(self._slots)}"
                )
            self._check_shape(slot, tensor)
            self._check_rows(slot, tensor.shape[0], columns)
            parameters = tensor.parameters
            if parameters is not None and parameters.binary_data_size is not None:
                array = _binary(slot, tensor, parameters.binary_data_size, tensors, offset)
                offset += parameters.binary_data_size
            else:
                array = _from_json(slot, tensor)
            into = columns.context if slot.per_query else columns.candidates
            if slot.name in into:
                raise QueryError(f"input {slot.name!r} is given twice")
            into[slot.name] = _checked(slot, array)
        if offset != len(tensors):
            raise QueryError(
                f"{len(tensors)} bytes of tensors follow the JSON, its inputs name {offset}"
            )
        if len(columns.context) + len(columns.candidates) != len(self._slots):
            missing = [n for n in self._slots if n not in {t.name for t in inputs}]
            raise QueryError(f"missing input {missing[0]!r}")
        return columns

    def _check_shape(self, slot: _Slot, tensor: _Tensor) -> None:
        if tensor.datatype != slot.type:
            raise QueryError(
                f"input {slot.name!r} must have datatype {slot.type}, not {tensor.datatype[:16]!r}"
            )
        shape = tensor.shape
        fits = len(shape) == (2 if slot.width else 1)
        if fits and slot.width:
            fits = shape[1] <= slot.width if slot.ragged else shape[1] == slot.width
        if not fits:
            raise QueryError(
                f"input {slot.name!r} must have shape {slot.wanted_shape}, not {shape[:8]!s}"
            )

    def _check_rows(self, slot: _Slot, rows: int, columns: _Columns) -> None:
        if slot.per_query:
            if rows != 1:
                raise QueryError(f"input {slot.name!r} is query-level: one row, not {rows}")
        elif columns.size < 0:
            if rows > self._max_candidates:
                raise TooLargeError(
                    f"{rows} candidates are over the limit of {self._max_candidates}; "
                    "send them as several queries"
                )
            columns.size, columns.told_by = rows, slot.name
        elif rows != columns.size:
            raise QueryError(
                f"input {slot.name!r} has {rows} rows, "
                f"but {columns.told_by!r} has {columns.size}; all candidates need all inputs"
            )


JSON = (b"content-type", b"application/json")
OCTETS = (b"content-type", b"application/octet-stream")


def parse(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return what the JSON says.

    Raises:
        QueryError: if it is no JSON, nested too deeply, or not of the decoder's form.
    """
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise QueryError(f"malformed request: {error}") from error
    except UnicodeDecodeError as error:
        raise QueryError("malformed request: the JSON is not UTF-8") from error
    except RecursionError as error:
        raise QueryError("malformed request: the JSON is nested too deeply") from error


def _wanted_output(outputs: list[_Output], *, binary: bool) -> bool:
    """Return whether the one output is wanted as bytes."""
    names = [output.name for output in outputs]
    if names != [OUTPUT]:
        raise QueryError(f"outputs must be [{OUTPUT!r}], the only one there is, not {names[:8]}")
    parameters = outputs[0].parameters
    if parameters is None:
        return binary
    if parameters.classification:
        raise QueryError(f"output {OUTPUT!r}: classification is not offered; sort the scores")
    return binary if parameters.binary_data is None else parameters.binary_data


def _binary(
    slot: _Slot, tensor: _Tensor, size: int, tensors: bytearray, offset: int
) -> NDArray[Any]:
    if len(tensor.data):
        raise QueryError(f"input {slot.name!r} has both data and binary_data_size")
    shape = tensor.shape
    count = shape[0] * shape[1] if slot.width else shape[0]
    if size != count * slot.dtype.itemsize:
        raise QueryError(
            f"input {slot.name!r} of shape {shape} and datatype {slot.type} takes "
            f"{count * slot.dtype.itemsize} bytes, not binary_data_size {size}"
        )
    if offset + size > len(tensors):
        raise QueryError(
            f"input {slot.name!r} ends after the body does; the header "
            "Inference-Header-Content-Length tells where the JSON ends"
        )
    if not count:
        return np.empty(shape, slot.dtype)
    array = np.frombuffer(tensors, slot.dtype, count, offset)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape) if slot.width else array


def _from_json(slot: _Slot, tensor: _Tensor) -> NDArray[Any]:
    if not len(tensor.data):
        raise QueryError(f"input {slot.name!r} has neither data nor binary_data_size")
    kind = float if slot.type == "FP32" else int
    text = bytes(tensor.data)
    nested = bool(slot.width) and text[1:].lstrip()[:1] == b"["
    try:
        values = _decoders[kind, nested].decode(text)
        with np.errstate(over="ignore"):  # infinity is refused with a better message
            array = np.array(values, slot.dtype)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise QueryError(f"input {slot.name!r}: data: {error}") from error
    except (ValueError, OverflowError) as error:
        raise QueryError(
            f"input {slot.name!r}: data must be rows of equal length within {slot.type}"
        ) from error
    count = int(np.prod(tensor.shape))
    if nested and array.size and list(array.shape) != tensor.shape:
        raise QueryError(
            f"input {slot.name!r}: data has shape {list(array.shape)}, not {tensor.shape}"
        )
    if array.size != count:
        raise QueryError(
            f"input {slot.name!r}: data has {array.size} values, shape {tensor.shape} {count}"
        )
    return array.reshape(tensor.shape)


def _checked(slot: _Slot, array: NDArray[Any]) -> Column:
    """Return the column, its values within bounds."""
    if not slot.limit:
        if not np.logical_and.reduce(np.isfinite(array), axis=None):
            raise QueryError(f"input {slot.name!r} holds NaN or infinity; send finite values")
        return array
    if not slot.ragged:
        _check_ids(slot, array)
        return array
    ragged = _one_row(array[0]) if len(array) == 1 else Ragged.from_padded(array, PAD)
    _check_ids(slot, ragged.values)
    return ragged


def _one_row(row: NDArray[np.int64]) -> Ragged:
    values = row[row != PAD]
    return Ragged(values, np.array([0, len(values)], np.int64))


def _check_ids(slot: _Slot, ids: NDArray[np.int64]) -> None:
    # Seen as unsigned, a negative id is huge: one pass finds both ends.
    if len(ids) and np.maximum.reduce(ids.view(np.uint64)) >= slot.limit:
        low = int(ids.min())
        bad = low if low < 0 else int(ids.max())
        raise QueryError(
            f"input {slot.name!r}: id {bad} is outside its table {slot.table!r}, "
            f"which has rows 0 to {slot.limit - 1}"
        )
