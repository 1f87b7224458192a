"""What a caller hands over from Python: refused early where it cannot be optimised or judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from headway.core import DataError, Link, Schema, UsageError
from headway.data import Dataset, Transforms
from headway.graph import trace
from headway.models import predict

FEWEST_ROWS = 100
"""What the guard needs at least; the other parts are useless with less, too."""
_LOOKED_AT = 2048


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parts:
    """Encoded parts of a data set; ``compress.Splits``."""

    schema: Schema
    train: Dataset
    valid: Dataset
    choose: Dataset
    test: Dataset
    transforms: Transforms | None = None


def set_aside(valid: Dataset, rng: np.random.Generator) -> tuple[Dataset, Dataset]:
    """Return two halves of the validation rows, each with whole queries, drawn at random."""
    drawn = rng.permutation(valid.queries)
    for_choosing = np.zeros(valid.queries, np.bool_)
    for_choosing[drawn[: valid.queries // 2]] = True
    of_row = for_choosing[valid.row_to_query]
    return valid.take(np.flatnonzero(~of_row)), valid.take(np.flatnonzero(of_row))


def check_parts(parts: Mapping[str, Dataset], schema: Schema) -> None:
    """Accept parts with one schema, enough rows, and both classes of every task.

    Args:
        parts: by name: train, valid, choose, test.
        schema: of the model.

    Raises:
        UsageError: if a part is no ``Dataset``.
        DataError: naming the part, what is wrong with it and the remedy.
    """
    for name, part in parts.items():
        if not isinstance(part, Dataset):
            raise UsageError(
                f"{name}= is a {type(part).__name__}; give a headway.data.Dataset, which holds "
                "encoded columns, the query of each row, and labels"
            )
        if part.schema != schema:
            raise DataError(
                f"the {name} part has another schema than the model: "
                f"{_difference(part.schema, schema)}; encode all parts with the model's schema"
            )
        if len(part) < FEWEST_ROWS:
            raise DataError(
                f"the {name} part has {len(part)} rows, at least {FEWEST_ROWS} are needed; "
                + _more_rows(name)
            )
        for index, task in enumerate(schema.tasks):
            _check_labels(part.labels[:, index], f"task {task.name!r} in the {name} part")


def check_model(model: nn.Module, schema: Schema) -> None:
    """Accept a float32 module on the CPU that can be traced with the schema.

    Raises:
        UsageError: if it is no module, or holds parameters of another kind or place.
        CaptureError: if it cannot be called as a ranking model; names the line and the remedy.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model is a {type(model).__name__}; give a trained torch.nn.Module whose "
            "forward takes a dict of features (ONNX models: headway compile)"
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise UsageError(
                f"the parameter {name!r} is {parameter.dtype} on {parameter.device}; "
                "give the model as model.float().cpu()"
            )
    trace(model, schema)


def output_doubts(model: nn.Module, rows: Dataset) -> tuple[str, ...]:
    """Return what is odd about the outputs on a few rows, as sentences.

    Raw outputs are expected: a module that ends in a sigmoid would be served with two.
    """
    raw = predict(model, rows.take(np.arange(min(len(rows), _LOOKED_AT))))
    found = []
    for index, task in enumerate(rows.schema.tasks):
        low, high = raw[:, index].min(), raw[:, index].max()
        if task.link is Link.SIGMOID and 0 <= low < high <= 1:
            found.append(
                f"all outputs for task {task.name!r} lie between {low:.3g} and {high:.3g}; if they "
                "are probabilities, return what stands before the sigmoid, which the link of the "
                "task applies"
            )
    return tuple(found)


def _difference(found: Schema, wanted: Schema) -> str:
    for kind in ("features", "tables", "tasks"):
        own = {thing.name: thing for thing in getattr(found, kind)}
        due = {thing.name: thing for thing in getattr(wanted, kind)}
        for name in sorted(own.keys() | due.keys()):
            if name not in own:
                return f"it lacks {kind[:-1]} {name!r}"
            if name not in due:
                return f"it has {kind[:-1]} {name!r} besides"
            if own[name] != due[name]:
                return f"{kind[:-1]} {name!r} is {own[name]}, not {due[name]}"
    return "the order differs"


def _more_rows(name: str) -> str:
    if name == "choose":
        return "give choose= rows of its own, or more rows in valid=, half of which are set aside"
    if name == "test":
        return "some 20,000 and more are what a loss of 0.001 AUC can be excluded with"
    return "give more rows"


def _check_labels(labels: np.ndarray, where: str) -> None:
    found = np.unique(labels)
    if not np.isin(found, (0.0, 1.0)).all():
        wrong = found[~np.isin(found, (0.0, 1.0))][0]
        raise DataError(f"the labels of {where} hold {wrong:g}; they must be 0 or 1")
    if len(found) < 2:
        raise DataError(
            f"all labels of {where} are {found[0]:g}; both classes are needed to train and to "
            "judge by, so split the rows otherwise, or check how labels were made"
        )
