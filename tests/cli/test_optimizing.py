"""What ``headway optimize`` leaves on the disk, by verdict; and what its flags ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from headway.bundle import Verdict
from headway.cli import main, optimizing
from headway.cli.optimizing import Wanted, publish, with_passes
from headway.cli.terminal import Terminal
from headway.compress import (
    STANDARD_PASSES,
    LightweightSettings,
    OptimizeResult,
    OptimizeSettings,
    Recipe,
    Summary,
    check_publishable,
    has_passed,
)
from headway.core import NotProvenError, Sla, UsageError


class _Guard:
    reason = "so it is"
    rows_to_decide = None

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


class _Result:
    """A result of which only the verdict matters."""

    check = OptimizeResult.check

    def __init__(self, verdict: Verdict) -> None:
        self.guard = _Guard(verdict)


@pytest.mark.parametrize(
    ("verdict", "stands_passed", "allow", "written"),
    [
        ("pass", True, False, True),
        ("not proven", False, False, True),
        ("not proven", True, False, False),
        ("not proven", True, True, True),
        ("fail", False, False, False),
        ("fail", False, True, False),
    ],
)
def test_a_lesser_result_never_replaces_a_bundle_that_passed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verdict: Verdict,
    *,
    stands_passed: bool,
    allow: bool,
    written: bool,
) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(optimizing, "write", lambda _result, out, _page: calls.append(out))
    monkeypatch.setattr(optimizing, "build_optimize", lambda _report: "page")
    rules = cast("Any", check_publishable).__globals__
    monkeypatch.setitem(rules, "has_passed", lambda _path: stands_passed)
    result, told = cast("Any", _Result(verdict)), cast("Summary", None)
    if written:
        publish(result, told, tmp_path, Terminal(), allow_unproven=allow)
    else:
        remedy = "keep the model" if verdict == "fail" else "--allow-unproven"
        with pytest.raises(NotProvenError, match=remedy):
            publish(result, told, tmp_path, Terminal(), allow_unproven=allow)
    assert bool(calls) is written


def test_only_a_readable_bundle_with_a_passed_guard_counts_as_passed(tmp_path: Path) -> None:
    assert not has_passed(tmp_path)
    assert not has_passed(tmp_path / "nowhere")


def test_flags_turn_passes_on_and_off_and_the_config_says_which() -> None:
    none = OptimizeSettings()
    own = OptimizeSettings(passes=Recipe(lightweight=LightweightSettings(width=0.5)))
    assert with_passes(none, None) is none
    assert with_passes(own, None) is own
    assert with_passes(own, True) is own
    assert with_passes(none, True).passes == STANDARD_PASSES
    assert with_passes(own, False).passes == Recipe()


@pytest.mark.parametrize(
    ("flags", "passes", "chain"),
    [
        ([], None, None),
        (["--passes"], True, None),
        (["--no-passes"], False, None),
        (["--chain"], None, Sla()),
        (["--passes", "--chain", "--sla", "p99=50ms"], True, Sla(99.0, cast("Any", 50_000_000))),
    ],
)
def test_flags_reach_the_work(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], passes: bool | None, chain: Sla | None
) -> None:
    seen: list[Wanted] = []

    def work(_path: Path, _data: None, _out: Path, wanted: Wanted, _terminal: Terminal) -> int:
        seen.append(wanted)
        return 0

    monkeypatch.setattr(optimizing, "optimize_config", work)
    with pytest.raises(SystemExit) as stopped:
        main(["optimize", "some.yaml", *flags])
    assert stopped.value.code == 0
    (wanted,) = seen
    assert (wanted.passes, wanted.chain) == (passes, chain)
    assert not wanted.allow_unproven


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.yaml", "--sla", "p95=25ms"], "--sla goes with --chain"),
        (["c.yaml", "--chain", "--sla", "fast"], "write it like p95=25ms"),
        (["c.yaml", "--search", "60", "--passes"], "leave out --passes"),
        (["c.yaml", "--search", "60", "--chain"], "--search finds the passes itself"),
        (["c.yaml", "--search", "0"], "greater than or equal to 1"),
        (["--onnx", "m.onnx", "--schema", "s.yaml", "--chain"], "--onnx goes with --schema"),
        (["--onnx", "m.onnx", "--schema", "s.yaml", "--no-passes"], "--onnx goes with --schema"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["optimize", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_search_is_asked_for_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Wanted] = []

    def work(_: Path, __: object, ___: object, wanted: Wanted, ____: object) -> int:
        seen.append(wanted)
        return 0

    monkeypatch.setattr(optimizing, "optimize_config", work)
    with pytest.raises(SystemExit):
        main(["optimize", "some.yaml", "--search", "90"])
    assert [wanted.search_s for wanted in seen] == [90.0]


def test_a_chain_of_one_query_size_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "movielens.yaml"
    config = tmp_path / "movielens.yaml"
    text = example.read_text().partition("\noptimize:")[0]
    config.write_text(text + "\noptimize: {sizes: [64]}\n")
    with pytest.raises(UsageError, match="name another, or leave the chain out"):
        optimizing.optimize_config(config, None, tmp_path / "b", Wanted(chain=Sla()), Terminal())
