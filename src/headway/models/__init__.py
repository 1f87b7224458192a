"""The zoo, built from a schema, with its presets and costs, and one training recipe for all."""

from importlib.util import find_spec

from headway.core import MissingDependencyError

if find_spec("torch") is None:
    raise MissingDependencyError("torch", "optimize", "building or training a model")

from headway.models.batches import TensorFeatures, batch_features, predict
from headway.models.build import ModelSettings, build_model
from headway.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from headway.models.costs import Cost, count_cost, draw_features, zoo_cost
from headway.models.dcn_v2 import DcnV2Settings
from headway.models.dien import DienSettings
from headway.models.din import DinSettings
from headway.models.dlrm import DlrmSettings
from headway.models.folded import FoldedBag, FoldedEmbedding, fold_module
from headway.models.layers import RankingModel
from headway.models.mt_wide_deep import MtWideDeepSettings
from headway.models.ncf import NcfSettings
from headway.models.operators import KINDS, Kind, OperatorShares, operator_shares
from headway.models.presets import SCOPES, STYLES, ZOO, Scopes, Style, ZooModel, zoo
from headway.models.published import PUBLISHED_ROWS, PUBLISHED_SHARES, PublishedShares
from headway.models.train import (
    Epoch,
    TrainProgress,
    TrainResult,
    TrainSettings,
    mean_log_loss,
    train,
)
from headway.models.trainable import (
    TRAINABLE_LENGTHS,
    TRAINABLE_ROWS,
    trainable,
    trainable_recipe,
)
from headway.models.wide_deep import WideDeepSettings

__all__ = [
    "KINDS",
    "PUBLISHED_ROWS",
    "PUBLISHED_SHARES",
    "SCOPES",
    "STYLES",
    "TRAINABLE_LENGTHS",
    "TRAINABLE_ROWS",
    "ZOO",
    "Checkpoint",
    "Cost",
    "DcnV2Settings",
    "DienSettings",
    "DinSettings",
    "DlrmSettings",
    "Epoch",
    "FoldedBag",
    "FoldedEmbedding",
    "Kind",
    "ModelSettings",
    "MtWideDeepSettings",
    "NcfSettings",
    "OperatorShares",
    "PublishedShares",
    "RankingModel",
    "Scopes",
    "Style",
    "TensorFeatures",
    "TrainProgress",
    "TrainResult",
    "TrainSettings",
    "WideDeepSettings",
    "ZooModel",
    "batch_features",
    "build_model",
    "count_cost",
    "draw_features",
    "fold_module",
    "load_checkpoint",
    "mean_log_loss",
    "operator_shares",
    "predict",
    "save_checkpoint",
    "train",
    "trainable",
    "trainable_recipe",
    "zoo",
    "zoo_cost",
]
