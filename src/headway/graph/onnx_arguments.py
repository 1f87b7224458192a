"""What a node was called with, as the rules that write it need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import fx

from headway.graph.onnx_writer import NotWrittenError


def shape_of(node: object) -> list[Any]:
    """Return the sizes of a value, symbolic ones among them."""
    return list(cast("fx.Node", node).meta["val"].shape)


def axis_of(value: object, source: object) -> int:
    """Return an axis counted from the front: ONNX Runtime mistakes negative ones of empty tensors."""
    if not isinstance(value, int):
        raise NotWrittenError(f"axis {value}")
    return value % max(len(shape_of(source)), 1)


def arguments(node: fx.Node, *defaults: Any) -> list[Any]:
    """Return the positional arguments, those left out by their defaults.

    Raises:
        NotWrittenError: if there are more, or named ones that matter.
    """
    given = list(node.args)
    if len(given) > len(defaults) or any(v is not None for v in node.kwargs.values()):
        raise NotWrittenError(f"{node.target} with {node.args[len(defaults) :]} {node.kwargs}")
    return [*given, *defaults[len(given) :]]


def fixed(sizes: object) -> list[int]:
    """Return sizes that are all known.

    Raises:
        NotWrittenError: if one is computed, or 0, which ONNX takes for "as before".
    """
    found = list(cast("Sequence[Any]", sizes))
    if not all(isinstance(s, int) for s in found) or 0 in found:
        raise NotWrittenError(f"computed sizes {found}")
    return found
