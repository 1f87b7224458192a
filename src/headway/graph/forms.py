"""The forms a captured value can have while it is shared out between the towers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, fx

from headway.core import Scope
from headway.graph.capture import Part

Sizes = tuple[int, ...]
"""A shape without its first axis, the rows."""


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
class Ids:
    """An id tensor of a feature; only a lookup may take it.

    Attributes:
        part: the input it came in as.
        places: the map it went through, from ids to rows of a parameter; None if through none.
    """

    part: Part
    places: Constant | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PerTower:
    """Depends on nothing but the number of rows, so each tower computes its own.

    Attributes:
        node: in the captured graph.
    """

    node: fx.Node


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A value of one tower whose first axis need not be the rows; no rule looks into it."""

    scope: Scope
    node: fx.Node


class Product(NamedTuple):
    """A query's value times a candidate's value, each broadcast to the other."""

    query: fx.Node
    candidate: fx.Node


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """A sum of a query's value, a candidate's value and products of the two; not all need be.

    Every node has its rows first, as many axes as the value, and on each axis the value's size
    or 1: the broadcast is not carried out yet.

    Attributes:
        sizes: of the value.
        query: in the query tower.
        candidate: in the candidate tower.
        products: none of them carried out yet.
    """

    sizes: Sizes
    query: fx.Node | None = None
    candidate: fx.Node | None = None
    products: tuple[Product, ...] = ()

    @property
    def pure(self) -> fx.Node | None:
        """The one node that is the whole value, up to broadcasting; None if there are more."""
        if self.products or (self.query is not None and self.candidate is not None):
            return None
        return self.query if self.candidate is None else self.candidate


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A concatenation, not carried out yet.

    Attributes:
        axis: of the concatenation; at least 1.
        parts: in order.
        order: if given, column ``order[i]`` of the value is column i of the concatenation.
    """

    axis: int
    parts: tuple[Terms, ...]
    order: tuple[int, ...] | None = None

    @property
    def sizes(self) -> Sizes:
        """The value's sizes."""
        first = list(self.parts[0].sizes)
        first[self.axis - 1] = sum(p.sizes[self.axis - 1] for p in self.parts)
        return tuple(first)

    def spans(self) -> list[tuple[Terms, int, int]]:
        """Return each part with its first and last column (exclusive)."""
        spans, start = [], 0
        for part in self.parts:
            stop = start + part.sizes[self.axis - 1]
            spans.append((part, start, stop))
            start = stop
        return spans


@dataclass(frozen=True, slots=True, eq=False)
class Dots:
    """Dot products of vectors, not carried out yet.

    Attributes:
        vectors: ``[rows, count, dim]``, a concatenation on axis 1.
        pairs: int64, shaped as the value; ``i * count + j`` stands for vectors i and j.
    """

    vectors: Blocks
    pairs: Tensor

    @property
    def sizes(self) -> Sizes:
        """The value's sizes."""
        return tuple(self.pairs.shape)


Form = Ids | Constant | PerTower | Whole | Terms | Blocks | Dots
Operand = Any
"""A form, a number, None, or a list of operands: an argument of a captured operation."""


def scope_of(form: Form) -> Scope | None:
    """Return the scope in which the whole value can be computed, None for constants."""
    if isinstance(form, Whole):
        return form.scope
    if isinstance(form, Terms):
        return Scope.QUERY if form.candidate is None and not form.products else Scope.CANDIDATE
    if isinstance(form, Blocks):
        return widest(form.parts)
    if isinstance(form, Dots):
        return widest(form.vectors.parts)
    return form.part.scope if isinstance(form, Ids) else None


def widest(forms: Iterable[Form]) -> Scope | None:
    """Return the scope of something computed from all of these."""
    scopes = {scope_of(form) for form in forms}
    if Scope.CANDIDATE in scopes:
        return Scope.CANDIDATE
    return Scope.QUERY if Scope.QUERY in scopes else None


def is_mixed(form: Form) -> bool:
    """Tell whether a part is per query and another per candidate."""
    if isinstance(form, Terms):
        return bool(form.products) or (form.query is not None and form.candidate is not None)
    if isinstance(form, Dots):
        return is_mixed(form.vectors)
    if not isinstance(form, Blocks):
        return False
    scopes = {scope_of(part) for part in form.parts}
    return len(scopes) > 1 or any(is_mixed(part) for part in form.parts)


def waits(form: Form) -> bool:
    """Tell whether work is put off until it is known what comes next."""
    if isinstance(form, Terms):
        node = form.pure
        return node is None or tuple(node.meta["val"].shape[1:]) != form.sizes
    return isinstance(form, Blocks | Dots)


def sizes_of(value: object) -> Sizes | None:
    """Return the sizes of a tensor after its rows, None if they are not all known."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return None
    sizes = tuple(value.shape[1:])
    return sizes if all(isinstance(s, int) for s in sizes) else None


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
