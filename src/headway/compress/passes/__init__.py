"""Passes over a trained module: each gives an ordinary module back, smaller or lighter."""

from headway.compress.passes.cut import cut, removable
from headway.compress.passes.distil import DistilSettings, Teacher, distil
from headway.compress.passes.lightweight import Lightened, LightweightSettings, lighten
from headway.compress.passes.prune import Criterion, Pruned, PruneSettings, prune
from headway.compress.passes.recipe import (
    Material,
    Recipe,
    Stage,
    first_stage,
    run_pass,
)
from headway.compress.passes.rounding import Rounded, RoundingSettings, learn_rounded
from headway.compress.passes.tail import Folded, TailSettings, fold_tables
from headway.compress.passes.units import Site, Units, find_units

__all__ = [
    "Criterion",
    "DistilSettings",
    "Folded",
    "Lightened",
    "LightweightSettings",
    "Material",
    "PruneSettings",
    "Pruned",
    "Recipe",
    "Rounded",
    "RoundingSettings",
    "Site",
    "Stage",
    "TailSettings",
    "Teacher",
    "Units",
    "cut",
    "distil",
    "find_units",
    "first_stage",
    "fold_tables",
    "learn_rounded",
    "lighten",
    "prune",
    "removable",
    "run_pass",
]
