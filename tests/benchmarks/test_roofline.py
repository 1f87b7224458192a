"""The table of limits: towers add up to queries, and what is far off needs a reason."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.roofline import Row

from benchmarks import roofline
from headway.core import Scope
from headway.engine import (
    Ceilings,
    ProductRate,
    Profile,
    SequentialRead,
    TowerLimit,
    TowerWork,
    machine_facts,
)


def limit(tower: Scope, measured: float, rows: int = 256) -> TowerLimit:
    return TowerLimit(
        tower=tower,
        ids="zipf",
        rows=rows,
        looked_up=10,
        looked_up_bytes=640,
        multiply_adds=1e6,
        lookups_ns=100.0,
        dense_ns=300.0,
        curves_ns=100.0,
        measured_ns=measured,
        distance=measured / 500,
    )


def work(tower: Scope, precision: str) -> TowerWork:
    return TowerWork(
        tower=tower,
        precision=precision,
        features=(),
        weight_bytes=1,
        multiply_adds=1.0,
        counted=True,
    )


def rate(precision: Any, engine: Any, per_s: float) -> ProductRate:
    return ProductRate(
        precision=precision, engine=engine, rows=1, inner=1, columns=1, multiply_adds_per_s=per_s
    )


FOUND = Profile(
    bundle="b",
    machine=machine_facts(),
    fingerprint="f",
    loads=(),
    towers=(work(Scope.QUERY, "f32"), work(Scope.CANDIDATE, "int8")),
    limits=(limit(Scope.QUERY, 2500.0), limit(Scope.CANDIDATE, 1000.0)),
    ceilings=Ceilings(
        sequential=(SequentialRead(size_bytes=1024, bytes_per_s=2e9),),
        random=(),
        products=(rate("f32", "onnxruntime", 5e10), rate("f32", "headway", 6e10)),
        curves_per_s=1e9,
    ),
)


def rows() -> list[Row]:
    return roofline.rows_of(FOUND, {"model": "din", "precision": "reduced"})


def test_quick_takes_one_size_and_few_rows() -> None:
    plain, quick = roofline.arguments([]), roofline.arguments(["--quick"])
    assert quick.sizes == [256]
    assert quick.seconds < plain.seconds
    assert quick.rows < plain.rows
    assert plain.precisions == ["f32", "reduced"]
    assert len(plain.models) == 9


def test_towers_stand_with_their_precision_and_add_up_to_a_query() -> None:
    query, candidate, whole = rows()
    assert (query["products"], candidate["products"]) == ("f32", "int8")
    assert whole["tower"] == "whole query"
    assert whole["measured_ns"] == 3500
    assert whole["distance"] == pytest.approx(3.5)
    assert "above 3x" in roofline.line_of(query)
    assert "above" not in roofline.line_of(candidate)
    assert len(roofline.head().split()) >= len(roofline.line_of(candidate).split())


def test_what_is_far_off_without_a_reason_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(roofline, "REASONS", {("din", "query", "reduced"): "it is alone"})
    lines, missing = roofline.judged(rows())
    assert missing == 1
    assert [line.endswith("it is alone") for line in lines] == [True, False]
    assert lines[1].endswith("NO REASON WRITTEN")
    general = {("any model", tower, "reduced"): "so" for tower in ("query", "whole query")}
    monkeypatch.setattr(roofline, "REASONS", general)
    assert roofline.show(rows()) == 0
    assert "without a reason: 0 (target 0): met" in capsys.readouterr().out


def test_only_distances_at_the_size_of_the_target_are_judged() -> None:
    assert roofline.judged([rows()[0] | {"rows": 64, "model": "none"}]) == ([], 0)


def test_the_best_rate_of_a_precision_is_told() -> None:
    told = roofline.ceilings_of(FOUND)
    assert "f32 60 G/s in headway" in told
    assert "curves 1.0 G/s" in told
