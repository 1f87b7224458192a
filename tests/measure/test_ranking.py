"""Figures per query are expected values over the orders of tied rows."""

from __future__ import annotations

from itertools import pairwise, permutations
from math import log2
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.core import DataError, UsageError
from headway.measure import rank_queries


def by_all_orders(labels: NDArray[Any], scores: NDArray[Any], k: int) -> tuple[float, float]:
    """Mean NDCG and hit rate over every order that the scores allow."""
    ndcg, hits = [], []
    best = sum(1 / log2(i + 2) for i in range(min(k, int(labels.sum()))))
    for order in permutations(range(len(labels))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            first = labels[list(order[:k])]
            ndcg.append(sum(y / log2(i + 2) for i, y in enumerate(first)) / best)
            hits.append(float(first.any()))
    return float(np.mean(ndcg)), float(np.mean(hits))


@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9999))
def test_ties_count_as_the_mean_of_their_orders(rows: int, levels: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.5).astype(np.float32)
    labels[:2] = [1, 0]
    scores = rng.integers(levels, size=rows).astype(np.float32)
    found = rank_queries(labels, scores, np.zeros(rows), k)
    assert (found.ndcg[0], found.hit[0]) == pytest.approx(by_all_orders(labels, scores, k))


@given(st.integers(1, 300), st.integers(0, 9999))
def test_many_unlike_queries_in_any_order_are_as_each_alone(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.random(rows) < 0.3, rng.integers(20, size=rows).astype(float)
    groups = (rng.pareto(1, size=rows) * 3).astype(int)
    found = rank_queries(labels, scores, groups)
    kept = [g for g in np.unique(groups) if 0 < labels[groups == g].mean() < 1]
    assert found.ids.tolist() == kept
    for index, group in enumerate(kept):
        own = groups == group
        alone = rank_queries(labels[own], scores[own], groups[own])
        assert found.ndcg[index] == pytest.approx(alone.ndcg[0])
        assert found.hit[index] == pytest.approx(alone.hit[0], abs=1e-9)


def test_ndcg_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(1)
    labels, scores = rng.random(50) < 0.2, rng.integers(9, size=50)
    found = rank_queries(labels, scores, np.zeros(50))
    assert found.ndcg[0] == pytest.approx(ndcg_score([labels], [scores], k=10))


def test_a_positive_in_the_first_place_is_a_sure_hit_and_one_in_the_last_none() -> None:
    labels = np.array([1, 0, 0, 0, 0, 1])
    scores = np.array([3.0, 2, 1, 3, 2, 1])
    found = rank_queries(labels, scores, np.array([7, 7, 7, 9, 9, 9]), k=1)
    assert found.hit.tolist() == [1, 0]
    assert found.ndcg.tolist() == [1, 0]


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 9999))
def test_the_worst_order_has_all_positives_last(rows: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.5).astype(np.float32)
    labels[:2] = [1, 0]
    groups = np.zeros(rows)
    found = rank_queries(labels, rng.random(rows), groups, k)
    assert found.worst == pytest.approx(rank_queries(labels, -labels, groups, k).ndcg)
    assert found.worst[0] <= found.ndcg[0] + 1e-12


def test_figures_without_meaning_are_refused() -> None:
    labels, scores = np.array([0, 1]), np.array([0.1, 0.2])
    with pytest.raises(UsageError, match="at least 1"):
        rank_queries(labels, scores, labels, k=0)
    with pytest.raises(DataError, match="groups have shape"):
        rank_queries(labels, scores, np.zeros(3))
    with pytest.raises(DataError, match="not finite"):
        rank_queries(labels, np.array([0.1, np.nan]), labels)
