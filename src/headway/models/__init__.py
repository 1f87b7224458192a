"""The zoo, built from a schema, with its presets and costs, and one training recipe for all."""

from importlib.util import find_spec

from headway.core import MissingDependencyError

if find_spec("torch") is None:
    raise MissingDependencyError("torch", "optimize", "building or training a model")

from headway.models.batches import batch_features, predict
from headway.models.build import ModelSettings, build_model
from headway.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from headway.models.dcn_v2 import DcnV2Settings
from headway.models.dien import DienSettings
from headway.models.din import DinSettings
from headway.models.dlrm import DlrmSettings
from headway.models.layers import RankingModel
from headway.models.mt_wide_deep import MtWideDeepSettings
from headway.models.ncf import NcfSettings
from headway.models.train import (
    Epoch,
    TrainProgress,
    TrainResult,
    TrainSettings,
    train,
)
from headway.models.wide_deep import WideDeepSettings

__all__ = [
    "Checkpoint",
    "DcnV2Settings",
    "DienSettings",
    "DinSettings",
    "DlrmSettings",
    "Epoch",
    "ModelSettings",
    "MtWideDeepSettings",
    "NcfSettings",
    "RankingModel",
    "TrainProgress",
    "TrainResult",
    "TrainSettings",
    "WideDeepSettings",
    "batch_features",
    "build_model",
    "load_checkpoint",
    "predict",
    "save_checkpoint",
    "train",
]
