"""What a captured value is while it is shared out: its scope, by parts where it has parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, fx

from headway.core import Scope
from headway.graph.capture import Part


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """An id tensor of a feature; only a lookup may take it."""

    part: Part


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """The same for all rows and queries.

    Attributes:
        value: read-only, as it may be a parameter of the model.
        name: the parameter's name in the model, or empty if it was computed.
    """

    value: Tensor
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PerTower:
    """Depends on nothing but the number of rows, so each tower computes its own.

    Attributes:
        node: in the captured graph.
    """

    node: fx.Node


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A value of one tower, with one row per query or per candidate."""

    scope: Scope
    node: fx.Node


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A concatenation on the last axis whose parts have scopes of their own."""

    parts: tuple[Whole | PerTower, ...]


Form = Ids | Constant | PerTower | Whole | Blocks


def scope_of(form: Form) -> Scope | None:
    """Return the scope in which the whole value can be computed, None for constants."""
    if isinstance(form, Whole):
        return form.scope
    if isinstance(form, Blocks):
        return widest(form.parts)
    return form.part.scope if isinstance(form, Ids) else None


def widest(forms: Iterable[Form]) -> Scope | None:
    """Return the scope of something computed from all of these."""
    scopes = {scope_of(form) for form in forms}
    if Scope.CANDIDATE in scopes:
        return Scope.CANDIDATE
    return Scope.QUERY if Scope.QUERY in scopes else None


def is_mixed(form: Form) -> bool:
    """Tell whether some parts are per query and others per candidate."""
    if not isinstance(form, Blocks):
        return False
    scopes = {scope_of(part) for part in form.parts}
    return {Scope.QUERY, Scope.CANDIDATE} <= scopes


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a captured node.

    Attributes:
        scope: ``query``, ``candidate``, ``mixed`` or ``constant``.
        rewrite: the ``Rewrite`` that moved work away from it; may be empty.
        stopped: why its work stays with the candidates; may be empty.
    """

    scope: str
    rewrite: str = ""
    stopped: str = ""
