"""The zoo has the published sizes, and its default scopes share no more than they may."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from headway.core import Bag, Dense, Schema, Scope, Sequence, Sparse, UsageError
from headway.models import (
    STYLES,
    ZOO,
    DlrmSettings,
    ModelSettings,
    MtWideDeepSettings,
    Style,
    build_model,
    draw_features,
    zoo,
    zoo_cost,
)

# facts 1.1 (b): MFLOP, embedding bytes an item, tables in GB, FC weights in MB
DERIVED = {
    "ncf": (0.30, 1_024, 0.086, 0.59),
    "wnd": (4.13, 3_456, 3.46, 8.3),
    "rmc1": (0.20, 81_920, 4.10, 0.40),
    "rmc2": (0.64, 983_040, 4.10, 1.28),
    "rmc3": (6.41, 25_600, 2.56, 12.8),
}


@pytest.mark.parametrize("name", DERIVED)
def test_repo_sizes_cost_what_was_derived_from_the_published_files(name: str) -> None:
    cost = zoo_cost(zoo(name, "repo"))
    megaflop, embedding, gigabytes, megabytes = DERIVED[name]
    assert cost.flops / 1e6 == pytest.approx(megaflop, rel=0.02)
    assert cost.embedding_bytes == embedding
    assert cost.table_parameters * 4 / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert cost.dense_parameters * 4 / 1e6 == pytest.approx(megabytes, rel=0.01)


def test_multi_task_wide_and_deep_costs_the_derived_figure_for_one_task() -> None:
    entry = zoo("mt-wnd", "repo")
    one = msgspec.structs.replace(
        entry, schema=msgspec.structs.replace(entry.schema, tasks=entry.schema.tasks[:1])
    )
    cost = zoo_cost(one)
    assert cost.flops / 1e6 == pytest.approx(5.24, rel=0.01)
    assert cost.dense_parameters * 4 / 1e6 == pytest.approx(10.5, rel=0.01)
    assert cost.embedding_bytes == 5_504
    # Four more tasks: 512-256-128-1 each, and the wide part.
    more = 2 * 4 * (512 * 256 + 256 * 128 + 128 + 1888)
    assert zoo_cost(entry).flops == cost.flops + more


def test_tops_of_din_and_dien_have_the_published_inputs() -> None:
    for name, width in (("din", 128), ("dien", 160)):
        entry = zoo(name, "repo", max_rows=9)
        first = build_model(entry.settings, entry.schema).get_submodule("predict.0")
        assert getattr(first, "in_features", None) == width
    # 3 lookups each for profile and context, one candidate, 250 behaviours
    assert zoo_cost(zoo("din", "repo")).lookups == 3 + 3 + 1 + 250
    assert zoo_cost(zoo("dien", "repo")).embedding_bytes == 5_504


def test_dcn_v2_has_the_shape_of_mlperf() -> None:
    cost = zoo_cost(zoo("dcn-v2"))
    assert cost.flops / 1e6 == pytest.approx(32, rel=0.01)
    assert cost.lookups == 214
    assert cost.table_parameters * 4 / 1e9 == pytest.approx(100, rel=0.05)


def test_paper_sizes_follow_the_table_of_models() -> None:
    for name, tables, lookups in (("rmc1", 10, 80), ("rmc2", 40, 80), ("rmc3", 10, 20)):
        entry = zoo(name, "paper")
        assert len(entry.schema.tables) == tables
        assert {getattr(f, "max_length", 0) for f in entry.schema.id_features()} == {lookups}
        assert isinstance(entry.settings, DlrmSettings)
        assert entry.settings.interaction == "dot"
    multi = zoo("mt-wnd", "paper")
    assert isinstance(multi.settings, MtWideDeepSettings)
    assert multi.settings.shared_mlp == ()
    assert multi.settings.task_mlp == (1024, 512, 256)
    assert len(multi.schema.tasks) > 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ZOO)
def test_the_query_owns_histories_and_dense_inputs_and_two_thirds_of_the_rest(
    name: str, style: Style
) -> None:
    schema = zoo(name, style).schema
    others = [f for f in schema.id_features() if not isinstance(f, Sequence)]
    shared = [f for f in others if f.scope is Scope.QUERY]
    assert 0 < len(shared) <= len(others) * 2 / 3
    assert all(f.scope is Scope.QUERY for f in schema.features if isinstance(f, Sequence))
    if name.startswith(("rmc", "dcn")):
        assert all(f.scope is Scope.QUERY for f in schema.dense_features())
    else:
        widths = {s: sum(f.width for f in schema.dense_features(s)) for s in Scope}
        assert widths[Scope.QUERY] <= sum(widths.values()) * 2 / 3


@pytest.mark.parametrize("name", ZOO)
def test_the_worst_case_shares_nothing_and_differs_in_nothing_else(name: str) -> None:
    usual, worst = zoo(name), zoo(name, scopes="all-candidate")
    assert not worst.schema.of_scope(Scope.QUERY)
    assert [f.name for f in worst.schema.features] == [f.name for f in usual.schema.features]
    assert worst.schema.tables == usual.schema.tables
    assert worst.settings == usual.settings
    assert zoo_cost(worst).flops == zoo_cost(usual).flops


@pytest.mark.parametrize("name", ZOO)
def test_a_cap_on_rows_changes_rows_alone(name: str) -> None:
    full, small = zoo(name), zoo(name, max_rows=40)
    assert small.settings == full.settings
    assert small.schema.features == full.schema.features
    pairs = zip(small.schema.tables, full.schema.tables, strict=True)
    assert all((a.rows, a.dim) == (min(40, b.rows), b.dim) for a, b in pairs)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ZOO)
def test_a_preset_scores_every_task_and_survives_json(name: str, style: Style) -> None:
    entry = zoo(name, style, max_rows=30)
    settings = msgspec.json.decode(msgspec.json.encode(entry.settings), type=ModelSettings)
    schema = msgspec.json.decode(msgspec.json.encode(entry.schema), type=Schema)
    assert (settings, schema) == (entry.settings, entry.schema)
    model = build_model(settings, schema).eval()
    with torch.no_grad():
        raw = model(draw_features(schema, 3, np.random.default_rng(0)))
    assert raw.shape == (3, len(schema.tasks))
    assert raw.isfinite().all()
    assert raw.std() > 0


@pytest.mark.parametrize("name", ZOO)
def test_one_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    entry = zoo(name, "repo", max_rows=30)
    model = build_model(entry.settings, entry.schema)
    features = draw_features(entry.schema, 8, np.random.default_rng(0))
    labels = torch.arange(8.0).remainder(2).unsqueeze(1).expand(8, len(entry.schema.tasks))
    before = F.binary_cross_entropy_with_logits(model(features), labels)
    before.backward()  # type: ignore[no-untyped-call]
    norm = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(p.grad, alpha=1e-3 / norm**0.5)
        after = F.binary_cross_entropy_with_logits(model(features), labels)
    assert after < before


def test_drawn_rows_repeat_the_context_and_fill_their_lists() -> None:
    schema = zoo("rmc1", max_rows=1000).schema
    features = draw_features(schema, 4, np.random.default_rng(0), ids="uniform")
    for feature in schema.features:
        value = features[feature.name]
        if isinstance(feature, Bag):
            values, offsets = value
            assert (offsets.diff() == 80).all()
            rows = values.reshape(4, 80)
        else:
            assert isinstance(value, torch.Tensor)
            rows = value
        same = bool((rows == rows[0]).all())
        assert same == (feature.scope is Scope.QUERY)


def test_names_that_the_zoo_has_not_are_refused() -> None:
    with pytest.raises(UsageError, match="no 'bst'; choose among ncf, wnd, mt-wnd"):
        zoo("bst")
    with pytest.raises(UsageError, match="no 'book'; choose among paper, repo"):
        zoo("ncf", "book")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no 'none'; choose among default, all-candidate"):
        zoo("ncf", scopes="none")  # type: ignore[arg-type]


def test_wide_inputs_are_split_and_ids_are_single() -> None:
    schema = zoo("wnd").schema
    assert [f.width for f in schema.features if isinstance(f, Dense)] == [341, 171]
    assert all(isinstance(f, Sparse) for f in schema.id_features())
