"""Ranking models that nobody here wrote, each behind an adapter to features by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from headway.core import Dense, Feature, Schema, Scope, Sequence, Sparse, Table, Task

QUERY, CANDIDATE = Scope.QUERY, Scope.CANDIDATE
# Two of each scope make pairs of every kind; more would only take longer to capture.
IDS = {"u1": QUERY, "u2": QUERY, "i1": CANDIDATE, "i2": CANDIDATE}
NUMBERS = {"x1": QUERY, "x2": QUERY, "p1": CANDIDATE}
ROWS, DIM, LENGTH = 11, 4, 5
MLP = (12, 8)
Case = tuple[nn.Module, Schema]


def randomised(model: nn.Module, spread: float = 1.0) -> nn.Module:
    """Draw weights large enough that every part of a model tells in its output."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                draw = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(draw + 0.2 if "var" in name else spread * (draw - 0.5))
    return model.eval()


def schema(ids: dict[str, Scope], numbers: dict[str, Scope], tasks: int, **more: Any) -> Schema:
    """Return a schema with a table for every id feature; ``lin_`` ones have one column."""
    features: list[Feature] = [Sparse(name=n, table=n, scope=s) for n, s in ids.items()]
    features += [Dense(name=n, scope=s) for n, s in numbers.items()]
    features += more.get("features", ())
    tables = [Table(name=n, rows=ROWS, dim=1 if n.startswith("lin_") else DIM) for n in ids]
    names = tuple(Task(name=f"t{i}") for i in range(tasks))
    return Schema(features=tuple(features), tables=tuple(tables), tasks=names)


class Columns(nn.Module):
    """Feeds a DeepCTR model, which takes all features as columns of one float matrix."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: dict[str, Any]) -> Tensor:
        columns = []
        for name in self.inner.feature_index:
            value = features["hist_i1"][0] if name == "hist_i1" else None
            if name == "length":
                value = features["hist_i1"][1].sum(1, keepdim=True)
            value = features[name] if value is None else value
            value = value if value.dim() > 1 else value.unsqueeze(1)
            columns.append(value.to(features["p1"].dtype))
        result: Tensor = self.inner(torch.cat(columns, 1))
        return result


class Mapping(nn.Module):
    """Feeds a Torch-RecHub model, which takes features by name."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: dict[str, Any]) -> Tensor:
        plain = {n: v[0] if isinstance(v, tuple) else v for n, v in features.items()}
        result: Tensor = self.inner(plain)
        return result if result.dim() == 2 else result.unsqueeze(1)


def deepctr(name: str, *, linear: bool = True, tasks: int = 1, **settings: Any) -> Case:
    """Return a DeepCTR-Torch model over sparse and dense columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deepctr_torch import inputs, models
    sparse = [inputs.SparseFeat(n, ROWS, DIM) for n in IDS]
    dense = [inputs.DenseFeat(n, 1) for n in NUMBERS]
    own = [inputs.SparseFeat(f"lin_{n}", ROWS, DIM) for n in IDS] if linear else []
    columns = [[*own, *dense] if linear else [], [*sparse, *dense]]
    if tasks > 1:
        columns, settings["task_types"] = columns[1:], ["regression"] * tasks
        settings["task_names"] = [f"t{i}" for i in range(tasks)]
    else:
        settings["task"] = "regression"
    inner = getattr(models, name)(*columns, init_std=0.1, **settings)
    ids = {**IDS, **({f"lin_{n}": s for n, s in IDS.items()} if linear else {})}
    return Columns(randomised(inner)), schema(ids, NUMBERS, tasks)


def rechub(
    make: Callable[[Any, Any, Any], nn.Module], tasks: int = 1, *, numbers: bool = True
) -> Case:
    """Return a Torch-RecHub model; ``make`` gets its models and the sparse and dense features."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models import multi_task, ranking

    sparse = [SparseFeature(n, ROWS, DIM) for n in IDS]
    dense = [DenseFeature(n) for n in NUMBERS] if numbers else []
    inner = make(SimpleNamespace(ranking=ranking, multi_task=multi_task), sparse, dense)
    return Mapping(randomised(inner)), schema(IDS, NUMBERS if numbers else {}, tasks)


HISTORY = Sequence(name="hist_i1", table="i1", scope=QUERY, max_length=LENGTH)


def deepctr_din() -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deepctr_torch import inputs
        from deepctr_torch.models import DIN
    columns = [inputs.SparseFeat(n, ROWS, DIM) for n in IDS]
    columns += [inputs.DenseFeat(n, 1) for n in NUMBERS]
    history = inputs.SparseFeat("hist_i1", ROWS, DIM, embedding_name="i1")
    columns.append(inputs.VarLenSparseFeat(history, LENGTH, length_name="length"))
    inner = DIN(
        columns,
        ["i1"],
        dnn_hidden_units=MLP,
        att_hidden_size=(8, 4),
        task="regression",
        att_activation="sigmoid",
    )
    return Columns(randomised(inner)), schema(IDS, NUMBERS, 1, features=(HISTORY,))


