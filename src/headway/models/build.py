"""From settings and a schema to a module with fresh weights."""

from __future__ import annotations

import msgspec
import torch

from headway.core import Schema, UsageError
from headway.models.din import Din, DinSettings
from headway.models.dlrm import Dlrm, DlrmSettings
from headway.models.layers import RankingModel
from headway.models.wide_deep import WideDeep, WideDeepSettings

ModelSettings = DlrmSettings | WideDeepSettings | DinSettings
"""The shape of a model, told apart by ``name``: ``dlrm``, ``wide_deep`` or ``din``."""


def build_model(settings: ModelSettings, schema: Schema, *, seed: int = 0) -> RankingModel:
    """Return a model for the schema; the same seed gives the same weights.

    The global state of torch's generator is left as it was.

    Raises:
        UsageError: if a setting is out of range or the schema does not fit the model.
    """
    try:
        msgspec.convert(msgspec.to_builtins(settings), type(settings))
    except msgspec.ValidationError as error:
        raise UsageError(f"the model settings are off: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(settings, DlrmSettings):
            return Dlrm(settings, schema)
        if isinstance(settings, WideDeepSettings):
            return WideDeep(settings, schema)
        return Din(settings, schema)
