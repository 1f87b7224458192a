"""What ``headway optimize`` leaves on the disk, by verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from headway.bundle import Verdict
from headway.cli import optimizing
from headway.cli.optimizing import publish
from headway.cli.terminal import Terminal
from headway.compress import OptimizeResult
from headway.core import NotProvenError


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
    monkeypatch.setattr(optimizing, "_write", lambda _result, out, *_: calls.append(out))
    monkeypatch.setattr(optimizing, "_passed", lambda _path: stands_passed)
    result = cast("Any", _Result(verdict))
    if written:
        publish(result, tmp_path, "m", Terminal(), allow_unproven=allow)
    else:
        remedy = "keep the model" if verdict == "fail" else "--allow-unproven"
        with pytest.raises(NotProvenError, match=remedy):
            publish(result, tmp_path, "m", Terminal(), allow_unproven=allow)
    assert bool(calls) is written


def test_only_a_readable_bundle_with_a_passed_guard_counts_as_passed(tmp_path: Path) -> None:
    assert not optimizing._passed(tmp_path)
    assert not optimizing._passed(tmp_path / "nowhere")