def deepctr_dien() -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deepctr_torch import inputs
        from deepctr_torch.models import DIEN
    history = inputs.SparseFeat("hist_i1", ROWS, DIM, embedding_name="i1")
    columns = [inputs.SparseFeat("i1", ROWS, DIM), inputs.DenseFeat("p1", 1)]
    columns.append(inputs.VarLenSparseFeat(history, LENGTH, length_name="length"))
    inner = DIEN(columns, ["i1"], gru_type="AUGRU", task="regression")
    ids, numbers = {"i1": CANDIDATE}, {"p1": CANDIDATE}
    return Columns(inner.eval()), schema(ids, numbers, 1, features=(HISTORY,))


def rechub_din() -> Case:
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DIN

    plain = [SparseFeature(n, ROWS, DIM) for n in IDS if n != "i1"]
    history = SequenceFeature("hist_i1", ROWS, DIM, pooling="concat", shared_with="i1")
    target = SparseFeature("i1", ROWS, DIM)
    inner = DIN(plain, [history], [target], {"dims": list(MLP)}, {"dims": [8, 4]})
    # Its output is a probability, whose last digit must be small beside what candidates change.
    return Mapping(randomised(inner, 2.0)), schema(IDS, {}, 1, features=(HISTORY,))


def _mlp(**more: Any) -> dict[str, Any]:
    return {"dims": list(MLP), "activation": "relu", "dropout": 0.0, **more}


LIBRARY: dict[str, Callable[[], Case]] = {
    "deepctr WDL": lambda: deepctr("WDL", dnn_hidden_units=MLP),
    "deepctr DeepFM": lambda: deepctr("DeepFM", dnn_hidden_units=MLP),
    "deepctr xDeepFM": lambda: deepctr("xDeepFM", dnn_hidden_units=MLP, cin_layer_size=(6, 4)),
    "deepctr AutoInt": lambda: deepctr("AutoInt", dnn_hidden_units=MLP, att_layer_num=2),
    "deepctr DCN": lambda: deepctr("DCN", dnn_hidden_units=MLP, cross_num=3),
    "deepctr DCN matrix": lambda: deepctr(
        "DCN", dnn_hidden_units=MLP, cross_num=2, cross_parameterization="matrix"
    ),
    "deepctr DCNMix": lambda: deepctr(
        "DCNMix", dnn_hidden_units=MLP, cross_num=2, low_rank=3, num_experts=2
    ),
    "deepctr PNN": lambda: _without_linear("PNN"),
    "deepctr FiBiNET": lambda: deepctr("FiBiNET", dnn_hidden_units=MLP),
    "deepctr NFM": lambda: deepctr("NFM", dnn_hidden_units=MLP),
    "deepctr IFM": lambda: deepctr("IFM", dnn_hidden_units=MLP),
    "deepctr DIFM": lambda: deepctr("DIFM", dnn_hidden_units=MLP),
    "deepctr MMOE": lambda: deepctr(
        "MMOE", linear=False, tasks=2, expert_dnn_hidden_units=MLP, tower_dnn_hidden_units=(6,)
    ),
    "deepctr PLE": lambda: deepctr(
        "PLE", linear=False, tasks=2, expert_dnn_hidden_units=MLP, tower_dnn_hidden_units=(6,)
    ),
    "deepctr SharedBottom": lambda: deepctr(
        "SharedBottom", linear=False, tasks=2, bottom_dnn_hidden_units=MLP
    ),
    "deepctr DIN": deepctr_din,
    "rechub WideDeep": lambda: rechub(lambda m, s, d: m.ranking.WideDeep(s, [*s, *d], _mlp())),
    "rechub DeepFM": lambda: rechub(lambda m, s, d: m.ranking.DeepFM([*s, *d], s, _mlp())),
    "rechub DCN": lambda: rechub(lambda m, s, d: m.ranking.DCN(s, 3, _mlp()), numbers=False),
    "rechub DCNv2": lambda: rechub(
        lambda m, s, d: m.ranking.DCNv2([*s, *d], 2, _mlp(), use_low_rank_mixture=False)
    ),
    "rechub EDCN": lambda: rechub(
        lambda m, s, d: m.ranking.EDCN(s, 2, {"activation": "relu"}), numbers=False
    ),
    "rechub AutoInt": lambda: rechub(
        lambda m, s, d: m.ranking.AutoInt(s, d, 2, mlp_params=_mlp()), numbers=False
    ),
    "rechub MMOE": lambda: rechub(
        lambda m, s, d: m.multi_task.MMOE(
            [*s, *d], ["classification"] * 2, 3, _mlp(), [{"dims": [6]}] * 2
        ),
        tasks=2,
    ),
    "rechub PLE": lambda: rechub(
        lambda m, s, d: m.multi_task.PLE(
            [*s, *d], ["classification"] * 2, 1, 2, 1, _mlp(), [{"dims": [6]}] * 2
        ),
        tasks=2,
    ),
    "rechub DIN": rechub_din,
}


def _without_linear(name: str) -> Case:
    """Return a DeepCTR model that takes one list of columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deepctr_torch import inputs, models
    columns = [inputs.SparseFeat(n, ROWS, DIM) for n in IDS]
    columns += [inputs.DenseFeat(n, 1) for n in NUMBERS]
    inner = getattr(models, name)(columns, init_std=0.1, task="regression", dnn_hidden_units=MLP)
    return Columns(randomised(inner)), schema(IDS, NUMBERS, 1)
