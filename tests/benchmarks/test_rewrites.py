"""The table of rewrites: what is lowered, what is measured, and what it is held against."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from benchmarks.rewrites import Found
from tests.contracts import tiny_ranker

from benchmarks import rewrites
from headway.graph import ALL, Rewrite
from headway.models import WideDeepSettings


def found(way: str, adds: int, us: float | None = None, **told: object) -> Found:
    one = Found("din", "default", way, adds, p50_us=us)
    for name, value in told.items():
        setattr(one, name, value)
    return one


def test_quick_takes_little_and_is_kept_where_asked() -> None:
    plain, quick = rewrites.arguments([]), rewrites.arguments(["--quick", "--json", "a/b.json"])
    assert quick.seconds < plain.seconds
    assert quick.rows < plain.rows
    assert quick.scopes == ["default"]
    assert quick.json == Path("a/b.json")
    assert quick.models == plain.models
    assert len(plain.models) == 9
    with pytest.raises(SystemExit):
        rewrites.arguments(["--models", "none"])


def test_every_rewrite_is_added_to_hoisting_and_left_out() -> None:
    ways = rewrites.ways_of(["with", "without"])
    assert list(ways)[:: len(ways) - 1] == ["off", "all"]
    assert ways["hoist + dots"] == {Rewrite.HOIST, Rewrite.DOTS}
    assert ways["without dots"] == ALL - {Rewrite.DOTS}
    assert len(ways) == 3 + (len(Rewrite) - 1) + len(Rewrite)
    assert list(rewrites.ways_of([])) == ["off", "all"]


def test_lines_compare_with_off_and_all() -> None:
    off, every = found("off", 4_000_000, 8000.0), found("all", 1_000_000, 2000.0)
    half = rewrites.line_of(found("hoist", 2_000_000, 4000.0), off, every)
    assert half.split() == ["din", "hoist", "2.00", "2.00x", "4.000", "2.00x", "0.50x"]
    same = rewrites.line_of(found("without dots", 1_000_000, same_as="all"), off, every)
    assert same.split()[3:] == ["1.00", "-", "-", "-", "-", "as", "all"]
    failed = rewrites.line_of(found("without hoist", 0, failed="no"), off, every)
    assert "cannot be lowered: no" in failed


@pytest.mark.parametrize(("hoist_us", "met"), [(1990.0, True), (1500.0, False)])
def test_all_rewrites_together_must_not_lose_to_some(hoist_us: float, met: bool) -> None:
    ways = [
        found("off", 4, 8000.0, change=0.0),
        found("hoist", 2, hoist_us, change=9e-5),
        found("without dots", 0, failed="no"),
        found("all", 1, 2000.0, change=1e-6),
    ]
    speed, failed, change = rewrites.verdicts(ways)
    assert speed.endswith("met" if met else "MISSED")
    assert "hoist" in speed
    assert "cannot be lowered: 1 " in failed
    assert change.endswith("MISSED"), "a rewrite changed the outputs by too much"


def test_a_small_model_is_measured_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = tiny_ranker.SCHEMA
    made = argparse.Namespace(settings=WideDeepSettings(deep_mlp=(8,)), schema=schema)
    monkeypatch.setattr(rewrites, "zoo", lambda *_args, **_named: made)
    monkeypatch.setattr(rewrites, "build_towers", _without_waiting)
    args = argparse.Namespace(style="repo", rows=9, ways=["with"], size=5, seconds=0.0)
    lines = rewrites.measure("wnd", "default", args)
    by_way = {one.way: one for one in lines}
    assert by_way["off"].multiply_adds > by_way["all"].multiply_adds
    assert by_way["all"].p50_us is not None
    assert by_way["hoist + attention"].same_as == "hoist"
    assert all(one.change is None or one.change < 5e-5 for one in lines)


def _without_waiting(*given: object) -> object:
    from headway.compress.towers import build_towers
    from headway.core import Ns

    class Clock:
        at = 0

        def now(self) -> Ns:
            self.at += 10**8
            return Ns(self.at)

    towers: Any = build_towers
    return towers(*given, Clock())
