from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from headway.core import (
    Bag,
    CaptureError,
    Dense,
    Feature,
    Pooling,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
)
from headway.graph import Captured, capture, lower, partition

Features = dict[str, Any]
Body = Callable[[Any, Features], Tensor]
X = Dense(name="x", scope=Scope.QUERY, width=2)
I = Sparse(name="i", table="ids", scope=Scope.CANDIDATE)  # noqa: E741
B = Bag(name="b", table="ids", scope=Scope.CANDIDATE, max_length=3)
S = Sequence(name="s", table="ids", scope=Scope.QUERY, max_length=3)


class Model(nn.Module):
    """Whatever a test wants to be wrong."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.ids = nn.Embedding(9, 4)
        self.wrong = nn.Embedding(8, 4)
        self.other = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 1)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.body = body

    def forward(self, features: Features) -> Tensor:
        return self.body(self, features)


def schema(*features: Feature, rows: int = 9) -> Schema:
    return Schema(features=features, tables=(Table(name="ids", rows=rows, dim=4),))


def refused(body: Body, *features: Feature) -> str:
    with pytest.raises(CaptureError) as caught:
        partition(capture(Model(body), schema(*features)))
    return str(caught.value)


def branch(m: Any, f: Features) -> Tensor:
    y: Tensor = m.head(m.ids(f["i"]))
    return y * 2 if f["x"].sum() > 0 else y


def test_a_branch_on_data_is_named_by_file_and_line() -> None:
    message = refused(branch, I, X)
    assert f"{__file__}:{branch.__code__.co_firstlineno + 2}" in message
    assert "torch.where" in message


def test_a_feature_the_schema_lacks_is_named() -> None:
    message = refused(lambda m, f: m.head(m.ids(f["item"])), I)
    assert "KeyError: 'item'" in message
    assert "add the feature to the schema" in message


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (lambda m, f: m.head(m.ids(f["i"])).squeeze(1), r"shape \[7\] for 7 rows"),
        (lambda m, f: m.ids(f["i"]), r"shape \[7, 4\] for 7 rows"),
        (lambda m, f: (m.head(m.ids(f["i"])),), "returns a tuple"),
        (lambda m, f: m.head(m.ids(f["i"])) > 0, r"returns torch\.bool"),
        (lambda m, f: m.head(m.ids(f["i"])) / 0.0, "returns NaN or infinity"),
    ],
)
def test_outputs_of_another_form_are_refused(body: Body, word: str) -> None:
    with pytest.raises(CaptureError, match=word):
        capture(Model(body), schema(I))


@pytest.mark.parametrize(
    "body",
    [
        lambda m, f: torch.softmax(m.head(m.ids(f["i"])), 0),
        lambda m, f: m.head(m.ids(f["i"])) + torch.arange(len(f["i"])).view(-1, 1),
        lambda m, f: m.head(m.ids(f["i"])) + torch.rand(len(f["i"]), 1),
    ],
)
def test_scores_that_depend_on_other_rows_are_refused(body: Body) -> None:
    with pytest.raises(CaptureError, match="make every operation act on each row alone"):
        capture(Model(body), schema(I))


def test_a_buffer_changed_while_scoring_is_named() -> None:
    def body(m: Any, f: Features) -> Tensor:
        m.seen += 1
        result: Tensor = m.head(m.ids(f["i"]))
        return result

    assert "changes 'seen' while scoring" in refused(body, I)


def test_a_feature_the_model_ignores_is_a_warning() -> None:
    captured = capture(Model(lambda m, f: m.head(m.ids(f["i"]))), schema(I, X, S))
    assert [w.split("'")[1] for w in captured.warnings] == ["x", "s"]
    notes = lower(partition(captured)).notes
    assert [n.split("'")[1] for n in notes if n.startswith("ignored: ")] == ["x", "s"]


def test_a_table_that_is_never_looked_up_is_refused_with_its_features() -> None:
    more = Table(name="more", rows=9, dim=4)
    unused = Sparse(name="u", table="more", scope=Scope.QUERY)
    model = Model(lambda m, f: m.head(m.ids(f["i"])))
    for features, words in (((I, unused), r"features \['u'\], which"), ((I,), "to no feature")):
        wide = Schema(features=features, tables=(*schema(I).tables, more))
        with pytest.raises(CaptureError, match=f"'more' is never looked up.*{words}.*remove it"):
            partition(capture(model, wide))


def test_large_ids_that_a_model_packs_with_numbers_are_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules[Captured.__module__], "EXACT_IN_FLOAT32", 8)

    def body(m: Any, f: Features) -> Tensor:
        packed = torch.cat([f["x"], f["i"].unsqueeze(1).to(f["x"].dtype)], 1)
        result: Tensor = m.head(m.ids(packed[:, 2].long()))
        return result

    captured = capture(Model(body), schema(I, X))
    assert [w.split("'")[1] for w in captured.warnings] == ["x", "i"]
    assert "beyond 8 for others" in captured.warnings[1]
    assert [k.feature for k in partition(captured).candidate.lookups] == ["i"]


def bag(m: Any, f: Features, **settings: Any) -> Tensor:
    values, offsets = f["b"]
    options = {"mode": "sum", "include_last_offset": True, **settings}
    result: Tensor = m.head(F.embedding_bag(values, m.ids.weight, offsets, **options))
    return result


def by_hand(m: Any, values: Tensor, offsets: Tensor) -> Tensor:
    sums = F.pad(m.ids(values).cumsum(0), (0, 0, 1, 0))
    return sums[offsets[1:]] - sums[offsets[:-1]]


@pytest.mark.parametrize(
    ("body", "feature", "words"),
    [
        (lambda m, f: m.head(m.wrong(f["i"] % 8)), I, "go into aten.remainder"),
        (lambda m, f: m.head(m.wrong(f["i"].clamp(max=7))), I, "ids can only be looked up"),
        (lambda m, f: m.head(m.other(f["i"]) + m.ids(f["i"])), I, "is 'other.weight' already"),
        (lambda m, f: m.head(m.ids((f["x"][:, 0] > 0).long())), X, "with computed ids"),
        (
            lambda m, f: m.head(m.ids(f["s"][0]).sum(1)) * (f["s"][0] != 0).sum(1, True),
            S,
            "use the mask that comes with a sequence",
        ),
        (lambda m, f: bag(m, f, mode="mean"), B, "pools otherwise than by 'sum'"),
        (lambda m, f: bag(m, f, padding_idx=0), B, "or a padding index"),
        (lambda m, f: m.head(by_hand(m, *f["b"])), B, "the bag 'b' are looked up one by one"),
    ],
)
def test_ids_used_other_than_for_a_lookup_are_refused(
    body: Body, feature: Feature, words: str
) -> None:
    others = (X,) if feature is not X else ()
    message = refused(body, feature, *others)
    assert words in message


def test_a_parameter_of_another_shape_than_its_table_is_named_with_both_shapes() -> None:
    with pytest.raises(CaptureError, match=r"'ids.weight' of shape \[9, 4\].* is \[5, 4\]"):
        partition(capture(Model(lambda m, f: m.head(m.ids(f["i"]))), schema(I, rows=5)))


def test_mean_bags_are_accepted_where_the_schema_says_mean() -> None:
    feature = Bag(name="b", table="ids", scope=Scope.CANDIDATE, max_length=3, pooling=Pooling.MEAN)
    parts = partition(capture(Model(lambda m, f: bag(m, f, mode="mean")), schema(feature)))
    assert [lookup.feature for lookup in parts.candidate.lookups] == ["b"]
