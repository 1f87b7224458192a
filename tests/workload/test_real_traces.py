"""Real traces come back with the variation, the peaks and the skew that are known of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headway.workload import (
    Counts,
    Workload,
    draw_schedule,
    production_sizes,
    read_access_histograms,
)

REAL = Path(__file__).parents[2].parent / "shared" / "data"
LLM = REAL / "traces-azure-llm" / "AzureLLMInferenceTrace_conv.csv.gz"
FUNCTIONS = REAL / "traces-azure-functions" / "azfunc2019.1350functions.per_minute.csv.gz"
LOCALITY = REAL / "dlrm-locality-stats"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data sets beside the checkout"),
]


@pytest.mark.parametrize(("rate", "seconds"), [(5.526, 3504.0), (200.0, 96.8)])
def test_the_llm_trace_keeps_its_gaps_at_any_pace(rate: float, seconds: float) -> None:
    arrivals = Workload.parse(f"production@trace:{LLM}").arrivals
    rng = np.random.default_rng(0)
    schedule = draw_schedule(rate, seconds, production_sizes, rng, arrivals)
    assert len(schedule) == pytest.approx(19_366, rel=0.005)
    gaps = np.diff(schedule.intended_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, abs=0.01)


def test_the_llm_trace_has_its_peak_second_at_its_own_pace() -> None:
    arrivals = Workload.parse(f"production@trace:{LLM},1").arrivals
    drawn = arrivals.draw(5.526, 3504, np.random.default_rng(0))
    counts = np.bincount(drawn // 1_000_000_000)
    assert counts.max() / counts.mean() == pytest.approx(2.9, abs=0.1)


def test_a_day_of_functions_fits_into_a_run() -> None:
    drawn = Counts(str(FUNCTIONS)).draw(2000, 144, np.random.default_rng(0))
    assert len(drawn) == pytest.approx(288_000, rel=0.01)
    minutes = np.histogram(drawn / 1e9, bins=1440, range=(0, 144))[0] / 200
    assert minutes.max() == pytest.approx(6.25, rel=0.15)
    assert np.percentile(minutes, 99) == pytest.approx(1663 / 644, rel=0.1)


@pytest.mark.parametrize("year", ["2021", "2022"])
def test_ids_are_as_skewed_as_production_tables(year: str) -> None:
    tables = read_access_histograms(LOCALITY / f"locality_stats.{year}.txt")
    assert len(tables) > 10
    table = tables[0]
    assert table.row_share[0] == pytest.approx({"2021": 0.473, "2022": 0.342}[year], abs=0.005)
    # Rounding left nothing of the hottest buckets' rows; they follow from accesses.
    assert 1e-7 < table.row_share[-1] < 1e-4
    rows, count = 300_000, 1_000_000
    seen = np.sort(np.bincount(table.draw(count, rows, np.random.default_rng(0)), minlength=rows))[
        ::-1
    ]
    for buckets in (2, 5, 8):
        hottest = round(table.row_share[buckets:].sum() * rows)
        found = seen[:hottest].sum() / count
        # Chance makes some rows look hotter than their bucket, so a little more.
        assert table.access_share[buckets:].sum() - 0.01 < found
        assert found < table.access_share[buckets:].sum() + 0.12
