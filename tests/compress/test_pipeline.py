"""From a trained model to a bundle that a server would load."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch

from headway.bundle import GuardEntry, Provenance, Verdict, write_bundle
from headway.compress import (
    STAGES,
    DistilSettings,
    GuardSettings,
    Job,
    LightweightSettings,
    OptimizeResult,
    OptimizeSettings,
    PruneSettings,
    Recipe,
    built,
    optimize_model,
    score_dataset,
)
from headway.compress.choose import Trial, errors, rank
from headway.compress.lowering import lower_explained
from headway.compress.verdict import Judge, take
from headway.core import CaptureError, DataError, NotProvenError, Ns, Schema, UsageError
from headway.data import Synthetic, SyntheticSettings, generate
from headway.engine import load_model
from headway.graph import Lowered
from headway.measure import auc
from headway.models import DlrmSettings, TrainSettings, build_model, predict, train

PROVENANCE = Provenance(created_unix=0, headway="0", model="dlrm")
GUARD = GuardSettings(margin_auc=0.01, margin_ndcg=0.02, rounds=200)
"""The margins for which this few test queries suffice."""
QUICK = OptimizeSettings(measure_s=0.1, sizes=(16,), guard=GUARD)


class Ticking:
    """A clock that moves by the same step at every look, so that all are equally fast."""

    def __init__(self) -> None:
        self._now = 0

    def now(self) -> Ns:
        self._now += 1_000_000
        return Ns(self._now)


def optimize(model: torch.nn.Module, world: Any, settings: OptimizeSettings, **extra: Any) -> Any:
    job = Job(name="m", model=model, data=world, provenance=PROVENANCE)
    return optimize_model(job, settings, (np.random.default_rng(0), Ticking()), **extra)


@pytest.fixture(scope="module")
def world() -> Synthetic:
    settings = SyntheticSettings(
        train=6000, valid=1000, choose=2000, test=6000, users=300, items=300, creatives=300,
        sellers=300, publishers=300, history=8, dim=8,
    )  # fmt: skip
    return generate(settings, np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(world: Synthetic) -> torch.nn.Module:
    settings = DlrmSettings(bottom_mlp=(16, 8), predict_mlp=(32, 16))
    model = build_model(settings, world.schema)
    train(model, world.train, world.valid, TrainSettings(epochs=1, batch_size=256))
    return model


@pytest.fixture(scope="module", autouse=True)
def _lowered_once() -> Iterator[None]:
    """Capture each model once: it takes seconds, and its result does not change."""
    with pytest.MonkeyPatch.context() as patch:

        @cache
        def lowered(model: torch.nn.Module, schema: Schema) -> tuple[Lowered, dict[str, bytes]]:
            return lower_explained(model, schema)

        patch.setattr(built, "lower_explained", lowered)
        yield


@pytest.fixture(scope="module")
def stages() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def result(
    model: torch.nn.Module, world: Synthetic, stages: list[tuple[str, int, int]]
) -> OptimizeResult:
    found = optimize(model, world, QUICK, progress=lambda *stage: stages.append(stage))
    assert isinstance(found, OptimizeResult)
    return found


def test_among_equally_fast_compositions_the_smallest_is_taken(result: OptimizeResult) -> None:
    assert [c.name for c in result.choices if c.chosen] == ["tables int8, dense int8"]
    sizes = {c.name: c.size_bytes for c in result.choices}
    assert result.size_bytes == sizes["tables int8, dense int8"]
    assert result.size_bytes < sizes["tables int8, dense f32"] < sizes["tables f32, dense f32"]
    assert len(result.choices) == 6
    assert all(c.reason for c in result.choices)


@pytest.fixture(scope="module")
def smaller(model: torch.nn.Module, world: Synthetic) -> OptimizeResult:
    passes = Recipe(
        lightweight=LightweightSettings(multiple=4),
        prune=PruneSettings(flops=0.5, multiple=4),
        distil=DistilSettings(batch_size=256),
    )
    # Only f32, so that the smaller model is faster by its size alone.
    settings = msgspec.structs.replace(QUICK, tables=("f32",), dense=("f32",), passes=passes)
    found = optimize(model, world, settings)
    assert isinstance(found, OptimizeResult)
    return found


def test_a_smaller_model_stands_beside_the_original_and_is_judged_against_it(
    smaller: OptimizeResult, model: torch.nn.Module, world: Synthetic
) -> None:
    names = [c.name for c in smaller.choices]
    assert names == [
        "tables f32, dense f32",
        "lightweight+prune+distil, tables f32, dense f32",
    ]
    assert [s.name for s in smaller.passes] == ["lightweight", "prune", "distil"]
    (taken,) = [c for c in smaller.choices if c.chosen]
    assert taken.name == names[1]
    original = auc(world.test.labels[:, 0], predict(model, world.test)[:, 0])
    assert smaller.guard.auc_baseline == pytest.approx(original, abs=1e-12)
    assert smaller.guard.delta_auc != 0.0
    assert smaller.size_bytes < 0.9 * smaller.choices[0].size_bytes


def test_a_smaller_models_bundle_serves_what_the_module_computes(
    smaller: OptimizeResult, world: Synthetic, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "b", smaller.parts)
    loaded = load_model(tmp_path / "b")
    stage = smaller.passes[-1]
    assert loaded.manifest.schema == stage.schema != world.schema
    rows = world.test.narrowed(stage.schema)
    raw, wanted = score_dataset(loaded.runner(), rows), predict(stage.model, rows)
    assert np.abs(raw - wanted).max() < 1e-4 * wanted.std()


def test_a_smaller_model_that_lost_on_the_choosing_rows_gets_no_look_at_the_test(
    model: torch.nn.Module, world: Synthetic
) -> None:
    harsh = Recipe(prune=PruneSettings(flops=0.01, multiple=1, least=0.01, criterion="l1"))
    strict = msgspec.structs.replace(QUICK.guard, margin_auc=1e-6, margin_log_loss=1e-6)
    settings = msgspec.structs.replace(
        QUICK, tables=("f32",), dense=("f32",), passes=harsh, guard=strict
    )
    found = optimize(model, world, settings)
    (lost,) = [c for c in found.choices if c.name.startswith("prune")]
    assert not lost.chosen
    assert "on the choosing rows" in lost.reason
    assert [s.claim for s in found.steps] == [True]


def test_the_taken_composition_passed_on_the_test_rows(
    result: OptimizeResult, world: Synthetic
) -> None:
    result.check()
    assert result.guard.verdict == "pass"
    assert result.guard.rows == len(world.test)
    assert [s.name for s in result.steps] == [
        "tables f32, dense f32",
        "tables int8, dense f32",
        "tables int8, dense int8",
    ]
    assert [s.claim for s in result.steps] == [False, False, True]
    assert result.steps[-1].guard == result.guard


def test_the_allowed_error_is_shared_among_the_declared_attempts(result: OptimizeResult) -> None:
    assert result.guard.confidence == pytest.approx(1 - 0.025 / 2)


def test_progress_names_every_stage_once(
    result: OptimizeResult, stages: list[tuple[str, int, int]]
) -> None:
    assert stages == [(stage, i, len(STAGES)) for i, stage in enumerate(STAGES)]


def test_the_bundle_loads_and_scores_as_it_was_judged(
    result: OptimizeResult, world: Synthetic, model: torch.nn.Module, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", result.parts)
    loaded = load_model(tmp_path / "bundle")
    assert loaded.manifest.guard == result.guard
    assert loaded.manifest.choices == result.choices
    assert loaded.manifest.candidate_tower.precision == "int8"
    raw = score_dataset(loaded.runner(), world.choose)
    largest, mean = errors(raw, predict(model, world.choose))
    (taken,) = (c for c in result.choices if c.chosen)
    assert largest == pytest.approx(taken.max_error, rel=1e-3)
    assert 0 < mean < QUICK.error_limit


def test_whole_data_sets_score_as_single_queries_do(
    result: OptimizeResult, world: Synthetic, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", result.parts)
    loaded = load_model(tmp_path / "bundle")
    raw = score_dataset(loaded.runner(), world.choose)
    few = world.choose.take(np.arange(45))
    np.testing.assert_allclose(score_dataset(loaded.runner(), few), raw[:45], rtol=0, atol=1e-6)


def test_f32_towers_equal_the_model(result: OptimizeResult) -> None:
    assert result.equality < 5e-5
    assert result.original_bytes > result.size_bytes
    assert set(result.latency_us) == {"original", *(c.name for c in result.choices)}


def test_what_cannot_be_proven_is_not_taken_unless_allowed(
    model: torch.nn.Module, world: Synthetic
) -> None:
    strict = OptimizeSettings(
        measure_s=0.1, sizes=(16,), guard=GuardSettings(margin_auc=1e-7, rounds=200)
    )
    careful = optimize(model, world, strict)
    assert [c.name for c in careful.choices if c.chosen] == ["tables f32, dense f32"]
    assert sum(s.claim for s in careful.steps) == 3
    bold = optimize(model, world, strict, allow_unproven=True)
    assert bold.guard.verdict == "not proven"
    assert bold.parts.guard.rows_to_decide > len(world.test)
    bold.check(allow_unproven=True)
    with pytest.raises(NotProvenError, match="allow unproven"):
        bold.check()


def test_only_what_is_asked_for_is_tried(model: torch.nn.Module, world: Synthetic) -> None:
    settings = OptimizeSettings(measure_s=0.1, sizes=(16,), dense=("f32",), guard=GUARD)
    found = optimize(model, world, settings)
    assert {c.name for c in found.choices} == {"tables f32, dense f32", "tables int8, dense f32"}
    assert found.guard.confidence == pytest.approx(0.975)


def test_scores_that_depend_on_the_batch_are_measured_but_only_taken_on_request(
    model: torch.nn.Module, world: Synthetic, result: OptimizeResult
) -> None:
    (measured,) = [c for c in result.choices if c.name == "tables int8, dense int8-dynamic"]
    assert measured.latency_us > 0
    assert not measured.chosen
    assert "share its batch" in measured.reason
    wanted = OptimizeSettings(
        measure_s=0.1,
        sizes=(16,),
        tables=("int8",),
        dense=("int8-dynamic",),
        batch_dependent=True,
        guard=GUARD,
    )
    found = optimize(model, world, wanted)
    assert [c.dense for c in found.choices if c.chosen] == ["int8-dynamic"]


def test_towers_that_differ_from_the_model_are_refused(
    model: torch.nn.Module, world: Synthetic
) -> None:
    impossible = OptimizeSettings(measure_s=0.1, sizes=(16,), equality_limit=1e-30)
    with pytest.raises(CaptureError, match="differ from the model"):
        optimize(model, world, impossible)


def test_a_model_that_has_learnt_nothing_is_refused(world: Synthetic) -> None:
    model = build_model(DlrmSettings(bottom_mlp=(8, 8), predict_mlp=(8,)), world.schema)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(DataError, match="same output"):
        optimize(model, world, QUICK)


@pytest.mark.parametrize("field", ["tables", "dense", "sizes"])
def test_an_empty_choice_is_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"optimize.{field}"):
        OptimizeSettings(**cast("dict[str, Any]", {field: ()}))


class _Stub:
    """A composition of which only name, format and size matter."""

    def __init__(self, tables: str, dense: str, size: int, variant: str = "") -> None:
        self.name = f"{variant} tables {tables}, dense {dense}"
        self.tables, self.dense, self.size_bytes, self.variant = tables, dense, size, variant
        self.exact = tables == dense == "f32" and not variant


def _trial(
    tables: str, dense: str, size: int, us: float, rejected: str = "", variant: str = ""
) -> Trial:
    stub = _Stub(tables, dense, size, variant)
    return Trial(cast("Any", stub), 0.0, 0.0, rejected, {256: us, 64: us})


EXACT = _trial("f32", "f32", 100, 10.0)


def test_one_composition_of_a_smaller_model_is_judged_before_the_original() -> None:
    fastest = _trial("int8", "int8", 10, 1.0, variant="prune")
    next_best = _trial("int8", "f32", 20, 2.0, variant="prune")
    own = _trial("int8", "int8", 40, 4.0)
    order = rank([EXACT, fastest, next_best, own], OptimizeSettings(attempts=2))
    assert order == [fastest, own, EXACT]


class _Court:
    """Says what it is told to."""

    def __init__(self, **verdicts: Verdict) -> None:
        self._verdicts = verdicts
        self.seen: list[str] = []

    def verdict(self, trial: Trial) -> GuardEntry:
        self.seen.append(trial.name)
        key = f"{trial.composition.tables}_{trial.composition.dense}"

        class Entry:
            verdict = self._verdicts[key]

        return cast("GuardEntry", Entry())


def test_the_order_is_fastest_first_smallest_among_ties_and_exact_last() -> None:
    tie = _trial("int8", "int8", 20, 5.1)
    fast = _trial("f32", "int8", 90, 5.0)
    slow = _trial("int8", "f32", 30, 8.0)
    order = rank([EXACT, slow, fast, tie], OptimizeSettings(attempts=3))
    assert order == [tie, fast, slow, EXACT]
    assert rank([EXACT, slow, fast, tie], OptimizeSettings(attempts=1)) == [tie, EXACT]


def test_what_is_rejected_or_slower_than_exact_is_not_judged() -> None:
    out = _trial("int8", "int8", 20, 5.0, "too far off")
    slower = _trial("int8", "f32", 30, 12.0)
    assert rank([EXACT, out, slower], OptimizeSettings()) == [EXACT]
    smaller = _trial("int8", "f32", 30, 10.1)
    assert rank([EXACT, smaller], OptimizeSettings()) == [smaller, EXACT]


def test_the_first_to_pass_is_taken_and_nothing_after_it_is_judged() -> None:
    first, second = _trial("int8", "int8", 20, 5.0), _trial("int8", "f32", 30, 8.0)
    order = [first, second, EXACT]
    court = _Court(int8_int8="fail", int8_f32="pass", f32_f32="pass")
    taken, judged = take(order, cast("Judge", court), allow_unproven=False)
    assert (taken, judged) == (second, [first, second])
    assert EXACT.name not in court.seen


def test_a_proven_loss_is_never_taken_even_when_unproven_is_allowed() -> None:
    first = _trial("int8", "int8", 20, 5.0)
    court = _Court(int8_int8="fail", f32_f32="not proven")
    taken, _ = take([first, EXACT], cast("Judge", court), allow_unproven=True)
    assert taken is EXACT
