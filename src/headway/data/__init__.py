"""Readers, splits, feature transforms and a synthetic generator; never loads torch."""

from headway.data.dataset import Dataset
from headway.data.encoders import (
    Buckets,
    BucketSettings,
    Encoder,
    EncodingSettings,
    Hashing,
    Identity,
    Scaling,
    Vocabulary,
    VocabularySettings,
)
from headway.data.example import example_record
from headway.data.histories import earlier_rows
from headway.data.planted import Planted, PlantedSettings, plant
from headway.data.prepare import Prepared, fingerprint, load_data, prepare
from headway.data.raw import RawTable
from headway.data.readers import read_raw
from headway.data.settings import (
    BagSettings,
    ColumnSplit,
    Condition,
    CriteoReader,
    DataSettings,
    DenseSettings,
    FeatureSettings,
    FrappeReader,
    HistorySettings,
    LabelSettings,
    MovieLensReader,
    OrderSplit,
    ReaderSettings,
    SequenceSettings,
    SparseSettings,
    SplitSettings,
    TableReader,
    TableSettings,
    TimeSplit,
    UserSplit,
)
from headway.data.splits import Split, split_rows
from headway.data.synthetic import Synthetic, SyntheticSettings, generate, synthetic_schema
from headway.data.transforms import Transforms

__all__ = [
    "BagSettings",
    "BucketSettings",
    "Buckets",
    "ColumnSplit",
    "Condition",
    "CriteoReader",
    "DataSettings",
    "Dataset",
    "DenseSettings",
    "Encoder",
    "EncodingSettings",
    "FeatureSettings",
    "FrappeReader",
    "Hashing",
    "HistorySettings",
    "Identity",
    "LabelSettings",
    "MovieLensReader",
    "OrderSplit",
    "Planted",
    "PlantedSettings",
    "Prepared",
    "RawTable",
    "ReaderSettings",
    "Scaling",
    "SequenceSettings",
    "SparseSettings",
    "Split",
    "SplitSettings",
    "Synthetic",
    "SyntheticSettings",
    "TableReader",
    "TableSettings",
    "TimeSplit",
    "Transforms",
    "UserSplit",
    "Vocabulary",
    "VocabularySettings",
    "earlier_rows",
    "example_record",
    "fingerprint",
    "generate",
    "load_data",
    "plant",
    "prepare",
    "read_raw",
    "split_rows",
    "synthetic_schema",
]
