"""Searches for the plan with the highest throughput, through an evaluation it is handed."""

from headway.tune.bayes import BayesSettings, bayes, check_bayes
from headway.tune.climb import hill_climb
from headway.tune.compat import (
    COMPAT_SPLITS,
    COMPAT_THRESHOLDS,
    Ladder,
    compat_climb,
    ladder_qps,
)
from headway.tune.grid import exhaustive
from headway.tune.joint import JointSettings, Space, joint
from headway.tune.trials import Budget, Evaluate, Found, Score, Trial, Trials, choose

__all__ = [
    "COMPAT_SPLITS",
    "COMPAT_THRESHOLDS",
    "BayesSettings",
    "Budget",
    "Evaluate",
    "Found",
    "JointSettings",
    "Ladder",
    "Score",
    "Space",
    "Trial",
    "Trials",
    "bayes",
    "check_bayes",
    "choose",
    "compat_climb",
    "exhaustive",
    "hill_climb",
    "joint",
    "ladder_qps",
]
