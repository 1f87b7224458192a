"""What a lookup must be so that the engine can do it: checks with remedies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import fx

from headway.core import Bag, CaptureError, IdFeature, Pooling, Schema, Table
from headway.graph.capture import PartKind
from headway.graph.forms import Constant, Form, Ids
from headway.graph.nodes import CASTS, PICKS, aten, where

BAGS = (
    aten.embedding_bag.default,
    aten.embedding_bag.padding_idx,
    aten._embedding_bag.default,  # noqa: SLF001
    aten._embedding_bag_forward_only.default,  # noqa: SLF001
)
_MODES = {Pooling.SUM: 0, Pooling.MEAN: 1}


def check_all_used(schema: Schema, looked_up: set[str]) -> None:
    """Refuse a table without a lookup: nothing says which parameter a bundle should store."""
    for table in schema.tables:
        if table.name in looked_up:
            continue
        mine = [f.name for f in schema.id_features() if f.table == table.name]
        whose = f"the features {mine}, which the model ignores" if mine else "no feature"
        raise CaptureError(
            f"the table {table.name!r} is never looked up: it belongs to {whose}; remove it "
            f"{'with them ' if mine else ''}from the schema, or use it in the model"
        )


def mapped(node: fx.Node, forms: Mapping[fx.Node, Form]) -> Ids | None:
    """Return ids that went through a constant map of one number per id; None if none did."""
    if node.target in CASTS:
        cast_ids = forms[node.all_input_nodes[0]]
        whole = not node.meta["val"].dtype.is_floating_point
        known = isinstance(cast_ids, Ids) and cast_ids.places is not None
        return cast("Ids", cast_ids) if whole and known else None
    if node.target not in PICKS or len(node.all_input_nodes) != 2:
        return None
    places, ids = (forms[n] for n in node.all_input_nodes)
    if not isinstance(places, Constant) or not isinstance(ids, Ids) or ids.places is not None:
        return None
    numbers = places.value
    if numbers.dim() != 1 or numbers.is_floating_point() or ids.part.kind is PartKind.OFFSETS:
        return None
    return Ids(ids.part, places)


def check_shape(
    table: Table, weight: Constant, places: Constant | None, feature: str, at: str
) -> None:
    """Refuse a parameter, or a map into it, that is not of the table's size."""
    name, shape = weight.name or "an embedding", tuple(weight.value.shape)
    rows = table.rows if places is None else shape[0]
    if shape != (rows, table.dim):
        raise CaptureError(
            f"feature {feature!r} is looked up in {name!r} of shape {list(shape)}{at}, but its "
            f"table {table.name!r} is [{table.rows}, {table.dim}]; make the two agree"
        )
    if places is None:
        return
    if len(places.value) != table.rows:
        raise CaptureError(
            f"feature {feature!r} goes through a map of {len(places.value)} ids{at}, but its "
            f"table {table.name!r} has {table.rows} rows; make the two agree"
        )
    low, high = int(places.value.min()), int(places.value.max())
    if low < 0 or high >= rows:
        raise CaptureError(
            f"the map that feature {feature!r} goes through{at} leads to row "
            f"{low if low < 0 else high}, but {name!r} has rows 0 to {rows - 1}; mend the map"
        )


def check_bag(node: fx.Node, feature: IdFeature, offsets: Form | None, name: str) -> None:
    """Refuse an embedding_bag that is not the pooling the schema states."""
    rest = dict(enumerate(node.args[3:], start=3)) | dict(node.kwargs)
    padding = rest.get(8)
    if not isinstance(feature, Bag) or not isinstance(offsets, Ids):
        raise CaptureError(
            f"embedding_bag over {feature.name!r}{where(node)} needs the values and offsets of "
            "one bag feature; declare the feature as a bag"
        )
    if offsets.part.feature is not feature or offsets.part.kind is not PartKind.OFFSETS:
        raise CaptureError(
            f"embedding_bag over {feature.name!r}{where(node)} takes offsets of another input; "
            "pass the values and offsets of one bag feature"
        )
    if rest.get(4, 0) != _MODES[feature.pooling]:
        raise CaptureError(
            f"embedding_bag in {name!r}{where(node)} pools otherwise than by "
            f"{feature.pooling.value!r}, which the schema states for {feature.name!r}; make them agree"
        )
    if rest.get(6) is not None or not rest.get(7) or (padding is not None and padding != -1):
        raise CaptureError(
            f"embedding_bag in {name!r}{where(node)} must be called with "
            "include_last_offset=True and without per-sample weights or a padding index"
        )
