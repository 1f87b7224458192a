"""``headway serve --lighter``: what is wired to what."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.conftest import bundle_path, parts
from tests.server.harness import Client, linear_model

from headway.cli.serving import PlanChanges, with_lighter
from headway.core import UsageError
from headway.server import BackgroundServer, ServerSettings, load_served

__all__ = ["bundle_path", "parts"]  # fixtures


def test_a_lighter_bundle_brings_the_policy_that_turns_to_it_and_its_times(
    bundle_path: Path,
) -> None:
    model = with_lighter(load_served(bundle_path), bundle_path, PlanChanges())
    settings = ServerSettings(port=0, allow_management=True)
    with BackgroundServer([model], settings) as server:
        plan = Client(server.url).get("/v2/models/tiny/plan").json()["plan"]
    assert plan["policy"] == "adaptive"
    for name in ("service", "lighter_service"):
        assert [size for size, _ in plan[name]] == [1, 64, 256, 1024]


def test_a_lighter_bundle_beside_a_fixed_policy_is_a_contradiction(
    bundle_path: Path,
) -> None:
    with pytest.raises(UsageError, match="leave --policy fixed out"):
        with_lighter(load_served(bundle_path), bundle_path, PlanChanges(policy="fixed"))


def test_a_bundle_for_other_queries_is_no_lighter_one(bundle_path: Path) -> None:
    with pytest.raises(UsageError, match="'tiny' cannot answer for 'linear'"):
        with_lighter(linear_model(), bundle_path, PlanChanges())
