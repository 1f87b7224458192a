"""Every example config is one that the strict reader accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.cli.config import read_config

FOLDER = Path(__file__).parents[2] / "examples"
# A fleet is no model; its own tests read it.
EXAMPLES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "fleet")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_read(path: Path) -> None:
    assert read_config(path).name == path.stem


def test_there_is_one_for_each_data_set() -> None:
    assert {p.stem for p in EXAMPLES} >= {"movielens", "criteo", "frappe"}
