"""Requests carry each feature as the protocol wants it; replies are read or refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.loadgen.local_server import SCHEMA

from headway.core import DataError, Ns, Query, Ragged, Schema
from headway.loadgen import decode_scores, encode_infer
from headway.loadgen.wire import http_request
from headway.workload import draw_queries

DTYPES = {"FP32": "<f4", "INT64": "<i8"}


def tensors_of(query: Query, schema: Schema) -> dict[str, NDArray[Any]]:
    json, data = encode_infer(query, schema)
    found, offset = {}, 0
    for tensor in msgspec.json.decode(json)["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        array = np.frombuffer(data[offset : offset + size], DTYPES[tensor["datatype"]])
        found[tensor["name"]] = array.reshape(tensor["shape"])
        offset += size
    assert offset == len(data)
    return found


@given(st.integers(1, 30), st.integers(0, 99))
def test_every_feature_comes_back_from_its_tensor(size: int, seed: int) -> None:
    (query,) = draw_queries(SCHEMA, np.array([size]), np.random.default_rng(seed))
    found = tensors_of(query, SCHEMA)
    for columns, rows in ((query.context, 1), (query.candidates, size)):
        for name, column in columns.items():
            assert len(found[name]) == rows
            if isinstance(column, Ragged):
                back = Ragged.from_padded(found[name])
                assert back.values.tolist() == column.values.tolist()
                assert back.offsets.tolist() == column.offsets.tolist()
            else:
                np.testing.assert_array_equal(found[name], column)


def test_an_empty_bag_is_one_pad_wide() -> None:
    (query,) = draw_queries(SCHEMA, np.array([1]), np.random.default_rng(0))
    empty = Ragged.from_rows([[]])
    query = Query("q", {**query.context, "liked": empty}, query.candidates, 1)
    assert tensors_of(query, SCHEMA)["liked"].tolist() == [[-1]]


def test_a_timeout_travels_in_microseconds_and_the_id_along() -> None:
    (query,) = draw_queries(SCHEMA, np.array([1]), np.random.default_rng(0))
    query = Query("mine", query.context, query.candidates, 1, timeout=Ns(7_000_000))
    head = msgspec.json.decode(encode_infer(query, SCHEMA)[0])
    assert head["parameters"] == {"timeout": 7000}
    assert head["id"] == "mine"
    assert head["outputs"] == [{"name": "scores", "parameters": {"binary_data": True}}]


def test_a_request_tells_both_of_its_lengths() -> None:
    head, _, body = http_request("/p", "h:1", b"{}", b"1234").partition(b"\r\n\r\n")
    assert body == b"{}1234"
    assert b"Content-Length: 6" in head
    assert b"Inference-Header-Content-Length: 2" in head
    assert head.startswith(b"POST /p HTTP/1.1\r\nHost: h:1\r\n")


def test_scores_are_read_from_bytes_and_from_json() -> None:
    json = (
        b'{"outputs":[{"name":"other","shape":[1],"parameters":{"binary_data_size":4}},'
        b'{"name":"scores","shape":[2,1],"parameters":{"binary_data_size":8}}]}'
    )
    body = json + np.array([9, 1, 2], np.float32).tobytes()
    assert decode_scores(body, len(json)).tolist() == [[1], [2]]
    assert decode_scores(b'{"outputs":[{"name":"scores","shape":[2],"data":[1,2]}]}', None).tolist()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs":[]}',
        b'{"outputs":[{"name":"scores","shape":[3],"data":[1,2]}]}',
        b'{"outputs":[{"name":"scores","shape":[3],"parameters":{"binary_data_size":12}}]}',
        b'{"outputs":[{"name":"scores","shape":[1]}]}',
    ],
)
def test_a_reply_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(DataError, match="infer reply"):
        decode_scores(body, None)
