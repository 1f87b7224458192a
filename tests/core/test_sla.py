"""SLAs are read from the form people write."""

from __future__ import annotations

import pytest

from headway.core import (
    HeadwayError,
    ManualClock,
    MonotonicClock,
    Sla,
    UsageError,
    errors,
    parse_sla,
    static_baseline,
)


@pytest.mark.parametrize(
    ("text", "percentile", "limit_ns"),
    [
        ("p95=25ms", 95.0, 25_000_000),
        ("p99.9<=1s", 99.9, 1_000_000_000),
        ("p50 = 250us", 50.0, 250_000),
    ],
)
def test_an_sla_is_read(text: str, percentile: float, limit_ns: int) -> None:
    assert parse_sla(text) == Sla(percentile=percentile, limit_ns=limit_ns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "95=25ms", "p95=25", "p0=1ms", "p95=0ms", "p95=-1ms", "p101=1ms"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sla(text)


def test_the_static_baseline_divides_the_largest_query_over_the_cores() -> None:
    assert static_baseline(40, 1000).split_size == 25


def test_a_manual_clock_moves_only_when_told_and_never_back() -> None:
    clock = ManualClock()
    assert clock.advance(5) == clock.now() == 5
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)


def test_the_monotonic_clock_does_not_fall() -> None:
    clock = MonotonicClock()
    assert clock.now() <= clock.now()


def test_every_error_has_an_exit_code_and_a_status_the_design_knows() -> None:
    kinds = [
        e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, HeadwayError)
    ]
    assert len(kinds) > 10
    assert {e.exit_code for e in kinds} == {1, 2, 3}
    assert {e.status for e in kinds} <= {400, 404, 405, 413, 415, 500, 501, 503, 504}
