"""Headway's own dense engine: every program gives what plain NumPy gives, at any number of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.bundle import Codes, Concat, Map, Product, Program, Slice, Steps
from headway.core import BundleError, Scope
from headway.engine import Tower, finish, products, tiles
from headway.engine.dense import open_tower
from headway.engine.program import ProgramEngine

F32 = NDArray[np.float32]
ACTIVATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
COMBINATIONS: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "subtract": lambda x, y: x - y,
    "subtract-from": lambda x, y: y - x,
}


def reference(program: Program, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The steps in float64, codes rounded as their words say."""
    values: dict[str, NDArray[Any]] = {
        name: feed[name][feed["row_to_query"]] if name.startswith("hidden.") else feed[name]
        for name in program.steps.inputs
    }
    for step in program.steps.steps:
        if isinstance(step, Concat):
            values[step.result] = np.concatenate([values[s] for s in step.sources], 1)
        elif isinstance(step, Slice):
            values[step.result] = values[step.source][:, step.start : step.stop]
        else:
            values[step.result] = transformed(program, step, values)
    return {name: values[value] for name, value in program.steps.outputs.items()}


def transformed(
    program: Program, step: Product | Map, values: dict[str, NDArray[Any]]
) -> NDArray[Any]:
    x = values[step.source].astype(np.float64)
    if isinstance(step, Product):
        weight = program.tensors[step.weight].astype(np.float64)
        if step.codes is not None:
            codes = np.rint(x.astype(np.float32) / step.codes.scale) + step.codes.zero
            x = (np.clip(codes, 0, 255) - step.codes.zero) * step.codes.scale
            weight = weight * program.tensors[f"{step.weight}.scale"]
        x = x @ weight
    if step.bias:
        x = x + program.tensors[step.bias]
    if step.other:
        x = COMBINATIONS[step.combine](x, values[step.other])
    return np.asarray(ACTIVATIONS[step.activation](x))


def run(program: Program, feed: dict[str, NDArray[Any]]) -> dict[str, F32]:
    engine = ProgramEngine(Program.from_bytes(program.to_bytes()))
    found = engine.caller()(engine.outputs, feed)
    return dict(zip(engine.outputs, found, strict=True))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Chains with side inputs, concatenations and slices of odd widths."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = st.integers(1, 150)
    inputs = {"embedded": draw(width), "hidden.0": draw(width), "dense.a": draw(width)}
    widths = dict(inputs)
    tensors: dict[str, NDArray[np.float32]] = {}
    steps: list[Product | Map | Concat | Slice] = []

    def extras(columns: int) -> dict[str, Any]:
        found: dict[str, Any] = {"activation": draw(st.sampled_from(sorted(ACTIVATIONS)))}
        with_bias: bool = draw(st.booleans())
        if with_bias:
            tensors[f"b{len(steps)}"] = rng.standard_normal(columns).astype(np.float32)
            found["bias"] = f"b{len(steps)}"
        others = [name for name, n in widths.items() if n == columns]
        with_other: bool = draw(st.booleans())
        if others and with_other:
            found["other"] = draw(st.sampled_from(others))
            found["combine"] = draw(st.sampled_from(sorted(COMBINATIONS)))
        return found

    for number in range(draw(st.integers(1, 7))):
        result, source = f"v{number}", draw(st.sampled_from(sorted(widths)))
        kind = draw(st.sampled_from(("product", "product", "map", "concat", "slice")))
        if kind == "product":
            columns = draw(st.one_of(width, st.just(inputs["hidden.0"])))
            weight = rng.standard_normal((widths[source], columns)) / np.sqrt(widths[source])
            tensors[f"w{number}"] = weight.astype(np.float32)
            step: Product | Map | Concat | Slice = Product(
                result=result, source=source, weight=f"w{number}", **extras(columns)
            )
        elif kind == "map":
            columns = widths[source]
            step = Map(result=result, source=source, **extras(columns))
        elif kind == "concat":
            several = draw(st.integers(1, 3))
            sources = tuple(draw(st.sampled_from(sorted(widths))) for _ in range(several))
            columns = sum(widths[s] for s in sources)
            step = Concat(result=result, sources=sources)
        else:
            start = draw(st.integers(0, widths[source] - 1))
            columns = draw(st.integers(1, widths[source] - start))
            step = Slice(result=result, source=source, start=start, stop=start + columns)
        steps.append(step)
        widths[result] = columns
    outputs = {"output": f"v{len(steps) - 1}", "second": draw(st.sampled_from(sorted(widths)))}
    return Program(Steps(inputs=inputs, outputs=outputs, steps=tuple(steps)), tensors)


def feed_of(program: Program, rows: int, queries: int = 3) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rows)
    feed: dict[str, NDArray[Any]] = {
        name: rng.standard_normal((queries if name.startswith("hidden.") else rows, n), np.float32)
        for name, n in program.steps.inputs.items()
    }
    feed["row_to_query"] = rng.integers(0, queries, rows)
    return feed


@settings(max_examples=60, deadline=None)
@given(programs(), st.sampled_from([0, 1, 2, 3, 7, 16, 96, 97, 200]))
def test_program_gives_what_numpy_gives(program: Program, rows: int) -> None:
    feed = feed_of(program, rows)
    found, wanted = run(program, feed), reference(program, feed)
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=2e-4, atol=2e-4)


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


@pytest.mark.parametrize(("inner", "columns"), [(1, 1), (3, 17), (64, 64), (130, 100), (257, 48)])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 6, 7, 100])
def test_codes_are_multiplied_exactly(inner: int, columns: int, rows: int) -> None:
    program = narrow(inner, columns)
    feed = feed_of(program, rows)
    found, wanted = run(program, feed)["output"], reference(program, feed)["output"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


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
    from headway.engine.program_layout import pack
    from headway.engine.vectors import inner

    packed = pack(weights.astype(np.int8), 4)

    @inner
    def once(numbers):  # type: ignore[no-untyped-def]
        tiles.sum_tile(numbers)

    once((7, rows.ctypes.data, 64, 6, packed.ctypes.data, 16, found.ctypes.data))
    np.testing.assert_array_equal(found, rows[:6].astype(np.int64) @ weights)


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

    tower = Tower(Layout(), narrow(8, 20).to_bytes(), "program")
    with pytest.raises(BundleError, match=r"hidden\.0"):
        open_tower(Scope.CANDIDATE, tower)


def test_compiled_steps_are_compiled_anew_when_tiles_change() -> None:
    assert products.run_steps.py_func.__closure__[0].cell_contents == finish.SOURCES
