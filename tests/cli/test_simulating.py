"""``headway simulate`` reads a fleet, runs it, and says that all of it is simulated."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from headway.cli import main
from headway.cli.fleet_file import FleetFile, MachineSettings, PlanSettings, read_fleet
from headway.cli.service_times import ServiceSettings, service_times
from headway.core import ConfigError, DataError, HeadwayError, UsageError
from headway.measure import LatencyProfile
from headway.simulate import (
    BALANCERS,
    Autoscale,
    Failures,
    Forecast,
    Outage,
    SizingSettings,
    Stragglers,
)
from headway.simulate.scale import Policy as ScalingPolicy

EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet.yaml"
BOX = {"name": "box", "count": 2, "cores": 2, "service": {"microseconds": {1: 200, 1024: 8000}}}
SMALL: dict[str, Any] = {"rate": 300, "duration_s": 2, "machines": [BOX]}


def written(folder: Path, **changes: Any) -> Path:
    """Write a small fleet with changes."""
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def run(*arguments: object) -> int:
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_a_fleet_is_run_shown_and_labelled_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(written(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "simulated, p95 <= 25 ms" in out
    assert "met" in out


def test_json_holds_every_seed_and_the_page_every_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "page.html"
    assert run(written(tmp_path), "--seeds", 2, "--json", "--report", page) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["simulated"] is True
    assert told["seeds"] == [0, 1]
    assert told["totals"]["queries"] == sum(r["queries"] for r in told["runs"])
    assert told["runs"][0]["queries"] != told["runs"][1]["queries"]
    drawn = page.read_text()
    assert drawn.count("<svg") == 3
    assert "simulated, none is measured" in drawn


def test_a_missed_sla_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(written(tmp_path, sla="p95=1ms")) == 3
    assert "missed" in capsys.readouterr().out


def test_machines_are_found_for_a_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(SizingSettings, queries=1000, sample=3)
    monkeypatch.setattr("headway.simulate.SizingSettings", few)
    path = written(tmp_path, plan={"policy": "fixed"}, balancer="shortest-queue")
    assert run(path, "--machines-for", "1e6", "--json") == 0
    (kind,) = json.loads(capsys.readouterr().out)["kinds"]
    assert 0 < kind["bound"] <= kind["machines"] < 2 * kind["bound"]
    assert kind["confirmed"]


def test_the_example_is_read_with_all_it_names() -> None:
    simulation = read_fleet(EXAMPLE)
    spec = simulation.spec
    assert [kind.name for kind in spec.kinds] == ["t4", "cpu"]
    assert spec.kinds[0].machine.ratios
    assert spec.autoscale is not None
    assert isinstance(spec.autoscale.policy, Forecast)
    assert spec.scaled == 1


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    assert "examples/fleet.yaml" in told
    assert "--machines-for" in told


def test_a_lighter_bundle_and_rested_cores_take_their_share_of_the_time(tmp_path: Path) -> None:
    box = {**BOX, "rested": 1.5, "rest_ms": 2, "front_ms": 0.13}
    (kind,) = read_fleet(written(tmp_path, machines=[box], plan={"lighter": 0.25})).spec.kinds
    assert kind.machine.rested_service == ((1, 300_000), (1024, 12_000_000))
    assert kind.machine.front_ns == 130_000
    assert kind.machine.rest_ns == 2_000_000
    assert kind.plan.lighter_service == ((1, 50_000), (1024, 2_000_000))


def test_runs_and_the_report_count_what_the_lighter_bundle_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowd = written(tmp_path, rate=4000, plan={"lighter": 0.3})
    assert run(crowd, "--json", "--seeds", 2) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["totals"]["lightened"] == sum(r["lightened"] for r in told["runs"]) > 0


def test_a_fixed_plan_is_the_static_baseline_unless_told_otherwise(tmp_path: Path) -> None:
    fixed = {"policy": "fixed"}
    (kind,) = read_fleet(written(tmp_path, plan=fixed)).spec.kinds
    assert (kind.plan.policy, kind.plan.split_size, kind.plan.workers) == ("fixed", 500, 2)
    own = {**BOX, "plan": {"split_size": 64}}
    (kind,) = read_fleet(written(tmp_path, plan=fixed, machines=[own])).spec.kinds
    assert (kind.plan.policy, kind.plan.split_size) == ("adaptive", 64)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"balancr": "random"}, "unknown key 'balancr' at the top level; did you mean 'balancer'"),
    ({"balancer": "best"}, "balancer"),
    ({"plan": {"lighter": 0.5, "policy": "fixed"}}, "plan.lighter 0.5 needs policy adaptive"),
    ({"plan": {"lighter": 0.5, "refuse_late": False}}, "plan.lighter 0.5 needs policy adaptive"),
    ({"plan": {"lighter": 1}}, "plan.lighter"),
    ({"machines": [{**BOX, "rested": 0.5}]}, "rested"),
    ({"machines": [{**BOX, "front_ms": -1}]}, "front_ms"),
    ({"rate": 0}, "rate"),
    ({"sla": "fast"}, "cannot read the SLA 'fast'"),
    ({"workload": "productive"}, "cannot read the workload 'productive'"),
    ({"machines": []}, "machines"),
    ({"machines": [{**BOX, "core": 2}]}, "unknown key 'core' at machines"),
    ({"machines": [BOX, deepcopy(BOX)]}, "name of its own"),
    ({"machines": [{**BOX, "service": {}}]}, "machines 'box': service: give exactly one of"),
    ({"machines": [{**BOX, "service": {"published": "t4", "model": "din"}}]}, "no model 'din'"),
    (
        {"machines": [{**BOX, "service": {"microseconds": {1: 9, 8: 5}}}]},
        "but 1 take 9 us and 8 take 5 us",
    ),
    ({"machines": [{**BOX, "service": {"microseconds": {0: 5}}}]}, "start at 1"),
    ({"machines": [{**BOX, "accelerators": 1}]}, "accelerators and accelerator go together"),
    ({"machines": [{**BOX, "idle_watts": 9, "busy_watts": 5}]}, "below idle_watts"),
    ({"machines": [{**BOX, "count": 0}]}, "at least one machine"),
    ({"autoscale": {"policy": {"type": "magic"}}}, "autoscale.policy"),
    ({"autoscale": {"policy": {"type": "oracle"}, "kind": "bx"}}, "autoscale.kind 'bx'"),
    ({"failures": {"mean": 3}}, "did you mean 'mean_s'"),
    ({"stragglers": {"share": 1.5}}, "stragglers.share"),
    ({"window_s": 5}, "window_s 5 is longer"),
    (
        {"autoscale": {"policy": {"type": "magi"}}},
        "choose from fixed, utilisation, forecast, oracle",
    ),
    ({"balancer": "magic"}, "choose from least-expected-finish, power-of-two, random"),
    ({"machines": [{**BOX, "plan": {"policy": "greedy"}}]}, "choose from adaptive, fixed"),
    ({"rate": 1e6, "duration_s": 1e6}, "1e+12 queries; at most 1e+09"),
    ({"rate": 1000, "duration_s": 1000, "workload": "5@steps:10x1e6"}, "1e+12 queries; at most"),
    ({"window_s": 1e-8}, "window_s 1e-08 is too short"),
    ({"failures": {"mean_s": 1e-9}}, "failures.mean_s 1e-09 is too short"),
    ({"stragglers": {"of": "time", "spell_s": 1e-9}}, "stragglers.spell_s 1e-09 is too short"),
    ({"autoscale": {"policy": {"type": "fixed"}, "look_s": 1e-9}}, "autoscale.look_s 1e-09"),
    ({"failures": {"outages": [{"at_s": 9}]}}, "at_s 9 is after the end, duration_s 2"),
    ({"machines": [{**BOX, "service": {"published": "t4"}}]}, "give a model; of t4 there are"),
    ({"machines": [{**BOX, "interference": float("inf")}]}, "machines[0].interference is inf"),
    ({"machines": [{**BOX, "price_per_hour": float("nan")}]}, "price_per_hour"),
    ({"failures": {"back_s": float("inf")}}, "failures.back_s"),
    ({"plan": {"timeout_ms": float("inf")}}, "plan.timeout_ms"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[m[:30] for _, m in WRONG])
def test_a_wrong_fleet_names_the_key_and_the_remedy(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError) as error:
        read_fleet(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    assert run(path, "--machines-for", 0) == 2
    assert run(path, "--machines-for", 5, "--seeds", 2) == 2
    assert run(path, "--report", tmp_path) == 2
    assert run(tmp_path / "none.yaml") == 2
    assert "cannot read the config" in capsys.readouterr().err


PROFILE = LatencyProfile(rows=(1, 256), percentiles=(50.0, 95.0), ns=((1e5, 2e5), (1e6, 2e6)))


def test_a_profile_gives_times_scatter_and_interference(tmp_path: Path) -> None:
    slower = LatencyProfile(rows=(1, 256), percentiles=(50.0,), ns=((2e5,), (1.5e6,)))
    loads = [
        {"ids": "zipf", "concurrency": n, "latency": json.loads(p.to_json())}
        for n, p in ((1, PROFILE), (2, slower))
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"bundle": "b", "loads": loads}))
    timed = service_times(ServiceSettings(profile="profile.json"), tmp_path, "here")
    assert timed.knots == ((1, 100_000), (256, 1_000_000))
    assert timed.interference == 1.5
    assert (min(timed.ratios), max(timed.ratios)) == (1.0, 2.0)
    path.write_bytes(PROFILE.to_json())
    alone = service_times(ServiceSettings(profile="profile.json"), tmp_path, "here")
    assert (alone.knots, alone.interference) == (timed.knots, 1.0)


def test_an_accelerator_takes_the_model_of_its_cores_and_their_times(tmp_path: Path) -> None:
    helped = {
        **BOX,
        "service": {"microseconds": {1: 200, 1024: 8000}, "model": "wnd"},
        "accelerators": 1,
        "accelerator": {"published": "gtx-1080-ti"},
    }
    (kind,) = read_fleet(written(tmp_path, machines=[helped])).spec.kinds
    assert kind.machine.accelerator_service[-1] == (1024, round(8_000_000 / 4.62))
    assert kind.plan.accelerators == 1


@pytest.mark.parametrize(
    ("service", "content", "error", "message"),
    [
        ({"profile": "none.json"}, b"", DataError, "cannot read the profile"),
        ({"profile": "profile.json"}, b"{}", DataError, "holds no latency profile"),
        ({"profile": "profile.json"}, b'{"loads": []}', DataError, "no times with zipf ids"),
        ({"bundle": "none"}, b"", HeadwayError, "none"),
        ({"profile": "a", "bundle": "b"}, b"", UsageError, "profile and bundle"),
        ({"published": "gtx-1080-ti", "model": "wnd"}, b"", UsageError, "beside cores"),
    ],
)
def test_times_that_cannot_be_had_say_why(
    tmp_path: Path,
    service: dict[str, Any],
    content: bytes,
    error: type[HeadwayError],
    message: str,
) -> None:
    (tmp_path / "profile.json").write_bytes(content)
    with pytest.raises(error, match=message):
        service_times(ServiceSettings(**service), tmp_path, "here")


def test_the_example_names_every_setting() -> None:
    text = Path("examples/fleet.yaml").read_text()
    parts = (FleetFile, MachineSettings, PlanSettings, Failures, Outage, Stragglers,
             Autoscale, *get_args(ScalingPolicy))  # fmt: skip
    names = [name for part in parts for name in part.__struct_fields__]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
    assert [name for name in BALANCERS if name not in text] == []
    tags = [part.__struct_config__.tag for part in get_args(ScalingPolicy)]
    assert [tag for tag in tags if f"type: {tag}" not in text] == []


def test_what_stands_in_the_examples_comments_is_valid(tmp_path: Path) -> None:
    text = Path("examples/fleet.yaml").read_text()
    for line in re.findall(r"^# (plan: .*\})", text, re.M):
        changed = re.sub(r"^plan: .*$", line, text, flags=re.M)
        (tmp_path / "fleet.yaml").write_text(changed)
        assert read_fleet(tmp_path / "fleet.yaml").spec.kinds[0].plan.workers == 1
    for line in re.findall(r"^  # (policy: .*\})", text, re.M):
        changed = re.sub(r"^  policy: .*$", f"  {line}", text, flags=re.M)
        (tmp_path / "fleet.yaml").write_text(changed)
        assert read_fleet(tmp_path / "fleet.yaml").spec.autoscale


def test_a_target_that_no_machine_meets_exits_like_any_missed_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, sla="p95=1us", autoscale={"policy": {"type": "forecast"}})
    with pytest.raises(SystemExit) as ended:
        main(["simulate", str(path)])
    assert ended.value.code == 3
    assert "at any rate" in capsys.readouterr().err
