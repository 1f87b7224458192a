"""The examples of the tour and of the page on scheduling do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
TOUR = DOCS / "tour.md"
SCHEDULING = DOCS / "scheduling.md"


def test_the_tours_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TOUR.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "tour"}
    exec(compile(code, "tour.md", "exec"), names)
    assert names["report"].equality < 5e-5
    assert names["scores"].shape == (3,)
    np.testing.assert_allclose(np.concatenate(names["many"]), names["scores"], atol=1e-6)


def test_the_scheduling_pages_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SCHEDULING.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "scheduling"}
    exec(compile(code, "scheduling.md", "exec"), names)
    assert len(names["record"]) > 3000
    assert np.percentile(names["record"].latency_ns, 95) < 10e6
