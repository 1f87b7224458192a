"""Models trained on data, real and generated, for `compression.py` to compress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headway.cli.config import read_config
from headway.compress import (
    DistilSettings,
    GuardSettings,
    LightweightSettings,
    PruneSettings,
    Recipe,
)
from headway.core import Sla, parse_sla
from headway.data import PlantedSettings, SequenceSettings, load_data, plant
from headway.models import (
    DinSettings,
    DlrmSettings,
    ModelSettings,
    TrainSettings,
    WideDeepSettings,
    trainable,
    trainable_recipe,
)

HERE = Path(__file__).resolve().parent
EIGHT = ("ncf", "wnd", "mt-wnd", "rmc1", "rmc2", "rmc3", "din", "dien")
# The table of models in DeepRecSys, medium targets.
SLAS = {"ncf": 5, "wnd": 25, "mt-wnd": 25, "rmc1": 100, "rmc2": 400, "rmc3": 100, "din": 100}
SLAS |= {"dien": 35}
RECIPE = Recipe(
    lightweight=LightweightSettings(table_energy=0.999, layer_energy=1.0),
    prune=PruneSettings(flops=0.25),
    distil=DistilSettings(),
)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A model to train, its data, and how it is compressed.

    Attributes:
        name: what it is called, such as ``generated:din``.
        zoo: name of the zoo's model that it is a smaller brother of, or empty.
        settings: of the model.
        data: its parts.
        train: the training recipe.
        recipe: the passes.
        guard: margins.
        sla: of the throughput.
        scale: what is smaller than in production.
    """

    name: str
    zoo: str
    settings: ModelSettings
    data: Any
    train: TrainSettings
    recipe: Recipe
    guard: GuardSettings
    sla: Sla
    scale: str


def generated(name: str, rows: int, seed: int = 0) -> World:
    """Return a zoo model at the scale that two cores can train, on generated rows.

    Args:
        name: of the model.
        rows: of all parts; half of them train and a third judges.
        seed: of the world.
    """
    made = trainable(name)
    sizes = PlantedSettings(
        train=rows * 50 // 100,
        valid=rows * 5 // 100,
        choose=rows * 10 // 100,
        test=rows * 35 // 100,
    )
    data = plant(made.schema, sizes, np.random.default_rng(seed))
    longest = [f.max_length for f in made.schema.features if hasattr(f, "max_length")]
    scale = f"tables of at most {max(t.rows for t in made.schema.tables):,} rows"
    if longest:
        scale += f", bags and histories of at most {max(longest)}"
    return World(
        name=f"generated:{name}",
        zoo=name,
        settings=made.settings,
        data=data,
        train=trainable_recipe(name),
        recipe=RECIPE,
        # Four ids a row and no more: popular pairs come again without being copies.
        guard=GuardSettings(max_shared_rows=0.05 if name == "ncf" else 0.01),
        sla=parse_sla(f"p95={SLAS[name]}ms"),
        scale=f"{rows:,} rows; {scale}; dense parts full size",
    )


def _real(example: str, settings: ModelSettings | None, folder: Path) -> World:
    files = {"movielens": "ml-100k", "frappe": "frappe/frappe_ctr.csv.gz"}
    files["criteo"] = "criteo-10k/criteo.first10k.labelled.tsv.gz"
    config = read_config(HERE.parent / f"examples/{example}.yaml", folder / files[example])
    chosen = settings or config.model
    features = list(config.data.features)
    if isinstance(chosen, DinSettings):
        features = [_as_sequence(f) for f in features]
    data = load_data(msgspec.structs.replace(config.data, features=tuple(features)), HERE)
    kind = str(msgspec.to_builtins(chosen)["name"])
    # Layers are narrow and rows few: smaller steps, and a second pass over the rows.
    recipe = Recipe(
        lightweight=LightweightSettings(table_energy=0.999, layer_energy=1.0),
        prune=PruneSettings(flops=0.5, multiple=8),
        distil=DistilSettings(epochs=2, batch_size=1024),
    )
    return World(
        name=f"{example}:{kind}",
        zoo="",
        settings=chosen,
        data=data,
        train=config.train,
        recipe=recipe,
        guard=config.optimize.guard,
        sla=Sla(),
        scale=f"{len(data.train):,} training and {len(data.test):,} judging rows, all there are",
    )


def _as_sequence(feature: Any) -> Any:
    """Let DIN see in order what others see pooled: the liked films alone."""
    if getattr(feature, "name", "") != "liked":
        return feature
    return SequenceSettings(
        scope=feature.scope,
        name=feature.name,
        table=feature.table,
        max_length=30,
        history=feature.history,
    )


def wide_deep() -> ModelSettings:
    return WideDeepSettings(deep_mlp=(256, 128), dropout=0.3)


def dlrm() -> ModelSettings:
    return DlrmSettings(bottom_mlp=(32, 16), predict_mlp=(256, 128), dropout=0.3)


REAL: dict[str, Callable[[Path], World]] = {
    "movielens:dlrm": lambda folder: _real("movielens", None, folder),
    "movielens:din": lambda folder: _real(
        "movielens", DinSettings(attention_mlp=(32,), predict_mlp=(128, 64)), folder
    ),
    "frappe:dlrm": lambda folder: _real("frappe", dlrm(), folder),
    "frappe:wide_deep": lambda folder: _real("frappe", wide_deep(), folder),
    "criteo:dlrm": lambda folder: _real(
        "criteo", DlrmSettings(bottom_mlp=(64, 8), predict_mlp=(256,), dropout=0.8), folder
    ),
    "criteo:wide_deep": lambda folder: _real("criteo", None, folder),
}
WORLDS: Sequence[str] = (*(f"generated:{name}" for name in EIGHT), *REAL)


def make_world(name: str, rows: int, data: Path) -> World:
    """Return a world by name; ``data`` holds the real data sets."""
    kind, _, model = name.partition(":")
    return generated(model, rows) if kind == "generated" else REAL[name](data)
