"""How often the guard says what is not true: simulated pairs of models whose true loss is known.

Each pair is two models' outputs on fresh rows. In the first part the true loss lies 2 % beyond a
margin, spread over all rows or sitting in few, and the other margins are out of the way: only that
bound stands between the pair and a pass. In the second part the pairs are equal or nearly so, on
as many rows as the guard itself said would decide. Outputs are log odds of a mixture of two normal
laws, so true AUC, log loss and rates have closed forms; the loss of NDCG is linear in the share of
queries that are shuffled, whose cost is taken from 60,000 queries. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from headway.compress import Evidence, GuardSettings, judge
from headway.measure import log_loss_rows, probabilities, rank_queries

FALSE_PASS_TARGET, POWER_TARGET = 0.025, 0.9
BEYOND = 1.02
RATE, GAP = 0.3, 1.2
"""Share of positives, and distance of the two classes' means in standard deviations."""
_CDF = NormalDist().cdf
Rng = np.random.Generator
Floats = NDArray[np.float64]
OFF = GuardSettings(
    margin_auc=0.9,
    margin_log_loss=1e6,
    margin_ndcg=None,
    margin_calibration=None,
    margin_ece=None,
    margin_slice=None,
    rounds=200,
)


@dataclass(frozen=True)
class Case:
    """Pairs just beyond a margin; ``draw`` makes one from a level, ``true_loss`` is its loss."""

    name: str
    margin: str
    rows: int
    true_loss: Callable[[float], float]
    draw: Callable[[Rng, int, float], Evidence]
    size: float = 0.01
    looks: int = 1
    most: float = 5.0

    def level(self) -> float:
        """Return the level whose true loss is ``BEYOND`` times the margin, by bisection."""
        low, high = 0.0, self.most
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self.true_loss(middle) < BEYOND * self.size else (low, middle)
            )
        return high

    def settings(self, rounds: int) -> GuardSettings:
        """Return settings with all other margins out of the way."""
        return msgspec.structs.replace(OFF, **{self.margin: self.size}, rounds=rounds)


def log_odds(score: Floats) -> Floats:
    """Return the true log odds of rows whose class means lie ``GAP`` apart."""
    return GAP * (score - GAP / 2) + log(RATE / (1 - RATE))


def rows_of(rng: Rng, rows: int) -> tuple[Floats, Floats]:
    labels = (rng.random(rows) < RATE).astype(np.float64)
    return labels, GAP * labels + rng.normal(size=rows)


def pair_auc(gap: float, variance: float) -> float:
    return _CDF(gap / sqrt(variance))


BEST = pair_auc(GAP, 2)


def spread(rng: Rng, rows: int, level: float) -> Evidence:
    labels, score = rows_of(rng, rows)
    return Evidence(labels, score, score + level * rng.normal(size=rows))


def spread_loss(level: float) -> float:
    return BEST - pair_auc(GAP, 2 * (1 + level**2))


SLICE = 0.05


def one_slice(rng: Rng, rows: int, level: float) -> Evidence:
    labels, score = rows_of(rng, rows)
    inside = rng.random(rows) < SLICE
    return Evidence(labels, score, score + level * inside * rng.normal(size=rows))


def one_slice_loss(level: float) -> float:
    parts = ((1 - SLICE, 0.0), (SLICE, level**2))
    return BEST - sum(p * q * pair_auc(GAP, 2 + a + b) for p, a in parts for q, b in parts)


def few_rows(rng: Rng, rows: int, level: float) -> Evidence:
    labels, score = rows_of(rng, rows)
    dropped = (labels > 0) & (rng.random(rows) < level)
    return Evidence(labels, score, score - 1000.0 * dropped)


def few_rows_loss(level: float) -> float:
    return level * BEST


