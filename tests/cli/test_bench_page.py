"""What ``headway bench`` tells of one run, in words and on its page."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from headway.cli.bench_run import energy_note, meters_of, run_notes, run_of
from headway.cli.pages.bench import build_bench
from headway.cli.results import BenchReport, BenchRun, Harness, Point
from headway.core import Sla, from_ms, from_seconds
from headway.measure import NEVER, EnergyUse, Outcome, RunRecord

SLA = Sla(percentile=95.0, limit_ns=from_ms(25))
POWER = EnergyUse(seconds=10.0, joules={"cpu": 900.0, "gpu": 100.0}, unread={})
DARK = EnergyUse(seconds=10.0, joules={}, unread={"cpu": "no counter", "gpu": "no package"})


def stalled(seconds: float = 10.0, qps: float = 300.0) -> RunRecord:
    """Exponential latencies, one second without service and some queries refused after it."""
    rng = np.random.default_rng(4)
    intended = np.sort(rng.uniform(0, seconds * 1e9, int(seconds * qps))).astype(np.int64)
    done = intended + rng.exponential(6e6, len(intended)).astype(np.int64)
    in_stall = (intended > 4e9) & (intended < 5e9)
    done[in_stall] = np.maximum(done[in_stall], 5e9 + rng.uniform(0, 2e8, in_stall.sum()))
    refused = (intended > 5e9) & (intended < 5.5e9) & (rng.random(len(intended)) < 0.3)
    done[refused] = NEVER
    status = np.where(refused, Outcome.REFUSED, Outcome.OK).astype(np.uint8)
    sizes = np.full(len(intended), 100, np.int64)
    return RunRecord(intended, intended + 1000, done, status, sizes, from_seconds(seconds))


def report_of(run: BenchRun | None) -> BenchReport:
    return BenchReport(
        url="http://127.0.0.1:8000",
        model="films",
        sla=str(SLA),
        met=False,
        warmup_s=0.5,
        harness=Harness(rate_qps=200, null_p50_ms=0.2, null_p99_ms=0.6, lag_p99_ms=0.3),
        points=[Point(rate_qps=300, p50_ms=4, tail_ms=80, queries=3000, met=False)],
        run=run,
    )


def test_the_page_and_the_json_tell_of_warm_up_windows_and_energy() -> None:
    run = run_of(stalled(), SLA, POWER)
    report = report_of(run)
    page = build_bench(report, SLA, stalled())
    for words in (
        "0.5 s of every run are warm-up",
        "Latency over time",
        "Rate over time",
        "refused",
        "early stopping",
        "Energy: 1,000 J (cpu 900 J, gpu 100 J), 100 W, 2.9",
        "in violation of the SLA",
    ):
        assert words.lower() in page.lower(), words
    found = msgspec.json.decode(msgspec.json.encode(report))
    assert found["warmup_s"] == 0.5
    assert found["run"]["watts"] == 100.0
    assert len(found["run"]["windows"]) == len(run.windows) > 5
    assert found["run"]["violation_seconds"] == run.violation_seconds >= 1.0


def test_a_report_without_a_run_has_a_page_too() -> None:
    assert "One run over time" not in build_bench(report_of(None), SLA, None)


def test_a_page_shows_a_window_without_queries_and_a_percentile_of_its_own() -> None:
    record = stalled(2.0, 80.0)
    longer = RunRecord(
        record.intended_ns,
        record.sent_ns,
        record.done_ns,
        record.status,
        record.sizes,
        from_seconds(6.0),
    )
    sla = Sla(percentile=90.0, limit_ns=from_ms(25))
    run = run_of(longer, sla, DARK)
    assert "p90" in build_bench(report_of(run), sla, longer)


def test_energy_that_cannot_be_read_says_why() -> None:
    run = run_of(stalled(), SLA, DARK)
    assert energy_note(run) == "energy: not readable (cpu: no counter; gpu: no package)"
    part = msgspec.structs.replace(POWER, joules={"cpu": 900.0}, unread={"gpu": "no package"})
    note = energy_note(run_of(stalled(), SLA, part))
    assert "90 W" in note
    assert note.endswith("not readable: gpu: no package")


def test_energy_of_another_machine_is_not_that_of_the_server() -> None:
    use = meters_of("http://10.0.0.9:8000").used(from_seconds(1))
    assert not use.joules
    assert "may be another machine" in use.unread["cpu"]
    assert "may be another machine" not in str(
        meters_of("http://127.0.0.1:1").used(from_seconds(1))
    )


@pytest.mark.parametrize(
    ("late", "queries", "said"),
    [
        (2, 400, "passes, and would with up to 10 queries over the limit; p95 is at most 10 ms"),
        (0, 100, "passes, and would with up to 0 queries over the limit"),
        (18, 400, "does not pass; 206 more queries"),
    ],
)
def test_notes_say_whether_early_stopping_passes(late: int, queries: int, said: str) -> None:
    intended = np.arange(queries, dtype=np.int64) * from_ms(5)
    latency = np.where(np.arange(queries) < late, from_ms(40), from_ms(10))
    ones = np.ones(queries, np.int64)
    status = np.zeros(queries, np.uint8)
    record = RunRecord(intended, intended, intended + latency, status, ones, queries * from_ms(5))
    notes = run_notes(run_of(record, SLA, DARK), SLA, 0.5)
    assert any(said in note for note in notes), notes
    assert "the first 0.5 s cut off as warm-up" in notes[0]


def test_notes_of_a_spoilt_run_say_why_it_proves_nothing() -> None:
    record = stalled()
    late = RunRecord(
        record.intended_ns,
        record.intended_ns + from_ms(20),
        record.intended_ns + from_ms(21),
        np.zeros(len(record), np.uint8),
        record.sizes,
        record.duration_ns,
    )
    notes = run_notes(run_of(late, SLA, DARK), SLA, 0.5)
    assert any("proves nothing: the load generator was late" in note for note in notes)
