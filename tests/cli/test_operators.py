"""The zoo's operator shares are printed beside the published ones."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from headway.cli.operators import parse_rows, show_operators
from headway.cli.terminal import Terminal
from headway.core import UsageError


def test_measured_and_published_shares_stand_side_by_side(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_operators("rmc1", "repo", (1, 3), Terminal(), max_rows=100)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "rmc1" in line]
    assert lines[0][:3] == ["rmc1", "0.201", "640"]
    assert "(30)" in lines[1]
    assert "(59)" in lines[1]
    assert not any("(" in word for word in lines[2])


def test_json_holds_costs_and_shares(capsys: pytest.CaptureFixture[str]) -> None:
    show_operators("dien", "paper", (64,), Terminal(json=True), max_rows=100)
    read = msgspec.json.decode(capsys.readouterr().out)
    (found,) = read["shares"]
    assert (found["model"], found["rows"], read["style"]) == ("dien", 64, "paper")
    assert sum(found["measured"].values()) == pytest.approx(1)
    assert found["published"]["recurrent"] == 0.74
    assert read["costs"]["dien"]["flops"] > 0


def test_reading_rows_for_a_bundle_needs_no_torch() -> None:
    code = "import sys, headway.cli.operators; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("text", ["", "0", "1,x", "-3", "1,,2"])
def test_rows_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--rows"):
        parse_rows(text)


def test_rows_are_read_and_unknown_models_refused() -> None:
    assert parse_rows("1, 64,1024") == (1, 64, 1024)
    with pytest.raises(UsageError, match="no 'gpt'; choose among ncf, wnd"):
        show_operators("gpt", "paper", (1,), Terminal())
    with pytest.raises(UsageError, match="--rows"):
        show_operators("ncf", "paper", (), Terminal())
