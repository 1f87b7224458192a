"""From settings and a schema to a module with fresh weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import torch

from headway.core import Schema, UsageError
from headway.models.dcn_v2 import DcnV2, DcnV2Settings
from headway.models.dien import Dien, DienSettings
from headway.models.din import Din, DinSettings
from headway.models.dlrm import Dlrm, DlrmSettings
from headway.models.layers import RankingModel
from headway.models.mt_wide_deep import MtWideDeep, MtWideDeepSettings
from headway.models.ncf import Ncf, NcfSettings
from headway.models.wide_deep import WideDeep, WideDeepSettings

ModelSettings = (
    DlrmSettings
    | WideDeepSettings
    | DinSettings
    | DienSettings
    | NcfSettings
    | MtWideDeepSettings
    | DcnV2Settings
)
"""The shape of a model, told apart by ``name``, such as ``dlrm`` or ``mt_wide_deep``."""

_MODELS: dict[type[ModelSettings], Callable[[Any, Schema], RankingModel]] = {
    DlrmSettings: Dlrm,
    WideDeepSettings: WideDeep,
    DinSettings: Din,
    DienSettings: Dien,
    NcfSettings: Ncf,
    MtWideDeepSettings: MtWideDeep,
    DcnV2Settings: DcnV2,
}


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
        return _MODELS[type(settings)](settings, schema)
