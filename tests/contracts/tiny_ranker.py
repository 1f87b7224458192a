"""One small model in every form: NumPy formula, torch module, towers and tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from headway.bundle import (
    BundleParts,
    Lookup,
    Provenance,
    TablePart,
    TowerEntry,
    TowerPart,
    pack_table,
)
from headway.core import (
    Bag,
    Column,
    Columns,
    Dense,
    Link,
    Pooling,
    Query,
    Ragged,
    Runner,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
    Task,
)
from headway.engine import CompiledModel, TableRecords, Tower
from headway.engine.torch_eager import TorchRunner

USERS, ITEMS, DIM, HIDDEN, RECENT = 50, 80, 12, 16, 6
Q, C = Scope.QUERY, Scope.CANDIDATE
SCHEMA = Schema(
    features=(
        Dense(name="ctx", scope=Q, width=3),
        Sparse(name="user", table="users", scope=Q),
        Bag(name="liked", table="items", scope=Q, max_length=20, pooling=Pooling.MEAN),
        Sequence(name="recent", table="items", scope=Q, max_length=RECENT),
        Dense(name="price", scope=C, width=1),
        Sparse(name="item", table="items", scope=C),
        Bag(name="similar", table="items", scope=C, max_length=9),
    ),
    tables=(Table(name="users", rows=USERS, dim=8), Table(name="items", rows=ITEMS, dim=DIM)),
    tasks=(Task(name="click"), Task(name="minutes", link=Link.IDENTITY)),
)
TASKS = len(SCHEMA.tasks)


def _weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    shapes = {
        "user_rows": (USERS, 8),
        "item_rows": (ITEMS, DIM),
        "wq": (8 + DIM + 3, HIDDEN),
        "bias": (HIDDEN,),
        "wc": (2 * DIM + 1, HIDDEN),
        "wo": (HIDDEN, TASKS),
    }
    return {n: (0.5 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}


W = _weights()


def expected(query: Query) -> NDArray[np.float32]:
    """The model as a formula, candidate by candidate, in float64."""
    w = {name: value.astype(np.float64) for name, value in W.items()}
    liked, recent = query.context["liked"], query.context["recent"]
    similar = query.candidates["similar"]
    assert isinstance(liked, Ragged)
    assert isinstance(recent, Ragged)
    assert isinstance(similar, Ragged)
    mean = w["item_rows"][liked.values].mean(axis=0) if len(liked.values) else np.zeros(DIM)
    user = w["user_rows"][query.context["user"]][0]  # type: ignore[index]
    hidden = np.concatenate([user, mean, query.context["ctx"][0]]) @ w["wq"]  # type: ignore[index]
    taste = w["item_rows"][recent.values[-RECENT:]].sum(axis=0)
    out = np.zeros((query.size, TASKS))
    for row in range(query.size):
        item = w["item_rows"][query.candidates["item"][row]]  # type: ignore[index]
        ids = similar.values[similar.offsets[row] : similar.offsets[row + 1]]
        price = query.candidates["price"][row]  # type: ignore[index]
        own = np.concatenate([item, w["item_rows"][ids].sum(axis=0), price]) @ w["wc"]
        out[row] = np.maximum(hidden + own + w["bias"], 0) @ w["wo"] + taste @ item
    return out.astype(np.float32)


class TinyRanker(nn.Module):
    """The same as a ranking module: every feature has one row per candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterDict({name: torch.from_numpy(value) for name, value in W.items()})

    def forward(self, features: dict[str, Any]) -> torch.Tensor:
        w = self.w
        pooled = {
            name: functional.embedding_bag(
                features[name][0],
                w["item_rows"],
                features[name][1],
                mode=mode,
                include_last_offset=True,
            )
            for name, mode in (("liked", "mean"), ("similar", "sum"))
        }
        ids, mask = features["recent"]
        taste = (functional.embedding(ids, w["item_rows"]) * mask[..., None]).sum(dim=1)
        item = functional.embedding(features["item"], w["item_rows"])
        user = functional.embedding(features["user"], w["user_rows"])
        hidden = torch.cat([user, pooled["liked"], features["ctx"]], dim=1) @ w["wq"]
        own = torch.cat([item, pooled["similar"], features["price"]], dim=1) @ w["wc"]
        dots = (taste * item).sum(dim=1, keepdim=True)
        out: torch.Tensor = torch.relu(hidden + own + w["bias"]) @ w["wo"] + dots
        return out


