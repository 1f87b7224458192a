"""The Open Inference Protocol's infer call: bytes to a query, scores to bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import Ns, Query, QueryError, Schema, TooLargeError, from_seconds
from headway.server.columns import Cut, Frame, Parts, Slot
from headway.server.settings import ServerSettings

OUTPUT = "scores"
_KNOWN_BYTES = 1 << 20
_KNOWN_EXTRA = 512
"""Of ``inputs`` that are remembered, and what each counts beside; takes some megabytes in all."""

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


class _Envelope(msgspec.Struct, frozen=True):
    """An infer request whose inputs are not read, since equal bytes may have been before."""

    inputs: msgspec.Raw
    id: str = ""
    outputs: list[_Output] | None = None
    parameters: _Parameters | None = None


_infer = msgspec.json.Decoder(_Infer)
_envelope = msgspec.json.Decoder(_Envelope)
_decoders: dict[tuple[type, bool], msgspec.json.Decoder[Any]] = {
    (float, False): msgspec.json.Decoder(list[float]),
    (float, True): msgspec.json.Decoder(list[list[float]]),
    (int, False): msgspec.json.Decoder(list[int]),
    (int, True): msgspec.json.Decoder(list[list[int]]),
}


@dataclass(slots=True)
class InferCall:
    """A checked query and how its reply is wanted."""

    query: Query
    binary: bool


class _Known:
    """What bytes of ``inputs`` that were found good say; all their tensors come as bytes."""

    __slots__ = ("cut", "runs", "size", "total")

    def __init__(self, cut: Cut, size: int, runs: list[slice], total: int) -> None:
        self.cut = cut
        self.size = size
        self.runs = runs
        self.total = total


class InferCodec:
    """Reads and writes infer calls of one model."""

    def __init__(self, name: str, version: str, schema: Schema, settings: ServerSettings) -> None:
        slots = [Slot(f, schema) for f in schema.features]
        self._slots = {slot.name: slot for slot in slots}
        self._frame = Frame(slots)
        self._known: dict[bytes, _Known] = {}
        self._known_bytes = 0
        self._remembering = Lock()
        self._per_candidate = any(not slot.per_query for slot in slots)
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
        tensors = memoryview(b"")
        envelope: _Envelope | None = None
        if header_length is not None:
            if header_length > len(body):
                raise QueryError(
                    f"Inference-Header-Content-Length {header_length} is more than the body's "
                    f"{len(body)} bytes"
                )
            tensors = memoryview(body)[header_length:]
            body = body[:header_length]
            envelope = _open(body)
            known = None if envelope is None else self._known.get(bytes(envelope.inputs))
            if envelope is not None and known is not None and known.total == len(tensors):
                timeout, binary = self._wishes(envelope)
                context, candidates = known.cut.columns([tensors[run] for run in known.runs])
                query = Query(envelope.id, context, candidates, known.size, timeout)
                return InferCall(query, binary)
        request = parse(_infer, body)
        parts = self._parts(request.inputs, tensors)
        size = parts.rows if self._per_candidate else 1
        timeout, binary = self._wishes(request)
        cut = Cut(self._frame, size, parts.widths)
        context, candidates = cut.columns([parts.data[s.name] for s in self._frame.order])
        if envelope is not None and len(parts.places) == len(parts.data):
            runs = _runs([parts.places[slot.name] for slot in self._frame.order])
            self._remember(bytes(envelope.inputs), _Known(cut, size, runs, len(tensors)))
        return InferCall(Query(request.id, context, candidates, size, timeout), binary)

    def _remember(self, inputs: bytes, known: _Known) -> None:
        """Keep what these inputs say; forget the oldest to make room."""
        with self._remembering:
            if inputs in self._known:
                return
            self._known[inputs] = known
            self._known_bytes += len(inputs) + _KNOWN_EXTRA
            while self._known_bytes > _KNOWN_BYTES:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._known_bytes -= len(oldest) + _KNOWN_EXTRA

    def encode(
        self, call: InferCall, scores: NDArray[np.float32], *, degraded: bool
    ) -> tuple[Headers, bytes]:
        """Return headers and body of the reply with these scores."""
        shape = b",".join([b"%d" % n for n in scores.shape])
        given = call.query.id
        head = self._prefix
        if given:
            head += b'"id":%b,' % msgspec.json.encode(given)
        if degraded:
            head += b'"parameters":{"degraded":true},'
        head += b'"outputs":[{"name":"scores","datatype":"FP32","shape":[%b],' % shape
        if not call.binary:
            data = msgspec.json.encode(scores.reshape(-1).tolist())
            return [JSON], b'%b"data":%b}]}' % (head, data)
        head += b'"parameters":{"binary_data_size":%d}}]}' % scores.nbytes
        headers = [OCTETS, (b"inference-header-content-length", b"%d" % len(head))]
        return headers, head + scores.tobytes()

    def _wishes(self, request: _Infer | _Envelope) -> tuple[Ns | None, bool]:
        binary, timeout = False, None
        parameters = request.parameters
        if parameters is not None:
            binary = parameters.binary_data_output
            if parameters.timeout:
                timeout = Ns(min(parameters.timeout * 1000, self._max_timeout))
        if request.outputs:
            binary = _wanted_output(request.outputs, binary=binary)
        return timeout, binary

    def _parts(self, inputs: list[_Tensor], tensors: memoryview) -> Parts:
        parts = Parts()
        offset = 0
        for tensor in inputs:
            slot = self._slot(tensor, parts)
            size = prod(tensor.shape) * slot.size
            parameters = tensor.parameters
            if parameters is None or parameters.binary_data_size is None:
                parts.data[slot.name] = _from_json(slot, tensor)
            else:
                _check_binary(slot, tensor, size, len(tensors) - offset)
                parts.data[slot.name] = tensors[offset : offset + size]
                parts.places[slot.name] = (offset, offset + size)
                offset += size
        if offset != len(tensors):
            raise QueryError(
                f"{len(tensors)} bytes of tensors follow the JSON, its inputs name {offset}"
            )
        if len(parts.data) != len(self._slots):
            missing = [name for name in self._slots if name not in parts.data]
            raise QueryError(f"missing input {missing[0]!r}")
        return parts

    def _slot(self, tensor: _Tensor, parts: Parts) -> Slot:
        """Return the slot that the tensor fits into."""
        slot = self._slots.get(tensor.name)
        if slot is None:
            raise QueryError(
                f"unknown input {tensor.name[:128]!r}; the model has {sorted(self._slots)}"
            )
        if slot.name in parts.data:
            raise QueryError(f"input {slot.name!r} is given twice")
        shape = tensor.shape
        if tensor.datatype != slot.type or len(shape) != slot.rank:
            raise slot.misfit(tensor.datatype, shape)
        if slot.rank == 2:
            width = shape[1]
            if width != slot.width and not (slot.ragged and width < slot.width):
                raise slot.misfit(tensor.datatype, shape)
            parts.widths[slot.name] = width
        if shape[0] != (1 if slot.per_query else parts.rows):
            self._check_rows(slot, shape[0], parts)
        return slot

    def _check_rows(self, slot: Slot, rows: int, parts: Parts) -> None:
        """Take the number of candidates from the first who tells it."""
        if slot.per_query:
            raise QueryError(f"input {slot.name!r} is query-level: one row, not {rows}")
        if parts.rows >= 0:
            raise QueryError(
                f"input {slot.name!r} has {rows} rows, "
                f"but {parts.told_by!r} has {parts.rows}; all candidates need all inputs"
            )
        if rows > self._max_candidates:
            raise TooLargeError(
                f"{rows} candidates are over the limit of {self._max_candidates}; "
                "send them as several queries"
            )
        parts.rows, parts.told_by = rows, slot.name


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
        hint = ""
        # Without a place, the unknown field is one of the request's own.
        if "unknown field" in str(error) and " - at " not in str(error):
            struct: Any = decoder.type
            fields = ", ".join(f.encode_name for f in msgspec.structs.fields(struct))
            hint = f"; its fields are {fields}"
        raise QueryError(f"malformed request: {error}{hint}") from error
    except UnicodeDecodeError as error:
        raise QueryError("malformed request: the JSON is not UTF-8") from error
    except RecursionError as error:
        raise QueryError("malformed request: the JSON is nested too deeply") from error


def _open(head: bytes) -> _Envelope | None:
    """Return the request without reading its inputs, or None if it will be refused."""
    try:
        return _envelope.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _runs(places: list[tuple[int, int]]) -> list[slice]:
    """Return the slices that give these bytes in this order, neighbours in one."""
    runs: list[slice] = []
    for start, stop in places:
        if runs and runs[-1].stop == start:
            runs[-1] = slice(runs[-1].start, stop)
        else:
            runs.append(slice(start, stop))
    return runs


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


def _check_binary(slot: Slot, tensor: _Tensor, size: int, left: int) -> None:
    if len(tensor.data):
        raise QueryError(f"input {slot.name!r} has both data and binary_data_size")
    parameters = tensor.parameters
    given = None if parameters is None else parameters.binary_data_size
    if given != size:
        raise QueryError(
            f"input {slot.name!r} of shape {tensor.shape} and datatype {slot.type} takes "
            f"{size} bytes, not binary_data_size {given}"
        )
    if size > left:
        raise QueryError(
            f"input {slot.name!r} ends after the body does; the header "
            "Inference-Header-Content-Length tells where the JSON ends"
        )


def _from_json(slot: Slot, tensor: _Tensor) -> bytes:
    if not len(tensor.data):
        raise QueryError(f"input {slot.name!r} has neither data nor binary_data_size")
    count = prod(tensor.shape)
    text = bytes(tensor.data)
    # Rows may be empty, so there can be as many commas as rows beside those of the numbers.
    if text.count(b",") > count + sum(tensor.shape[:1]):
        raise QueryError(
            f"input {slot.name!r}: data holds more than the {count} numbers of its shape"
        )
    kind, dtype = (float, np.float32) if slot.type == "FP32" else (int, np.int64)
    nested = slot.rank == 2 and text[1:].lstrip()[:1] == b"["
    try:
        values = _decoders[kind, nested].decode(text)
        with np.errstate(over="ignore"):  # infinity is refused with a better message
            array = np.array(values, dtype)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise QueryError(f"input {slot.name!r}: data: {error}") from error
    except (ValueError, OverflowError) as error:
        raise QueryError(
            f"input {slot.name!r}: data must be rows of equal length within {slot.type}"
        ) from error
    if array.size != prod(tensor.shape) or (nested and list(array.shape) != tensor.shape):
        raise QueryError(
            f"input {slot.name!r}: data has shape {list(array.shape)}, not {tensor.shape}"
        )
    return array.tobytes()
