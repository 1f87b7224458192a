"""All of a plan at once: a library models where the good plans are, and proposes the next."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import MissingDependencyError, Plan
from headway.tune.joint import Space, canonical, check_starts
from headway.tune.trials import Found, Trial, Trials, choose

if TYPE_CHECKING:
    import optuna

_POLICY = "policy"
# What each policy looks at: for an adaptive one, the split size is no more than a bound.
_LOOKS_AT = {
    "fixed": ("split_size", "batch_candidates", "workers", "offload_candidates"),
    "adaptive": ("workers", "refuse_late"),
}


class BayesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far and how boldly to search.

    Attributes:
        space: the values there are.
        plans: proposed at most, beside the starts.
        drawn: plans that must be known before the model is asked; until then they are drawn.
        tolerance: relative difference of throughputs that means nothing; within it the tail at
            half load decides.
    """

    space: Space = Space()
    plans: Annotated[int, Meta(ge=1)] = 60
    drawn: Annotated[int, Meta(ge=1)] = 8
    tolerance: Annotated[float, Meta(ge=0, lt=1)] = 0.02


def bayes(
    trials: Trials, starts: Sequence[Plan], settings: BayesSettings, rng: np.random.Generator
) -> Found:
    """Search policy, split, batches, workers, offloading and refusing together, by a model.

    The starts are tried first. They and all that the account knows of the space make the model,
    a tree-structured Parzen estimator (Bergstra et al., "Algorithms for hyper-parameter
    optimization", NIPS 2011; several settings at once as in Falkner et al., "BOHB", ICML 2018)
    of Optuna. It proposes plans until the budget, the number of plans or the space is used up.
    Settings that a policy does not look at are not proposed under it, and no plan twice. Equal
    seeds and scores, equal proposals.

    Args:
        trials: evaluates; also what ends the search before its plans are used up.
        starts: plans known to be good, perhaps from a simulator; everything that the space does
            not name stays as in the best of them.
        settings: the space and the effort.
        rng: seeds the model.

    Raises:
        UsageError: without a start, or if the space offloads where no start has accelerators.
        MissingDependencyError: without the ``optimize`` extra.
    """
    check_starts(starts, settings.space)
    check_bayes()
    with _quiet():
        return _Search(trials, settings, rng).run(starts)


def check_bayes() -> None:
    """Refuse a Bayesian search before anything is measured for it.

    Raises:
        MissingDependencyError: without the ``optimize`` extra.
    """
    try:
        import optuna  # noqa: F401, PLC0415 - an extra, and half a second
    except ImportError as error:
        raise MissingDependencyError("optuna", "optimize", "a Bayesian search") from error


class _Search:
    """One search: its model and what it has seen."""

    def __init__(self, trials: Trials, settings: BayesSettings, rng: np.random.Generator) -> None:
        from optuna import create_study  # noqa: PLC0415
        from optuna.samplers import TPESampler  # noqa: PLC0415

        self._trials, self._settings, self._rng = trials, settings, rng
        self._seen: dict[Plan, Trial] = {}
        sampler = TPESampler(
            n_startup_trials=settings.drawn, group=True, seed=int(rng.integers(2**31))
        )
        self._study = create_study(sampler=sampler, direction="maximize")

    def run(self, starts: Sequence[Plan]) -> Found:
        for plan in map(canonical, starts):
            self._try(plan, "start")
        best = self._best()
        if best is not None:
            domain = _Domain(self._settings.space, best.plan, starts)
            for trial in (*self._seen.values(), *self._trials.all):
                self._learn(domain, trial)
            self._go_on(domain)
        return Found(best=self._best(), trials=tuple(self._seen.values()), note=self._trials.spent)

    def _go_on(self, domain: _Domain) -> None:
        for _ in range(self._settings.plans):
            plan = self._proposed(domain)
            trial = None if plan is None else self._try(plan, "model")
            if trial is None:
                return
            self._learn(domain, trial)

    def _proposed(self, domain: _Domain) -> Plan | None:
        """Return a plan not yet seen, as near as can be to what the model asks for."""
        from optuna.trial import TrialState  # noqa: PLC0415

        left = {
            policy: [plan for plan in plans if plan not in self._seen]
            for policy, plans in domain.plans.items()
        }
        open_policies = [policy for policy, plans in left.items() if plans]
        if not open_policies:
            return None
        if len(open_policies) < len(left):
            # The model cannot know that there is nothing more to propose under a policy.
            self._study.enqueue_trial(domain.policy(open_policies[0]))
        asked = self._study.ask()
        plan = domain.suggested(asked)
        # What is evaluated enters the model by ``_learn``, whoever proposed it.
        self._study.tell(asked, state=TrialState.FAIL)
        if plan not in self._seen:
            return plan
        beside = left[plan.policy]
        steps = np.array([domain.steps(plan, other) for other in beside])
        return beside[int(self._rng.choice(np.flatnonzero(steps == steps.min())))]

    def _learn(self, domain: _Domain, trial: Trial) -> None:
        """Put a plan into the model, if it is one of the space."""
        from optuna.trial import create_trial  # noqa: PLC0415

        choice = domain.choice(trial.plan)
        if choice is None:
            return
        self._seen.setdefault(trial.plan, trial)
        self._study.add_trial(
            create_trial(
                params=choice,
                distributions={name: domain.distribution(name) for name in choice},
                value=trial.score.lbt_qps,
            )
        )

    def _try(self, plan: Plan, purpose: str) -> Trial | None:
        trial = self._trials.of(plan, purpose)
        if trial is not None:
            self._seen.setdefault(plan, trial)
        return trial

    def _best(self) -> Trial | None:
        return choose(tuple(self._seen.values()), self._settings.tolerance)


