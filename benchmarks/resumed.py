"""Figures of a run that was broken off, so that its parts are not run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def begun(path: Path | None, settings: Row) -> list[Row]:
    """Return the rows that a file of ``keep`` holds, made with the same settings.

    Raises:
        SystemExit: if they were made with others, or by something else.
    """
    if path is None or not path.exists():
        return []
    try:
        told = json.loads(path.read_text())
    except ValueError as error:
        raise SystemExit(
            f"cannot read {path}: {error}; give another --json or delete it"
        ) from error
    before = told.get("settings") if isinstance(told, dict) else None
    if before != json.loads(json.dumps(settings)):
        raise SystemExit(
            f"{path} holds figures of other settings, {before}, and these are {settings}; "
            "give another --json or delete it"
        )
    rows: list[Row] = told["rows"]
    return rows


def keep(path: Path | None, settings: Row, rows: list[Row], **facts: object) -> None:
    """Write the rows so far, and how they were made."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # All of it or nothing: a run may be broken off here too.
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps({**facts, "settings": settings, "rows": rows}, indent=1) + "\n")
    beside.replace(path)
