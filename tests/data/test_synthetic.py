"""Generated data is reproducible, well formed, and its truth explains its clicks."""

from __future__ import annotations

import numpy as np
import pytest

from headway.core import Ragged, Scope, UsageError, check_columns, check_query
from headway.data import Dataset, Synthetic, SyntheticSettings, generate, synthetic_schema

SMALL = SyntheticSettings(
    train=20_000,
    valid=2_000,
    choose=2_000,
    test=20_010,
    users=2_000,
    items=5_000,
    creatives=2_000,
    sellers=1_000,
    publishers=500,
    dim=8,
)
PARTS = ("train", "valid", "choose", "test")


@pytest.fixture(scope="module")
def small() -> Synthetic:
    return generate(SMALL, np.random.default_rng(7))


def test_every_part_fits_the_schema(small: Synthetic) -> None:
    for part in PARTS:
        dataset: Dataset = getattr(small, part)
        assert len(dataset) == getattr(SMALL, part)
        check_columns(dataset.context, small.schema, Scope.QUERY, dataset.queries)
        check_columns(dataset.candidates, small.schema, Scope.CANDIDATE, len(dataset))


def test_equal_seeds_give_equal_worlds_and_others_do_not(small: Synthetic) -> None:
    again = generate(SMALL, np.random.default_rng(7))
    other = generate(SMALL, np.random.default_rng(8))
    for part in ("train", "test"):
        assert np.array_equal(getattr(small, part).labels, getattr(again, part).labels)
        assert np.array_equal(small.oracle_logits[part], again.oracle_logits[part])
        assert not np.array_equal(getattr(small, part).labels, getattr(other, part).labels)


def test_the_truth_is_calibrated_and_ranks_as_no_model_could(small: Synthetic) -> None:
    chance = 1 / (1 + np.exp(-small.oracle_logits["test"]))
    # The sum of independent clicks, six deviations wide.
    deviation = np.sqrt((chance * (1 - chance)).sum())
    assert abs(small.test.labels.sum() - chance.sum()) < 6 * deviation
    assert 0.75 < small.best_auc("test") < 0.9
    # What ranking by category alone, learnt from train, can do.
    category = small.train.candidates["category"]
    assert not isinstance(category, Ragged)
    clicks = np.bincount(category, small.train.labels[:, 0], 300)
    shown = np.bincount(category, minlength=300)
    rates = (clicks + 1) / (shown + 5)
    scores = rates[small.test.candidates["category"]]  # type: ignore[index]
    positive = small.test.labels[:, 0] == 1
    wins = np.searchsorted(np.sort(scores[~positive]), scores[positive]).mean() / (~positive).sum()
    assert 0.55 < wins < small.best_auc("test")


def test_histories_tell_a_users_taste(small: Synthetic) -> None:
    """Two users of one segment share more of their history's categories than two others."""
    history, segment = small.train.context["history"], small.train.context["segment"]
    assert isinstance(history, Ragged)
    assert history.lengths().max() <= SMALL.history
    items, categories = small.train.candidates["item"], small.train.candidates["category"]
    category_of = np.full(SMALL.items, -1)
    category_of[items] = categories  # type: ignore[index]
    owner = np.repeat(np.arange(len(history)), history.lengths())
    known = category_of[history.values]
    profile = np.zeros((len(history), 300))
    np.add.at(profile, (owner[known >= 0], known[known >= 0]), 1)
    profile /= np.linalg.norm(profile, axis=1, keepdims=True) + 1e-9
    likeness = profile @ profile.T
    alike = segment[:, None] == segment  # type: ignore[index]
    np.fill_diagonal(alike, val=False)
    assert likeness[alike].mean() > 1.1 * likeness[~alike].mean()


def test_ids_are_skewed_as_in_production(small: Synthetic) -> None:
    items = small.train.candidates["item"]
    assert not isinstance(items, Ragged)
    counts = np.sort(np.bincount(items))[::-1]
    assert counts[:50].sum() > 0.3 * len(items)
    assert (counts > 0).sum() > 1_000


def test_raw_queries_of_the_generated_world_can_be_encoded(small: Synthetic) -> None:
    known = small.test.query(3)
    numbers, history = known.context["numbers"], known.context["history"]
    assert not isinstance(numbers, Ragged)
    assert isinstance(history, Ragged)
    raw: dict[str, object] = {f"numbers_{i}": float(x) for i, x in enumerate(numbers[0])}
    raw["history"] = history.values.tolist()
    names = [f.name for f in small.schema.id_features(Scope.QUERY) if f.name != "history"]
    raw |= {name: int(known.context[name][0]) for name in names}  # type: ignore[index]
    candidates = [
        {n: int(column[i]) for n, column in known.candidates.items()}  # type: ignore[index]
        for i in range(known.size)
    ]
    query = small.transforms.encode_query(raw, candidates, small.schema)
    check_query(query, small.schema)
    assert np.array_equal(query.context["numbers"], numbers)  # type: ignore[arg-type]
    assert query.candidates["item"].tolist() == known.candidates["item"].tolist()  # type: ignore[union-attr]


def test_the_default_world_has_the_shape_of_production() -> None:
    schema = synthetic_schema(SyntheticSettings())
    assert 900_000 < sum(table.rows for table in schema.tables) < 1_100_000
    assert len(schema.tables) == 14
    assert schema.feature("numbers").width == 13  # type: ignore[union-attr]


def test_a_skew_that_cannot_be_inverted_is_refused() -> None:
    with pytest.raises(UsageError, match=r"take 1\.01"):
        SyntheticSettings(skew=1.0)