class _Domain:
    """The plans of a space, and each as the choices that make it: places in the space's lists.

    A setting with one value is none to choose, and stays as in ``base``.
    """

    def __init__(self, space: Space, base: Plan, starts: Sequence[Plan]) -> None:
        self._space, self._base = space, base
        bounds = [plan.split_size for plan in starts if plan.policy == "adaptive"]
        chosen = len(space.split_size) > 1
        widest = max(space.split_size) if chosen else base.split_size
        self._adaptive_split = bounds[0] if bounds else widest
        self._places = {
            self._plan(policy, places): places
            for policy in space.policy
            for places in product(*(range(len(getattr(space, n))) for n in self._names(policy)))
        }
        self.plans = {p: [plan for plan in self._places if plan.policy == p] for p in space.policy}

    def suggested(self, trial: optuna.Trial) -> Plan:
        """Return a plan as the model proposes it, setting by setting."""
        policies = self._space.policy
        first = trial.suggest_categorical(_POLICY, tuple(range(len(policies))))
        names = self._names(policies[first])
        places = [trial.suggest_int(n, 0, len(getattr(self._space, n)) - 1) for n in names]
        return self._plan(policies[first], places)

    def steps(self, plan: Plan, other: Plan) -> int:
        """Return how many single steps lie between two plans of one policy."""
        pairs = zip(self._places[plan], self._places[other], strict=True)
        return sum(abs(a - b) for a, b in pairs)

    def policy(self, policy: str) -> dict[str, int]:
        """Return the choice of a policy alone."""
        return {_POLICY: [str(p) for p in self._space.policy].index(policy)}

    def choice(self, plan: Plan) -> dict[str, int] | None:
        """Return what to choose for this plan; None if it is none of the space."""
        places = self._places.get(plan)
        if places is None:
            return None
        names = self._names(plan.policy)
        return {**self.policy(plan.policy), **dict(zip(names, places, strict=True))}

    def distribution(self, name: str) -> optuna.distributions.BaseDistribution:
        """Return how the model sees a setting: places in a list have an order, policies none."""
        from optuna.distributions import (  # noqa: PLC0415
            CategoricalDistribution,
            IntDistribution,
        )

        count = len(getattr(self._space, name))
        if name == _POLICY:
            return CategoricalDistribution(tuple(range(count)))
        return IntDistribution(0, count - 1)

    def _names(self, policy: str) -> list[str]:
        return [n for n in _LOOKS_AT[policy] if len(getattr(self._space, n)) > 1]

    def _plan(self, policy: str, places: Sequence[int]) -> Plan:
        chosen = {
            name: getattr(self._space, name)[place]
            for name, place in zip(self._names(policy), places, strict=True)
        }
        if policy == "adaptive":
            chosen["split_size"] = self._adaptive_split
        changes: dict[str, Any] = {_POLICY: policy, **chosen}
        return canonical(msgspec.structs.replace(self._base, **changes))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from logging, and from warning of what it calls experimental."""
    import optuna  # noqa: PLC0415

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
