"""Whatever bytes come: an error that is a QueryError, or a query that fits the schema."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.harness import SCHEMA, infer_body

from headway.core import QueryError, Ragged, check_query
from headway.server.endpoint import sigmoid
from headway.server.settings import ServerSettings
from headway.server.tensors import InferCodec

CODEC = InferCodec("linear", "1", SCHEMA, ServerSettings(port=0))

DIMS = st.lists(st.one_of(st.integers(-1, 5), st.just(2**40)), max_size=3)
NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65), st.floats(), st.booleans(), st.none(), st.text(max_size=2)
)
DATA = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
TENSORS = st.fixed_dictionaries(
    {"datatype": st.sampled_from(["FP32", "INT64", "BYTES", ""]), "shape": DIMS},
    optional={
        "data": DATA,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-8, 64)}),
    },
)


def holds(body: bytes, header_length: int | None) -> None:
    try:
        call = CODEC.decode(body, header_length)
    except QueryError:
        return
    check_query(call.query, SCHEMA)


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 200)))
def test_any_bytes(body: bytes, header_length: int | None) -> None:
    holds(body, header_length)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["age", "likes", "price", "item", "tags"]), TENSORS, max_size=2
    ),
    st.one_of(st.none(), st.binary(max_size=64)),
)
def test_any_tensor_in_an_otherwise_good_request(
    changes: dict[str, Any], blob: bytes | None
) -> None:
    text = json.dumps(infer_body(**changes)).encode()
    holds(text + (blob or b""), None if blob is None else len(text))


@settings(deadline=None)
@given(st.data(), st.integers(0, 5), st.integers(0, 3), st.integers(0, 7))
def test_good_tensors_arrive_whole_aligned_and_writable(
    data: st.DataObject, rows: int, width: int, lead: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "age": rng.random((1, 1), np.float32),
        "likes": rng.integers(-1, 100, (1, width)),
        "price": rng.random((rows, 2), np.float32),
        "item": rng.integers(0, 100, rows),
        "tags": rng.integers(-1, 10, (rows, width)),
    }
    order = data.draw(st.permutations(sorted(arrays)))
    inputs = [
        {
            "name": name,
            "shape": list(arrays[name].shape),
            "datatype": "FP32" if arrays[name].dtype == np.float32 else "INT64",
            "parameters": {"binary_data_size": arrays[name].nbytes},
        }
        for name in order
    ]
    text = json.dumps({"inputs": inputs}).encode() + b" " * lead
    call = CODEC.decode(text + b"".join(arrays[n].tobytes() for n in order), len(text))
    check_query(call.query, SCHEMA)
    assert call.query.size == rows
    for name, column in {**call.query.context, **call.query.candidates}.items():
        want = arrays[name]
        if isinstance(column, Ragged):
            assert [list(r[r >= 0]) for r in want] == [
                list(column.slice(i, i + 1).values) for i in range(len(column))
            ]
        else:
            assert np.array_equal(column, want)
            assert column.flags.carray


@pytest.mark.parametrize("x", [-1000.0, -88.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 1000.0])
def test_the_sigmoid_is_precise_at_both_ends(x: float) -> None:
    got = float(sigmoid(np.array([x], np.float32))[0])
    want = float(1 / (1 + np.exp(-np.longdouble(np.float32(x)))))
    assert got == pytest.approx(want, rel=1e-6, abs=2e-38)


def binary_request(item: list[int], price: float = 0.25) -> tuple[bytes, int]:
    rows = len(item)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "age": np.array([[0.5]], np.float32),
        "likes": np.array([[3, -1]]),
        "price": np.full((rows, 2), price, np.float32),
        "item": np.array(item, np.int64),
        "tags": np.full((rows, 1), 7),
    }
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": "FP32" if array.dtype == np.float32 else "INT64",
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    text = json.dumps({"id": "q", "inputs": inputs}).encode()
    return text + b"".join(a.tobytes() for a in arrays.values()), len(text)


def test_a_request_of_a_known_form_is_checked_like_the_first() -> None:
    codec = InferCodec("linear", "1", SCHEMA, ServerSettings(port=0))
    for item in ([1, 2], [98, 99], [0, 5]):
        call = codec.decode(*binary_request(item))
        check_query(call.query, SCHEMA)
        assert call.query.id == "q"
        assert np.array_equal(call.query.candidates["item"], item)  # type: ignore[arg-type]
    for wrong in ([1, 100], [1, -1]):
        with pytest.raises(QueryError, match=r"'item': id -?1(00)? is outside"):
            codec.decode(*binary_request(wrong))
    with pytest.raises(QueryError, match="'price' holds NaN"):
        codec.decode(*binary_request([1, 2], float("nan")))
    body, length = binary_request([1, 2])
    with pytest.raises(QueryError, match="ends after the body does"):
        codec.decode(body[:-1], length)
    with pytest.raises(QueryError, match="bytes of tensors follow"):
        codec.decode(body + b"\0", length)


def test_what_is_remembered_of_requests_is_bounded() -> None:
    codec = InferCodec("linear", "1", SCHEMA, ServerSettings(port=0))
    for rows in range(1500):
        codec.decode(*binary_request([1] * rows))
    assert 100 < len(codec._known) < 1400
    assert codec.decode(*binary_request([1] * 3)).query.size == 3
