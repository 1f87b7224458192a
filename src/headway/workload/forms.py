"""The short form of a workload: ``SIZES[,uniform][@ARRIVALS]``."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, nan
from typing import TypeVar

import msgspec

from headway.core import UsageError

T = TypeVar("T")

SIZES = (
    "production, fixed:256, lognormal:5.1,0.2, normal:165,16, mlperf or histogram:FILE, "
    "with ,uniform behind it for uniform ids"
)
ARRIVALS = (
    "poisson, gamma:CV, bursts:FACTOR,SHARE[,SECONDS], diurnal:RATIO[,PERIOD_S[,PHASE]], "
    "steps:SECONDSxFACTOR,..., trace:FILE[,SPEED], counts:FILE[,SPEED] or compat"
)
Fields = dict[str, object]


def read_workload(text: str, kind: type[T]) -> T:
    """Return the workload that a short form names.

    Args:
        text: the short form.
        kind: the struct of workloads.

    Raises:
        UsageError: naming the part that cannot be read, and what could stand there.
    """
    sizes, at, arrivals = text.strip().partition("@")
    plain = sizes.removesuffix(",uniform")
    ids = "zipf" if plain == sizes else "uniform"
    try:
        fields = {**_sizes(plain), "ids": ids}
        # Alone, so that a fault is told of the part that has it.
        msgspec.convert(fields, kind)
    except (ValueError, UsageError) as error:
        raise _refusal(text, f"its sizes {plain!r}", error, SIZES) from error
    if not at:
        return msgspec.convert(fields, kind)
    try:
        return msgspec.convert({**fields, "arrivals": _arrivals(arrivals)}, kind)
    except (ValueError, UsageError) as error:
        raise _refusal(text, f"its arrivals {arrivals!r}", error, ARRIVALS) from error


def _refusal(text: str, part: str, error: Exception, forms: str) -> UsageError:
    return UsageError(
        f"cannot read the workload {text!r}: {part} are none ({error}); write {forms}"
    )


def _sizes(text: str) -> Fields:
    name, _, rest = text.partition(":")
    if text.isascii() and text.isdigit():
        return {"sizes": "fixed", "size": int(text)}
    match name:
        case "fixed" if rest.isascii() and rest.isdigit():
            return {"sizes": name, "size": int(rest)}
        case "lognormal":
            return {"sizes": name, **_numbers(rest, ("mu", "sigma"), (0, 2))}
        case "normal":
            return {"sizes": name, **_numbers(rest, ("mean", "std"), (0, 2))}
        case "histogram" if rest:
            return {"sizes": name, "path": rest}
        case "production" | "mlperf" if text == name:
            return {"sizes": name}
    raise ValueError("no such form")


def _arrivals(text: str) -> Fields:
    name, _, rest = text.partition(":")
    if name not in _READ:
        raise ValueError("no such form")
    return {"type": "deeprecsys-compat" if name == "compat" else name, **_READ[name](rest)}


def _numbers(text: str, names: tuple[str, ...], counts: tuple[int, ...]) -> Fields:
    """Return numbers by name; there must be one of the counts of them."""
    cells = text.split(",") if text else []
    if len(cells) not in counts:
        expected = " or ".join(map(str, counts))
        raise ValueError(f"{expected} numbers belong here, not {len(cells)}")
    return {name: _number(cell) for name, cell in zip(names, cells, strict=False)}


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not isfinite(number):
        raise ValueError(f"{text!r} is not a number")
    return number


def _steps(text: str) -> Fields:
    pairs = [step.partition("x") for step in text.split(",")]
    return {"steps": [(_number(length), _number(factor)) for length, _, factor in pairs]}


def _file(text: str) -> Fields:
    path, _, speed = text.rpartition(",")
    if path:
        try:
            return {"path": path, "speed": float(speed)}
        except ValueError:
            pass  # the comma belongs to the name
    if not text:
        raise ValueError("it names no file")
    return {"path": text}


def _nothing(text: str) -> Fields:
    return _numbers(text, (), (0,))


_READ: dict[str, Callable[[str], Fields]] = {
    "poisson": _nothing,
    "compat": _nothing,
    "deeprecsys-compat": _nothing,
    "gamma": lambda text: _numbers(text, ("cv",), (1,)),
    "bursts": lambda text: _numbers(text, ("factor", "share", "burst_s"), (2, 3)),
    "diurnal": lambda text: _numbers(text, ("ratio", "period_s", "phase"), (1, 2, 3)),
    "steps": _steps,
    "trace": _file,
    "counts": _file,
}
