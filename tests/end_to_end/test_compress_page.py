"""The examples of the page on compression do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from headway.cli.config import Config
from headway.compress import OptimizeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "compress.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_pages_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "compress.md", "exec"), names)
    report = names["report"]
    assert report.guard.verdict == "pass"
    assert report.bundle == Path("out/small")
    assert [link.name for link in report.chain.links][:4] == [
        "original", "lightweight", "prune", "distil",
    ]  # fmt: skip
    assert (tmp_path / "report.html").read_text() == (report.bundle / "report.html").read_text()
    assert names["found"].flops < 0.3
    assert names["found"].widths == {"mlp.0": (128, 32)}


def test_the_pages_yaml_is_one_that_a_config_takes(tmp_path: Path) -> None:
    from headway.cli.yaml_file import read_yaml

    (text,) = re.findall(r"```yaml\noptimize:\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "o.yaml").write_text(re.sub("(?m)^  ", "", text))
    found = read_yaml(tmp_path / "o.yaml", OptimizeSettings)
    assert found.passes.passes == ("lightweight", "prune", "distil")
    assert "optimize" in Config.__struct_fields__


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 150