def graph(
    nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], *names: str
) -> bytes:
    """Serialise an ONNX graph with the named weights; axis tensors are added."""
    constants = [numpy_helper.from_array(W[name], name) for name in names]
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    constants.append(numpy_helper.from_array(np.array([2], np.int64), "two"))

    def infos(values: dict[str, list[Any]]) -> list[Any]:
        kinds = {"row_to_query": TensorProto.INT64}
        return [
            helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), shape)
            for n, shape in values.items()
        ]

    body = helper.make_graph(nodes, "tower", infos(inputs), infos(outputs), constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def query_tower() -> Tower:
    node = helper.make_node
    onnx_bytes = graph(
        [
            node("Concat", ["embedded", "dense.ctx"], ["all"], axis=1),
            node("MatMul", ["all", "wq"], ["hidden.0"]),
            node("Unsqueeze", ["mask.recent", "two"], ["wide"]),
            node("Mul", ["sequence.recent", "wide"], ["kept"]),
            node("ReduceSum", ["kept", "one"], ["hidden.1"], keepdims=0),
        ],
        {
            "embedded": ["rows", 8 + DIM],
            "dense.ctx": ["rows", 3],
            "sequence.recent": ["rows", RECENT, DIM],
            "mask.recent": ["rows", RECENT],
        },
        {"hidden.0": ["rows", HIDDEN], "hidden.1": ["rows", DIM]},
        "wq",
    )
    layout = TowerEntry(
        path="towers/query.onnx",
        precision="f32",
        inputs=("embedded", "dense.ctx", "sequence.recent", "mask.recent"),
        outputs=("hidden.0", "hidden.1"),
        lookups=(
            Lookup(feature="user", table="users", start=0, width=8),
            Lookup(feature="liked", table="items", start=8, width=DIM),
        ),
        embedded_width=8 + DIM,
    )
    return Tower(layout, onnx_bytes)


def candidate_tower() -> Tower:
    node = helper.make_node
    onnx_bytes = graph(
        [
            node("Gather", ["hidden.0", "row_to_query"], ["hidden"], axis=0),
            node("Gather", ["hidden.1", "row_to_query"], ["taste"], axis=0),
            node("Concat", ["embedded", "dense.price"], ["all"], axis=1),
            node("MatMul", ["all", "wc"], ["own"]),
            node("Sum", ["hidden", "own", "bias"], ["sum"]),
            node("Relu", ["sum"], ["active"]),
            node("MatMul", ["active", "wo"], ["linear"]),
            node("Split", ["embedded"], ["item", "similar"], axis=1, num_outputs=2),
            node("Mul", ["taste", "item"], ["products"]),
            node("ReduceSum", ["products", "one"], ["dots"], keepdims=1),
            node("Add", ["linear", "dots"], ["output"]),
        ],
        {
            "embedded": ["rows", 2 * DIM],
            "dense.price": ["rows", 1],
            "hidden.0": ["queries", HIDDEN],
            "hidden.1": ["queries", DIM],
            "row_to_query": ["rows"],
        },
        {"output": ["rows", TASKS]},
        "wc",
        "bias",
        "wo",
    )
    layout = TowerEntry(
        path="towers/candidate.onnx",
        precision="f32",
        inputs=("embedded", "dense.price", "hidden.0", "hidden.1", "row_to_query"),
        outputs=("output",),
        lookups=(
            Lookup(feature="item", table="items", start=0, width=DIM),
            Lookup(feature="similar", table="items", start=DIM, width=DIM),
        ),
        embedded_width=2 * DIM,
    )
    return Tower(layout, onnx_bytes)


def tables(form: str = "f32") -> dict[str, TableRecords]:
    values = {"users": W["user_rows"], "items": W["item_rows"]}
    if form == "f32":
        return {name: TableRecords.from_f32(rows) for name, rows in values.items()}
    return {
        name: TableRecords("int8", rows.shape[1], pack_table(rows, "int8"))
        for name, rows in values.items()
    }


def compiled(form: str = "f32") -> CompiledModel:
    return CompiledModel(SCHEMA, tables(form), query_tower(), candidate_tower())


def make_compiled(argument: str) -> Runner:
    return compiled(argument or "f32").runner()


def make_torch(argument: str) -> Runner:
    return TorchRunner(TinyRanker(), SCHEMA, threads=int(argument or 1))


def make_broken(argument: str) -> Runner:
    raise ValueError(f"no such model: {argument}")


def draw(rng: np.random.Generator, size: int, name: str = "q") -> Query:
    """Draw a query; some of its bags are empty and some histories too long."""

    def bags(rows: int, longest: int) -> Column:
        return Ragged.from_rows(
            rng.integers(0, ITEMS, rng.integers(0, longest + 1)) for _ in range(rows)
        )

    context: Columns = {
        "ctx": rng.standard_normal((1, 3)).astype(np.float32),
        "user": rng.integers(0, USERS, 1),
        "liked": bags(1, 20),
        "recent": bags(1, RECENT),
    }
    candidates: Columns = {
        "price": rng.standard_normal((size, 1)).astype(np.float32),
        "item": rng.integers(0, ITEMS, size),
        "similar": bags(size, 9),
    }
    return Query(name, context, candidates, size)


def bundle_parts(sizes: Iterable[int] = (0, 1, 7, 20)) -> BundleParts:
    """Return what a bundle of the model is written from, with golden queries of those sizes."""
    rng = np.random.default_rng(0)
    golden = [draw(rng, size, f"golden-{size}") for size in sizes]
    return BundleParts(
        name="tiny",
        schema=SCHEMA,
        tables={n: TablePart("f32", t.records) for n, t in tables().items()},
        query_tower=_part(query_tower()),
        candidate_tower=_part(candidate_tower()),
        golden=tuple((query, expected(query)) for query in golden),
        golden_tolerance=1e-4,
        provenance=Provenance(created_unix=0, headway="0", model="tiny"),
    )


def _part(tower: Tower) -> TowerPart:
    layout = tower.layout
    assert isinstance(layout, TowerEntry)
    return TowerPart(
        content=tower.content,
        precision=layout.precision,
        inputs=layout.inputs,
        outputs=layout.outputs,
        lookups=layout.lookups,
        embedded_width=layout.embedded_width,
    )
