"""The whole line, small: generated data to a measured bundle, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEADWAY = (sys.executable, "-c", "from headway.cli import main; main()")


def headway(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*HEADWAY, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo")
    # So little load proves no rate at all when the machine is busy: only the form counts here.
    done = headway("demo", "--rows", "8000", "--seconds", "0.5", "--out", str(out), "--json")
    return out, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.net
@pytest.mark.timeout(300)
class TestDemo:
    def test_the_result_has_every_figure_on_both_sides(
        self, demo: tuple[Path, dict[str, Any]]
    ) -> None:
        _, result = demo
        for side in ("baseline", "optimized"):
            found = result[side]
            assert set(found) == {"auc", "latency_ms", "lbt_qps", "lbt_cps", "size_bytes"}
            assert set(found["latency_ms"]) == {"64", "256", "1024"}
            for percentiles in found["latency_ms"].values():
                assert 0 < percentiles["p50"] <= percentiles["p95"] <= percentiles["p99"]
        assert result["guard"]["verdict"] == "pass"
        assert result["guard"]["margin_auc"] == 0.001
        assert set(result["ratio"]) == {"latency_ms", "lbt_qps", "lbt_cps", "size_bytes"}

    def test_the_model_is_no_better_than_the_truth(self, demo: tuple[Path, dict[str, Any]]) -> None:
        _, result = demo
        assert 0.5 < result["baseline"]["auc"] < result["best_auc"] < 1

    def test_the_bundle_is_a_fraction_of_the_checkpoint(
        self, demo: tuple[Path, dict[str, Any]]
    ) -> None:
        _, result = demo
        assert result["ratio"]["size_bytes"] < 0.5

    def test_the_serving_process_never_loads_torch(self, demo: tuple[Path, dict[str, Any]]) -> None:
        out, result = demo
        assert result["torch_in_server"] is False
        apart = json.loads(headway("validate", str(out / "bundle"), "--json").stdout)
        assert apart["valid"]
        assert apart["torch_loaded"] is False

    def test_the_report_opens_offline_with_real_plots(
        self, demo: tuple[Path, dict[str, Any]]
    ) -> None:
        out, _ = demo
        page = (out / "report.html").read_text()
        assert page.count("<svg") >= 4
        without_names = page.replace("http://www.w3.org/", "")  # names of formats, not places
        for outside in ("<script", "src=", "<link", "@import"):
            assert outside not in without_names

    def test_inspect_shows_what_stands_in_the_bundle(
        self, demo: tuple[Path, dict[str, Any]]
    ) -> None:
        out, _ = demo
        shown = headway("inspect", str(out / "bundle")).stdout
        for word in ("history", "bag", "int8", "guard", "pass", "raw fields", "curl -s http"):
            assert word in shown
        manifest = json.loads(headway("inspect", str(out / "bundle"), "--json").stdout)
        assert manifest["guard"]["verdict"] == "pass"

    def test_bench_serves_a_bundle_and_measures_one_rate(
        self, demo: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        out, _ = demo
        page = tmp_path / "bench.html"
        done = headway(
            "bench", str(out / "bundle"), "--rate", "40", "--seconds", "2", "--sla", "p95=2s",
            "--workload", "fixed:64", "--report", str(page), "--json",
        )  # fmt: skip
        found = json.loads(done.stdout)
        assert found["met"]
        assert found["points"][0]["queries"] > 30
        assert "<svg" in page.read_text()

    def test_bench_exits_with_3_when_the_target_is_missed(
        self, demo: tuple[Path, dict[str, Any]]
    ) -> None:
        out, _ = demo
        headway(
            "bench", str(out / "bundle"), "--rate", "40", "--seconds", "2", "--sla", "p95=1us",
            code=3,
        )  # fmt: skip

    def test_a_changed_byte_makes_the_bundle_unservable(
        self, demo: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        out, _ = demo
        copy = tmp_path / "bundle"
        copy.mkdir()
        for file in (out / "bundle").rglob("*"):
            target = copy / file.relative_to(out / "bundle")
            if file.is_dir():
                target.mkdir()
            else:
                target.write_bytes(file.read_bytes())
        table = next((copy / "tables").iterdir())
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
        for command in (("validate",), ("serve", "--port", "0")):
            done = headway(*command, str(copy), code=1)
            assert table.name in done.stderr
            assert "Traceback" not in done.stderr
