"""Service times for a simulation: measured here, published by others, or written down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import BundleError, DataError, Knots, UsageError, shortest_ns
from headway.measure import LatencyProfile
from headway.simulate import knots_of, published_knots

_RATIOS = 512
_LEAST = 1e-3


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where service times come from: exactly one of the first four.

    Attributes:
        profile: a file that ``headway profile --out`` wrote, or a ``LatencyProfile``.
        bundle: a bundle that carries such a profile.
        published: a device that others measured: gtx-1080-ti, t4 or c5n.2xlarge.
        microseconds: by number of candidates, joined by straight lines.
        model: of the zoo, for ``published``; an accelerator takes that of its machine's cores
            by default.
        ids: which of a profile's: ``zipf`` as in production, or ``uniform``.
        scatter: of written or published times: standard deviation of their logarithm.
    """

    profile: str = ""
    bundle: str = ""
    published: str = ""
    microseconds: dict[int, Annotated[float, Meta(gt=0)]] = {}
    model: str = ""
    ids: str = "zipf"
    scatter: Annotated[float, Meta(ge=0, le=2)] = 0.0


class Timed(msgspec.Struct, frozen=True):
    """Service times with what else a profile tells."""

    knots: Knots = ()
    ratios: tuple[float, ...] = ()
    interference: float = 1.0
    tower_ns: int = 0


class _Load(msgspec.Struct, frozen=True):
    ids: str
    concurrency: int
    latency: LatencyProfile
    tower_ns: int = 0


class _Profile(msgspec.Struct, frozen=True):
    """The part of ``engine.Profile`` that a simulation needs; reading it loads no engine."""

    loads: tuple[_Load, ...]


def service_times(
    given: ServiceSettings, folder: Path, place: str, core: Knots = (), model: str = ""
) -> Timed:
    """Return the times that settings name.

    Args:
        given: the settings.
        folder: at which paths start.
        place: of the settings, for errors.
        core: times of a core, for what was published beside one.
        model: where the settings name none.

    Raises:
        UsageError: if none or several sources are named, or nothing is published.
        DataError: if a profile cannot be read.
    """
    named = [n for n in ("profile", "bundle", "published", "microseconds") if getattr(given, n)]
    if len(named) != 1:
        raise UsageError(
            f"{place}: give exactly one of profile, bundle, published and microseconds, not "
            f"{' and '.join(named) or 'none'}"
        )
    if given.profile:
        path = folder / given.profile
        return _from_profile(_read(path), given.ids, str(path))
    if given.bundle:
        return _from_bundle(folder / given.bundle, given.ids)
    try:
        knots = _written(given.microseconds) if given.microseconds else published_knots(
            given.published, given.model or model, core
        )  # fmt: skip
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    return Timed(knots, _lognormal(given.scatter))


def _written(microseconds: Mapping[int, float]) -> Knots:
    if min(microseconds) < 1:
        raise UsageError(f"numbers of candidates start at 1, not {min(microseconds)}")
    return tuple((n, max(1, round(us * 1000))) for n, us in sorted(microseconds.items()))


def _lognormal(sigma: float) -> tuple[float, ...]:
    if not sigma:
        return ()
    # A fixed draw: which time is whose is up to the run's own seed.
    drawn = np.exp(np.random.default_rng(0).normal(0, sigma, _RATIOS))
    return tuple((drawn / np.median(drawn)).tolist())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the profile {path}: {error.strerror}") from error


def _from_bundle(path: Path, ids: str) -> Timed:
    from headway.bundle import read_bundle

    for name, raw in read_bundle(path).profiles.items():
        try:
            return _from_profile(raw, ids, f"{path}, profile {name}")
        except DataError:
            continue
    raise BundleError(
        f"the bundle {path} carries no latency profile; measure one with: headway profile {path} "
        "--out FILE, and name it as profile"
    )


def _from_profile(raw: bytes, ids: str, source: str) -> Timed:
    try:
        loads = msgspec.json.decode(raw, type=_Profile).loads
    except msgspec.MsgspecError:
        try:
            latency = LatencyProfile.from_json(raw)
        except DataError as error:
            raise DataError(f"{source} holds no latency profile: {error}") from error
        loads = (_Load(ids, 1, latency),)
    by_threads = {load.concurrency: load for load in loads if load.ids == ids}
    if not by_threads:
        known = sorted({load.ids for load in loads})
        raise DataError(
            f"{source} has no times with {ids} ids; it has {', '.join(known) or 'none'}"
        )
    first = by_threads[min(by_threads)]
    alone, busy = first.latency, by_threads[max(by_threads)].latency
    middle = min(alone.percentiles, key=lambda p: abs(p - 50.0))
    rows = alone.rows[-1]
    slower = busy.at(rows, middle) / max(1, alone.at(rows, middle))
    knots = knots_of(alone, middle)
    tower = min(first.tower_ns, shortest_ns(knots))
    return Timed(knots, _ratios(alone, middle), max(1.0, slower), tower)


def _ratios(profile: LatencyProfile, middle: float) -> tuple[float, ...]:
    """Return how times scatter about the median, read off the percentiles of the most rows.

    Below the lowest percentile and above the highest that was measured times stay as they are
    there.
    """
    ns = np.array(profile.ns[-1])
    quantiles = (np.arange(_RATIOS) + 0.5) / _RATIOS * 100
    median = ns[profile.percentiles.index(middle)]
    return tuple(
        np.maximum(np.interp(quantiles, profile.percentiles, ns) / median, _LEAST).tolist()
    )
