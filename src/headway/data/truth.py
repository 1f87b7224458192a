"""What worlds with a known truth share: skewed ids, plain transforms, and the AUC of the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import Dense, Schema
from headway.data.encoders import Encoder, Identity, Scaling
from headway.data.transforms import DenseFields, IdField, Transforms

Ids = NDArray[np.int64]


def zipf(rows: int | Ids, size: int, skew: float, rng: np.random.Generator) -> Ids:
    """Draw numbers from 0 below ``rows``, number k with a chance near (k + 1) ** -skew.

    The whole part of a bounded Pareto variable, by inversion.
    """
    top = np.asarray(rows, np.float64) + 1
    share = rng.random(size)
    power = 1 - skew
    drawn = (1 + share * (top**power - 1)) ** (1 / power)
    below: Ids = np.minimum(drawn - 1, top - 2).astype(np.int64)
    return below


def rank_auc(labels: NDArray[np.float32], scores: NDArray[Any]) -> float:
    """Return the share of pairs of a 1 and a 0 in which the 1 has the higher score.

    Args:
        labels: ``[rows]``, 0 and 1 with both present.
        scores: ``[rows]``, no two alike that matter: a tie counts as it happens to stand.
    """
    positive = labels == 1
    rank = np.empty(len(labels))
    rank[np.argsort(scores, kind="stable")] = np.arange(1, len(labels) + 1)
    clicks = int(positive.sum())
    pairs = clicks * (len(labels) - clicks)
    return float((rank[positive].sum() - clicks * (clicks + 1) / 2) / pairs)


def as_they_are(schema: Schema) -> Transforms:
    """Return transforms that change nothing, so that drawn rows can be served as raw queries."""
    features: dict[str, DenseFields | IdField] = {}
    for feature in schema.features:
        if isinstance(feature, Dense):
            fields = tuple(f"{feature.name}_{i}" for i in range(feature.width))
            scaling = (Scaling(),) * feature.width
            features[feature.name] = DenseFields(fields=fields, scaling=scaling)
        else:
            features[feature.name] = IdField(field=feature.name)
    encoders: dict[str, Encoder] = {t.name: Identity(rows=t.rows) for t in schema.tables}
    return Transforms(features=features, encoders=encoders)
