"""The one call from Python: a module and data that nobody here wrote, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import headway
from headway.bundle import read_bundle
from headway.compress import (
    DistilSettings,
    GuardSettings,
    LightweightSettings,
    OptimizeSettings,
    PruneSettings,
    Recipe,
    api,
    built,
    optimize,
)
from headway.compress.given import output_doubts, set_aside
from headway.compress.lowering import lower_explained
from headway.core import (
    CaptureError,
    DataError,
    Dense,
    HeadwayError,
    NotProvenError,
    Schema,
    Scope,
    Sparse,
    Table,
    Task,
    UsageError,
)
from headway.data import Dataset
from headway.graph import Lowered
from headway.models import TrainSettings, predict, train

pytestmark = pytest.mark.timeout(400)  # kernels may have to be compiled first

SCHEMA = Schema(
    features=(
        Sparse(name="user", table="users", scope=Scope.QUERY),
        Dense(name="age", scope=Scope.QUERY, width=2),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
        Dense(name="price", scope=Scope.CANDIDATE, width=2),
    ),
    tables=(Table(name="users", rows=200, dim=16), Table(name="items", rows=100, dim=16)),
)
GUARD = GuardSettings(margin_auc=0.02, margin_log_loss=0.02, margin_ndcg=0.05, rounds=200)
PASSES = Recipe(
    lightweight=LightweightSettings(layer_energy=1.0, multiple=4, rows=2048),
    prune=PruneSettings(multiple=4, rows=2048),
    distil=DistilSettings(batch_size=256),
)
QUICK = OptimizeSettings(
    tables=("f32", "int8"),
    dense=("f32",),
    measure_s=0.1,
    sizes=(16, 64),
    guard=GUARD,
    passes=PASSES,
)


class WideAndDeep(nn.Module):
    """As people write it: tables of its own, concatenated, no class of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(200, 16)
        self.items = nn.Embedding(100, 16)
        self.wide = nn.Linear(36, 1)
        self.deep = nn.Sequential(
            nn.Linear(36, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(),
            nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        user, item = self.users(features["user"]), self.items(features["item"])
        x = torch.cat([user, features["age"], item, features["price"]], dim=1)
        both: Tensor = self.wide(x) + self.deep(x)
        return both


def rows(count: int, seed: int) -> Dataset:
    """Impressions in queries of ten; clicks depend on user, item and price."""
    truth, rng = np.random.default_rng(99), np.random.default_rng(seed)
    tastes, kinds = truth.normal(size=(200, 4)), truth.normal(size=(100, 4))
    queries = count // 10
    user, item = rng.integers(200, size=queries), rng.integers(100, size=count)
    age = rng.normal(size=(queries, 2)).astype(np.float32)
    price = rng.normal(size=(count, 2)).astype(np.float32)
    of = np.repeat(np.arange(queries), 10)
    logit = 0.7 * (tastes[user][of] * kinds[item]).sum(1) + price[:, 0] * age[of, 0] - 0.5
    labels = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float32)[:, None]
    return Dataset(
        schema=SCHEMA,
        context={"user": user, "age": age},
        candidates={"item": item, "price": price},
        row_to_query=of,
        labels=labels,
    )


DATA: dict[str, Any] = {
    name: rows(count, seed)
    for seed, (name, count) in enumerate({"train": 8000, "valid": 4000, "test": 8000}.items())
}


@pytest.fixture(scope="module", autouse=True)
def _lowered_once() -> Iterator[None]:
    """Capture each model once: it takes seconds, and its result does not change."""
    with pytest.MonkeyPatch.context() as patch:

        @cache
        def lowered(model: nn.Module, schema: Schema) -> tuple[Lowered, dict[str, bytes]]:
            return lower_explained(model, schema)

        patch.setattr(built, "lower_explained", lowered)
        yield


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = WideAndDeep()
    train(model, DATA["train"], DATA["valid"], TrainSettings(epochs=2, batch_size=256))
    return model


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(
    model: nn.Module, told: list[str], tmp_path_factory: pytest.TempPathFactory
) -> headway.Report:
    return headway.optimize(
        model,
        SCHEMA,
        **DATA,
        out=tmp_path_factory.mktemp("api") / "bundle",
        settings=QUICK,
        progress=lambda what, *_: told.append(what),
    )


def test_a_module_of_ones_own_becomes_a_judged_bundle(
    report: headway.Report, model: nn.Module
) -> None:
    report.check()
    assert report.guard.verdict == "pass"
    assert report.guard.rows == len(DATA["test"])
    assert [p.name for p in report.passes] == ["lightweight", "prune", "distil"]
    assert any(c.chosen for c in report.choices)
    assert report.bundle is not None
    ranker = headway.load(report.bundle)
    few = DATA["test"].take(np.arange(10))
    scores = ranker.score_query(few.query(0))
    wanted = 1 / (1 + np.exp(-predict(model, few)[:, 0]))
    assert np.corrcoef(scores, wanted)[0, 1] > 0.9


def test_a_bundle_of_encoded_features_holds_no_transforms(report: headway.Report) -> None:
    assert report.bundle is not None
    found = read_bundle(report.bundle)
    assert found.transforms_json is None
    assert found.manifest.guard == report.guard
    assert found.manifest.provenance.model == "WideAndDeep"


def test_the_chain_has_every_prefix_and_shares_its_error(report: headway.Report) -> None:
    chain = report.chain
    assert chain is not None
    names = [link.name for link in chain.links]
    assert names == ["original", "lightweight", "prune", "distil", "quantize"]
    assert chain.looks == 5
    assert chain.links[2].flops < chain.links[0].flops
    assert all(link.lbt_qps > 0 for link in chain.links)
    assert [link.eager is None for link in chain.links] == [False] * 4 + [True]


def test_json_holds_all_that_is_told(report: headway.Report) -> None:
    found = json.loads(report.to_json())
    assert found["bundle"] == str(report.bundle)
    assert {"guard", "choices", "steps", "latency_us", "passes", "chain"} <= set(found)
    link = found["chain"]["links"][0]
    assert set(link["compiled"]) == set(link["eager"]) == {"16", "64"}
    assert set(link["compiled"]["16"]) == {"p50_us", "p95_us", "samples"}


def test_the_page_is_that_of_the_bundle_and_can_be_saved(
    report: headway.Report, tmp_path: Path
) -> None:
    assert report.bundle is not None
    page = report.save_html(tmp_path / "r.html").read_text()
    assert page == (report.bundle / "report.html").read_text()
    assert "What each pass brings" in page


def test_progress_tells_passes_and_their_batches(report: headway.Report, told: list[str]) -> None:
    assert report.chain is not None
    for text in ("smaller: lightweight", "smaller: prune", "smaller: distil", "epoch 1 of 1"):
        assert any(text in what for what in told), text


def test_the_module_is_left_as_it_was(model: nn.Module, report: headway.Report) -> None:
    assert sum(p.numel() for p in model.parameters()) == 200 * 16 + 100 * 16 + 37 + 4513 - 32
    assert all(p.requires_grad for p in model.parameters())
    assert report.summary.original_bytes == 4 * sum(p.numel() for p in model.parameters())


def test_passes_can_be_turned_off(model: nn.Module) -> None:
    plain = msgspec.structs.replace(QUICK, tables=("f32",))
    found = optimize(model, SCHEMA, **DATA, settings=plain, passes=Recipe(), chain=False)
    assert [c.name for c in found.choices] == ["tables f32, dense f32"]
    assert found.passes == ()
    assert (found.chain, found.bundle, found.refused) == (None, None, "")
    with pytest.raises(UsageError, match=r"headway\.optimize"):
        found.save_html("nowhere")


def test_passes_are_the_settings_or_the_standard_ones() -> None:
    assert api._settings(QUICK, None).passes == PASSES
    assert api._settings(OptimizeSettings(), None).passes == api.STANDARD_PASSES
    assert api._settings(QUICK, Recipe()).passes == Recipe()


def test_a_leaking_split_is_not_proven_and_says_why(model: nn.Module, tmp_path: Path) -> None:
    leaking = {**DATA, "test": DATA["train"]}
    plain = msgspec.structs.replace(QUICK, tables=("f32",))
    found = optimize(
        model, SCHEMA, **leaking, settings=plain, passes=Recipe(), chain=False, out=tmp_path / "b"
    )
    assert found.guard.verdict == "not proven"
    assert "stand among the training rows" in found.guard.reason
    assert "split the data without copies" in found.guard.reason
    assert found.bundle is not None, "written all the same, labelled"
    with pytest.raises(NotProvenError, match="split the data"):
        found.check()


def test_a_lesser_result_never_replaces_a_bundle_that_passed(
    model: nn.Module, report: headway.Report
) -> None:
    assert report.bundle is not None
    before = (report.bundle / "manifest.json").read_bytes()
    plain = msgspec.structs.replace(QUICK, tables=("f32",))
    leaking = {**DATA, "test": DATA["train"]}
    found = optimize(
        model, SCHEMA, **leaking, settings=plain, passes=Recipe(), chain=False, out=report.bundle
    )
    assert found.bundle is None
    assert "choose another path" in found.refused
    assert found.summary.bundle is None
    assert (report.bundle / "manifest.json").read_bytes() == before


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return features["price"][:, :1] * 0 + self.value


class Misnamed(WideAndDeep):
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return super().forward({**features, "user": features["user_id"]})


def _one_class(part: Dataset) -> Dataset:
    return replace(part, labels=np.zeros_like(part.labels))


def _other_schema(part: Dataset) -> Dataset:
    other = msgspec.structs.replace(
        SCHEMA, tables=(Table(name="users", rows=300, dim=16), SCHEMA.tables[1])
    )
    return replace(part, schema=other)


FEW = DATA["test"].take(np.arange(40))
TASKS = msgspec.structs.replace(SCHEMA, tasks=(Task(name="buy"),))
REFUSED: Mapping[str, tuple[dict[str, Any], type[HeadwayError], str]] = {
    "few test rows": ({"test": FEW}, DataError, "test part has 40 rows, at least 100"),
    "few choosing rows": (
        {"valid": DATA["valid"].take(np.arange(150))},
        DataError,
        "give choose= rows of its own",
    ),
    "one class": (
        {"test": _one_class(DATA["test"])},
        DataError,
        "all labels of task 'click' in the test part are 0; both classes",
    ),
    "other labels": (
        {"train": replace(DATA["train"], labels=DATA["train"].labels * 5)},
        DataError,
        "hold 5; they must be 0 or 1",
    ),
    "another schema": (
        {"test": _other_schema(DATA["test"])},
        DataError,
        r"test part has another schema than the model: table 'users' is .*same|rows=300.*encode",
    ),
    "another task": ({"schema": TASKS}, DataError, "it lacks task 'buy'"),
    "no data set": ({"train": np.zeros(3)}, UsageError, r"train= is a ndarray; give a headway"),
    "no module": ({"model": len}, UsageError, r"give a trained torch\.nn\.Module"),
    "float64": ({"model": WideAndDeep().double()}, UsageError, r"model\.float\(\)\.cpu\(\)"),
    "a missing feature": ({"model": Misnamed()}, CaptureError, "add the feature to the schema"),
    "NaN": ({"model": Constant(float("nan"))}, CaptureError, "NaN or infinity"),
    "constant": ({"model": Constant(1.0)}, DataError, "nothing to rank by, train it again"),
    "an SLA": ({"sla": "fast"}, UsageError, "write it like p95=25ms"),
    "one size": (
        {"settings": msgspec.structs.replace(QUICK, sizes=(16,))},
        UsageError,
        "name another, or leave the chain out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_optimised_is_refused_with_the_remedy(name: str) -> None:
    change, error, message = REFUSED[name]
    given = {"model": WideAndDeep(), "schema": SCHEMA, "settings": QUICK, **DATA, **change}
    with pytest.raises(error, match=message):
        optimize(**given)


def test_a_missing_column_is_refused_where_the_data_set_is_made() -> None:
    part = DATA["test"]
    with pytest.raises(DataError, match="price"):
        replace(part, candidates={"item": part.candidates["item"]})


def test_a_module_that_ends_in_a_sigmoid_is_doubted(model: nn.Module) -> None:
    assert output_doubts(model, DATA["test"]) == ()
    (said,) = output_doubts(nn.Sequential(model, nn.Sigmoid()), DATA["test"])
    assert "return what stands before the sigmoid" in said


def test_half_of_the_validation_queries_choose_and_none_is_torn(model: nn.Module) -> None:
    valid = DATA["valid"]
    kept, chosen = set_aside(valid, np.random.default_rng(0))
    assert len(kept) == len(chosen) == len(valid) // 2
    assert kept.queries == chosen.queries == valid.queries // 2
    both = np.concatenate([kept.candidates["price"], chosen.candidates["price"]])
    assert np.array_equal(np.sort(both[:, 0]), np.sort(valid.candidates["price"][:, 0]))
