"""The config file of ``headway train`` and ``headway optimize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from headway.cli.yaml_file import read_yaml
from headway.compress import OptimizeSettings
from headway.data import DataSettings
from headway.models import ModelSettings, TrainSettings

ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about one model, from its raw data to its bundle.

    Attributes:
        name: of the bundle, and of the model when it is served.
        data: reader, label, split, features, tables.
        model: the zoo's model and its widths.
        train: the training recipe's settings.
        optimize: what compositions are tried, and the guard's margins.
    """

    name: ModelName
    data: DataSettings
    model: ModelSettings
    train: TrainSettings = TrainSettings()
    optimize: OptimizeSettings = OptimizeSettings()


def read_config(path: Path, data: Path | None = None) -> Config:
    """Return the config at ``path``; ``data`` stands in for the path of its reader.

    A relative path in the config starts at the config's folder, ``data`` at the current one.

    Raises:
        ConfigError: naming the file, the path of the key and the remedy.
    """
    config = read_yaml(path, Config)
    if data is None:
        return config
    reader = msgspec.structs.replace(config.data.reader, path=str(data.resolve()))
    return msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, reader=reader))
