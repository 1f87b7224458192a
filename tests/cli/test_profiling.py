"""``headway profile`` prints, keeps and draws what the engine measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.contracts import tiny_ranker

import headway
from headway.bundle import EngineTrial
from headway.cli.pages.profile import build_profile
from headway.cli.profile_tables import engine_table
from headway.cli.profiling import profile_bundle, profile_command
from headway.cli.terminal import Terminal
from headway.core import UsageError
from headway.engine import LoadProfile, Profile, ProfileSettings, machine_facts
from headway.measure import profile_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profiling") / "tiny"
    headway.compile(tiny_ranker.TinyRanker(), tiny_ranker.SCHEMA, path)
    return path


SETTINGS = ProfileSettings(rows=(1, 3), concurrency=(1,), seconds=0.2)


def test_profile_is_printed_kept_and_drawn(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "new" / "profile.json", tmp_path / "page.html"
    profile_bundle(bundle, SETTINGS, 0, (out, page), Terminal())
    said = capsys.readouterr()
    for title in ("latency of whole queries", "ceilings of one core", "engines", "distance to the"):
        assert title in said.out
    kept = msgspec.json.decode(out.read_bytes(), type=Profile)
    assert all(work.counted for work in kept.towers), "the bundle has an account of its graph"
    drawn = page.read_text()
    assert drawn.count("<svg") == 2
    assert kept.fingerprint in drawn
    assert "uniform (worst case)" in drawn
    assert {trial.tower for trial in kept.engines} == {"query", "candidate"}
    assert "What could run them" in drawn


def test_every_engine_stands_with_its_times_and_the_reason() -> None:
    made: dict[str, Any] = {"tower": "candidate", "precision": "int8"}
    found = Profile(
        bundle="b",
        machine=machine_facts(),
        fingerprint="f",
        loads=(),
        towers=(),
        engines=(
            EngineTrial(
                **made,
                engine="onnxruntime",
                latency_us={"16": 250.0, "1": 50.0},
                error=0.0,
                chosen=False,
                reason="slower",
            ),
            EngineTrial(
                **(made | {"tower": "query"}),
                engine="headway",
                latency_us={"1": 7.25},
                error=2.34e-5,
                chosen=True,
                reason="fastest",
            ),
        ),
    )
    head, (slower, taken) = engine_table(found)
    assert head == ("tower", "products", "engine", "1 rows, us", "16 rows, us", "error", "verdict")
    assert slower == ("candidate", "int8", "onnxruntime", "50.0", "250", "0", "slower")
    assert taken == ("query", "int8", "headway", "7.2", "-", "2e-05", "runs it: fastest")


def test_json_is_one_object_and_nothing_else(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = msgspec.structs.replace(SETTINGS, ceilings=False)
    profile_bundle(bundle, settings, 0, (None, None), Terminal(json=True))
    found = json.loads(capsys.readouterr().out)
    assert {load["ids"] for load in found["loads"]} == {"zipf", "uniform"}


def test_a_profile_without_ceilings_is_drawn_without_limits() -> None:
    found = Profile(
        bundle="b",
        machine=machine_facts(),
        fingerprint="f",
        loads=(
            LoadProfile(
                ids="zipf", concurrency=1, latency=profile_of({1: np.ones(3), 9: np.full(3, 5)})
            ),
        ),
        towers=(),
    )
    assert build_profile(found).count("<svg") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "takes a BUNDLE"),
        ({"bundle": Path("b"), "operators": "din"}, "takes a BUNDLE"),
        ({"operators": "din", "style": "odd"}, "neither paper nor repo"),
        ({"bundle": Path("b"), "rows": "4,x"}, "cannot read --rows"),
        ({"bundle": Path("b"), "rows": "4,1"}, "must rise"),
    ],
)
def test_wrong_call_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        profile_command(**given)
