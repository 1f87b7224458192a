from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_about_the_zoo_shows_what_its_command_prints() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "zoo.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.count("\n") == 20
    assert printed in (ROOT / "docs" / "zoo.md").read_text()
