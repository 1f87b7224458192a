"""What computes scores: compiled lookups, dense towers, and loading a bundle into them."""

from headway.engine.ceilings import Ceilings, measure_ceilings
from headway.engine.compiled import CompiledModel, CompiledRunner
from headway.engine.dense import DenseCall, DenseEngine, Tower, compare_dense
from headway.engine.latency import Samples, compare_latency, measure_latency
from headway.engine.loading import LoadedModel, TablePlacement, load, load_model
from headway.engine.machine import MachineFacts, machine_facts, usable_cores
from headway.engine.probe import ProductRate, RandomRead, SequentialRead
from headway.engine.profiling import (
    LoadProfile,
    Profile,
    ProfileSettings,
    fingerprint,
    profile,
)
from headway.engine.ranker import Ranker, Ranking, apply_link, raw_outputs
from headway.engine.roofline import TowerLimit, TowerWork
from headway.engine.tables import LookupLayout, TableRecords, TowerLayout

__all__ = [
    "Ceilings",
    "CompiledModel",
    "CompiledRunner",
    "DenseCall",
    "DenseEngine",
    "LoadProfile",
    "LoadedModel",
    "LookupLayout",
    "MachineFacts",
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
    "compare_dense",
    "compare_latency",
    "fingerprint",
    "load",
    "load_model",
    "machine_facts",
    "measure_ceilings",
    "measure_latency",
    "profile",
    "raw_outputs",
    "usable_cores",
]
