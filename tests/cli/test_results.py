"""What the demo makes of its measurements."""

from __future__ import annotations

import math

from headway.cli.results import Point, Side, ratio_range


def side(lbt: float) -> Side:
    return Side(auc=0.7, latency_ms={}, lbt_qps=lbt, lbt_cps=lbt * 200, size_bytes=1)


def point(rate: float, *, met: bool) -> Point:
    return Point(rate_qps=rate, p50_ms=1, tail_ms=2, queries=100, met=met)


def test_range_of_the_ratio_spans_both_brackets() -> None:
    points = {
        "baseline": [point(100, met=True), point(110, met=False), point(200, met=False)],
        "optimized": [point(90, met=False), point(300, met=True), point(330, met=False)],
    }
    low, high = ratio_range({"baseline": side(100), "optimized": side(300)}, points)
    assert math.isclose(low, 300 / 110)
    assert math.isclose(high, 330 / 100)


def test_side_that_never_failed_has_no_bracket_above() -> None:
    points = {"baseline": [point(100, met=True)], "optimized": [point(300, met=True)]}
    sides = {"baseline": side(100), "optimized": side(300)}
    assert ratio_range(sides, points) == (3.0, 3.0)
