"""A dense tower as a list of steps over rows: what Headway's own engine runs, stored plainly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headway.core import BundleError

Activation = Literal["", "relu", "sigmoid", "tanh", "prelu"]
Combination = Literal["add", "multiply", "subtract", "subtract-from"]
"""``subtract`` takes the other value away, ``subtract-from`` is taken away from it."""
Width = Annotated[int, Meta(ge=1, le=1 << 24)]
_KEY = "program"
_MOST_WIDTH, _MOST_STEPS, _MOST_SCALED = 1 << 24, 1 << 16, 64


class Codes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a value is rounded to unsigned bytes: ``round(value / scale) + zero``, clipped."""

    scale: Annotated[float, Meta(gt=0)]
    zero: Annotated[int, Meta(ge=0, le=255)]


class _Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all steps share that end in sums.

    Attributes:
        result: name of the value that comes out.
        source: name of the value that goes in.
        bias: tensor added to each row, or empty.
        combine: how ``other`` comes in then.
        other: value of the result's width, or of one piece for all pieces, or of one column for
            all; or empty.
        activation: applied last.
        slope: tensor of the factors of negative values, for ``prelu`` alone.
    """

    result: str
    source: str
    bias: str = ""
    combine: Combination = "add"
    other: str = ""
    activation: Activation = ""
    slope: str = ""


class Product(_Step, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="product"):
    """Multiplies rows by a tensor ``[in, out]``; an int8 one takes the source as ``codes``.

    With codes there is also a float32 tensor named as the weight with ``.scale`` behind, of one
    scale per output.

    Attributes:
        weight: the tensor.
        codes: of the source, or None in float32.
        groups: pieces of the source side by side that are multiplied alike, such as the positions
            of a history; bias and slope are of one piece of the result.
        scaled_by: value of one piece's width; each row's weights are multiplied by its own, input
            by input, as where a history is multiplied by a candidate. Or empty.
        shift: tensor like the weight that is added to it then, or empty.
    """

    weight: str
    codes: Codes | None = None
    groups: Width = 1
    scaled_by: str = ""
    shift: str = ""


class QueryProduct(
    _Step, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="query-product"
):
    """Multiplies rows by a matrix ``[in, out]`` that the query brings, or each row by its own.

    Only a tower that runs for one query at a time may have one of the query.

    Attributes:
        matrix: an input whose row is that matrix.
    """

    matrix: str


class QueryDots(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="query-dots"
):
    """Multiplies each row with all the vectors ``[places, in]`` of its query, or of its own.

    Attributes:
        matrix: value that is those vectors.
    """

    result: str
    source: str
    matrix: str


class Map(_Step, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="map"):
    """Passes a value on."""


class Softmax(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="softmax"):
    """Divides the exponentials of a row's values by their sum."""

    result: str
    source: str


class Rest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rest"):
    """Takes from a value what its codes stand for: what rounding leaves, to be rounded finer."""

    result: str
    source: str
    codes: Codes


class Weave(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="weave"):
    """Makes of vectors ``[places, in]`` the matrix ``[in, (place, out)]`` of a history.

    ``result[i, place, o] = source[place, i] * weight[i, o] + shift[i, o]``: what the attention of
    a candidate to each place multiplies by.

    Attributes:
        weight: tensor ``[in, out]``.
        shift: likewise, or empty.
    """

    result: str
    source: str
    weight: str
    shift: str = ""


class Concat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="concat"):
    """Puts values side by side."""

    result: str
    sources: Annotated[tuple[str, ...], Meta(min_length=1)]


class Slice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slice"):
    """Takes the columns ``start`` to ``stop`` of a value."""

    result: str
    source: str
    start: Annotated[int, Meta(ge=0)]
    stop: Width


Step = Product | QueryProduct | QueryDots | Map | Softmax | Rest | Weave | Concat | Slice


