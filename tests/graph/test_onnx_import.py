"""An ONNX model scores as its file does in ONNX Runtime, with its embeddings taken out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.graph import onnx_models as files
from tests.models.conftest import SETTINGS, make_schema

from headway.core import (
    Bag,
    CaptureError,
    Dense,
    Link,
    Pooling,
    Ragged,
    Schema,
    Scope,
    Sparse,
    Table,
    Task,
)
from headway.core import Sequence as SequenceFeature
from headway.graph import capture, example_columns, explain, partition
from headway.graph.onnx_import import import_onnx
from headway.models import build_model

node = helper.make_node
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Q, C = Scope.QUERY, Scope.CANDIDATE
RNG = np.random.default_rng(5)
ITEMS = RNG.standard_normal((30, 4)).astype(np.float32)
WEIGHT = RNG.standard_normal((4, 1)).astype(np.float32)
TABLES = (Table(name="items", rows=30, dim=4),)
DENSE = Schema(features=(Dense(name="x", scope=C, width=4),), tables=())
SPARSE = Schema(features=(Sparse(name="item", table="items", scope=C),), tables=TABLES)
LOGITS = (Task(link=Link.IDENTITY),)


def bag_schema(pooling: Pooling = Pooling.SUM) -> Schema:
    bag = Bag(name="tags", table="items", scope=C, max_length=5, pooling=pooling)
    return Schema(features=(bag,), tables=TABLES)


def sequence_schema() -> Schema:
    history = SequenceFeature(name="seen", table="items", scope=Q, max_length=6)
    item = Sparse(name="item", table="items", scope=C)
    return Schema(features=(history, item), tables=TABLES)


# Zoo models as torch's two exporters write them: bags are loops there.


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [*((name, False) for name in SETTINGS), ("dlrm_dot", True), ("din", True)],
)
def test_a_zoo_model_comes_back_as_it_was(name: str, dynamo: bool, tmp_path: Path) -> None:
    schema = make_schema(8, (Task(), Task(name="buy")))
    model = build_model(SETTINGS[name], schema, seed=3).eval()
    files.export(model, schema, tmp_path / "m.onnx", dynamo=dynamo)
    imported = import_onnx(tmp_path / "m.onnx", schema)
    columns = dict(example_columns(schema, np.random.default_rng(2)))
    wanted = files.call(model, schema, columns)
    found = files.call(imported.model, schema, columns)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-5 * wanted.std())
    assert sum("is looked up in" in note for note in imported.notes) == len(schema.id_features())


def test_a_model_that_comes_as_onnx_is_hoisted_as_far_as_its_module(tmp_path: Path) -> None:
    schema = make_schema()
    model = build_model(SETTINGS["din"], schema, seed=3).eval()
    files.export(model, schema, tmp_path / "m.onnx", dynamo=False)
    costs = []
    for module in (model, import_onnx(tmp_path / "m.onnx", schema).model):
        captured = capture(module, schema)
        found = explain(captured, partition(captured))
        costs.append((found.before, found.after))
    assert costs[0] == costs[1]
    assert costs[0][1] < costs[0][0] / 2


# One operation after another, against ONNX Runtime on the same file.

W44 = RNG.standard_normal((4, 4)).astype(np.float32)
V4 = np.abs(RNG.standard_normal(4)).astype(np.float32) + 0.5
ints = partial(np.array, dtype=np.int64)
OPERATIONS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "gemm": ([node("Gemm", ["x", "w", "v"], ["y"], transB=1, alpha=0.5, beta=2.0)], {"w": W44}),
    "matmul and add": (
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "v"], ["y"])],
        {"w": W44},
    ),
    "batch norm": ([node("BatchNormalization", ["x", "v", "v", "v", "v"], ["y"])], {}),
    "layer norm": ([node("LayerNormalization", ["x", "v", "v"], ["y"])], {}),
    "clip": (
        [node("Clip", ["x", "low", "high"], ["y"])],
        {"low": np.float32(-0.5), "high": np.float32(0.5)},
    ),
    "softmax": ([node("Softmax", ["x"], ["y"], axis=1)], {}),
    "square": ([node("Pow", ["x", "two"], ["y"])], {"two": np.float32(2)}),
    "root of a square": (
        [node("Mul", ["x", "x"], ["m"]), node("Sqrt", ["m"], ["y"])],
        {},
    ),
    "where": (
        [node("Greater", ["x", "zero"], ["g"]), node("Where", ["g", "x", "zero"], ["y"])],
        {"zero": np.float32(0)},
    ),
    "split and concat": (
        [
            node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
            node("Concat", ["b", "a"], ["y"], axis=-1),
        ],
        {},
    ),
    "slice": (
        [
            node("Slice", ["x", "one", "end", "one"], ["s"]),
            node("Concat", ["s", "x"], ["c"], axis=1),
            node("Slice", ["c", "zero", "four", "one", "one"], ["y"]),
        ],
        {"one": ints([1]), "end": ints([2**63 - 1]), "zero": ints([0]), "four": ints([4])},
    ),
    "reshape by the number of rows": (
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["rows"]),
            node("Unsqueeze", ["rows", "axis"], ["first"]),
            node("Concat", ["first", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
            node("Flatten", ["t"], ["y"]),
        ],
        {"zero": ints(0), "axis": ints([0]), "rest": ints([2, 2])},
    ),
    "expand to a computed shape": (
        [
            node("Shape", ["x"], ["shape"]),
            node("ConstantOfShape", ["rank"], ["ones"]),
            node("Equal", ["wanted", "minus"], ["open"]),
            node("Where", ["open", "shape", "wanted"], ["target"]),
            node("Expand", ["v", "target"], ["wide"]),
            node("Mul", ["x", "wide"], ["y"]),
        ],
        {"rank": ints([2]), "wanted": ints([-1, 4]), "minus": ints(-1)},
    ),
    "unsqueeze, reduce and squeeze": (
        [
            node("Unsqueeze", ["x", "one"], ["u"]),
            node("Concat", ["u", "u"], ["c"], axis=1),
            node("ReduceMean", ["c", "one"], ["m"], keepdims=1),
            node("Squeeze", ["m", "one"], ["y"]),
        ],
        {"one": ints([1])},
    ),
    "einsum": ([node("Einsum", ["x", "w"], ["y"], equation="ni,ij->nj")], {"w": W44}),
    "gather columns": ([node("Gather", ["x", "order"], ["y"], axis=1)], {"order": ints([2, 0, -1, 1])}),
    "reductions": (
        [
            node("ReduceSum", ["x", "one"], ["a"], keepdims=1),
            node("ReduceMax", ["x", "one"], ["b"], keepdims=1),
            node("ReduceL2", ["x", "one"], ["c"], keepdims=1),
            node("Sum", ["a", "b", "c"], ["d"]),
            node("Sub", ["x", "d"], ["y"]),
        ],
        {"one": ints([1])},
    ),
    "activations": (
        [
            node("LeakyRelu", ["x"], ["a"], alpha=0.2),
            node("PRelu", ["a", "v"], ["b"]),
            node("Tanh", ["b"], ["c"]),
            node("Softplus", ["c"], ["d"]),
            node("Elu", ["d"], ["e"]),
            node("Erf", ["e"], ["y"]),
        ],
        {},
    ),
    "cast and compare": (
        [
            node("Less", ["x", "v"], ["less"]),
            node("Not", ["less"], ["not"]),
            node("Cast", ["not"], ["f"], to=FLOAT),
            node("Mul", ["f", "x"], ["y"]),
        ],
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_what_onnx_runtime_gives(name: str, tmp_path: Path) -> None:
    nodes, constants = OPERATIONS[name]
    nodes = [*nodes, node("MatMul", ["y", "last"], ["output"])]
    constants = {"v": V4, "last": WEIGHT, **constants}
    shape: dict[str, tuple[int, list[Any]]] = {"x": (FLOAT, ["rows", 4])}
    path = files.make(tmp_path / "m.onnx", nodes, shape, constants)
    x = np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)
    (wanted,) = files.run(path, {"x": x})
    found = files.call(import_onnx(path, DENSE).model, DENSE, {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_gru_over_a_history_gives_what_onnx_runtime_gives(tmp_path: Path) -> None:
    weights = {
        "w": RNG.standard_normal((1, 9, 4)).astype(np.float32),
        "r": RNG.standard_normal((1, 9, 3)).astype(np.float32),
        "b": RNG.standard_normal((1, 18)).astype(np.float32),
        "last": RNG.standard_normal((3, 1)).astype(np.float32),
    }
    nodes = [
        node("Gather", ["table", "seen"], ["rows"]),
        node("Transpose", ["rows"], ["turned"], perm=[1, 0, 2]),
        node("GRU", ["turned", "w", "r", "b"], ["", "state"], hidden_size=3, linear_before_reset=1),
        node("Squeeze", ["state", "zero"], ["s"]),
        node("MatMul", ["s", "last"], ["h"]),
        node("Gather", ["table", "item"], ["i"]),
        node("MatMul", ["i", "one"], ["j"]),
        node("Mul", ["h", "j"], ["output"]),
    ]
    inputs = {"seen": (INT, ["rows", 6]), "item": (INT, ["rows"])}
    constants = {**weights, "table": ITEMS, "zero": ints([0]), "one": WEIGHT}
    path = files.make(tmp_path / "m.onnx", nodes, inputs, constants)
    columns = dict(example_columns(sequence_schema(), np.random.default_rng(0)))
    seen = columns["seen"]
    assert isinstance(seen, Ragged)
    feed = {"seen": files.padded(seen, 6, 0), "item": columns["item"]}
    (wanted,) = files.run(path, feed)
    model = import_onnx(path, sequence_schema()).model
    np.testing.assert_allclose(
        files.call(model, sequence_schema(), columns), wanted, rtol=1e-4, atol=1e-5
    )


# Ids in the forms that exporters give them.


def pooled(fill: int, *, mean: bool = False) -> list[onnx.NodeProto]:
    """Return nodes that pool padded ids; the ids that count are those above the fill."""
    nodes = [
        node("Greater", ["tags", "fill"], ["known"]),
        node("Cast", ["known"], ["mask"], to=FLOAT),
        node("Max", ["tags", "zero"], ["safe"]),
        node("Gather", ["table", "safe"], ["rows"]),
        node("Unsqueeze", ["mask", "two"], ["wide"]),
        node("Mul", ["rows", "wide"], ["kept"]),
        node("ReduceSum", ["kept", "one"], ["total"], keepdims=0),
    ]
    if mean:
        nodes += [
            node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
            node("Max", ["count", "unit"], ["least"]),
            node("Div", ["total", "least"], ["pooled"]),
        ]
    else:
        nodes.append(node("Identity", ["total"], ["pooled"]))
    return [*nodes, node("MatMul", ["pooled", "weight"], ["output"])]


def pooled_file(path: Path, fill: int, *, mean: bool = False) -> Path:
    constants = {
        "table": ITEMS, "weight": WEIGHT, "fill": ints(fill), "zero": ints(0), "one": ints([1]),
        "two": ints([2]), "unit": np.float32(1),
    }  # fmt: skip
    return files.make(path, pooled(fill, mean=mean), {"tags": (INT, ["rows", 5])}, constants)


@pytest.mark.parametrize("fill", [-1, 0])
@pytest.mark.parametrize("pooling", Pooling)
def test_padded_bags_become_bags(tmp_path: Path, fill: int, pooling: Pooling) -> None:
    path = pooled_file(tmp_path / "m.onnx", fill, mean=pooling is Pooling.MEAN)
    schema = bag_schema(pooling)
    imported = import_onnx(path, schema)
    assert any("must not be sent as ids" in note for note in imported.notes)
    tags = Ragged.from_rows([[], [1], [29, 29], [3, 4, 5, 6, 7]])
    (wanted,) = files.run(path, {"tags": files.padded(tags, 5, fill)})
    found = files.call(imported.model, schema, {"tags": tags})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert list(partition(capture(imported.model, schema)).tables) == ["items"]


@pytest.mark.parametrize("fill", [-1, 0])
def test_a_history_without_a_mask_input_gets_its_mask_from_the_ids(
    tmp_path: Path, fill: int
) -> None:
    nodes = [
        node("Equal", ["seen", "fill"], ["empty"]),
        node("Not", ["empty"], ["known"]),
        node("Cast", ["known"], ["mask"], to=FLOAT),
        node("Unsqueeze", ["mask", "two"], ["wide"]),
        node("Gather", ["table", "seen"], ["rows"]),
        node("Mul", ["rows", "wide"], ["kept"]),
        node("ReduceSum", ["kept", "one"], ["taste"], keepdims=0),
        node("Gather", ["table", "item"], ["own"]),
        node("Mul", ["taste", "own"], ["both"]),
        node("ReduceSum", ["both", "one"], ["output"], keepdims=1),
    ]
    constants = {"table": ITEMS, "fill": ints(fill), "one": ints([1]), "two": ints([2])}
    inputs = {"seen": (INT, ["rows", 6]), "item": (INT, ["rows"])}
    path = files.make(tmp_path / "m.onnx", nodes, inputs, constants)
    schema = sequence_schema()
    seen = Ragged.from_rows([[], [1], [2, 29], [3, 4, 5, 6, 7, 8]])
    item = np.array([0, 29, 3, 4])
    (wanted,) = files.run(path, {"seen": files.padded(seen, 6, fill), "item": item})
    model = import_onnx(path, schema).model
    found = files.call(model, schema, {"seen": seen, "item": item})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert partition(capture(model, schema)).query is not None


def test_ids_of_shape_rows_by_one_and_of_int32_are_read(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["table", "item"], ["rows"]),
        node("Flatten", ["rows"], ["flat"]),
        node("MatMul", ["flat", "weight"], ["output"]),
    ]
    shape: dict[str, tuple[int, list[Any]]] = {"item": (TensorProto.INT32, ["rows", 1])}
    constants = {"table": ITEMS, "weight": WEIGHT}
    path = files.make(tmp_path / "m.onnx", nodes, shape, constants)
    item = np.array([0, 29, 7])
    found = files.call(import_onnx(path, SPARSE).model, SPARSE, {"item": item})
    np.testing.assert_allclose(found, ITEMS[item] @ WEIGHT, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_another_width_become_float32(tmp_path: Path, dtype: Any) -> None:
    nodes = [
        node("Gather", ["table", "item"], ["rows"]),
        node("MatMul", ["rows", "weight"], ["product"]),
        node("Cast", ["product"], ["output"], to=FLOAT),
    ]
    constants = {"table": ITEMS.astype(dtype), "weight": WEIGHT.astype(dtype)}
    path = files.make(tmp_path / "m.onnx", nodes, {"item": (INT, ["rows"])}, constants)
    item = np.array([0, 29, 7])
    found = files.call(import_onnx(path, SPARSE).model, SPARSE, {"item": item})
    narrow = [array.astype(np.float32) for array in constants.values()]
    np.testing.assert_allclose(found, narrow[0][item] @ narrow[1], rtol=1e-5, atol=1e-6)


def sparse_file(path: Path, *more: onnx.NodeProto, outputs: Sequence[str] = ("output",)) -> Path:
    nodes = [
        node("Gather", ["table", "item"], ["rows"]),
        node("MatMul", ["rows", "weight"], ["output" if not more else "logit"]),
        *more,
    ]
    constants = {"table": ITEMS, "weight": WEIGHT}
    return files.make(path, nodes, {"item": (INT, ["rows"])}, constants, outputs)


def test_a_last_sigmoid_is_the_tasks_link(tmp_path: Path) -> None:
    path = sparse_file(
        tmp_path / "m.onnx",
        node("Sigmoid", ["logit"], ["p"]),
        node("Flatten", ["p"], ["output"]),
    )
    imported = import_onnx(path, SPARSE)
    assert any("sigmoid at the end" in note for note in imported.notes)
    item = np.array([3, 4])
    found = files.call(imported.model, SPARSE, {"item": item})
    np.testing.assert_allclose(found, ITEMS[item] @ WEIGHT, rtol=1e-5, atol=1e-6)
    raw = Schema(features=SPARSE.features, tables=TABLES, tasks=LOGITS)
    kept = files.call(import_onnx(path, raw).model, raw, {"item": item})
    np.testing.assert_allclose(kept, 1 / (1 + np.exp(-found)), rtol=1e-5)


def test_one_output_a_task_is_joined(tmp_path: Path) -> None:
    path = sparse_file(
        tmp_path / "m.onnx",
        node("Identity", ["logit"], ["click"]),
        node("Neg", ["logit"], ["buy"]),
        outputs=("click", "buy"),
    )
    schema = Schema(features=SPARSE.features, tables=TABLES, tasks=(Task(), Task(name="buy")))
    found = files.call(import_onnx(path, schema).model, schema, {"item": np.array([3, 4])})
    np.testing.assert_allclose(found[:, 0], -found[:, 1])
    with pytest.raises(CaptureError, match=r"outputs \['click', 'buy'\]; it needs one"):
        import_onnx(path, SPARSE)


def test_a_file_that_holds_rows_together_is_found_out(tmp_path: Path) -> None:
    nodes = [
        node("Reshape", ["x", "three"], ["y"]),
        node("MatMul", ["y", "weight"], ["output"]),
    ]
    shape = {"x": (FLOAT, ["rows", 4])}
    constants = {"three": ints([3, 4]), "weight": WEIGHT}
    path = files.make(tmp_path / "m.onnx", nodes, shape, constants)
    with pytest.raises(CaptureError, match=r"Reshape.*cannot run|cannot be run in ONNX Runtime"):
        import_onnx(path, DENSE)


# What is not read is refused by name.


def test_an_unknown_operation_names_the_node(tmp_path: Path) -> None:
    nodes = [node("Det", ["x"], ["output"], name="strange")]
    shape: dict[str, tuple[int, list[Any]]] = {"x": (FLOAT, ["rows", 4])}
    path = files.make(tmp_path / "m.onnx", nodes, shape, {})
    with pytest.raises(CaptureError, match=r"node 'strange' has the operation 'Det'.*torch module"):
        import_onnx(path, DENSE)


def test_computed_ids_are_refused(tmp_path: Path) -> None:
    nodes = [
        node("Mod", ["item", "seven"], ["hashed"]),
        node("Gather", ["table", "hashed"], ["rows"]),
        node("MatMul", ["rows", "weight"], ["output"]),
    ]
    constants = {"table": ITEMS, "weight": WEIGHT, "seven": ints(7)}
    path = files.make(tmp_path / "m.onnx", nodes, {"item": (INT, ["rows"])}, constants)
    with pytest.raises(CaptureError, match=r"ids of 'item' go into .*Mod.*in the transforms"):
        import_onnx(path, SPARSE)


def test_a_bag_pooled_otherwise_than_the_schema_says_is_refused(tmp_path: Path) -> None:
    path = pooled_file(tmp_path / "m.onnx", -1)
    with pytest.raises(CaptureError, match=r"'tags' .*alone is the mean .*check the schema's pool"):
        import_onnx(path, bag_schema(Pooling.MEAN))


@pytest.mark.parametrize(
    ("name", "kind", "shape", "message"),
    [
        ("thing", INT, ["rows"], "input 'thing' belongs to no feature"),
        ("item", FLOAT, ["rows"], "'item' must be int64 or int32, not FLOAT"),
        ("item", INT, ["rows", 3], r"'item' has the shape \[None, 3\].*needs"),
        ("item", INT, [8], "first axis of the input 'item' is fixed to 8.*dynamic"),
    ],
)
def test_inputs_that_do_not_fit_the_schema_are_named(
    tmp_path: Path, name: str, kind: int, shape: list[Any], message: str
) -> None:
    nodes = [node("Cast", [name], ["output"], to=FLOAT)]
    path = files.make(tmp_path / "m.onnx", nodes, {name: (kind, shape)}, {})
    with pytest.raises(CaptureError, match=message):
        import_onnx(path, SPARSE)


def test_a_feature_without_an_input_is_named(tmp_path: Path) -> None:
    more = (*SPARSE.features, Dense(name="age", scope=Q))
    schema = Schema(features=more, tables=TABLES)
    with pytest.raises(CaptureError, match="no input for the feature 'age'"):
        import_onnx(sparse_file(tmp_path / "m.onnx"), schema)


@pytest.mark.parametrize("opset", [11, 16])
def test_an_old_opset_says_what_to_export(tmp_path: Path, opset: int) -> None:
    nodes = [node("Identity", ["x"], ["output"])]
    shape: dict[str, tuple[int, list[Any]]] = {"x": (FLOAT, ["rows", 4])}
    path = files.make(tmp_path / "m.onnx", nodes, shape, {}, opset=opset)
    with pytest.raises(CaptureError, match=f"has opset {opset}.*opset_version=17 or later"):
        import_onnx(path, DENSE)


# External data.


def with_external(path: Path, place: str, **more: str) -> Path:
    """Write a file whose table lies elsewhere."""
    model = onnx.load(sparse_file(path))
    tensor = next(t for t in model.graph.initializer if t.name == "table")
    data = tensor.raw_data
    (path.parent / "table.bin").write_bytes(b"\0" * 64 + data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": place, "offset": "64", "length": str(len(data)), **more}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    path = with_external(tmp_path / "m.onnx", "table.bin")
    found = files.call(import_onnx(path, SPARSE).model, SPARSE, {"item": np.array([3])})
    np.testing.assert_allclose(found, ITEMS[[3]] @ WEIGHT, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("place", "more", "message"),
    [
        ("../table.bin", {}, "not beside the model"),
        ("/etc/passwd", {}, "not beside the model"),
        ("C:\\table.bin", {}, "not beside the model"),
        ("sub\\..\\..\\table.bin", {}, "not beside the model"),
        ("", {}, "not beside the model"),
        ("absent.bin", {}, "not there"),
        ("link.bin", {}, "leads out of the model's folder"),
        ("table.bin", {"offset": "100"}, "was cut off"),
        ("table.bin", {"length": "12"}, "its shape .* needs 480"),
        ("table.bin", {"offset": "-4"}, "its shape .* needs 480"),
        ("table.bin", {"offset": "x"}, "is damaged"),
    ],
)
def test_external_data_elsewhere_or_too_short_is_refused(
    tmp_path: Path, place: str, more: dict[str, str], message: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 600)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = with_external(folder / "m.onnx", place, **more)
    with pytest.raises(CaptureError, match=message):
        import_onnx(path, SPARSE)


@pytest.mark.parametrize("inner", [False, True])
def test_a_node_may_not_read_another_file(tmp_path: Path, inner: bool) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\0" * 64)
    tensor = TensorProto(name="t", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=str(secret))
    reading = node("Constant", [], ["t"], value=tensor)
    if inner:
        out = [helper.make_tensor_value_info("t", FLOAT, [4])]
        branch = helper.make_graph([reading], "branch", [], out)
        reading = node("If", ["yes"], ["t"], then_branch=branch, else_branch=branch)
    nodes = [reading, node("Add", ["x", "t"], ["output"])]
    shape = {"x": (FLOAT, ["rows", 4])}
    path = files.make(tmp_path / "m.onnx", nodes, shape, {"yes": np.array(True)})
    with pytest.raises(CaptureError, match="holds a tensor that lies in another file"):
        import_onnx(path, DENSE)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot read"):
        import_onnx(tmp_path / "absent.onnx", SPARSE)
    with pytest.raises(CaptureError, match="not a file"):
        import_onnx(tmp_path, SPARSE)
    for text in (b"", b"not onnx", b"\xff" * 90):
        (tmp_path / "m.onnx").write_bytes(text)
        with pytest.raises(CaptureError, match=r"damaged|no graph"):
            import_onnx(tmp_path / "m.onnx", SPARSE)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_file_cut_off_or_changed_is_read_or_refused_and_never_breaks(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole = pooled_file(tmp_path / "m.onnx", -1, mean=True).read_bytes()
    changed = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "changed.onnx").write_bytes(bytes(changed))
    with suppress(CaptureError):
        import_onnx(tmp_path / "changed.onnx", bag_schema(Pooling.MEAN))
