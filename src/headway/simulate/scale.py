"""Autoscaling: how many machines are wanted, from signals that a fleet has."""

# ruff: noqa: ARG002 - a seam shows more than one policy looks at

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil, exp
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from headway.core import UsageError, to_seconds

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class Signals(msgspec.Struct, frozen=True, gc=False):
    """What a policy is shown at regular looks.

    Attributes:
        rate_qps: queries per second that arrived since the last look.
        utilisation: of the workers of machines that were on since then, 0 to 1.
        machines: of the scaled kind, on or on their way.
        ready: of them that take queries.
        waiting: candidates of unanswered queries.
    """

    rate_qps: float
    utilisation: float
    machines: int
    ready: int
    waiting: int


class Scaler(Protocol):
    """Decides how many machines are wanted; equal calls in equal order give equal answers."""

    def wanted(self, signals: Signals, now: int) -> int:
        """Return how many machines of the scaled kind there should be."""
        ...


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What policies are told before the run.

    Attributes:
        lbt_qps: latency-bounded throughput of one machine of the scaled kind; 0.0 where it is
            not known.
        base_qps: that of all other machines together.
        ahead_s: until a machine ordered now takes queries, and the next look has come.
        look_s: between looks.
        rates: queries per second of the whole schedule, look by look; only for the oracle.
    """

    lbt_qps: float = 0.0
    base_qps: float = 0.0
    ahead_s: float = 0.0
    look_s: float = 1.0
    rates: tuple[float, ...] = ()

    def machines_for(self, rate_qps: float, headroom: float) -> int:
        """Return how many machines bear a rate with a share of their throughput kept free."""
        left = rate_qps - self.base_qps * (1 - headroom)
        return ceil(max(0.0, left) / (self.lbt_qps * (1 - headroom)) - 1e-9)


class Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fixed"):
    """As many as there are, or so many; 0 keeps those of the start."""

    machines: Annotated[int, Meta(ge=0)] = 0

    def scaler(self, known: Known) -> Scaler:
        """Return the policy."""
        return _Fixed(self)


class Utilisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="utilisation"):
    """Keeps utilisation at a target, as the Horizontal Pod Autoscaler of Kubernetes does.

    Attributes:
        target: utilisation aimed at.
        tolerance: deviations of this share are left alone.
        stabilise_s: machines are given back only down to the most that were wanted so long.
    """

    target: Annotated[float, Meta(gt=0, le=1)] = 0.6
    tolerance: Annotated[float, Meta(ge=0, le=1)] = 0.1
    stabilise_s: Annotated[float, Meta(ge=0)] = 300.0

    def scaler(self, known: Known) -> Scaler:
        """Return the policy."""
        return _Utilisation(self)


class Forecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="forecast"):
    """Forecasts the arrival rate and divides it by what one machine bears within the SLA.

    Attributes:
        method: ``ewma``, the smoothed rate; or ``holt``, with its smoothed slope carried on
            until a machine ordered now would take queries (Holt, 1957).
        smooth_s: time constant of both.
        headroom: share of a machine's throughput that is kept free.
        cover: quantile of the errors of past forecasts that is provided for as well, so that the
            reserve is as large as this load's surprises within the time that an order takes, but
            no larger than the highest rate of that memory asks for; 0: only the headroom is kept.
        memory_s: how long errors and rates are remembered.
        hysteresis: machines are given back only if so large a share of them is too much,
        hold_s: and has been all that time.
    """

    method: Literal["ewma", "holt"] = "holt"
    smooth_s: Positive = 10.0
    headroom: Share = 0.2
    cover: Share = 0.0
    memory_s: Positive = 3600.0
    hysteresis: Share = 0.1
    hold_s: Annotated[float, Meta(ge=0)] = 30.0

    def scaler(self, known: Known) -> Scaler:
        """Return the policy."""
        return _Forecast(self, _with_lbt(known))


class Oracle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="oracle"):
    """Knows the schedule: orders in time for the highest rate until the next order could help.

    A bound for all others, not a policy for a real fleet.

    Attributes:
        headroom: share of a machine's throughput that is kept free, for queries cluster within
            the time of a look too.
    """

    headroom: Share = 0.1

    def scaler(self, known: Known) -> Scaler:
        """Return the policy."""
        return _Oracle(self, _with_lbt(known))


Policy = Fixed | Utilisation | Forecast | Oracle


def _with_lbt(known: Known) -> Known:
    if known.lbt_qps <= 0:
        raise UsageError("this policy needs the throughput of a machine: autoscale.lbt_qps")
    return known


class _Fixed:
    def __init__(self, settings: Fixed) -> None:
        self._machines = settings.machines

    def wanted(self, signals: Signals, now: int) -> int:
        return self._machines or signals.machines


class _Utilisation:
    def __init__(self, settings: Utilisation) -> None:
        self._settings = settings
        self._hold = _Hold(settings.stabilise_s)

    def wanted(self, signals: Signals, now: int) -> int:
        wanted = self._for(signals)
        most = self._hold.most(wanted, signals.machines, now)
        return max(wanted, min(most, signals.machines))

    def _for(self, signals: Signals) -> int:
        if not signals.ready:  # nothing is known of a load that no machine sees
            return signals.machines
        ratio, counted = signals.utilisation / self._settings.target, signals.ready
        if ratio > 1 and counted < signals.machines:
            # Those on their way count as idle, or each look would order for the same load again.
            counted = signals.machines
            ratio = max(1.0, ratio * signals.ready / counted)
        if abs(ratio - 1) <= self._settings.tolerance:
            return signals.machines
        return ceil(counted * ratio - 1e-9)


class _Forecast:
    def __init__(self, settings: Forecast, known: Known) -> None:
        self._settings = settings
        self._known = known
        self._hold = _Hold(settings.hold_s)
        self._errors = _Errors(settings, known)
        self._level: float | None = None
        self._slope = 0.0

    def wanted(self, signals: Signals, now: int) -> int:
        settings, known = self._settings, self._known
        rate = self._ahead(signals.rate_qps)
        if settings.cover:
            rate = self._errors.covered(signals.rate_qps, rate)
        wanted = known.machines_for(rate, settings.headroom)
        most = self._hold.most(wanted, signals.machines, now)
        if wanted >= signals.machines:
            return wanted
        if most > signals.machines * (1 - settings.hysteresis):
            return signals.machines
        return most

    def _ahead(self, rate: float) -> float:
        """Return the rate forecast for when an order would help, never below zero."""
        known = self._known
        if self._level is None:
            self._level = rate
            return rate
        weight = 1 - exp(-known.look_s / self._settings.smooth_s)
        before = self._level
        if self._settings.method == "ewma":
            self._level += weight * (rate - before)
            return self._level
        self._level = weight * rate + (1 - weight) * (before + self._slope * known.look_s)
        self._slope += weight * ((self._level - before) / known.look_s - self._slope)
        # Machines for a falling rate are given back when it has fallen.
        return self._level + max(0.0, self._slope) * known.ahead_s


class _Errors:
    """How far the rate went above what had been forecast for that moment."""

    def __init__(self, settings: Forecast, known: Known) -> None:
        self._cover = settings.cover
        self._forecasts: deque[float] = deque(maxlen=max(1, ceil(known.ahead_s / known.look_s)))
        looks = max(1, int(settings.memory_s / known.look_s))
        self._ratios: deque[float] = deque(maxlen=looks)
        self._rates: deque[float] = deque(maxlen=looks)

    def covered(self, rate: float, forecast: float) -> float:
        """Take in the present rate and what is forecast now; return the forecast with a reserve."""
        self._rates.append(rate)
        made = self._forecasts
        # The oldest forecast was for now; nothing is learnt from one of no query at all.
        if len(made) == made.maxlen and made[0] > 0:
            self._ratios.append(rate / made[0])
        made.append(forecast)
        if not self._ratios:
            return forecast
        factor = sorted(self._ratios)[int(self._cover * len(self._ratios))]
        # Where the forecast is high already, as large an error again is no longer likely.
        return max(forecast, min(forecast * factor, max(self._rates)))


class _Oracle:
    def __init__(self, settings: Oracle, known: Known) -> None:
        self._settings = settings
        self._known = known

    def wanted(self, signals: Signals, now: int) -> int:
        known = self._known
        first = int(to_seconds(now) / known.look_s + 0.5)
        last = first + ceil(known.ahead_s / known.look_s) + 1
        coming: Sequence[float] = known.rates[first:last] or known.rates[-1:]
        return known.machines_for(max(coming, default=0.0), self._settings.headroom)


class _Hold:
    """The most of what was wanted of late."""

    def __init__(self, seconds: float) -> None:
        self._length_ns = int(seconds * 1e9)
        self._wanted: deque[tuple[int, int]] = deque()

    def most(self, wanted: int, machines: int, now: int) -> int:
        """Take in what is wanted now; return the most within the time.

        The machines of the first look count as wanted then: a fleet that has just begun has
        not been too large all that time.
        """
        queue = self._wanted
        if not queue:
            queue.append((now, machines))
        while queue and queue[-1][1] <= wanted:
            queue.pop()
        queue.append((now, wanted))
        while queue[0][0] < now - self._length_ns:
            queue.popleft()
        return queue[0][1]
