"""Passes that make a model small and fast, and the guard that watches over them."""

from headway.compress.compile import COMPILE_STAGES, CompileReport, Precision, compile_model
from headway.compress.guard import (
    Evidence,
    GuardSettings,
    evidence_of_tasks,
    judge,
    worst,
)
from headway.compress.lowering import GRAPH_PROFILE
from headway.compress.pipeline import (
    STAGES,
    Job,
    OptimizeResult,
    Progress,
    Splits,
    optimize_model,
)
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
    "COMPILE_STAGES",
    "GRAPH_PROFILE",
    "STAGES",
    "CompileReport",
    "Evidence",
    "GuardSettings",
    "Job",
    "OptimizeResult",
    "OptimizeSettings",
    "Precision",
    "Progress",
    "Range",
    "Sensitivity",
    "Splits",
    "Step",
    "activations",
    "compile_model",
    "evidence_of_tasks",
    "fit_range",
    "judge",
    "optimize_model",
    "quantize_dense",
    "quantize_dense_dynamic",
    "quantize_tables",
    "sample_queries",
    "score_dataset",
    "sensitivity",
    "worst",
]
