"""Models fit their schema, see what they should see, and can be exported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.models.conftest import SETTINGS
from torch.export import Dim

from headway.core import Dense, Schema, Scope, Sequence, Sparse, Table, Task, UsageError
from headway.data import Dataset
from headway.models import (
    DinSettings,
    DlrmSettings,
    ModelSettings,
    RankingModel,
    TrainSettings,
    WideDeepSettings,
    batch_features,
    build_model,
    predict,
)

MakeLog = Callable[[int, int], Dataset]


def dynamic_shapes(schema: Schema) -> dict[str, Any]:
    rows = Dim("rows", min=2)
    shapes: dict[str, Any] = {}
    for feature in schema.features:
        match feature:
            case Dense() | Sparse():
                shapes[feature.name] = {0: rows}
            case Sequence():
                shapes[feature.name] = ({0: rows}, {0: rows})
            case _:
                shapes[feature.name] = ({0: Dim(f"total_{feature.name}")}, {0: rows + 1})
    return shapes


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def exported(
    request: pytest.FixtureRequest, schema: Schema, click_log: MakeLog
) -> tuple[RankingModel, torch.export.ExportedProgram]:
    model = build_model(SETTINGS[request.param], schema).eval()
    few = batch_features(click_log(3, 1), slice(None))
    with warnings.catch_warnings():
        # torch about its own GRU, whose list of weights it swaps while exporting
        warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights", UserWarning)
        shapes = (dynamic_shapes(schema),)
        return model, torch.export.export(model, (few,), dynamic_shapes=shapes)


def test_every_model_exports_with_symbolic_rows(
    exported: tuple[RankingModel, torch.export.ExportedProgram], click_log: MakeLog
) -> None:
    model, program = exported
    for dataset in (click_log(3, 1), click_log(11, 2)):
        features = batch_features(dataset, slice(None))
        with torch.no_grad():
            torch.testing.assert_close(program.module()(features), model(features))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch about itself
def test_export_looks_tables_up_straight_from_inputs(
    exported: tuple[RankingModel, torch.export.ExportedProgram], schema: Schema
) -> None:
    graph = exported[1].run_decompositions({}).graph
    lookups = [node for node in graph.nodes if "embedding" in str(node.target)]
    assert len(lookups) >= len(schema.id_features())
    for node in lookups:
        sources = [a for a in node.args if isinstance(a, torch.fx.Node)]
        assert all(source.op == "placeholder" for source in sources)


def test_models_have_one_parameter_for_each_table(settings: ModelSettings, schema: Schema) -> None:
    model = build_model(settings, schema)
    shapes = {name: tuple(p.shape) for name, p in model.tables.named_parameters()}
    # "items" is a method of ModuleDict, so that table goes by another key.
    assert shapes == {
        "items-table.weight": (40, 8),
        "users.weight": (30, 8),
        "genres.weight": (8, 8),
    }


def test_a_seed_decides_the_weights(settings: ModelSettings, schema: Schema) -> None:
    first, same, other = (build_model(settings, schema, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_leaves_the_global_generator_alone(schema: Schema) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_model(DlrmSettings(), schema)
    assert torch.equal(before, torch.get_rng_state())


def test_padding_of_a_history_does_not_change_scores(schema: Schema, click_log: MakeLog) -> None:
    for settings in (DinSettings(attention_mlp=(16,), predict_mlp=(8,)), WideDeepSettings()):
        model = build_model(settings, schema).eval()
        features = batch_features(click_log(20, 3), slice(None))
        ids, mask = features["history"]
        other = dict(features)
        other["history"] = (torch.where(mask > 0, ids, 7), mask)
        with torch.no_grad():
            assert torch.equal(model(features), model(other))


def test_the_attention_unit_weighs_a_history_by_the_candidate(
    schema: Schema, click_log: MakeLog
) -> None:
    model = build_model(DinSettings(), schema).eval()
    rows = batch_features(click_log(4, 3), slice(None))
    seen: list[torch.Tensor] = []
    model.get_submodule("attention.unit_history.score").register_forward_hook(
        lambda *a: seen.append(a[2])
    )
    with torch.no_grad():
        model(rows)
    scores = seen[0].squeeze(2)
    assert scores.shape == (20, 5)
    assert not torch.allclose(scores[0], scores[1])


def test_dot_interaction_sees_every_pair_once(schema: Schema) -> None:
    model = build_model(DlrmSettings(bottom_mlp=(8,), predict_mlp=(4,), interaction="dot"), schema)
    vectors = len(schema.id_features()) + 2
    first = next(
        m for m in model.get_submodule("predict").modules() if isinstance(m, torch.nn.Linear)
    )
    assert first.in_features == vectors * (vectors - 1) // 2 + 2 * 8


def test_an_empty_bag_and_an_empty_history_give_zeros(schema: Schema, click_log: MakeLog) -> None:
    model = build_model(WideDeepSettings(), schema).eval()
    by_name = {f.name: f for f in schema.id_features()}
    empty = (torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(model.vector(by_name["liked"], empty), torch.zeros(2, 8))
    padded = (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5))
    assert torch.equal(model.vector(by_name["history"], padded), torch.zeros(2, 8))


def test_several_tasks_give_one_column_each(settings: ModelSettings, click_log: MakeLog) -> None:
    log = click_log(4, 0)
    schema = msgspec.structs.replace(log.schema, tasks=(Task(name="click"), Task(name="buy")))
    log = Dataset(
        schema, log.context, log.candidates, log.row_to_query, np.repeat(log.labels, 2, axis=1)
    )
    assert predict(build_model(settings, schema), log).shape == (20, 2)


def test_predict_does_not_depend_on_the_batch(
    settings: ModelSettings, schema: Schema, click_log: MakeLog
) -> None:
    model, log = build_model(settings, schema), click_log(30, 0)
    np.testing.assert_allclose(predict(model, log, batch=7), predict(model, log), atol=1e-6)


ITEM = Sparse(name="item", table="items", scope=Scope.CANDIDATE)
HISTORY = Sequence(name="history", table="items", scope=Scope.QUERY, max_length=4)
TABLE = Table(name="items", rows=9, dim=4)


@pytest.mark.parametrize(
    ("settings", "features", "tables", "message"),
    [
        (DinSettings(), (ITEM,), (TABLE,), "din needs a sequence feature"),
        (DinSettings(), (HISTORY,), (TABLE,), "table 'items' to attend to the sequence 'history'"),
        (
            DinSettings(),
            (HISTORY, Sparse(name="last", table="items", scope=Scope.QUERY)),
            (TABLE,),
            "candidate-level sparse feature",
        ),
        (DlrmSettings(interaction="dot"), (ITEM,), (TABLE,), "at least two vectors"),
        (
            DlrmSettings(interaction="dot"),
            (ITEM, Sparse(name="user", table="users", scope=Scope.QUERY)),
            (TABLE, Table(name="users", rows=9, dim=8)),
            r"items 4, users 8",
        ),
        (
            DlrmSettings(interaction="dot", bottom_mlp=(8, 5)),
            (ITEM, Dense(name="age", scope=Scope.QUERY)),
            (TABLE,),
            r"widths \[4, 5\]",
        ),
        (
            DlrmSettings(bottom_mlp=()),
            (ITEM, Dense(name="age", scope=Scope.QUERY)),
            (TABLE,),
            "bottom_mlp",
        ),
        (DlrmSettings(predict_mlp=(0,)), (ITEM,), (TABLE,), "predict_mlp"),
        (WideDeepSettings(dropout=1.0), (ITEM,), (TABLE,), "dropout"),
    ],
)
def test_a_schema_that_does_not_fit_is_refused(
    settings: ModelSettings, features: tuple[Any, ...], tables: tuple[Table, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(settings, Schema(features=features, tables=tables))


def test_models_of_ids_alone_and_of_dense_alone_work() -> None:
    dense = Schema(features=(Dense(name="age", scope=Scope.CANDIDATE),), tables=())
    assert build_model(DlrmSettings(), dense)({"age": torch.ones(2, 1)}).shape == (2, 1)
    ids = Schema(features=(ITEM,), tables=(TABLE,))
    assert build_model(DlrmSettings(), ids)({"item": torch.tensor([1, 2])}).shape == (2, 1)


def test_settings_are_told_apart_by_name_and_refuse_unknown_keys() -> None:
    text = b'{"name": "dlrm", "bottom_mlp": [8], "interaction": "dot"}'
    read = msgspec.json.decode(text, type=ModelSettings)
    assert read == DlrmSettings(bottom_mlp=(8,), interaction="dot")
    with pytest.raises(msgspec.ValidationError, match="hidden"):
        msgspec.json.decode(b'{"name": "din", "hidden": 3}', type=ModelSettings)


@pytest.mark.parametrize(("field", "value"), [("epochs", 0), ("learning_rate", -1.0)])
def test_a_recipe_that_trains_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"TrainSettings: {field}={value}"):
        TrainSettings(**{field: value})  # type: ignore[arg-type]
