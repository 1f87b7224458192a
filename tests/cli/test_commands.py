"""What the commands say when used wrongly, and that each has help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headway import __version__
from headway.cli import main
from headway.cli.terminal import Terminal

COMMANDS = [
    "demo",
    "train",
    "optimize",
    "compile",
    "inspect",
    "validate",
    "profile",
    "serve",
    "tune",
    "bench",
    "doctor",
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    said = capsys.readouterr()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), said.out, said.err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"headway {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "--json" in out


def test_doctor_tells_machine_and_packages(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["machine"]["usable_cores"] >= 1
    assert found["packages"]["numpy"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("serv",), 2, "No such command"),
        (("serve", "/nowhere"), 2, "/nowhere holds neither a bundle"),
        (("serve", "/nowhere", "--port", "99999"), 2, "--port"),
        (("serve", "/nowhere", "--host", "0.0.0.0"), 2, "allow_remote"),
        (("validate", "/nowhere"), 1, "/nowhere"),
        (("inspect", "/nowhere"), 1, "/nowhere"),
        (("bench", "/nowhere"), 2, "neither an address"),
        (("bench", "ftp://127.0.0.1"), 2, "neither an address"),
        (("bench", "http://127.0.0.1:1"), 1, "no server answers"),
        (("bench", "http://127.0.0.1:1", "--sla", "fast"), 2, "write it like p95=25ms"),
        (("bench", "http://127.0.0.1:1", "--workload", "odd"), 2, "cannot read the workload"),
        (("bench", "http://127.0.0.1:1", "--rate", "-3"), 2, "--rate"),
        (("bench", "http://127.0.0.1:1", "--save-schedule", "/x"), 2, "give its --rate"),
        (
            ("bench", "http://127.0.0.1:1", "--rate", "9", "--schedule", "/x"),
            2,
            "leave --rate out",
        ),
        (
            ("bench", "http://127.0.0.1:1", "--schedule", "/x", "--workload", "64"),
            2,
            "only the ids can be chosen",
        ),
        (("bench", "http://127.0.0.1:1", "--schedule", "/nowhere"), 1, "/nowhere is not a sched"),
        (("train", "/nowhere.yaml"), 2, "/nowhere.yaml"),
        (("optimize", "/nowhere.yaml"), 2, "/nowhere.yaml"),
        (("demo", "--rows", "10"), 2, "--rows"),
        (("demo", "--sla", "p95=0ms"), 2, "must be positive"),
    ],
)
def test_a_wrong_call_is_refused_with_its_remedy(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = run(capsys, *arguments)
    assert message in err
    assert found == code


def test_a_config_that_names_an_unknown_key_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("name: a\nmodel: {name: dlrm, botom_mlp: [8]}\n")
    code, _, err = run(capsys, "train", str(config))
    assert code == 2
    assert str(config) in err


@pytest.mark.parametrize("command", ["inspect", "validate"])
def test_a_checkpoint_is_told_from_a_bundle(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "model.json").write_text("{}")
    code, _, err = run(capsys, command, str(tmp_path))
    assert code == 2
    assert f"headway optimize CONFIG --checkpoint {tmp_path}" in err


def test_tables_are_not_cut_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    Terminal().table("t", ("a", "b"), [("x" * 60, "y" * 60)])
    assert f"{'x' * 60}   {'y' * 60}" in capsys.readouterr().out
