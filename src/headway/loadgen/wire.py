"""Queries as infer requests of the Open Inference Protocol with binary tensors, and back."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import (
    Column,
    DataError,
    Dense,
    Feature,
    Query,
    Ragged,
    Schema,
    Scope,
    to_ms,
)

_PAD = -1
_OUTPUT = "scores"


class _Parameters(msgspec.Struct):
    binary_data_size: int | None = None


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    parameters: _Parameters | None = None
    data: list[float] | None = None


class _Reply(msgspec.Struct):
    outputs: list[_Output]


_reply = msgspec.json.Decoder(_Reply)


def encode_infer(query: Query, schema: Schema) -> tuple[bytes, bytes]:
    """Return the JSON part and the tensors of an infer request.

    Args:
        query: a query that fits the schema.
        schema: order, types and scopes of the features.
    """
    inputs: list[dict[str, Any]] = []
    tensors: list[bytes] = []
    for feature in schema.features:
        columns = query.context if feature.scope is Scope.QUERY else query.candidates
        array = _tensor(feature, columns[feature.name])
        inputs.append(
            {
                "name": feature.name,
                "shape": list(array.shape),
                "datatype": "FP32" if isinstance(feature, Dense) else "INT64",
                "parameters": {"binary_data_size": array.nbytes},
            }
        )
        tensors.append(array.tobytes())
    request: dict[str, Any] = {
        "id": query.id,
        "inputs": inputs,
        "outputs": [{"name": _OUTPUT, "parameters": {"binary_data": True}}],
    }
    if query.timeout is not None:
        request["parameters"] = {"timeout": max(1, round(to_ms(query.timeout) * 1000))}
    return msgspec.json.encode(request), b"".join(tensors)


def http_request(path: str, host: str, json: bytes, tensors: bytes) -> bytes:
    """Return a whole POST of an infer request, ready to be written to a socket."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(json)}\r\n"
        f"Content-Length: {len(json) + len(tensors)}\r\n\r\n"
    )
    return b"".join([head.encode("ascii"), json, tensors])


def decode_scores(body: bytes, header_length: int | None) -> NDArray[np.float32]:
    """Return the scores of an infer reply, float32 in the shape told.

    Args:
        body: the whole body.
        header_length: how many of its bytes are JSON; None if all.

    Raises:
        DataError: if the reply is not of that form.
    """
    json = body if header_length is None else body[:header_length]
    offset = len(json)
    try:
        for output in _reply.decode(json).outputs:
            size = output.parameters.binary_data_size if output.parameters else None
            if output.name == _OUTPUT and size is not None:
                return np.frombuffer(body[offset : offset + size], "<f4").reshape(output.shape)
            if output.name == _OUTPUT and output.data is not None:
                return np.array(output.data, np.float32).reshape(output.shape)
            offset += size or 0
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise DataError(f"not an infer reply: {error}") from error
    raise DataError(f"the infer reply has no output {_OUTPUT!r}")


def _tensor(feature: Feature, column: Column) -> NDArray[Any]:
    if isinstance(column, Ragged):
        # A width of at least one: clients of the protocol stumble over empty dimensions.
        width = max(1, int(column.lengths().max(initial=0)))
        return column.padded(width, _PAD)
    return np.ascontiguousarray(column, "<f4" if isinstance(feature, Dense) else "<i8")
