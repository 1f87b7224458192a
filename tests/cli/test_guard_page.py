"""The guard's figures as they are shown: what was judged, how sure it is, and against what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headway.bundle import GuardEntry
from headway.cli.pages.guard import guard_rows, guard_table, slice_text
from headway.compress import Evidence, GuardSettings, judge
from headway.compress.guard import Slice

SETTINGS = GuardSettings(rounds=200, margin_ndcg=0.02, margin_auc=0.02)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=8000)
    labels = (rng.random(8000) < 1 / (1 + np.exp(-raw))).astype(float)
    noisy = raw + 0.05 * rng.normal(size=8000)
    slices = (Slice("item = 3", np.arange(900)),)
    return Evidence(labels, raw, noisy, np.arange(8000) // 10, slices=slices)


def said(evidence: Evidence) -> GuardEntry:
    return judge(evidence, SETTINGS, np.random.default_rng(0))


def test_each_bound_stands_beside_its_margin(evidence: Evidence) -> None:
    guard = said(evidence)
    rows = {name: row for name, *row in guard_rows(guard)}
    assert rows["AUC"][3] == "0.02"
    assert rows["AUC"][2] == f"{-(guard.delta_auc_low or 0):+.5f}"
    assert rows["NDCG@10"][3] == "0.02"
    assert rows["predicted / observed"][3] == "0.01"
    assert rows["normalised entropy"][2:] == ["", ""]
    assert set(rows) >= {"delta log loss", "hit rate@10", "calibration error"}


def test_what_was_not_judged_is_not_shown(evidence: Evidence) -> None:
    alone = said(replace(evidence, groups=None, slices=()))
    assert "NDCG@10" not in {row[0] for row in guard_rows(alone)}
    assert slice_text(alone) == ""


def test_the_worst_slice_is_told_with_its_interval(evidence: Evidence) -> None:
    text = slice_text(said(evidence))
    assert text.startswith("item = 3: delta AUC ")
    assert "on 900 rows, the worst of 1 slices" in text


def test_outputs_that_are_not_finite_have_no_figures(evidence: Evidence) -> None:
    broken = np.full(8000, np.nan)
    page = guard_table(said(replace(evidence, optimized=broken)))
    assert "none" in page
    assert "nan" not in page
