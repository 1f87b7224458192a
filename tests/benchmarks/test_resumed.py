"""Figures that a file holds are taken over only if they were made in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.resumed import begun, keep


def test_rows_of_the_same_settings_go_on_and_others_are_refused(tmp_path: Path) -> None:
    path, settings = tmp_path / "out" / "rows.json", {"cores": 40, "sizes": (1, 2)}
    assert begun(None, settings) == begun(path, settings) == []
    keep(path, settings, [{"model": "wnd"}], date="2026-11-22")
    assert begun(path, settings) == [{"model": "wnd"}]
    with pytest.raises(SystemExit, match=r"figures of other settings, .*40.*8.*another --json"):
        begun(path, settings | {"cores": 8})
    path.write_text('{"settings":')
    with pytest.raises(SystemExit, match=r"cannot read .*delete it"):
        begun(path, settings)
    path.write_text("[]")
    with pytest.raises(SystemExit, match="other settings"):
        begun(path, settings)
