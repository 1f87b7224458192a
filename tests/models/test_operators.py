"""Shares of time add up and are told apart by the module they were spent in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headway.core import UsageError
from headway.models import (
    KINDS,
    PUBLISHED_ROWS,
    PUBLISHED_SHARES,
    ZOO,
    OperatorShares,
    build_model,
    operator_shares,
    zoo,
)


def shares_of(name: str) -> OperatorShares:
    entry = zoo(name, max_rows=50)
    model = build_model(entry.settings, entry.schema)
    return operator_shares(model, entry.schema, 4, rng=np.random.default_rng(0), repeats=2)


@pytest.mark.parametrize("name", ["ncf", "rmc1", "din", "dien"])
def test_shares_sum_to_one_and_only_models_that_attend_spend_time_on_it(name: str) -> None:
    shares = shares_of(name)
    assert sum(getattr(shares, kind) for kind in KINDS) == pytest.approx(1)
    assert min(shares.embedding, shares.dense, shares.other) > 0
    assert (shares.attention > 0) == (name in {"din", "dien"})
    assert (shares.recurrent > 0) == (name == "dien")


def test_measuring_leaves_no_hooks_and_no_setting_behind() -> None:
    entry = zoo("din", max_rows=50)
    model = build_model(entry.settings, entry.schema)
    threads = torch.get_num_threads()
    operator_shares(model, entry.schema, 2, rng=np.random.default_rng(0), repeats=1)
    assert torch.get_num_threads() == threads
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("rows", "repeats"), [(0, 1), (1, 0)])
def test_nothing_to_measure_is_refused(rows: int, repeats: int) -> None:
    entry = zoo("ncf", max_rows=50)
    model = build_model(entry.settings, entry.schema)
    with pytest.raises(UsageError, match="at least one row and one call"):
        operator_shares(model, entry.schema, rows, rng=np.random.default_rng(0), repeats=repeats)


def test_published_shares_are_of_zoo_models_and_leave_room_for_the_rest() -> None:
    assert set(PUBLISHED_SHARES) == set(ZOO) - {"dcn-v2"}
    for shares in PUBLISHED_SHARES.values():
        assert tuple(shares) == PUBLISHED_ROWS
        for at_rows in shares.values():
            given = [getattr(at_rows, kind) or 0.0 for kind in KINDS]
            assert 0.8 < sum(given) <= 1.0
    assert PUBLISHED_SHARES["rmc2"][64].embedding == 0.92
    assert PUBLISHED_SHARES["dien"][1].recurrent == 0.96
