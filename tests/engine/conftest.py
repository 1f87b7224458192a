"""A bundle of the tiny ranker on disk, written once for the room's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.contracts import tiny_ranker

from headway.bundle import BundleParts, Provenance, TablePart, TowerEntry, TowerPart, write_bundle
from headway.engine import Tower


def tower_part(tower: Tower) -> TowerPart:
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


@pytest.fixture(scope="session")
def parts() -> BundleParts:
    rng = np.random.default_rng(0)
    golden = [tiny_ranker.draw(rng, size, f"golden-{size}") for size in (0, 1, 7, 20)]
    return BundleParts(
        name="tiny",
        schema=tiny_ranker.SCHEMA,
        tables={n: TablePart("f32", t.records) for n, t in tiny_ranker.tables().items()},
        query_tower=tower_part(tiny_ranker.query_tower()),
        candidate_tower=tower_part(tiny_ranker.candidate_tower()),
        golden=tuple((query, tiny_ranker.expected(query)) for query in golden),
        golden_tolerance=1e-4,
        provenance=Provenance(created_unix=0, headway="0", model="tiny"),
    )


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory, parts: BundleParts) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(path, parts)
    return path
