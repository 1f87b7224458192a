"""What a lookup must be so that the engine can do it: checks with remedies."""

from __future__ import annotations

from torch import fx

from headway.core import Bag, CaptureError, IdFeature, Pooling, Schema
from headway.graph.capture import PartKind
from headway.graph.forms import Form, Ids
from headway.graph.nodes import aten, where

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
