"""What a linter cannot say about the house."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "headway"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists())
SERVING = [
    "core",
    "data",
    "workload",
    "measure",
    "bundle",
    "scheduler",
    "server",
    "loadgen",
    "engine",
    "simulate",
    "tune",
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "the first line says what the file is for"


@pytest.mark.parametrize("room", ROOMS)
def test_a_front_door_offers_what_it_names(room: str) -> None:
    door = importlib.import_module(f"headway.{room}")
    for name in getattr(door, "__all__", ()):
        assert getattr(door, name, None) is not None, name


def _imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
    return found


# Files of a room that others may import past its front door: they load torch or spawn
# processes, so serving must be able to leave them out.
SIDE_DOORS = {"headway.engine.torch_eager", "headway.engine.process"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_are_entered_by_the_front_door(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0]
    for module in _imports(path):
        parts = module.split(".")
        if parts[0] == "headway" and len(parts) > 2 and parts[1] != own:
            assert module in SIDE_DOORS, f"{path.name} imports {module}"


def test_serving_rooms_leave_torch_out() -> None:
    names = ", ".join(f"headway.{room}" for room in SERVING)
    heavy = "{'torch', 'onnx', 'polars', 'matplotlib', 'pandas'}"
    code = f"import sys, {names}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
