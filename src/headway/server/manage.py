"""Changes of plan over the wire: who may ask, and what may be asked for."""

from __future__ import annotations

from typing import Any

import msgspec

from headway.core import HeadwayError, Knots, Plan, QueryError, from_seconds
from headway.server.settings import ServerSettings, is_loopback
from headway.server.tensors import parse

_changes = msgspec.json.Decoder(dict[str, Any])
_KEYS = tuple(field.encode_name for field in msgspec.structs.fields(Plan))
# A browser names the page that asks, a proxy the machine: neither is the operator at this one.
_FROM_ELSEWHERE = frozenset({b"origin", b"forwarded", b"x-forwarded-for"})


class ForbiddenError(HeadwayError):
    """The call is offered to this machine's own programs only."""

    status = 403


def check_local(scope: dict[str, Any]) -> None:
    """Accept a request that a program on this machine makes for itself.

    Args:
        scope: the request's, as ASGI has it.

    Raises:
        ForbiddenError: for a remote peer, a web page or a proxy.
    """
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        raise ForbiddenError("the plan can be read and changed from this machine only")
    foreign = _FROM_ELSEWHERE & {name for name, _ in scope["headers"]}
    if foreign:
        name = min(foreign).decode()
        raise ForbiddenError(f"the plan can not be had through a browser or proxy (header {name})")


def changed_plan(body: bytes, plan: Plan, settings: ServerSettings) -> Plan:
    """Return the plan with those settings changed that the JSON object names.

    Raises:
        QueryError: naming the path of an unknown key or a bad value.
        UsageError: for settings that contradict each other.
    """
    changes = parse(_changes, body)
    for key in changes:
        if key not in _KEYS:
            keys = ", ".join(_KEYS)
            raise QueryError(f"the plan has no key `$.{key[:64]}`; its keys are {keys}")
    try:
        changed = msgspec.convert({**msgspec.to_builtins(plan), **changes}, Plan)
    except msgspec.ValidationError as error:
        raise QueryError(f"the plan does not fit: {error}") from error
    _check_limits(changed, settings)
    return changed


def _check_limits(plan: Plan, settings: ServerSettings) -> None:
    longest = from_seconds(settings.max_timeout_s)
    for name, value in (("timeout_ns", plan.timeout_ns), ("target_ns", plan.target_ns)):
        if value > longest:
            raise QueryError(f"the plan does not fit: {value} is over {longest} - at `$.{name}`")
    for name, knots in (
        ("service", plan.service),
        ("lighter_service", plan.lighter_service),
        ("accelerator_service", plan.accelerator_service),
    ):
        largest = _largest(knots)
        if largest > settings.max_candidates:
            raise QueryError(
                f"the plan does not fit: {largest} candidates are over the limit of "
                f"{settings.max_candidates} - at `$.{name}`"
            )
        # Also so that no sum of them is too large for a float.
        slowest = max((ns for _, ns in knots), default=0)
        if slowest > longest:
            raise QueryError(
                f"the plan does not fit: a time of {str(slowest)[:24]} ns is over {longest} - "
                f"at `$.{name}`"
            )


def _largest(knots: Knots) -> int:
    return knots[-1][0] if knots else 0
