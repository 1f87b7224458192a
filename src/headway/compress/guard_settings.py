"""How much loss is too much, and how sure the guard has to be."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import UsageError, check_fields

Count = Annotated[int, Meta(ge=1)]


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Margins, certainty and slices of the guard.

    Attributes:
        margin_auc: largest loss of AUC that does not count.
        margin_log_loss: largest rise of log loss, in nats, that does not count.
        margin_ndcg: largest loss of NDCG@10 that does not count, where queries exist; None
            leaves it out of the verdict.
        margin_calibration: how far predicted over observed rate may move away from 1; None
            leaves it out. Bids and budgets scale with predictions, so 0.01 is a hundredth of
            them: some ten times what rounding to int8 moves, and less than models drift in a
            week.
        margin_ece: by how much the expected calibration error may rise; None leaves it out.
            A gap g at a rate p costs g^2 / (2 p (1 - p)) of log loss, so 0.005 is far below
            that margin and sees what log loss cannot; lower it where rates are below some 5 %.
        margin_slice: a slice of the rows vetoes once it is proven to have lost more AUC than
            this; None leaves slices out.
        slice_tables: how many of the largest tables give slices.
        slice_ids: how many of the most frequent ids of a feature give slices.
        slice_rows: rows that a slice needs.
        fewest_queries: queries with both classes from which on a pass waits for NDCG; with
            fewer only a proven loss of it counts, and the reason says so.
        max_shared_rows: a larger share of judging rows that stand among the training rows,
            feature for feature, leaves the verdict not proven. Raise it where features are so
            few that unlike impressions look the same.
        confidence: one-sided, of each bound.
        power: chance that ``rows_to_decide`` rows decide, if the observed difference is true.
        rounds: bootstrap resamples; very many rows get fewer.
    """

    margin_auc: float = 0.001
    margin_log_loss: float = 0.001
    margin_ndcg: float | None = 0.002
    margin_calibration: float | None = 0.01
    margin_ece: float | None = 0.005
    margin_slice: float | None = 0.01
    slice_tables: Count = 3
    slice_ids: Count = 3
    slice_rows: Count = 500
    fewest_queries: Annotated[int, Meta(ge=2)] = 200
    max_shared_rows: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.01
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.975
    power: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.8
    rounds: Annotated[int, Meta(ge=200)] = 2000

    def __post_init__(self) -> None:
        """Refuse margins that no amount of data could satisfy.

        Raises:
            UsageError: for a margin that is not positive, or another value out of its range.
        """
        margins = {
            "AUC": self.margin_auc,
            "log loss": self.margin_log_loss,
            "NDCG@10": self.margin_ndcg,
            "calibration": self.margin_calibration,
            "calibration error": self.margin_ece,
            "slice": self.margin_slice,
        }
        for name, margin in margins.items():
            if margin is not None and not 0 < margin < np.inf:
                raise UsageError(
                    f"a {name} margin of {margin} cannot be proven: no finite data shows "
                    "a loss of at most nothing; use a small positive one such as 0.001"
                )
        check_fields(self)
