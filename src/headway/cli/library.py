"""``headway.optimize``: the library's call, with the page that the command line draws."""

from __future__ import annotations

from functools import wraps
from typing import Any

from headway.cli.pages.optimize import build_optimize
from headway.compress import Report
from headway.compress import optimize as without_page


@wraps(without_page)
def optimize(*given: Any, **options: Any) -> Report:  # noqa: D103 - the library's own
    return without_page(*given, **{"draw": build_optimize, **options})
