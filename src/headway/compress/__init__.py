"""Passes that make a model small and fast, and the guard that watches over them."""

from headway.compress.api import STANDARD_PASSES, Report, optimize
from headway.compress.chain import CHAIN_STAGES, Chain, Link, Times, check_sizes, measure_chain
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
    RoundingSettings,
    Stage,
    TailSettings,
    Teacher,
    Units,
    cut,
    distil,
    find_units,
    first_stage,
    fold_tables,
    lighten,
    prune,
    run_pass,
)
from headway.compress.pipeline import STAGES, optimize_model
from headway.compress.publish import check_publishable, has_passed, publish
from headway.compress.quantize import (
    Range,
    activations,
    fit_range,
    quantize_dense,
    quantize_dense_dynamic,
)
from headway.compress.quantize_tables import quantize_tables
from headway.compress.report import PassSummary, Summary, summarise
from headway.compress.rows import sample_queries, score_dataset
from headway.compress.search import SearchResult, search_model
from headway.compress.search_results import PointReport, SearchReport, frontier
from headway.compress.search_settings import Point, SearchSettings, Space
from headway.compress.sensitivity import Sensitivity, sensitivity
from headway.compress.settings import OptimizeSettings
from headway.compress.verdict import Step

__all__ = [
    "CHAIN_STAGES",
    "COMPILE_STAGES",
    "GRAPH_PROFILE",
    "STAGES",
    "STANDARD_PASSES",
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
    "PassSummary",
    "Point",
    "PointReport",
    "Precision",
    "Progress",
    "PruneSettings",
    "Pruned",
    "Range",
    "Recipe",
    "Report",
    "RoundingSettings",
    "SearchReport",
    "SearchResult",
    "SearchSettings",
    "Sensitivity",
    "Space",
    "Splits",
    "Stage",
    "Step",
    "Summary",
    "TailSettings",
    "Teacher",
    "Times",
    "Units",
    "activations",
    "check_publishable",
    "check_sizes",
    "compile_model",
    "cut",
    "distil",
    "evidence_of_tasks",
    "find_units",
    "first_stage",
    "fit_range",
    "fold_tables",
    "frontier",
    "has_passed",
    "judge",
    "lighten",
    "measure_chain",
    "optimize",
    "optimize_model",
    "prune",
    "publish",
    "quantize_dense",
    "quantize_dense_dynamic",
    "quantize_tables",
    "run_pass",
    "sample_queries",
    "score_dataset",
    "search_model",
    "sensitivity",
    "summarise",
    "worst",
]
