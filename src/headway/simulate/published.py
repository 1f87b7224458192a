"""Service times of machines that others measured, for fleets of hardware one does not have."""

from __future__ import annotations

from collections.abc import Mapping

from headway.core import Knots, UsageError
from headway.simulate.machine import GTX_1080_TI, accelerated

_SMALL, _LARGE = 200, 1000
_MS = {
    "t4": {
        "wnd": (3.8, 9.4),
        "mt-wnd": (5.6, 13.7),
        "ncf": (1.06, 2.5),
        "dien": (9.0, 18.6),
        "rmc2": (55.0, 261.0),
    },
    "c5n.2xlarge": {
        "wnd": (7.0, 32.6),
        "mt-wnd": (9.5, 44.7),
        "ncf": (1.35, 6.4),
        "dien": (15.2, 77.6),
        "rmc2": (80.0, 388.0),
    },
}


def _line(small_ms: float, large_ms: float) -> Knots:
    """Return the straight line through the times of 200 and of 1,000 candidates."""
    slope = (large_ms - small_ms) / (_LARGE - _SMALL)
    least = max(small_ms - slope * (_SMALL - 1), slope)
    points = ((1, least), (_SMALL, small_ms), (_LARGE, large_ms))
    return tuple((rows, round(ms * 1e6)) for rows, ms in points)


PUBLISHED: Mapping[str, Mapping[str, Knots]] = {
    device: {model: _line(*ms) for model, ms in models.items()} for device, models in _MS.items()
}
"""Nanoseconds of a whole query by device and model, loading of the inputs included.

Medians measured with Kairos (Li et al., HPDC 2023) at 200 and 1,000 candidates; between and
beyond them a straight line. ``t4`` is an NVIDIA T4, one query at a time; ``c5n.2xlarge`` a
machine of 8 virtual cores that work on one query together, so one worker.
"""


def published_knots(device: str, model: str, core: Knots = ()) -> Knots:
    """Return the service times of a device that others measured.

    Args:
        device: ``gtx-1080-ti``, ``t4`` or ``c5n.2xlarge``.
        model: of the zoo.
        core: service times of one core, which the speed of ``gtx-1080-ti`` was published
            beside; the others do without.

    Raises:
        UsageError: naming what is known, or that ``core`` is needed.
    """
    if device == "gtx-1080-ti" and not core:
        raise UsageError(
            "gtx-1080-ti was published as so many times a core's speed; use it as an "
            "accelerator beside cores with service times of their own"
        )
    models = set(GTX_1080_TI) if device == "gtx-1080-ti" else set(PUBLISHED.get(device, ()))
    if not models:
        known = ", ".join(["gtx-1080-ti", *PUBLISHED])
        raise UsageError(f"nothing is published here of a device {device!r}; there are {known}")
    if model not in models:
        lacking = f"of {device} no model {model!r} is published" if model else "give a model"
        raise UsageError(f"{lacking}; of {device} there are {', '.join(sorted(models))}")
    if device == "gtx-1080-ti":
        return accelerated(core, GTX_1080_TI[model])
    return PUBLISHED[device][model]
