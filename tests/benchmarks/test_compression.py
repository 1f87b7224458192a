"""Ways of compressing share what they have in common, and tables grow without changing a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.conftest import make_dataset, make_schema

from benchmarks import compression, compression_tables
from headway.compress import (
    DistilSettings,
    LightweightSettings,
    Material,
    PruneSettings,
    Recipe,
    Stage,
    first_stage,
)
from headway.core import Schema, Table
from headway.models import WideDeepSettings, build_model, predict

SCHEMA = make_schema()
RECIPE = Recipe(
    lightweight=LightweightSettings(multiple=4),
    prune=PruneSettings(multiple=4),
    distil=DistilSettings(batch_size=256),
)


@pytest.fixture(scope="module")
def material() -> Material:
    model = build_model(WideDeepSettings(deep_mlp=(32, 16)), SCHEMA)
    return Material.of(model, make_dataset(300, 0), make_dataset(100, 1))


def test_a_prefix_that_two_recipes_share_runs_once(material: Material) -> None:
    first = first_stage(material.original, SCHEMA)
    known: dict[str, Stage] = {}
    whole = compression.stages_of(first, RECIPE, material, known)
    ran = len(known)
    again = compression.stages_of(first, RECIPE.without("distil"), material, known)
    assert [stage.name for stage in whole] == ["lightweight", "prune", "distil"]
    assert again == whole[:2]
    assert len(known) == ran == 3


def test_a_model_with_longer_tables_scores_known_rows_of_them_as_before() -> None:
    model = build_model(WideDeepSettings(deep_mlp=(8,)), SCHEMA)
    stage = first_stage(model, SCHEMA)
    longer = Schema(
        features=SCHEMA.features,
        tables=tuple(Table(name=t.name, rows=t.rows * 7, dim=t.dim) for t in SCHEMA.tables),
        tasks=SCHEMA.tasks,
    )
    grown, schema = compression.grown(stage, longer, seed=0)
    assert schema == longer
    for table in SCHEMA.tables:
        own, new = model.table(table.name).weight, grown.table(table.name).weight
        assert len(new) == table.rows * 7
        assert {tuple(row) for row in new.tolist()} <= {tuple(row) for row in own.tolist()}
    first = "deep.0.weight"
    assert torch.equal(model.get_parameter(first), grown.get_parameter(first))
    rows = make_dataset(20, 2)
    assert predict(grown, rows).shape == predict(model, rows).shape


def test_ratios_are_of_medians_to_the_original() -> None:
    samples = {"original": {64: np.array([4, 4, 9])}, "all": {64: np.array([1, 1, 100])}}
    assert compression.ratios_of(samples, "all") == {"64": 0.25}


def test_the_targets_stand_beside_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    guard = {"verdict": "pass", "reason": "because", "delta_auc": -0.0001}
    way = {"guard": guard, "flops": 0.4, "table_bytes": 15, "ratio": {"256": 0.1}}
    plain = {**way, "way": "only compiled", "flops": 1.0, "table_bytes": 100}
    times = {"p50_us": 50.0, "p95_us": 60.0, "samples": 10}
    row = {
        "world": "generated:rmc3",
        "chain": {"links": [{"guard": guard, "eager": {"256": times}, "compiled": {"256": times}}]},
        "ablation": [
            plain,
            *({**way, "way": name} for name in ("only int8", "only int4 tables", "only pruned")),
        ],
        "full": {"ratio": {"256": 0.2}},
    }
    compression_tables.show_targets([row])
    text = capsys.readouterr().out
    assert "0.200x torch eager as geometric mean of 1 of 8 (target 0.15x)" in text
    assert "|delta AUC| 0.00010 (target 0.0005)" in text
    assert "0.150 of float32 (target 0.15)" in text
    assert "0.40 of the FLOPs (target 0.5)" in text
