"""Which input of an ONNX model is which part of which feature, told by its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from headway.core import Bag, CaptureError, Dense, Feature, Schema, Sequence
from headway.graph.capture import PartKind

_SUFFIXES = {
    PartKind.VALUES: (".values", "_values"),
    PartKind.OFFSETS: (".offsets", "_offsets"),
    PartKind.MASK: (".mask", "_mask"),
}
_NUMBERS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
_INTEGERS = {TensorProto.INT64, TensorProto.INT32}
_ROWS = {PartKind.OFFSETS: "rows + 1", PartKind.VALUES: "ids"}


@dataclass(frozen=True, slots=True)
class Given:
    """One input of the model.

    Attributes:
        name: in the model.
        feature: whose it is.
        kind: which of its tensors. The ids of a bag that come padded are ``IDS``.
        type: ``TensorProto`` element type.
        shape: as declared; None where an axis may have any length.
    """

    name: str
    feature: Feature
    kind: PartKind
    type: int
    shape: tuple[int | None, ...]


def match_inputs(inputs: Iterable[onnx.ValueInfoProto], schema: Schema) -> tuple[Given, ...]:
    """Return what every input is.

    Raises:
        CaptureError: naming the input that belongs to no feature or has the wrong type or shape,
            or the feature without an input.
    """
    known = {name: part for feature in schema.features for name, part in _names(feature)}
    found = tuple(_given(value, known, schema) for value in inputs)
    for feature in schema.features:
        kinds = {given.kind for given in found if given.feature is feature}
        if not kinds & {PartKind.DENSE, PartKind.IDS} and kinds != {
            PartKind.VALUES,
            PartKind.OFFSETS,
        }:
            wanted = [name for name, _ in _names(feature)]
            raise CaptureError(
                f"the model has no input for the feature {feature.name!r} (looked for {wanted}); "
                "name the inputs after the features when exporting, or take it from the schema"
            )
    return found


def _names(feature: Feature) -> list[tuple[str, tuple[Feature, PartKind]]]:
    kind = PartKind.DENSE if isinstance(feature, Dense) else PartKind.IDS
    names = [(feature.name, (feature, kind))]
    more: tuple[PartKind, ...] = ()
    if isinstance(feature, Bag):
        more = (PartKind.VALUES, PartKind.OFFSETS)
    elif isinstance(feature, Sequence):
        more = (PartKind.MASK,)
    names += [(feature.name + end, (feature, part)) for part in more for end in _SUFFIXES[part]]
    return names


def _given(
    value: onnx.ValueInfoProto, known: dict[str, tuple[Feature, PartKind]], schema: Schema
) -> Given:
    if value.name not in known:
        raise CaptureError(
            f"the input {value.name!r} belongs to no feature of the schema; give each feature an "
            f"input of its own, named as in the schema: {[f.name for f in schema.features]}"
        )
    feature, kind = known[value.name]
    tensor = value.type.tensor_type
    shape = tuple(
        d.dim_value if d.HasField("dim_value") else None  # zero or absent: any length
        for d in tensor.shape.dim
    )
    _check_type(value.name, kind, tensor.elem_type)
    _check_shape(value.name, feature, kind, shape)
    return Given(value.name, feature, kind, tensor.elem_type, shape)


def _check_type(name: str, kind: PartKind, found: int) -> None:
    allowed = _NUMBERS if kind is PartKind.DENSE else _INTEGERS
    if kind is PartKind.MASK:
        allowed = _NUMBERS | _INTEGERS | {TensorProto.BOOL}
    if found not in allowed:
        wanted = "floating-point numbers" if kind is PartKind.DENSE else "int64 or int32"
        given = TensorProto.DataType.Name(found) if found else "no tensor"
        raise CaptureError(f"the input {name!r} must be {wanted}, not {given}; export it so")


def _check_shape(
    name: str, feature: Feature, kind: PartKind, shape: tuple[int | None, ...]
) -> None:
    wanted = _wanted(feature, kind)
    fits = any(
        len(shape) == len(form)
        and all(
            want is None or have in {None, want} for have, want in zip(shape, form, strict=True)
        )
        for form in wanted
    )
    rows = _ROWS.get(kind, "rows")
    if not fits:
        shown = " or ".join(str([rows, *form[1:]]) for form in wanted)
        raise CaptureError(
            f"the input {name!r} has the shape {list(shape)}; the feature {feature.name!r} needs "
            f"{shown}; export it so, or correct the schema"
        )
    if shape[0] is not None:
        raise CaptureError(
            f"the first axis of the input {name!r} is fixed to {shape[0]}; it counts {rows}, so "
            "export it with a dynamic first axis"
        )
    width = shape[1] if isinstance(feature, Bag) and kind is PartKind.IDS else None
    if isinstance(feature, Bag) and width is not None and width < feature.max_length:
        raise CaptureError(
            f"the input {name!r} holds {width} ids a row, but the schema lets the bag have "
            f"{feature.max_length}; lower max_length to {width}"
        )


def _wanted(feature: Feature, kind: PartKind) -> list[tuple[int | None, ...]]:
    if isinstance(feature, Dense):
        return [(None, feature.width), *([(None,)] if feature.width == 1 else [])]
    if kind in {PartKind.VALUES, PartKind.OFFSETS}:
        return [(None,)]
    if isinstance(feature, Sequence):
        return [(None, feature.max_length)]
    return [(None, None)] if isinstance(feature, Bag) else [(None,), (None, 1)]