def in_queries(rng: Rng, rows: int, size: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Rows of a query share half of the score's variance and have their own base rate."""
    groups = np.arange(rows) // size
    queries = int(groups[-1]) + 1
    rate = rng.beta(3, 3 * (1 - RATE) / RATE, size=queries)[groups]
    labels = (rng.random(rows) < rate).astype(np.float64)
    shared = sqrt(0.5) * (rng.normal(size=queries)[groups] + rng.normal(size=rows))
    return labels, GAP * labels + shared, groups


def alike_in_queries(rng: Rng, rows: int, level: float) -> Evidence:
    labels, score, groups = in_queries(rng, rows, 20)
    error = sqrt(0.8) * rng.normal(size=rows // 20)[groups] + sqrt(0.2) * rng.normal(size=rows)
    return Evidence(labels, score, score + level * error, groups)


def whole_queries(rng: Rng, rows: int, level: float) -> Evidence:
    """A share of the queries gets scores that say nothing about the labels."""
    labels, score, groups = in_queries(rng, rows, 20)
    hit = (rng.random(rows // 20) < level)[groups]
    nothing = GAP * (rng.random(rows) < RATE) + rng.normal(size=rows)
    return Evidence(labels, score, np.where(hit, nothing, score), groups)


def whole_queries_loss(level: float) -> float:
    high = (1 - level + RATE * level, (1 - RATE) * level)
    low = (1 - level + (1 - RATE) * level, RATE * level)
    # A positive stands at GAP or at 0, a negative at 0 or at GAP.
    found = (high[0] * low[0] * BEST) + (high[1] * low[1] * (1 - BEST))
    return BEST - found - 0.5 * (high[0] * low[1] + high[1] * low[0])


def shifted(rng: Rng, rows: int, level: float) -> Evidence:
    labels, score = rows_of(rng, rows)
    return Evidence(labels, log_odds(score), log_odds(score) + level)


def _mean_over_rows(value: Callable[[Floats, Floats], Floats]) -> float:
    """Return the expectation over labels and scores, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    total = 0.0
    for label, share in ((1.0, RATE), (0.0, 1 - RATE)):
        raw = log_odds(GAP * label + nodes)
        total += share * float(weights @ value(np.full(len(nodes), label), raw))
    return total


def log_loss_rise(level: float) -> float:
    return _mean_over_rows(lambda y, raw: log_loss_rows(y, raw + level) - log_loss_rows(y, raw))


def rate_move(level: float) -> float:
    return _mean_over_rows(lambda _, raw: probabilities(raw + level)) / RATE - 1


def error_rise(level: float) -> float:
    """Return the rise of the calibration error: the original has none, and all rows move up."""
    return RATE * rate_move(level)


def shuffled_queries(rng: Rng, rows: int, level: float) -> Evidence:
    labels, score, groups = in_queries(rng, rows, 20)
    hit = (rng.random(rows // 20) < level)[groups]
    return Evidence(labels, score, np.where(hit, rng.normal(size=rows), score), groups)


def ndcg_cost(queries: int = 60_000) -> float:
    """Return what shuffling costs the NDCG@10 of a query with both classes."""
    one = shuffled_queries(np.random.default_rng(99), 20 * queries, 1.0)
    a, b = (rank_queries(one.labels, s, one.groups) for s in (one.baseline, one.optimized))  # type: ignore[arg-type]
    return float((a.ndcg - b.ndcg).mean())


def cases() -> list[Case]:
    cost = ndcg_cost()
    return [
        Case("AUC, spread over all rows", "margin_auc", 2000, spread_loss, spread),
        Case("AUC, in a slice of 5 % of the rows", "margin_auc", 2000, one_slice_loss, one_slice),
        Case("AUC, in 1.3 % of the positives", "margin_auc", 2000, few_rows_loss, few_rows, most=1),
        Case(
            "AUC, errors alike within queries", "margin_auc", 8000, spread_loss, alike_in_queries
        ),
        Case(
            "AUC, in whole queries", "margin_auc", 8000, whole_queries_loss, whole_queries, most=1
        ),
        Case(
            "AUC, any of 3 candidates", "margin_auc", 2000, few_rows_loss, few_rows, looks=3, most=1
        ),
        Case("log loss, a shift", "margin_log_loss", 2000, log_loss_rise, shifted, size=0.005),
        Case("predicted / observed, a shift", "margin_calibration", 2000, rate_move, shifted),
        Case("calibration error, a shift", "margin_ece", 2000, error_rise, shifted, size=0.005),
        Case(
            "NDCG@10, in whole queries", "margin_ndcg", 10_000, lambda x: x * cost,
            shuffled_queries, most=1,
        ),
    ]  # fmt: skip


def false_passes(case: Case, trials: int, rounds: int, rng: Rng) -> int:
    """Return how many trials pass; of several candidates in a trial, any."""
    settings, level = case.settings(rounds), case.level()
    passed = 0
    for _ in range(trials):
        passed += any(
            judge(case.draw(rng, case.rows, level), settings, rng, looks=case.looks).verdict
            == "pass"
            for _ in range(case.looks)
        )
    return passed


def equal(rng: Rng, rows: int) -> Evidence:
    labels, score = rows_of(rng, rows)
    return Evidence(labels, log_odds(score), log_odds(score))


def nearly_equal(rng: Rng, rows: int) -> Evidence:
    """Errors as of int8: 2 % of the outputs' spread."""
    same = equal(rng, rows)
    error = 0.02 * same.baseline.std() * rng.normal(size=rows)
    return Evidence(same.labels, same.baseline, same.baseline + error)


def nearly_equal_queries(rng: Rng, rows: int) -> Evidence:
    labels, score, groups = in_queries(rng, rows // 20 * 20, 20)
    raw = log_odds(score)
    error = 0.02 * raw.std() * rng.normal(size=len(raw))
    return Evidence(labels, raw, raw + error, groups)


PAIRS = {
    "identical": equal,
    "int8-like noise": nearly_equal,
    "int8-like noise, queries": nearly_equal_queries,
}


def power_of(
    draw: Callable[[Rng, int], Evidence], settings: GuardSettings, trials: int, rng: Rng
) -> tuple[int, int]:
    """Return the rows that the guard asks for, as the median of 31 pilots, and the passes there."""
    asked: list[int] = []
    pilot = int(0.25 * 3.84 / settings.margin_auc / RATE) // 20 * 20
    while len(asked) < 31:
        said = judge(draw(rng, pilot), settings, rng)
        if said.rows_to_decide is not None:
            asked.append(said.rows_to_decide)
    rows = int(median(asked))
    passed = sum(judge(draw(rng, rows), settings, rng).verdict == "pass" for _ in range(trials))
    return rows, passed


def line_of(name: str, passed: int, trials: int, target: float, *, at_most: bool) -> dict[str, Any]:
    """Return a line: the share, its exact 95 % interval, and whether it meets its target."""
    share = passed / trials
    interval = binomtest(passed, trials).proportion_ci(0.95, "exact")
    met = share <= target if at_most else share >= target
    return {
        "name": name,
        "trials": trials,
        "pass": share,
        "low": float(interval.low),
        "high": float(interval.high),
        "target": target,
        "met": bool(met),
    }


def show(line: dict[str, Any], rows: int, sign: str) -> None:
    print(
        f"{line['name']:38}{rows:9,}{line['trials']:8,}{line['pass']:9.2%}  "
        f"[{line['low']:.2%}, {line['high']:.2%}]   {sign} {line['target']:.1%} "
        f"{'met' if line['met'] else 'MISSED'}",
        flush=True,
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000, help="pairs per line")
    parser.add_argument("--rounds", type=int, default=400, help="bootstrap resamples")
    parser.add_argument("--margin", type=float, default=0.001, help="of the pairs that are equal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="under five minutes")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    given = parser.parse_args(argv)
    if given.quick:
        given.trials, given.rounds, given.margin = min(given.trials, 400), 200, 0.01
    return given


def main() -> None:
    given = arguments()
    rng = np.random.default_rng(given.seed)
    print(f"{'true loss 1.02 x margin':38}{'rows':>9}{'trials':>8}{'pass':>9}  exact 95 %")
    lines = []
    for case in cases():
        passed = false_passes(case, given.trials, given.rounds, rng)
        lines.append(line_of(case.name, passed, given.trials, FALSE_PASS_TARGET, at_most=True))
        show(lines[-1], case.rows, "<=")
    settings = GuardSettings(
        margin_auc=given.margin,
        margin_log_loss=given.margin,
        margin_ndcg=2 * given.margin,
        rounds=given.rounds,
        power=POWER_TARGET,
    )
    print(f"\nno loss, margin {given.margin:g}, on the rows that the guard says decide with 90 %")
    trials = max(100, given.trials // 4)
    for name, draw in PAIRS.items():
        rows, passed = power_of(draw, settings, trials, rng)
        lines.append(line_of(name, passed, trials, POWER_TARGET, at_most=False))
        show(lines[-1], rows, ">=")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"settings": {"trials": given.trials, "rounds": given.rounds}, "lines": lines}
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
