"""What computes scores: compiled lookups, dense towers, and loading a bundle into them."""

from headway.engine.ceilings import Ceilings, measure_ceilings
from headway.engine.compiled import CompiledModel, CompiledRunner
from headway.engine.dense import Tower
from headway.engine.dense_trials import DenseTrial, outputs_on, try_dense
from headway.engine.latency import compare_latency, measure_latency
from headway.engine.loading import LoadedModel, TablePlacement, load, load_model
from headway.engine.machine import MachineFacts, machine_facts, usable_cores
from headway.engine.onnx_engine import OnnxEngine
from headway.engine.openvino_engine import HAS_OPENVINO, multiplies_bf16
from headway.engine.probe import RandomRead, SequentialRead
from headway.engine.probe_products import ProductRate
from headway.engine.profiling import (
    LoadProfile,
    Profile,
    ProfileSettings,
    fingerprint,
    profile,
)
from headway.engine.ranker import Ranker, Ranking, apply_link, raw_outputs
from headway.engine.roofline import TowerLimit, TowerWork
from headway.engine.seam import DenseCall, DenseEngine
from headway.engine.tables import LookupLayout, TableRecords, TowerLayout
from headway.engine.turns import Samples, take_turns

__all__ = [
    "HAS_OPENVINO",
    "Ceilings",
    "CompiledModel",
    "CompiledRunner",
    "DenseCall",
    "DenseEngine",
    "DenseTrial",
    "LoadProfile",
    "LoadedModel",
    "LookupLayout",
    "MachineFacts",
    "OnnxEngine",
    "ProductRate",
    "Profile",
    "ProfileSettings",
    "RandomRead",
    "Ranker",
    "Ranking",
    "Samples",
    "SequentialRead",
    "TablePlacement",
    "TableRecords",
    "Tower",
    "TowerLayout",
    "TowerLimit",
    "TowerWork",
    "apply_link",
    "compare_latency",
    "fingerprint",
    "load",
    "load_model",
    "machine_facts",
    "measure_ceilings",
    "measure_latency",
    "multiplies_bf16",
    "outputs_on",
    "profile",
    "raw_outputs",
    "take_turns",
    "try_dense",
    "usable_cores",
]
