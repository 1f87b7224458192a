"""A model and a schema become a bundle without any data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.contracts import tiny_ranker
from torch import nn

import headway
from headway.bundle import read_bundle
from headway.compress import COMPILE_STAGES, CompileReport, compile_model
from headway.core import CaptureError, Dense, Schema, Scope, Sparse, Table, UsageError, take_rows
from headway.graph import Explanation

SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=4),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="items", rows=40, dim=16),),
)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.items = nn.Parameter(torch.randn(40, 16, generator=generator))
        self.first = nn.Linear(20, 32)
        self.last = nn.Linear(32, 1)

    def forward(self, features: dict[str, Any]) -> torch.Tensor:
        item = nn.functional.embedding(features["item"], self.items)
        joined = torch.cat([features["age"], item], dim=1)
        out: torch.Tensor = self.last(torch.relu(self.first(joined)))
        return out


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> CompileReport:
    out = tmp_path_factory.mktemp("compiled") / "my tiny"
    return headway.compile(tiny_ranker.TinyRanker(), tiny_ranker.SCHEMA, out)


def test_the_exact_bundle_scores_as_the_model(exact: CompileReport) -> None:
    assert exact.equality < 5e-5
    assert (exact.composition, exact.max_error) == ("tables f32, dense f32", 0.0)
    query = tiny_ranker.draw(np.random.default_rng(1), 9)
    found = headway.load(exact.bundle).score_query(query)
    wanted = tiny_ranker.expected(query)
    np.testing.assert_allclose(found[:, 1], wanted[:, 1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(-wanted[:, 0])), atol=1e-5)


def test_the_bundle_says_that_nothing_judged_it(exact: CompileReport) -> None:
    manifest = read_bundle(exact.bundle).manifest
    assert manifest.name == exact.name == "my_tiny"
    assert manifest.guard is None
    assert manifest.provenance.model == "TinyRanker"
    assert "no guard" in manifest.provenance.details["made by"]
    assert not manifest.has_transforms


def test_the_bundle_keeps_the_account_of_what_was_hoisted(exact: CompileReport) -> None:
    account = msgspec.json.decode(read_bundle(exact.bundle).profiles["graph"], type=Explanation)
    assert account.after < account.before
    assert {node.scope for node in account.nodes} >= {"query", "candidate"}
    places = [node.place for node in account.nodes if "tiny_ranker.py" in node.place]
    assert places
    assert all(place.startswith(" at tiny_ranker.py:") for place in places)


def test_reduced_precision_is_smaller_and_states_its_error(tmp_path: Path) -> None:
    model = Two()
    report = compile_model(model, SCHEMA, tmp_path / "small", "reduced")
    assert report.composition.startswith("tables int8, dense ")  # int8 where that is faster here
    assert report.size_bytes < report.original_bytes
    assert 0 < report.mean_error < report.max_error < 0.2
    details = read_bundle(report.bundle).manifest.provenance.details
    assert f"{report.max_error:.3g}" in details["largest error against f32"]
    rng = np.random.default_rng(0)
    age = rng.standard_normal((1, 4)).astype(np.float32)
    item = rng.integers(0, 40, 30)
    features = take_rows({"age": age}, np.zeros(30, np.int64))
    with torch.no_grad():
        raw = model({"age": torch.from_numpy(features["age"]), "item": torch.from_numpy(item)})
    scores = headway.load(report.bundle).score({"age": age, "item": item})
    np.testing.assert_allclose(scores, torch.sigmoid(raw)[:, 0], atol=0.03)


def test_stages_are_told_in_order_and_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model, told = Two().train(), []
    compile_model(model, SCHEMA, tmp_path / "b", progress=lambda *stage: told.append(stage))
    assert told == [(name, i, len(COMPILE_STAGES)) for i, name in enumerate(COMPILE_STAGES)]
    assert model.training
    assert model.first.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "Two"}, r"must be a torch.nn.Module, not str"),
        ({"schema": {}}, r"must be a headway.core.Schema, not dict"),
        ({"precision": "int4"}, r"precision is 'int4'; it must be one of"),
        ({"model": Two().double()}, r"'items' is float64 on cpu; compile model.float\(\).cpu\(\)"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"model": Two(), "schema": SCHEMA, "out": tmp_path / "b"}
    with pytest.raises(UsageError, match=message):
        compile_model(**(arguments | change))


def test_a_folder_that_holds_something_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists; choose another path"):
        compile_model(Two(), SCHEMA, tmp_path)
    with pytest.raises(UsageError, match="not a bundle"):
        compile_model(Two(), SCHEMA, tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_model_that_gives_one_output_for_all_is_refused(tmp_path: Path) -> None:
    model = Two()
    nn.init.zeros_(model.last.weight)
    with pytest.raises(CaptureError, match="task 'click' gives the same output for all"):
        compile_model(model, SCHEMA, tmp_path / "b")
