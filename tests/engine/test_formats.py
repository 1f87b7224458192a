"""A bundle may store its tables in any format; scores move by no more than the format allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.contracts import tiny_ranker

from headway.bundle import BundleParts, TableFormat, TablePart, pack_table, write_bundle
from headway.compress import OptimizeSettings
from headway.engine import load_model, raw_outputs

LIMITS: dict[TableFormat, float] = {"bf16": 0.03, "int8": 0.1, "int4": 1.0}
"""Largest change of a score over the scores' spread."""


@pytest.mark.parametrize("form", LIMITS)
@pytest.mark.parametrize("placement", ["copy", "map"])
def test_scores_stay_within_the_format(
    tmp_path: Path, parts: BundleParts, form: TableFormat, placement: str
) -> None:
    packed = {
        name: TablePart(form, pack_table(table.records.view(np.float32), form))
        for name, table in parts.tables.items()
    }
    write_bundle(tmp_path / "b", replace(parts, tables=packed, golden_tolerance=5.0))
    loaded = load_model(tmp_path / "b", tables=placement)  # type: ignore[arg-type]
    query = tiny_ranker.draw(np.random.default_rng(2), 40)
    (found,) = raw_outputs(loaded.runner(), [query], tiny_ranker.TASKS)
    exact = tiny_ranker.expected(query)
    assert 0 < np.abs(found - exact).max() < LIMITS[form] * exact.std()
    assert {entry.format for entry in loaded.manifest.tables} == {form}


def test_every_format_may_be_tried_and_the_default_stays() -> None:
    assert OptimizeSettings().tables == ("f32", "int8")
    given = {"tables": ["f32", "bf16", "int8", "int4"]}
    assert msgspec.convert(given, OptimizeSettings).tables == ("f32", "bf16", "int8", "int4")