class Steps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps and the values that they begin with.

    Attributes:
        inputs: values in a row of each input by name, as ``TowerEntry`` names them; ``hidden.I``
            has a row per query, all others one per row of the tower. ``row_to_query`` is not
            among them.
        outputs: names of the tower's outputs and of the values that they are.
        steps: in an order in which every value is made before it is read.
        shapes: of a row of an output, where that has more than one axis.
    """

    inputs: dict[str, Width]
    outputs: dict[str, str]
    steps: Annotated[tuple[Step, ...], Meta(max_length=_MOST_STEPS)]
    shapes: dict[str, tuple[Width, ...]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Steps with their tensors.

    Attributes:
        steps: what is done.
        tensors: float32 or int8 arrays by name.
    """

    steps: Steps
    tensors: Mapping[str, NDArray[np.float32] | NDArray[np.int8]] = field(default_factory=dict)

    def widths(self) -> dict[str, int]:
        """Return the number of columns of every value.

        Raises:
            BundleError: naming the step that does not fit what comes before it.
        """
        found: dict[str, int] = dict(self.steps.inputs)
        for step in self.steps.steps:
            if step.result in found:
                raise BundleError(f"the value {step.result!r} is made twice")
            found[step.result] = width = self._width(step, found)
            if width > _MOST_WIDTH:
                raise BundleError(f"the value {step.result!r} has {width} columns")
        for name, value in self.steps.outputs.items():
            if value not in found:
                raise BundleError(f"the output {name!r} is {value!r}, which no step makes")
        for name, shape in self.steps.shapes.items():
            if found.get(self.steps.outputs.get(name, "")) != prod(shape):
                raise BundleError(f"the output {name!r} cannot have rows of {list(shape)}")
        return found

    def to_bytes(self) -> bytes:
        """Return the form that a bundle stores: safetensors with the steps in its head."""
        head = {_KEY: msgspec.json.encode(self.steps).decode()}
        arrays = {name: np.ascontiguousarray(array) for name, array in self.tensors.items()}
        return bytes(save(arrays, head))

    @classmethod
    def from_bytes(cls, data: bytes) -> Program:
        """Return what ``to_bytes`` wrote.

        Raises:
            BundleError: if it is damaged or does not fit together.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            head = json.loads(data[8 : 8 + length])["__metadata__"][_KEY]
            steps = msgspec.json.decode(head, type=Steps)
            program = cls(steps, load(data))
        except (
            SafetensorError,
            msgspec.MsgspecError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
        ) as error:
            raise BundleError(f"a tower's program cannot be read: {error}") from error
        program.widths()
        return program

    def _width(self, step: Step, found: Mapping[str, int]) -> int:
        for name in step.sources if isinstance(step, Concat) else (step.source,):
            if name not in found:
                raise BundleError(f"the step of {step.result!r} reads {name!r}, not made before")
        if isinstance(step, Concat):
            return sum(found[name] for name in step.sources)
        width = found[step.source]
        if isinstance(step, Slice):
            return _cut(step, width)
        if isinstance(step, Weave):
            return self._woven(step, width)
        if isinstance(step, QueryDots):
            return self._matrix_columns(step, width, found)
        return width if isinstance(step, Softmax | Rest) else self._summed(step, width, found)

    def _summed(
        self, step: Product | QueryProduct | Map, width: int, found: Mapping[str, int]
    ) -> int:
        piece = width
        if isinstance(step, Product):
            if step.scaled_by and found.get(step.scaled_by, 0) * step.groups != width:
                raise BundleError(
                    f"the step of {step.result!r} cannot be scaled by {step.scaled_by!r}"
                )
            piece, width = self._columns(step, width)
        elif isinstance(step, QueryProduct):
            piece = width = self._matrix_columns(step, width, self.steps.inputs)
        self._check_extras(step, (piece, width), found)
        return width

    def _check_extras(
        self, step: Product | QueryProduct | Map, widths: tuple[int, int], found: Mapping[str, int]
    ) -> None:
        piece, width = widths
        if step.bias:
            self._tensor(step.bias, np.float32, (piece,))
        if (step.activation == "prelu") != bool(step.slope):
            raise BundleError(
                f"the step of {step.result!r} needs a slope with prelu, and only then"
            )
        if step.slope:
            self._tensor(step.slope, np.float32, (piece,))
        if step.other and found.get(step.other) not in {width, piece, 1}:
            raise BundleError(f"the step of {step.result!r} needs {step.other!r}, {width} wide")

    def _columns(self, step: Product, width: int) -> tuple[int, int]:
        """Return the columns of one piece of the result, and of all."""
        dtype: type[np.generic] = np.int8 if step.codes else np.float32
        piecewise = step.groups > 1 or step.scaled_by
        if width % step.groups or (step.codes and piecewise):
            raise BundleError(f"the step of {step.result!r} cannot take {step.groups} pieces")
        weight = self.tensors.get(step.weight)
        columns = weight.shape[1] if weight is not None and weight.ndim == 2 else 0
        self._tensor(step.weight, dtype, (width // step.groups, columns))
        if step.codes:
            self._tensor(f"{step.weight}.scale", np.float32, (columns,))
        if (step.scaled_by and columns > _MOST_SCALED) or (step.shift and not step.scaled_by):
            raise BundleError(
                f"the step of {step.result!r} scales more than {_MOST_SCALED} columns, or shifts "
                "weights that nothing scales"
            )
        if step.shift:
            self._tensor(step.shift, np.float32, (width // step.groups, columns))
        return columns, columns * step.groups

    @staticmethod
    def _matrix_columns(
        step: QueryProduct | QueryDots, width: int, found: Mapping[str, int]
    ) -> int:
        values = found.get(step.matrix, 0)
        if not values or values % width:
            raise BundleError(
                f"the step of {step.result!r} needs a matrix of {width} rows, not {step.matrix!r}"
            )
        return values // width

    def _woven(self, step: Weave, width: int) -> int:
        weight = self.tensors.get(step.weight)
        inner, columns = weight.shape if weight is not None and weight.ndim == 2 else (0, 0)
        for name in (step.weight, *([step.shift] if step.shift else [])):
            self._tensor(name, np.float32, (inner, columns))
        if width % inner:
            raise BundleError(f"the step of {step.result!r} cannot take {step.source!r}")
        return width * int(columns)

    def _tensor(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.dtype != dtype or tensor.shape != shape or 0 in shape:
            raise BundleError(f"the tensor {name!r} must be {dtype.__name__} {list(shape)}")


def _cut(step: Slice, width: int) -> int:
    if not step.start < step.stop <= width:
        raise BundleError(f"the slice {step.result!r} leaves {step.source!r}")
    return step.stop - step.start
