"""A schema built in Python is held to what its JSON form is held to."""

from __future__ import annotations

from typing import Any

import pytest

from headway.core import Dense, Schema, Scope, Sequence, Sparse, Table, Task, UsageError
from headway.data import SyntheticSettings

PLAIN: dict[str, Any] = {
    "features": (Sparse(name="s", table="t", scope=Scope.CANDIDATE),),
    "tables": (Table(name="t", rows=3, dim=2),),
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tables": (Table(name="a.b", rows=3, dim=2),)}, "the table name 'a.b' must be"),
        ({"tasks": (Task(name="buy it"),)}, "the task name 'buy it' must be"),
        ({"features": (Dense(name="", scope=Scope.QUERY),)}, "the feature name '' must be"),
        ({"features": (Dense(name="x\n", scope=Scope.QUERY),)}, "the feature name"),
        ({"tables": (Table(name="t", rows=-1, dim=2),)}, "table 't' has rows=-1"),
        ({"tables": (Table(name="t", rows=0, dim=2),)}, "table 't' has rows=0"),
        ({"tables": (Table(name="t", rows=3, dim=2.5),)}, r"table 't' has dim=2\.5"),  # type: ignore[arg-type]
        ({"features": (Dense(name="d", scope=Scope.QUERY, width=0),)}, "'d' has width=0"),
        (
            {"features": (Sequence(name="q", table="t", scope=Scope.QUERY, max_length=0),)},
            "feature 'q' has max_length=0",
        ),
    ],
)
def test_names_and_sizes_are_checked_on_construction(
    change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        Schema(**(PLAIN | change))


def test_settings_built_in_python_are_held_to_their_annotations() -> None:
    with pytest.raises(UsageError, match="SyntheticSettings: train=0"):
        SyntheticSettings(train=0)
