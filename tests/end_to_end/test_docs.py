"""The example of the tour does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOUR = Path(__file__).parents[2] / "docs" / "tour.md"


def test_the_tours_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TOUR.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "tour"}
    exec(compile(code, "tour.md", "exec"), names)
    assert names["report"].equality < 5e-5
    assert names["scores"].shape == (3,)
    np.testing.assert_allclose(np.concatenate(names["many"]), names["scores"], atol=1e-6)
