from __future__ import annotations

import msgspec

from headway.compress.lowering import GRAPH_PROFILE, lower_explained
from headway.core import Dense, Schema, Scope
from headway.graph import ALL, Explanation, Rewrite
from headway.models import WideDeepSettings, build_model

SCHEMA = Schema(
    features=(
        Dense(name="x", scope=Scope.QUERY, width=60),
        Dense(name="y", scope=Scope.CANDIDATE, width=4),
    ),
    tables=(),
)


def test_a_model_is_lowered_with_the_rewrites_asked_for() -> None:
    model = build_model(WideDeepSettings(deep_mlp=(32,)), SCHEMA, seed=1)
    costs = []
    for rewrites in (frozenset(), frozenset({Rewrite.HOIST, Rewrite.SPLIT_LINEAR}), ALL):
        _, profiles = lower_explained(model, SCHEMA, rewrites=rewrites)
        told = msgspec.json.decode(profiles[GRAPH_PROFILE], type=Explanation)
        assert told.rewrites == tuple(sorted(rewrites))
        costs.append(told.after)
    assert costs[0] > costs[1] >= costs[2]
