"""The training recipe: shuffled batches, early stopping on the valid rows, seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name all of torch uses

from headway.core import DataError, Link, UsageError, check_fields
from headway.data import Dataset
from headway.measure import auc, log_loss
from headway.models.batches import TensorFeatures, batch_features, predict
from headway.models.optimizers import TableAdagrad

Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0.0)]
Strength = Annotated[float, Meta(ge=0.0)]


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is trained.

    Attributes:
        epochs: most passes over the training rows.
        batch_size: rows a step.
        learning_rate: of the dense parts (AdamW).
        table_learning_rate: of the tables (Adagrad on touched rows).
        weight_decay: of the dense parts, decoupled, as a share of the learning rate.
        table_weight_decay: L2 on the touched rows of tables.
        decay: factor on both learning rates after each epoch.
        patience: epochs without a better valid AUC before training stops.
        rows: training rows drawn for each epoch; all by default.
        tables: whether tables learn too, or stay as they are.
        fade: whether learning rates fall in a straight line to nothing at the last batch.
        seed: of the order of rows and of dropout; the same seed on the same number of threads
            gives the same weights.
    """

    epochs: Positive = 10
    batch_size: Positive = 2048
    learning_rate: Rate = 1e-3
    table_learning_rate: Rate = 0.05
    weight_decay: Strength = 0.0
    table_weight_decay: Strength = 0.0
    decay: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    patience: Positive = 2
    rows: Positive | None = None
    tables: bool = True
    fade: bool = False
    seed: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse a recipe that trains nothing.

        Raises:
            UsageError: naming the field and its value.
        """
        check_fields(self)


class Epoch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one pass over the rows gave: mean training loss and valid AUC (mean over tasks)."""

    epoch: int
    loss: float
    valid_auc: float


class TrainResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The epochs of a training run; the model holds the weights of ``best_epoch``."""

    history: tuple[Epoch, ...]
    best_epoch: int
    valid_auc: float


class TrainProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Where training stands after a batch; ``loss`` is the mean of the epoch so far."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float


Report = Callable[[TrainProgress], None]
Goal = Callable[[Tensor, NDArray[np.int64], TensorFeatures], Tensor]
"""From raw outputs ``[rows, tasks]``, which rows they are of, and their features, to the loss."""


def train(
    model: nn.Module,
    train_rows: Dataset,
    valid_rows: Dataset,
    settings: TrainSettings,
    progress: Report | None = None,
    *,
    goal: Goal | None = None,
) -> TrainResult:
    """Fit a model in place and leave it with the weights that did best on the valid rows.

    Args:
        model: as ``build_model`` returned it, or any module that ``graph.capture`` takes whose
            tables are ``nn.Embedding`` or ``nn.EmbeddingBag``.
        train_rows: impressions to learn from.
        valid_rows: impressions that choose the epoch; no others may judge the model.
        settings: how.
        progress: called after each batch.
        goal: what to make small instead of the log loss of the labels. A model that has one was
            trained before, so the weights it came with stand as epoch 0 and are kept if no
            epoch does better; and the best epoch is that of the least log loss, for such a model
            must predict as well as it ranks. Without a goal it is that of the best AUC.

    Raises:
        DataError: if labels are not 0 and 1 with both present, or the loss is not finite.
        UsageError: if a task is not a click-like one.
    """
    _check(train_rows, "training")
    _check(valid_rows, "valid")
    run = _Run(model, train_rows, settings, goal)
    history: list[Epoch] = []
    best = _weights(model)
    best_epoch, best_auc, best_score = 0, -1.0, -np.inf
    if goal is not None:
        best_auc, best_score = _standing(model, valid_rows, by_loss=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for epoch in range(1, settings.epochs + 1):
            loss = run.epoch(epoch, progress)
            reached, score = _standing(model, valid_rows, by_loss=goal is not None)
            history.append(Epoch(epoch=epoch, loss=loss, valid_auc=reached))
            if score > best_score:
                best_epoch, best_auc, best_score = epoch, reached, score
                best = _weights(model)
            elif epoch - best_epoch >= settings.patience:
                break
    model.load_state_dict(best)
    model.eval()
    return TrainResult(history=tuple(history), best_epoch=best_epoch, valid_auc=best_auc)


def _standing(model: nn.Module, rows: Dataset, *, by_loss: bool) -> tuple[float, float]:
    """Return the AUC, and what the best epoch has most of."""
    raw = predict(model, rows)
    reached = mean_auc(rows.labels, raw)
    if not by_loss:
        return reached, reached
    return reached, -mean_log_loss(rows.labels, raw)


def mean_auc(labels: NDArray[np.float32], raw: NDArray[np.float32]) -> float:
    """Return the mean over tasks of the AUC."""
    return float(np.mean([auc(labels[:, t], raw[:, t]) for t in range(labels.shape[1])]))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def mean_log_loss(labels: NDArray[np.float32], raw: NDArray[np.float32]) -> float:
    """Return the mean over tasks of the log loss."""
    return float(np.mean([log_loss(labels[:, t], raw[:, t]) for t in range(labels.shape[1])]))


class _Run:
    """The optimisers and the order of rows of one training run."""

    def __init__(
        self, model: nn.Module, rows: Dataset, settings: TrainSettings, goal: Goal | None
    ) -> None:
        self._model = model
        self._rows = rows
        self._settings = settings
        self._goal = goal or self._log_loss
        self._rng = np.random.default_rng(settings.seed)
        self._size = min(len(rows), settings.rows or len(rows))
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        held = {id(table.weight) for table in tables}
        dense = [p for p in model.parameters() if id(p) not in held]
        self._dense = torch.optim.AdamW(
            dense, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        for table in tables:
            table.weight.requires_grad_(settings.tables)
        self._tables = TableAdagrad(
            tables if settings.tables else (),
            settings.table_learning_rate,
            settings.table_weight_decay,
        )

    def epoch(self, epoch: int, progress: Report | None) -> float:
        """Pass over all rows once and return the mean loss."""
        self._model.train()
        size = self._settings.batch_size
        batches = -(-self._size // size)
        total = 0.0
        for number, rows in enumerate(self._shuffled(size), start=1):
            self._set_rates(epoch, (number - 1) / batches)
            loss = self._step(rows)
            if not np.isfinite(loss):
                raise DataError(
                    f"the loss became {loss} in batch {number} of epoch {epoch}; look for huge "
                    "dense values, or lower learning_rate and table_learning_rate"
                )
            total += loss
            if progress is not None:
                progress(
                    TrainProgress(
                        epoch=epoch,
                        epochs=self._settings.epochs,
                        batch=number,
                        batches=batches,
                        loss=total / number,
                    )
                )
        return total / batches

    def _shuffled(self, size: int) -> Iterator[NDArray[np.int64]]:
        order = self._rng.permutation(len(self._rows)).astype(np.int64)
        for start in range(0, self._size, size):
            yield order[start : min(start + size, self._size)]

    def _step(self, rows: NDArray[np.int64]) -> float:
        features = batch_features(self._rows, rows)
        loss = self._goal(self._model(features), rows, features)
        self._dense.zero_grad()
        self._tables.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._dense.step()
        self._tables.step()
        return loss.item()

    def _log_loss(self, raw: Tensor, rows: NDArray[np.int64], _: TensorFeatures) -> Tensor:
        labels = torch.from_numpy(self._rows.labels[rows])
        return F.binary_cross_entropy_with_logits(raw, labels)

    def _set_rates(self, epoch: int, share: float) -> None:
        """Set the learning rates for a batch, with ``share`` of its epoch done."""
        factor = self._settings.decay ** (epoch - 1)
        if self._settings.fade:
            factor *= 1 - (epoch - 1 + share) / self._settings.epochs
        for group in self._dense.param_groups:
            group["lr"] = self._settings.learning_rate * factor
        self._tables.learning_rate = self._settings.table_learning_rate * factor


def _check(dataset: Dataset, which: str) -> None:
    for index, task in enumerate(dataset.schema.tasks):
        if task.link is not Link.SIGMOID:
            raise UsageError(
                f"task {task.name!r} has the link {task.link}; training fits sigmoid tasks only"
            )
        found = np.unique(dataset.labels[:, index])
        if not np.array_equal(found, [0.0, 1.0]):
            raise DataError(
                f"the {which} labels of task {task.name!r} must be 0 and 1 with both present; "
                f"found {found[:5].tolist()} in {len(dataset)} rows"
            )
