"""Headway's own dense engine: every program gives what plain NumPy gives, at any number of rows."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.drawn_programs import feed_of, programs, reference, woven

from headway.bundle import (
    Codes,
    Concat,
    Map,
    Product,
    Program,
    QueryDots,
    QueryProduct,
    Softmax,
    Step,
    Steps,
    Weave,
)
from headway.core import BundleError, Scope
from headway.engine import Tower, product_tile, products, tiles, whole_rows
from headway.engine.dense import open_tower
from headway.engine.program import ProgramEngine

F32 = NDArray[np.float32]


def run(program: Program, feed: dict[str, NDArray[Any]]) -> dict[str, F32]:
    engine = ProgramEngine(Program.from_bytes(program.to_bytes()))
    found = engine.caller()(engine.outputs, feed)
    return dict(zip(engine.outputs, found, strict=True))


@settings(max_examples=60, deadline=None)
@given(programs(), st.sampled_from([0, 1, 2, 3, 7, 16, 96, 97, 200]))
def test_program_gives_what_numpy_gives(program: Program, rows: int) -> None:
    feed = feed_of(program, rows)
    found, wanted = run(program, feed), reference(program, feed)
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=2e-4, atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 45),
    st.sampled_from([(1,), (7, 1), (20, 3)]),
    st.sampled_from([1, 2, 7, 97]),
)
def test_attention_over_places_of_a_history_gives_what_numpy_gives(
    places: int, inner: int, units: int, layers: tuple[int, ...], rows: int
) -> None:
    rng = np.random.default_rng(places)
    tensors: dict[str, Any] = {"s": rng.standard_normal(units * places).astype(np.float32)}
    steps: list[Step] = [
        QueryProduct(
            result="v",
            source="embedded",
            matrix="hidden.0",
            other="hidden.1",
            activation="prelu",
            slope="s",
        )
    ]
    for number, (before, after) in enumerate(zip((units, *layers), layers, strict=False)):
        tensors[f"w{number}"] = rng.standard_normal((before, after)).astype(np.float32)
        tensors[f"b{number}"] = rng.standard_normal(after).astype(np.float32)
        steps.append(
            Product(
                result=f"v{number}",
                source=steps[-1].result,
                weight=f"w{number}",
                bias=f"b{number}",
                groups=places,
                activation="tanh",
            )
        )
    weighted = QueryProduct(result="w", source=steps[-1].result, matrix="hidden.2")
    inputs = {
        "embedded": inner,
        "hidden.0": inner * places * units,
        "hidden.1": places * units,
        "hidden.2": places * layers[-1] * 5,
    }
    outputs = {"output": "w", "weights": steps[-1].result}
    program = Program(Steps(inputs=inputs, outputs=outputs, steps=(*steps, weighted)), tensors)
    feed = feed_of(program, rows, queries=1)
    wanted = reference(program, feed)
    del feed["row_to_query"]
    for name, found in run(program, feed).items():
        np.testing.assert_allclose(found, wanted[name], rtol=2e-4, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 130),
    st.integers(1, 40),
    st.integers(2, 64),
    st.booleans(),
    st.sampled_from([1, 2, 13, 97]),
)
def test_histories_of_candidates_are_multiplied_by_weights_of_their_own(
    places: int, inner: int, units: int, shifted: bool, rows: int
) -> None:
    rng = np.random.default_rng(places)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("w", (inner, units)), ("s", (inner, units)), ("v", (units, 1)))
    }
    first = Product(
        result="a",
        source="sequence.h",
        weight="w",
        shift="s" if shifted else "",
        scaled_by="embedded",
        groups=places,
        other="dense.a",
        activation="relu",
    )
    second = Product(result="b", source="a", weight="v", groups=places)
    third = QueryProduct(result="c", source="b", matrix="sequence.h")
    inputs = {"sequence.h": places * inner, "embedded": inner, "dense.a": units}
    outputs = {"output": "c", "weights": "b"}
    program = Program(Steps(inputs=inputs, outputs=outputs, steps=(first, second, third)), tensors)
    feed = feed_of(program, rows)
    wanted = reference(program, feed)
    for name, found in run(program, feed).items():
        np.testing.assert_allclose(found, wanted[name], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("places", "inner", "columns"), [(1, 1, 1), (7, 5, 36), (250, 32, 16)])
def test_matrix_of_a_history_is_woven_as_its_formula_says(
    places: int, inner: int, columns: int, *, shifted: bool
) -> None:
    rng = np.random.default_rng(columns)
    tensors = {name: rng.standard_normal((inner, columns)).astype(np.float32) for name in "ws"}
    step = Weave(result="m", source="sequence.a", weight="w", shift="s" if shifted else "")
    shape = (inner, places * columns)
    program = Program(
        Steps(
            inputs={"sequence.a": places * inner},
            outputs={"hidden.0": "m"},
            steps=(step,),
            shapes={"hidden.0": shape},
        ),
        tensors,
    )
    feed = {"sequence.a": rng.standard_normal((2, places, inner)).astype(np.float32)}
    (found,) = run(program, feed).values()
    assert found.shape == (2, *shape)
    wanted = woven(program, step, feed["sequence.a"].reshape(2, -1))
    np.testing.assert_allclose(found.reshape(2, -1), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_long_inner_axes_are_summed_up_in_blocks(rows: int, activation: Any) -> None:
    rng = np.random.default_rng(rows)
    inner, columns = 2 * products.MOST_INNER + 77, 130
    tensors: dict[str, Any] = {"w": rng.standard_normal((inner, columns)).astype(np.float32) / 40}
    step = Product(
        result="v", source="embedded", weight="w", other="hidden.0", activation=activation
    )
    inputs = {"embedded": inner, "hidden.0": columns}
    program = Program(Steps(inputs=inputs, outputs={"output": "v"}, steps=(step,)), tensors)
    feed = feed_of(program, rows)
    np.testing.assert_allclose(
        run(program, feed)["output"], reference(program, feed)["output"], rtol=1e-3, atol=1e-4
    )


def narrow(inner: int, columns: int, activation: Any = "relu") -> Program:
    rng = np.random.default_rng(inner * 1000 + columns)
    codes = rng.integers(-127, 128, (inner, columns)).astype(np.int8)
    steps = (
        Product(
            result="a",
            source="embedded",
            weight="w",
            bias="b",
            other="hidden.0",
            activation=activation,
            codes=Codes(scale=0.03, zero=117),
        ),
        Product(result="c", source="a", weight="v"),
    )
    tensors: dict[str, Any] = {
        "w": codes,
        "w.scale": rng.uniform(1e-3, 1e-2, columns).astype(np.float32),
        "b": rng.standard_normal(columns).astype(np.float32),
        "v": rng.standard_normal((columns, 2)).astype(np.float32) / columns,
    }
    inputs = {"embedded": inner, "hidden.0": columns}
    return Program(Steps(inputs=inputs, outputs={"output": "c"}, steps=steps), tensors)


@pytest.mark.parametrize(
    ("inner", "columns"), [(1, 1), (3, 17), (64, 64), (130, 100), (257, 48), (4500, 20)]
)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 6, 7, 100])
def test_codes_are_multiplied_exactly(inner: int, columns: int, rows: int) -> None:
    program = narrow(inner, columns)
    feed = feed_of(program, rows)
    found, wanted = run(program, feed)["output"], reference(program, feed)["output"]
    # A value on the edge between two codes may fall on either side: a step of 0.03 or so.
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3 if inner < 1000 else 1e-2)


def test_codes_are_handed_from_product_to_product_without_floats_between() -> None:
    program = narrow(64, 64)
    scaled = msgspec.structs.replace(
        program.steps.steps[1], weight="x", codes=Codes(scale=0.02, zero=3)
    )
    tensors = dict(program.tensors) | {
        "x": np.ones((64, 5), np.int8),
        "x.scale": np.full(5, 0.01, np.float32),
    }
    steps = msgspec.structs.replace(program.steps, steps=(program.steps.steps[0], scaled))
    chained = Program(steps, tensors)
    feed = feed_of(chained, 50)
    found, wanted = run(chained, feed)["output"], reference(chained, feed)["output"]
    # A sum on the edge between two codes may fall on either side.
    np.testing.assert_allclose(found, wanted, atol=0.02 * 0.01 * 3, rtol=1e-4)


def test_portable_products_of_codes_equal_those_of_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.integers(0, 256, (7, 64), np.uint8), rng.integers(-127, 128, (64, 64))
    monkeypatch.setattr(tiles, "HAS_DOT", False)
    found = np.zeros((tiles.TALL, 64), np.int32)
    from headway.engine.packing import pack
    from headway.engine.vectors import inner

    packed = pack(weights.astype(np.int8), 4)

    @inner
    def once(numbers):  # type: ignore[no-untyped-def]
        product_tile.product_tile(numbers, np.float32(0), np.float32(0))

    once(
        (
            15,
            rows.ctypes.data,
            64,
            6,
            packed.ctypes.data,
            256,
            64,
            16,
            0,
            found.ctypes.data,
            *[0] * 11,
        )
    )
    np.testing.assert_array_equal(found, rows[:6].astype(np.int64) @ weights)


def test_softmax_gives_nothing_to_what_is_masked() -> None:
    step = Softmax(result="y", source="dense.a")
    program = Program(Steps(inputs={"dense.a": 3}, outputs={"output": "y"}, steps=(step,)))
    (found,) = run(program, {"dense.a": np.array([[0, -1e9, 1]], np.float32)}).values()
    np.testing.assert_allclose(found, [[0.268941, 0, 0.731059]], rtol=1e-5)
    assert found[0, 1] == 0  # not the smallest number there is, which is slow to multiply


def test_nan_stays_nan_through_relu() -> None:
    program = Program(
        Steps(
            inputs={"dense.a": 3},
            outputs={"output": "y"},
            steps=(Map(result="y", source="dense.a", activation="relu"),),
        )
    )
    (found,) = run(program, {"dense.a": np.array([[np.nan, -1, 2]], np.float32)}).values()
    np.testing.assert_array_equal(found, [[np.nan, 0, 2]])


def made_of(
    inputs: dict[str, int], tensors: dict[str, Any], *steps: Step, **outputs: str
) -> Program:
    return Program(Steps(inputs=inputs, outputs=outputs, steps=steps), tensors)


def test_value_that_scales_weights_is_stored_though_it_is_also_rounded() -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "w": rng.standard_normal((8, 16)).astype(np.float32),
        "c": rng.integers(-9, 9, (16, 16)).astype(np.int8),
        "c.scale": np.full(16, 0.1, np.float32),
        "s": rng.standard_normal((16, 5)).astype(np.float32),
    }
    program = made_of(
        {"embedded": 8, "sequence.h": 48},
        tensors,
        Product(result="v", source="embedded", weight="w"),
        Product(result="y", source="v", weight="c", codes=Codes(scale=0.1, zero=128)),
        Product(result="z", source="sequence.h", weight="s", groups=3, scaled_by="v"),
        output="y",
        other="z",
    )
    feed = feed_of(program, 20)
    np.testing.assert_allclose(
        run(program, feed)["other"], reference(program, feed)["other"], rtol=1e-3, atol=1e-3
    )


def test_value_between_strips_is_whole_where_something_else_reads_it() -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {"w": rng.standard_normal((4, 1)).astype(np.float32)}
    program = made_of(
        {"embedded": 4, "hidden.0": 48},
        tensors,
        QueryProduct(result="v", source="embedded", matrix="hidden.0"),
        Product(result="a", source="v", weight="w", groups=3),
        QueryDots(result="d", source="embedded", matrix="v"),
        output="a",
        other="d",
    )
    feed = feed_of(program, 20, queries=1)
    del feed["row_to_query"]
    wanted = reference(program, feed | {"row_to_query": np.zeros(20, np.int64)})
    np.testing.assert_allclose(run(program, feed)["other"], wanted["other"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_nan_stays_nan_through_curves(activation: Any) -> None:
    curve = Map(result="y", source="dense.a", activation=activation)
    for step in (curve, Softmax(result="y", source="dense.a")):
        program = made_of({"dense.a": 2}, {}, step, output="y")
        (found,) = run(program, {"dense.a": np.array([[np.nan, 0]], np.float32)}).values()
        assert np.isnan(found[0, 0])


@pytest.mark.parametrize(
    "change",
    [
        {"dense.a": np.zeros((1, 3), np.float32)},
        {"hidden.0": np.zeros((0, 3), np.float32)},
        {"hidden.0": np.zeros((2, 3), np.float32)},
        {"row_to_query": np.array([0, -1, 2, 1])},
        {"row_to_query": np.array([0, 1, 2])},
        {"row_to_query": np.array([0, 1, 2, 1], np.int32)},
    ],
)
def test_rows_that_do_not_fit_are_refused_before_compiled_code_reads_them(
    change: dict[str, NDArray[Any]],
) -> None:
    step = Map(result="y", source="embedded", other="hidden.0")
    after = Map(result="z", source="y", other="dense.a")
    inputs = {"embedded": 3, "hidden.0": 3, "dense.a": 3}
    program = made_of(inputs, {}, step, after, output="z")
    feed = {name: np.zeros((4, 3), np.float32) for name in inputs}
    feed |= {"row_to_query": np.array([0, 1, 2, 3])}
    run(program, feed)
    with pytest.raises(BundleError, match="row"):
        run(program, feed | change)


def test_program_that_grows_without_bound_is_refused() -> None:
    steps = [Concat(result="v0", sources=("dense.a", "dense.a"))]
    steps += [Concat(result=f"v{i}", sources=(f"v{i - 1}",) * 2) for i in range(1, 40)]
    with pytest.raises(BundleError, match="columns"):
        made_of({"dense.a": 2}, {}, *steps, output="v39").widths()


def test_more_columns_than_one_block_cannot_be_scaled() -> None:
    step = Product(result="y", source="sequence.h", weight="w", groups=2, scaled_by="embedded")
    tensors: dict[str, Any] = {"w": np.ones((4, 80), np.float32)}
    with pytest.raises(BundleError, match="64 columns"):
        made_of({"sequence.h": 8, "embedded": 4}, tensors, step, output="y").widths()


def test_matrix_of_one_query_is_refused_in_a_tower_for_several() -> None:
    class Layout:
        inputs = ("embedded", "hidden.0", "row_to_query")
        outputs = ("output",)
        lookups = ()
        embedded_width = 4
        per_query = False

    step = QueryProduct(result="y", source="embedded", matrix="hidden.0")
    program = made_of({"embedded": 4, "hidden.0": 8}, {}, step, output="y")
    with pytest.raises(BundleError, match="one query"):
        open_tower(Scope.CANDIDATE, Tower(Layout(), program.to_bytes(), "headway"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "nothing"}, "not made before"),
        ({"other": "embedded"}, "needs 'embedded'"),
        ({"weight": "nothing"}, "tensor 'nothing'"),
        ({"bias": "w"}, "tensor 'w'"),
        ({"result": "embedded"}, "made twice"),
    ],
)
def test_program_that_does_not_fit_together_is_refused(
    change: dict[str, str], message: str
) -> None:
    program = narrow(8, 20)
    first = msgspec.structs.replace(program.steps.steps[0], **change)
    broken = msgspec.structs.replace(program.steps, steps=(first, *program.steps.steps[1:]))
    with pytest.raises(BundleError, match=message):
        Program.from_bytes(Program(broken, program.tensors).to_bytes())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_damaged_program_is_refused_or_read_but_never_worse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(narrow(8, 20).to_bytes())
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] = rng.integers(256)
    del data[rng.integers(len(data) // 2, len(data) + 1) :]
    with contextlib.suppress(BundleError):
        Program.from_bytes(bytes(data))


def test_input_of_another_width_is_refused() -> None:
    program = narrow(8, 20)
    feed = feed_of(program, 4) | {"embedded": np.zeros((4, 9), np.float32)}
    with pytest.raises(BundleError, match="embedded"):
        run(program, feed)


def test_tower_whose_program_takes_other_inputs_is_refused() -> None:
    class Layout:
        inputs = ("embedded",)
        outputs = ("output",)
        lookups = ()
        embedded_width = 8
        per_query = False

    tower = Tower(Layout(), narrow(8, 20).to_bytes(), "headway")
    with pytest.raises(BundleError, match=r"hidden\.0"):
        open_tower(Scope.CANDIDATE, tower)


def test_compiled_steps_are_compiled_anew_when_tiles_change() -> None:
    assert products.run_steps.py_func.__closure__[0].cell_contents == whole_rows.SOURCES
