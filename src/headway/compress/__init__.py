"""Passes that make a model small and fast, and the guard that watches over them."""

from headway.compress.chain import CHAIN_STAGES, Chain, Link, Times, measure_chain
from headway.compress.compile import COMPILE_STAGES, CompileReport, Precision, compile_model
from headway.compress.guard import (
    Evidence,
    GuardSettings,
    evidence_of_tasks,
    judge,
    worst,
)
from headway.compress.job import Job, OptimizeResult, Progress, Splits
from headway.compress.lowering import GRAPH_PROFILE
from headway.compress.passes import (
    DistilSettings,
    Lightened,
    LightweightSettings,
    Material,
    Pruned,
    PruneSettings,
    Recipe,
    Stage,
    Teacher,
    Units,
    cut,
    distil,
    find_units,
    first_stage,
    lighten,
    prune,
    run_pass,
)
from headway.compress.pipeline import STAGES, optimize_model
from headway.compress.quantize import (
    Range,
    activations,
    fit_range,
    quantize_dense,
    quantize_dense_dynamic,
)
from headway.compress.quantize_tables import quantize_tables
from headway.compress.rows import sample_queries, score_dataset
from headway.compress.sensitivity import Sensitivity, sensitivity
from headway.compress.settings import OptimizeSettings
from headway.compress.verdict import Step

__all__ = [
    "CHAIN_STAGES",
    "COMPILE_STAGES",
    "GRAPH_PROFILE",
    "STAGES",
    "Chain",
    "CompileReport",
    "DistilSettings",
    "Evidence",
    "GuardSettings",
    "Job",
    "Lightened",
    "LightweightSettings",
    "Link",
    "Material",
    "OptimizeResult",
    "OptimizeSettings",
    "Precision",
    "Progress",
    "PruneSettings",
    "Pruned",
    "Range",
    "Recipe",
    "Sensitivity",
    "Splits",
    "Stage",
    "Step",
    "Teacher",
    "Times",
    "Units",
    "activations",
    "compile_model",
    "cut",
    "distil",
    "evidence_of_tasks",
    "find_units",
    "first_stage",
    "fit_range",
    "judge",
    "lighten",
    "measure_chain",
    "optimize_model",
    "prune",
    "quantize_dense",
    "quantize_dense_dynamic",
    "quantize_tables",
    "run_pass",
    "sample_queries",
    "score_dataset",
    "sensitivity",
    "worst",
]
