"""The guard's own truth, and that of the pairs it is tested with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks import guard
from headway.compress import GuardSettings, judge
from headway.measure import auc, log_loss, probabilities, rank_queries

CASES = {case.name: case for case in guard.cases()}
TRIALS = 200
# 2.5 % by promise: more than 12 of 200 have a chance of 0.2 %; the lines are ten.
MOST = 12


def observed(case: guard.Case, one: Any) -> float:
    if case.margin == "margin_auc":
        return auc(one.labels, one.baseline) - auc(one.labels, one.optimized)
    if case.margin == "margin_log_loss":
        return log_loss(one.labels, one.optimized) - log_loss(one.labels, one.baseline)
    if case.margin in {"margin_calibration", "margin_ece"}:
        before, after = (probabilities(x).mean() for x in (one.baseline, one.optimized))
        unit = one.labels.mean() if case.margin == "margin_calibration" else 1.0
        return float((after - before) / unit)
    a, b = (rank_queries(one.labels, x, one.groups) for x in (one.baseline, one.optimized))
    return float((a.ndcg - b.ndcg).mean())


@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_a_pair_is_what_its_formula_says(name: str) -> None:
    case = CASES[name]
    one = case.draw(np.random.default_rng(1), 400_000, case.level())
    assert case.true_loss(case.level()) == pytest.approx(1.02 * case.size)
    # The largest standard error of these is some 3.5 % of the loss.
    assert observed(case, one) == pytest.approx(1.02 * case.size, rel=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_true_loss_just_beyond_the_margin_seldom_passes(name: str) -> None:
    case = CASES[name]
    passed = guard.false_passes(case, TRIALS, 200, np.random.default_rng(2))
    assert passed <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("name", guard.PAIRS)
def test_models_that_lose_nothing_pass_where_the_guard_says_they_would(name: str) -> None:
    settings = GuardSettings(
        margin_auc=0.01, margin_log_loss=0.01, margin_ndcg=0.02, rounds=200, power=0.9
    )
    rows, passed = guard.power_of(guard.PAIRS[name], settings, 100, np.random.default_rng(3))
    assert rows < 60_000
    # Fewer than 82 of 100 have a chance below 0.5 % at 90 %.
    assert passed >= 82


def test_a_case_stands_out_of_the_way_of_its_own_margin_only() -> None:
    case = CASES["NDCG@10, in whole queries"]
    settings = case.settings(300)
    assert (settings.margin_ndcg, settings.rounds) == (0.01, 300)
    changed = [
        f for f in settings.__struct_fields__ if getattr(settings, f) != getattr(guard.OFF, f)
    ]
    assert changed == ["margin_ndcg", "rounds"]
    worse = case.draw(np.random.default_rng(0), 8000, 1.0)
    assert judge(worse, settings, np.random.default_rng(0)).verdict == "fail"
    off = msgspec.structs.replace(settings, margin_ndcg=None)
    assert judge(worse, off, np.random.default_rng(0)).verdict == "pass"


def test_a_line_meets_its_target_by_the_share_seen() -> None:
    line = guard.line_of("x", 25, 1000, 0.025, at_most=True)
    assert line["met"]
    assert line["low"] < 0.025 < line["high"]
    assert not guard.line_of("x", 26, 1000, 0.025, at_most=True)["met"]
    assert not guard.line_of("x", 89, 100, 0.9, at_most=False)["met"]


def test_quick_is_quick_and_figures_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = guard.arguments(["--quick"])
    assert given.trials < guard.arguments([]).trials == 2000
    path = tmp_path / "a" / "b.json"
    monkeypatch.setattr("sys.argv", ["guard.py", "--quick", "--trials", "2", "--json", str(path)])
    monkeypatch.setattr(guard, "cases", lambda: [CASES["AUC, spread over all rows"]])
    monkeypatch.setattr(guard, "PAIRS", {"identical": guard.equal})
    guard.main()
    assert "<= 2.5 %" in capsys.readouterr().out.replace("%", " %")
    assert [line["name"] for line in json.loads(path.read_text())["lines"]] == [
        "AUC, spread over all rows",
        "identical",
    ]
