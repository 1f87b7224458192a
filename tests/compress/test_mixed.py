"""Mixed precision: where int8 throughout changes too much, only the worst products stay float."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headway.compress.mixed import narrow_enough, within
from headway.compress.quantize import activations, fit_range

ROWS, WIDTH = 300, 32


def tower() -> bytes:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["embedded", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["c"]),
        helper.make_node("MatMul", ["dense.wild", "third"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["output"]),
    ]
    constants = {
        name: (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        for name in ("first", "second", "third")
    }
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tower",
        [
            helper.make_tensor_value_info(name, floats, ["rows", WIDTH])
            for name in ("embedded", "dense.wild")
        ],
        [helper.make_tensor_value_info("output", floats, ["rows", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


@pytest.fixture(scope="module")
def seen() -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    rng = np.random.default_rng(1)
    # A few values are so large that codes for them are too coarse for all others.
    wild = rng.standard_normal((ROWS, WIDTH)) * np.where(rng.random((ROWS, WIDTH)) < 0.01, 300, 1)
    feed = {
        "embedded": rng.standard_normal((ROWS, WIDTH), np.float32),
        "dense.wild": wild.astype(np.float32),
    }
    first = numpy_helper.to_array(onnx.load_from_string(tower()).graph.initializer[0])
    values = feed | {"b": np.maximum(feed["embedded"] @ first, 0)}
    return feed, {name: fit_range(values[name]) for name in activations(tower())}


def test_all_products_are_narrow_where_outputs_stay_close(seen: Any) -> None:
    feed, ranges = seen
    found = narrow_enough(tower(), ranges, [feed], limit=10.0)
    assert found == {"embedded", "b", "dense.wild"}


def test_the_product_that_brings_the_error_stays_float(seen: Any) -> None:
    feed, ranges = seen
    tame = {**feed, "dense.wild": np.clip(feed["dense.wild"], -3, 3)}
    found = narrow_enough(tower(), ranges, [tame], limit=0.1)
    assert found == {"embedded", "b"}


def test_nothing_is_narrow_where_nothing_may_change(seen: Any) -> None:
    feed, ranges = seen
    assert narrow_enough(tower(), ranges, [feed], limit=1e-6) == frozenset()


def test_the_samples_may_be_fed_in_parts(seen: Any) -> None:
    feed, ranges = seen
    tame = {**feed, "dense.wild": np.clip(feed["dense.wild"], -3, 3)}
    parts = [{name: values[k::3] for name, values in tame.items()} for k in range(3)]
    assert narrow_enough(tower(), ranges, parts, 0.1) == {"embedded", "b"}


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.floats(0, 1), max_size=6),
    st.floats(0.01, 2),
    st.data(),
)
def test_what_is_taken_together_keeps_to_the_limit(
    errors: dict[str, float], limit: float, data: st.DataObject
) -> None:
    gains = {name: data.draw(st.integers(1, 100)) for name in errors}

    def error(names: Collection[str]) -> float:
        return float(np.sqrt(sum(errors[name] ** 2 for name in names)))

    taken = within(gains, error, limit)
    assert error(taken) <= limit
    best = min(gains, key=lambda name: errors[name] ** 2 / gains[name], default=None)
    assert taken or best is None or errors[best] > 0.69 * limit


def test_errors_that_add_up_to_more_than_their_squares_are_given_back() -> None:
    def error(names: Collection[str]) -> float:
        return 0.3 * len(names)

    assert within({"a": 2, "b": 3, "c": 1}, error, 1.0) == {"a", "b"}
