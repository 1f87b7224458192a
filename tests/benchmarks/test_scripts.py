"""Every benchmark can be run in five minutes and kept as JSON, and says what it aims at."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "def main()" in path.read_text())


def test_there_are_scripts() -> None:
    assert {path.stem for path in SCRIPTS} >= {"kernels", "latency", "rewrites", "roofline", "zoo"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_a_short_way_keeps_its_figures_and_names_its_targets(path: Path) -> None:
    text = path.read_text()
    assert '"--quick"' in text
    assert '"--json"' in text
    shown = text + "".join(other.read_text() for other in _imported(text))
    assert "TARGET" in shown
    assert ast.get_docstring(ast.parse(text))


def _imported(text: str) -> list[Path]:
    """Return the modules beside a script that it imports from."""
    names = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return [path for name in names if (path := FOLDER / f"{name}.py").exists()]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_explained(path: Path) -> None:
    assert f"benchmarks/{path.name}" in (FOLDER.parent / "docs" / "benchmarks.md").read_text()
