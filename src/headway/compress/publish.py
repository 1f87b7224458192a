"""Which results become bundles on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headway.bundle import read_bundle, write_bundle
from headway.compress.job import OptimizeResult
from headway.core import BundleError, NotProvenError, Plan
from headway.engine import usable_cores

_BATCH_CANDIDATES = 512
"""Small queries are put together up to this many candidates when they wait in line."""


def check_publishable(result: OptimizeResult, out: Path, *, allow_unproven: bool) -> None:
    """Accept a result that may be written: neither failed nor the lesser one.

    Raises:
        NotProvenError: if the guard failed the result; or did not prove it while a bundle that
            passed stands at ``out``, and ``allow_unproven`` is not given.
    """
    if result.guard.verdict == "fail":
        result.check()
    if result.guard.verdict == "not proven" and not allow_unproven and has_passed(out):
        raise NotProvenError(
            f"the guard says {result.guard.verdict}: {result.guard.reason}; the bundle at "
            f"{str(out)!r} passed and is kept, choose another path or give --allow-unproven "
            "(allow_unproven=True) to replace it"
        )


def publish(result: OptimizeResult, out: Path, report_html: str | None) -> None:
    """Write the bundle with its report, labelled with its verdict; an older one is replaced.

    Raises:
        UsageError: if something else than a bundle stands at ``out``.
        BundleError: if the disk refuses, or what was written cannot be read back.
    """
    plan = Plan(workers=usable_cores(), batch_candidates=_BATCH_CANDIDATES)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(out, replace(result.parts, plan=plan, report_html=report_html), overwrite=True)


def has_passed(path: Path) -> bool:
    """Tell whether a readable bundle whose guard passed stands at a path."""
    try:
        guard = read_bundle(path).manifest.guard
    except BundleError:
        return False
    return guard is not None and guard.verdict == "pass"
