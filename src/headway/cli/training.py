"""``headway train``: from a config to a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from headway import __version__
from headway.cli.config import Config, read_config
from headway.cli.terminal import Terminal
from headway.data import Dataset, Prepared, fingerprint, load_data
from headway.measure import auc
from headway.models import (
    RankingModel,
    TrainProgress,
    TrainSettings,
    build_model,
    predict,
    save_checkpoint,
    train,
)

DATA_FINGERPRINT = "data_fingerprint"
"""The checkpoint's fact that says which rows trained and which may judge."""


class TrainReport(msgspec.Struct, frozen=True, kw_only=True):
    """What training gave; AUCs are on rows that trained nothing."""

    checkpoint: str
    model: str
    parameters: int
    best_epoch: int
    valid_auc: float
    test_auc: float
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class Trained:
    """A config carried out: its data and the fitted model."""

    config: Config
    data: Prepared
    checkpoint: Path
    report: TrainReport


def train_config(path: Path, data: Path | None, out: Path, terminal: Terminal) -> Trained:
    """Train the model that a config describes and write its checkpoint to ``out``.

    Args:
        path: the config file.
        data: in place of the reader's path, if given.
        out: the checkpoint's folder; an older checkpoint there is replaced.
        terminal: told of the progress.
    """
    config = read_config(path, data)
    with terminal.step(f"reading {config.data.reader.path}"):
        prepared = load_data(config.data, path.parent)
    model = build_model(config.model, prepared.schema, seed=config.train.seed)
    best_epoch, valid_auc = fit(model, (prepared.train, prepared.valid), config.train, terminal)
    report = TrainReport(
        checkpoint=str(out),
        model=model_name(config),
        parameters=sum(p.numel() for p in model.parameters()),
        best_epoch=best_epoch,
        valid_auc=valid_auc,
        test_auc=first_auc(model, prepared.test),
        rows={part: len(getattr(prepared, part)) for part in ("train", "valid", "choose", "test")},
    )
    facts = {
        "headway": __version__,
        "config": path.name,
        "test_auc": f"{report.test_auc:.5f}",
        DATA_FINGERPRINT: fingerprint(prepared),
    }
    transforms = prepared.transforms.to_json()
    save_checkpoint(out, model, config.model, prepared.schema, transforms, facts)
    return Trained(config, prepared, out, report)


def fit(
    model: RankingModel,
    data: tuple[Dataset, Dataset],
    settings: TrainSettings,
    terminal: Terminal,
) -> tuple[int, float]:
    """Train in place with a progress bar; return the best epoch and its valid AUC.

    Args:
        model: fresh or trained before.
        data: the rows to learn from, and those that stop training early.
        settings: of the recipe.
        terminal: told of the progress.
    """
    with terminal.step("training") as step:

        def show(p: TrainProgress) -> None:
            done = (p.epoch - 1) * p.batches + p.batch
            step.at(done, p.epochs * p.batches, f"epoch {p.epoch}, loss {p.loss:.4f}")

        result = train(model, *data, settings, show)
    return result.best_epoch, result.valid_auc


def first_auc(model: RankingModel, rows: Dataset) -> float:
    """Return the first task's AUC of a module on a data set."""
    return auc(rows.labels[:, 0], predict(model, rows)[:, 0])


def model_name(config: Config) -> str:
    """Return the zoo name of the config's model."""
    return str(msgspec.to_builtins(config.model)["name"])


def show_training(report: TrainReport, terminal: Terminal) -> None:
    """Print what training gave."""
    rows = [
        ("model", f"{report.model}, {report.parameters:,} parameters"),
        ("rows", ", ".join(f"{part} {count:,}" for part, count in report.rows.items())),
        ("best epoch", str(report.best_epoch)),
        ("valid AUC", f"{report.valid_auc:.4f}"),
        ("test AUC", f"{report.test_auc:.4f}"),
        ("checkpoint", report.checkpoint),
    ]
    terminal.table("Trained", ("", ""), rows)
    terminal.object(report)
