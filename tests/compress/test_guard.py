"""The guard says what is true, as often as it promises."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from statistics import NormalDist

import msgspec
import numpy as np
import pytest

from headway.bundle import GuardEntry
from headway.compress.guard import Evidence, GuardSettings, evidence_of_tasks, judge, worst
from headway.core import DataError, Dense, Link, Schema, Scope, Task, UsageError

ONLY_AUC = 1e6  # a log-loss margin that no outcome reaches
ORDER = GuardSettings(
    margin_log_loss=ONLY_AUC,
    margin_ndcg=None,
    margin_calibration=None,
    margin_ece=None,
    margin_slice=None,
    rounds=200,
)
"""Judges nothing but AUC."""
UNCALIBRATED = msgspec.structs.replace(ORDER, margin_log_loss=0.001)
"""Judges AUC and log loss of scores that are no log odds."""


def binormal(rng: np.random.Generator, rows: int, spread: float) -> Evidence:
    """Scores normal in each class; the optimised ones carry extra noise of ``spread``."""
    labels = rng.random(rows) < 0.3
    baseline = 1.2 * labels + rng.normal(size=rows)
    return Evidence(labels.astype(float), baseline, baseline + spread * rng.normal(size=rows))


def width(entry: GuardEntry) -> float:
    assert entry.delta_auc_low is not None
    assert entry.delta_auc_high is not None
    return entry.delta_auc_high - entry.delta_auc_low


def true_delta(spread: float) -> float:
    normal = NormalDist()
    return normal.cdf(1.2 / sqrt(2 * (1 + spread**2))) - normal.cdf(1.2 / sqrt(2))


def test_a_loss_of_exactly_the_margin_passes_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(1)
    settings = msgspec.structs.replace(ORDER, margin_auc=-true_delta(0.2), confidence=0.9)
    trials = 500
    verdicts = [judge(binormal(rng, 800, 0.2), settings, rng).verdict for _ in range(trials)]
    # 10 % each way by promise; four standard errors of a share of 500 are 5.4 points. Passes
    # are rarer than that: the rule for concentrated losses is strict with spread ones.
    assert verdicts.count("pass") / trials <= 0.1
    assert verdicts.count("fail") / trials == pytest.approx(0.1, abs=0.054)


def test_the_stated_number_of_rows_decides_as_often_as_the_power() -> None:
    rng = np.random.default_rng(2)
    settings = msgspec.structs.replace(ORDER, margin_auc=0.01)
    truth = true_delta(0.15)
    entry = judge(binormal(rng, 250, 0.15), settings, rng)
    while entry.verdict != "not proven" or abs((entry.delta_auc or 0) - truth) > 2e-4:
        entry = judge(binormal(rng, 250, 0.15), settings, rng)
    needed = entry.rows_to_decide
    assert needed is not None
    verdicts = [judge(binormal(rng, needed, 0.15), settings, rng).verdict for _ in range(200)]
    decided = sum(v != "not proven" for v in verdicts) / len(verdicts)
    # The variance is an estimate from 250 rows, so the power is met roughly.
    assert decided == pytest.approx(settings.power, abs=0.15)


def sparse(rng: np.random.Generator, rows: int, share: float, drop: float) -> Evidence:
    """Scores of which a share of the positives fell by ``drop``, all others staying equal."""
    same = binormal(rng, rows, 0.0)
    hit = (same.labels > 0.5) & (rng.random(rows) < share)
    return Evidence(same.labels, same.baseline, same.baseline - drop * hit)


@pytest.mark.parametrize("rows", [100, 2000, 14_000])
@pytest.mark.parametrize("drop", [3.0, 1000.0])
def test_a_loss_that_sits_in_few_rows_does_not_pass_unseen(rows: int, drop: float) -> None:
    rng = np.random.default_rng(14)
    normal = NormalDist()
    each = normal.cdf(1.2 / sqrt(2)) - normal.cdf((1.2 - drop) / sqrt(2))
    settings = GuardSettings(margin_log_loss=ONLY_AUC, rounds=200)
    share = 1.01 * settings.margin_auc / each
    trials = 40
    verdicts = [judge(sparse(rng, rows, share, drop), settings, rng).verdict for _ in range(trials)]
    # 2.5 % by promise: more than four of forty has a chance below 0.4 %.
    assert verdicts.count("pass") <= 4


def test_equal_outputs_prove_nothing_about_rows_not_seen() -> None:
    rng = np.random.default_rng(15)
    entry = judge(binormal(rng, 2000, 0.0), GuardSettings(), rng)
    assert entry.verdict == "not proven"
    assert "3,842" in entry.reason
    assert entry.rows_to_decide is not None
    assert entry.rows_to_decide == pytest.approx(3842 / 0.3, rel=0.1)
    assert judge(binormal(rng, entry.rows_to_decide + 1000, 0.0), GuardSettings(), rng).verdict == (
        "pass"
    )


def test_a_proof_of_equality_counts_only_while_the_rows_bear_it_out() -> None:
    rng = np.random.default_rng(16)
    noisy = binormal(rng, 2000, 1e-3)
    assert judge(noisy, GuardSettings(), rng, proven_equal=True).verdict == "not proven"
    close = binormal(rng, 2000, 1e-6)
    assert judge(close, GuardSettings(), rng, proven_equal=True).verdict == "pass"


def test_rows_to_decide_follow_the_loss_that_decides_first() -> None:
    rng = np.random.default_rng(17)
    same = binormal(rng, 600, 0.0)
    # Log loss rises by more than its margin; AUC hardly moves and would take ages.
    noise = 0.02 * rng.normal(size=600)
    shifted = Evidence(same.labels, same.baseline, same.baseline + 0.12 + noise)
    patient = msgspec.structs.replace(ORDER, rounds=4000)
    wide = judge(shifted, patient, rng)
    assert wide.delta_log_loss is not None
    assert wide.delta_log_loss_low is not None
    assert wide.delta_log_loss_low > 0
    margin = wide.delta_log_loss_low + 0.2 * (wide.delta_log_loss - wide.delta_log_loss_low)
    entry = judge(shifted, msgspec.structs.replace(patient, margin_log_loss=margin), rng)
    assert entry.verdict == "not proven"
    assert entry.delta_log_loss is not None
    assert entry.delta_log_loss > margin
    assert entry.rows_to_decide is not None
    # z falls from 1.96 + 0.84 needed to 0.8 * 1.96 observed: 3.2 times the rows.
    assert 600 < entry.rows_to_decide < 2400


def test_proven_identical_outputs_pass() -> None:
    rng = np.random.default_rng(3)
    entry = judge(binormal(rng, 400, 0.0), GuardSettings(), rng, proven_equal=True)
    assert (entry.verdict, entry.delta_auc, entry.delta_log_loss) == ("pass", 0.0, 0.0)
    assert entry.rows_to_decide is None


def test_a_model_that_lost_its_mind_fails() -> None:
    rng = np.random.default_rng(4)
    entry = judge(binormal(rng, 3000, 5.0), GuardSettings(), rng)
    assert entry.verdict == "fail"
    assert "AUC fell by at least" in entry.reason


def test_a_shift_that_auc_cannot_see_fails_by_log_loss() -> None:
    rng = np.random.default_rng(5)
    same = binormal(rng, 3000, 0.0)
    shifted = Evidence(same.labels, same.baseline, same.baseline + 1.0)
    entry = judge(shifted, GuardSettings(), rng)
    assert entry.delta_auc == 0.0
    assert entry.verdict == "fail"
    assert "log loss" in entry.reason
    assert entry.calibration_optimized is not None
    assert entry.calibration_baseline is not None
    assert entry.calibration_optimized > entry.calibration_baseline
    assert entry.ece_optimized is not None
    assert entry.ece_baseline is not None
    assert entry.ece_optimized > entry.ece_baseline


def test_too_little_data_proves_nothing_and_says_how_much_would() -> None:
    rng = np.random.default_rng(6)
    entry = judge(binormal(rng, 500, 0.3), GuardSettings(), rng)
    assert entry.verdict == "not proven"
    assert entry.rows_to_decide is not None
    assert entry.rows_to_decide > 500


@pytest.mark.parametrize(("rows", "positives"), [(60, 30), (5000, 12)])
def test_even_identical_outputs_prove_nothing_on_a_handful_of_rows(
    rows: int, positives: int
) -> None:
    rng = np.random.default_rng(7)
    labels = (np.arange(rows) < positives).astype(float)
    scores = rng.normal(size=rows)
    entry = judge(Evidence(labels, scores, scores), GuardSettings(), rng)
    assert entry.verdict == "not proven"
    assert "too few" in entry.reason
    assert entry.rows_to_decide is not None
    assert entry.rows_to_decide > rows


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_fail_and_are_counted(bad: float) -> None:
    rng = np.random.default_rng(8)
    same = binormal(rng, 200, 0.0)
    broken = same.baseline.copy()
    broken[[3, 5]] = bad
    entry = judge(Evidence(same.labels, same.baseline, broken), GuardSettings(), rng)
    assert entry.verdict == "fail"
    assert "2 of 200" in entry.reason
    again = msgspec.json.decode(msgspec.json.encode(entry), type=GuardEntry)
    assert again == entry
    assert again.delta_auc is None


def test_a_missing_class_is_an_error_not_a_verdict() -> None:
    rng = np.random.default_rng(9)
    scores = rng.normal(size=200)
    with pytest.raises(DataError, match="both classes"):
        judge(Evidence(np.ones(200), scores, scores), GuardSettings(), rng)


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan"), float("inf")])
def test_a_margin_that_nothing_can_prove_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match="AUC margin"):
        GuardSettings(margin_auc=margin)
    with pytest.raises(UsageError, match="log loss margin"):
        GuardSettings(margin_log_loss=margin)


def test_more_looks_ask_for_more_proof() -> None:
    rng = np.random.default_rng(10)
    evidence = binormal(rng, 2000, 0.1)
    first = judge(evidence, GuardSettings(), np.random.default_rng(0))
    third = judge(evidence, GuardSettings(), np.random.default_rng(0), looks=3)
    assert third.confidence == pytest.approx(1 - 0.025 / 3)
    assert width(third) > width(first)
    with pytest.raises(UsageError, match="look 0"):
        judge(evidence, GuardSettings(), rng, looks=0)


def test_rows_of_one_query_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(11)
    once = binormal(rng, 300, 0.2)
    copied = Evidence(
        np.repeat(once.labels, 20), np.repeat(once.baseline, 20), np.repeat(once.optimized, 20)
    )
    grouped = replace(copied, groups=np.repeat(np.arange(300), 20))
    settings = GuardSettings(rounds=500)

    def wide(evidence: Evidence) -> float:
        return width(judge(evidence, settings, np.random.default_rng(0)))

    assert wide(grouped) == pytest.approx(wide(once), rel=0.05)
    assert wide(copied) < wide(once) / 4


def test_the_same_seed_gives_the_same_verdict() -> None:
    evidence = binormal(np.random.default_rng(12), 1000, 0.1)
    entries = [judge(evidence, GuardSettings(), np.random.default_rng(5)) for _ in range(2)]
    assert entries[0] == entries[1]


def _schema(*links: Link) -> Schema:
    return Schema(
        features=(Dense(name="x", scope=Scope.QUERY),),
        tables=(),
        tasks=tuple(Task(name=f"t{i}", link=link) for i, link in enumerate(links)),
    )


def test_a_model_is_as_good_as_its_worst_task() -> None:
    rng = np.random.default_rng(13)
    good, bad = binormal(rng, 2000, 0.0), binormal(rng, 2000, 5.0)
    stack = [
        np.stack(pair, axis=1)
        for pair in zip(
            (good.labels, good.baseline, good.optimized),
            (bad.labels, bad.baseline, bad.optimized),
            strict=True,
        )
    ]
    evidence = evidence_of_tasks(_schema(Link.SIGMOID, Link.SIGMOID), *stack)
    entries = [judge(e, GuardSettings(), rng, proven_equal=True) for e in evidence]
    assert [e.verdict for e in entries] == ["pass", "fail"]
    assert worst(entries).task == "t1"


def test_a_task_without_clicks_is_refused() -> None:
    rows = np.zeros((5, 1))
    with pytest.raises(UsageError, match="identity"):
        evidence_of_tasks(_schema(Link.IDENTITY), rows, rows, rows)
    with pytest.raises(DataError, match="one shape"):
        evidence_of_tasks(_schema(Link.SIGMOID), rows, rows[:4], rows)
