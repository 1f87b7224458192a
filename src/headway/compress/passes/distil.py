"""Trains a smaller model to answer as the original does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name all of torch uses

from headway.core import UsageError, check_fields
from headway.data import Dataset
from headway.measure import probabilities
from headway.models import TensorFeatures, TrainProgress, TrainResult, TrainSettings, train

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class DistilSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a smaller model is trained.

    Attributes:
        epochs: passes over the training rows.
        rows: training rows drawn for each epoch; all by default.
        batch_size: rows a step.
        learning_rate: of the dense parts; it falls to nothing over the run.
        table_learning_rate: of the tables, where they learn.
        tables: whether tables learn too. They are what a model overfits with first, and they
            come from the original as good as they were.
        teacher: share of the original's probabilities in the targets; the labels have the rest.
            A probability says more of a row than a click does.
        hidden: weight of the squared difference between hidden layers of the two, of those that
            units were taken out of; 0 compares outputs alone and spares the original's forward.
        seed: of the order of rows and of dropout.
    """

    epochs: Positive = 1
    rows: Positive | None = None
    batch_size: Positive = 2048
    learning_rate: Annotated[float, Meta(gt=0.0)] = 5e-4
    table_learning_rate: Annotated[float, Meta(gt=0.0)] = 0.01
    tables: bool = False
    teacher: Share = 0.8
    hidden: Annotated[float, Meta(ge=0.0)] = 0.0
    seed: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse what trains nothing.

        Raises:
            UsageError: naming the field and its value.
        """
        check_fields(self)


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """What a smaller model learns from.

    Attributes:
        model: the original.
        raw: its raw outputs ``[rows, tasks]`` on the training rows.
        kept: for linear layers that lost outputs, by module, which of the original's those left
            are; hidden layers are compared at these.
    """

    model: nn.Module
    raw: NDArray[np.float32]
    kept: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


def distil(
    student: nn.Module,
    teacher: Teacher,
    rows: Dataset,
    valid: Dataset,
    settings: DistilSettings,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train a smaller model in place on a mixture of the labels and the original's outputs.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), at
    temperature 1: for clicks, cross entropy is linear in the target, so both goals together are
    one target between label and probability. Hidden layers as in Romero et al., "FitNets"
    (2015), but without a regressor, since the student's units are units of the teacher.

    The weights the student came with are kept where no epoch has a smaller log loss on the
    validation rows.

    Args:
        student: changed in place.
        teacher: the original and what it says of the training rows.
        rows: to train on.
        valid: chooses the epoch.
        settings: how.
        progress: called after each batch.

    Raises:
        DataError: if the loss is not finite, or the labels cannot be learnt from.
        UsageError: if the outputs are not those of the training rows.
    """
    if teacher.raw.shape != rows.labels.shape:
        raise UsageError(
            f"the teacher's outputs have the shape {list(teacher.raw.shape)}, the training rows "
            f"need {list(rows.labels.shape)}; score the same rows with it"
        )
    share = settings.teacher
    targets = (share * probabilities(teacher.raw) + (1 - share) * rows.labels).astype(np.float32)
    recipe = TrainSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        table_learning_rate=settings.table_learning_rate,
        patience=settings.epochs,
        rows=settings.rows,
        tables=settings.tables,
        fade=True,
        seed=settings.seed,
    )
    kept = teacher.kept if settings.hidden else {}
    with _both_watched(student, teacher.model, kept) as apart:

        def goal(raw: Tensor, taken: NDArray[np.int64], features: TensorFeatures) -> Tensor:
            wanted = torch.from_numpy(targets[taken])
            loss = F.binary_cross_entropy_with_logits(raw, wanted)
            if settings.hidden:
                loss = loss + settings.hidden * apart(features)
            return loss

        return train(student, rows, valid, recipe, progress, goal=goal)


@contextmanager
def _both_watched(
    student: nn.Module, teacher: nn.Module, kept: Mapping[str, NDArray[np.int64]]
) -> Iterator[Callable[[TensorFeatures], Tensor]]:
    """Yield what gives the mean squared difference of hidden layers on the last batch.

    The student's are those of its last call.
    """
    seen: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    hooks = []
    for name, index in kept.items():
        hooks.append(student.get_submodule(name).register_forward_hook(_keeper(seen, name, None)))
        place = torch.from_numpy(index)
        hooks.append(
            teacher.get_submodule(name).register_forward_hook(_keeper(wanted, name, place))
        )

    def apart(features: TensorFeatures) -> Tensor:
        teacher.eval()
        with torch.no_grad():
            teacher(features)
        parts = [F.mse_loss(seen[n], wanted[n]) / wanted[n].var().clamp(min=1e-6) for n in wanted]
        return torch.stack(parts).mean() if parts else torch.zeros(())

    try:
        yield apart
    finally:
        for hook in hooks:
            hook.remove()


def _keeper(
    into: dict[str, Tensor], name: str, index: Tensor | None
) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(_: nn.Module, __: object, output: Tensor) -> None:
        into[name] = output if index is None else output.index_select(-1, index)

    return hook
