"""The simulated fleets of the benchmarks run, small, and name what they compare."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

# By their names: beside each other they import as scripts do.
elastic, fleet = import_module("elastic"), import_module("fleet")

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = [
    "--machines", "4", "--others", "--targets", "20", "--queries", "300",
    "--draws", "5", "--profiles", str(FOLDER / "torch_eager.json"),
]  # fmt: skip


def script(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("name", ["fleet.py", "elastic.py"])
def test_a_script_explains_itself(name: str) -> None:
    assert "--quick" in script(name, "--help")


def test_a_small_fleet_is_compared_under_all_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "fleet.json"
    monkeypatch.setattr(sys, "argv", ["fleet.py", *TINY, "--json", str(kept)])
    fleet.main()
    shown = capsys.readouterr().out
    for word in ("SIMULATED", "static", "DeepRecSched", "Headway", "1.7x", "handful"):
        assert word in shown
    assert kept.exists()


def test_all_machines_tell_the_fleet_exactly() -> None:
    rng = np.random.default_rng(0)
    times = [rng.integers(10**6, 10**8, 500) for _ in range(4)]
    all_of_them = fleet.sampled(times, 4, 3, rng)
    one = fleet.sampled(times, 1, 20, rng)
    assert all_of_them["worst"] == [0, 0, 0]
    assert max(one["worst"]) > 0


def test_a_reduction_below_the_target_is_called_missed() -> None:
    assert fleet.verdict(1.69).endswith("MISSED")
    assert fleet.verdict(1.7).endswith("met")


def test_three_loads_are_run_under_all_policies_and_stand_ins_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--data", str(tmp_path), "--replicas", "2", "--speed", "600", "--day-speed", "6000"]
    more = ["--startups", "20", "--queries", "1000", "--json", str(tmp_path / "elastic.json")]
    monkeypatch.setattr(sys, "argv", ["elastic.py", *small, *more])
    elastic.main()
    shown = capsys.readouterr().out
    assert shown.count("synthetic stand-in), 600 times") == 1
    for word in ("SIMULATED", "static peak", "threshold", "Headway, refusing", "oracle", "20 s:"):
        assert word in shown


def test_fewer_hours_do_not_excuse_violations() -> None:
    static = {"machine_hours": 10.0, "violation_s": 60.0}
    assert elastic.verdict({"machine_hours": 6.0, "violation_s": 60.0}, static) == "met"
    assert elastic.verdict({"machine_hours": 6.0, "violation_s": 61.0}, static) == "MISSED"
    assert elastic.verdict({"machine_hours": 6.1, "violation_s": 0.0}, static) == "MISSED"
