"""What computes scores: compiled lookups, dense towers, and loading a bundle into them."""

from headway.engine.compiled import CompiledModel, CompiledRunner, Tower
from headway.engine.latency import Samples, compare_latency, measure_latency
from headway.engine.loading import LoadedModel, TablePlacement, load, load_model
from headway.engine.machine import MachineFacts, machine_facts, usable_cores
from headway.engine.ranker import Ranker, Ranking, apply_link, raw_outputs
from headway.engine.tables import LookupLayout, TableRecords, TowerLayout

__all__ = [
    "CompiledModel",
    "CompiledRunner",
    "LoadedModel",
    "LookupLayout",
    "MachineFacts",
    "Ranker",
    "Ranking",
    "Samples",
    "TablePlacement",
    "TableRecords",
    "Tower",
    "TowerLayout",
    "apply_link",
    "compare_latency",
    "load",
    "load_model",
    "machine_facts",
    "measure_latency",
    "raw_outputs",
    "usable_cores",
]
