"""The zoo at sizes that two CPU cores can train: dense parts whole, tables and bags smaller."""

from __future__ import annotations

import msgspec

from headway.core import Bag, Schema, Sequence, UsageError
from headway.models.presets import Style, ZooModel, zoo
from headway.models.train import TrainSettings

TRAINABLE_ROWS = 20_000
"""Most rows of a table."""
TRAINABLE_LENGTHS = {"rmc1": 8, "rmc2": 8, "rmc3": 8, "din": 32, "dien": 16, "dcn-v2": 8}
"""Longest bag or history of a model; the others of the zoo have neither."""
# One pass only: a second one lowered the valid AUC of ncf, rmc1 and din. Rates were compared for
# these three alone; wide dense parts take the smaller one out of caution.
_SMALL = TrainSettings(epochs=1, batch_size=2048, learning_rate=2e-3, table_learning_rate=0.05)
_WIDE = TrainSettings(epochs=1, batch_size=2048, learning_rate=1e-3, table_learning_rate=0.05)
_RECIPES = {
    "ncf": _SMALL,
    "wnd": _WIDE,
    "mt-wnd": _WIDE,
    "rmc1": _SMALL,
    "rmc2": _SMALL,
    "rmc3": _WIDE,
    "din": _SMALL,
    "dien": _SMALL,
    "dcn-v2": _WIDE,
}


def trainable(name: str, style: Style = "repo") -> ZooModel:
    """Return a model of the zoo that two cores can train on a million rows.

    Shorter than in the zoo: every table has at most 20,000 rows, the bags of ``rmc1`` (80),
    ``rmc2`` (120, in ``paper`` 80), ``rmc3`` (20) and ``dcn-v2`` (up to 100) hold at most 8 ids,
    the history of ``din`` (250, in ``paper`` 200) 32 and that of ``dien`` (40, in ``paper`` 50)
    16. All else is the zoo's: every width of the dense parts, the number of features and tables,
    their dims, dense inputs, tasks and scopes.

    Args:
        name: among ``ZOO``.
        style: ``paper`` or ``repo``.

    Raises:
        UsageError: if there is no such model or style.
    """
    model = zoo(name, style, max_rows=TRAINABLE_ROWS)
    features = tuple(
        msgspec.structs.replace(f, max_length=min(f.max_length, TRAINABLE_LENGTHS[name]))
        if isinstance(f, Bag | Sequence)
        else f
        for f in model.schema.features
    )
    schema = Schema(features=features, tables=model.schema.tables, tasks=model.schema.tasks)
    return msgspec.structs.replace(model, schema=schema)


def trainable_recipe(name: str) -> TrainSettings:
    """Return a starting point for training ``trainable(name)`` on a million planted rows.

    Raises:
        UsageError: if there is no such model.
    """
    if name not in _RECIPES:
        raise UsageError(f"the zoo has no {name!r}; choose among {', '.join(_RECIPES)}")
    return _RECIPES[name]
