"""The grid and the search try the same points, are timed alike and are held to the targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from benchmarks import search
from headway.compress import Point, PointReport, SearchReport


def outcome(seconds: float, tried: int) -> search.Outcome:
    points = tuple(
        PointReport(name=str(n), point=Point(), rung=0 if n < tried else None) for n in range(60)
    )
    report = SearchReport(
        objective="latency", points=points, best="1", taken="1", verdict="pass", seconds=seconds,
        stopped="all points were tried",
    )  # fmt: skip
    return search.Outcome(report, cast("Any", None), seconds, seconds / 2)


def test_figures_stand_beside_their_targets(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = {"search": outcome(15.0, 20), "grid": outcome(100.0, 60)}
    lines = search.show(outcomes, {"search": 51.0, "grid": 50.0})
    assert lines["latency ratio"] == pytest.approx(1.02)
    assert lines["wall time ratio"] == lines["CPU time ratio"] == pytest.approx(0.15)
    assert lines["search"]["tried"] == 20
    said = capsys.readouterr().out
    assert "1.020 (target at most 1.05)" in said
    assert "0.150 (target at most 0.2)" in said


def test_the_full_run_searches_sixty_points_and_the_quick_one_few() -> None:
    whole, _ = search.settings_of(search.arguments([]))
    few, optimize = search.settings_of(search.arguments(["--quick", "--margin", "0.01"]))
    assert len(whole.space.points()) == 60
    assert len(few.space.points()) == 8
    assert few.measure_s < whole.measure_s
    assert optimize.guard.margin_auc == optimize.guard.margin_log_loss == 0.01


def test_without_movielens_rows_are_generated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = msgspec.structs.replace(search._GENERATED, train=600, valid=200, choose=200, test=200)
    monkeypatch.setattr(search, "_GENERATED", small)
    job = search.world(search.arguments(["--data", str(tmp_path / "none"), "--epochs", "1"]))
    assert job.name == "generated:dlrm"
    assert len(job.data.train) == 600
