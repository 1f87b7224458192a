"""A user's own CSV: config to bundle to server, and the same scores everywhere."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from headway import load
from headway.bundle import read_bundle
from headway.cli import main
from headway.cli.config import read_config
from headway.core import Ragged
from headway.data import Prepared, load_data
from headway.engine import Ranker
from headway.server import BackgroundServer, load_served

CONFIG = """
name: shop
data:
  reader:
    kind: table
    path: clicks.csv
    columns: {user: text, age: number, seen: list, item: text, price: number, clicked: number}
  label: {column: clicked}
  split: {by: order, test: 0.3, valid: 0.1, choose: 0.1}
  query_by: [user]
  default_table: {dim: 16}
  features:
    - {kind: dense, name: age, scope: query, standardise: true}
    - {kind: sparse, name: user, scope: query}
    - {kind: bag, name: seen, scope: query, table: item, max_length: 8}
    - {kind: sparse, name: item, scope: candidate}
    - {kind: dense, name: price, scope: candidate, log: true}
model: {name: dlrm, bottom_mlp: [32, 16], predict_mlp: [64, 32]}
train: {epochs: 3, batch_size: 128}
optimize: {measure_s: 0.5}
"""


def write_clicks(path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["user,age,seen,item,price,clicked"]
    for user in range(600):
        age = int(rng.integers(18, 80))
        seen = " ".join(f"i{i}" for i in rng.integers(0, 50, rng.integers(0, 8)))
        for item in rng.choice(60, 10, replace=False):
            price = float(rng.lognormal(2, 1))
            chance = 1 / (1 + np.exp(2.5 - 0.05 * item - 0.02 * (age - 18)))
            lines.append(f"u{user},{age},{seen},i{item},{price:.2f},{int(rng.random() < chance)}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop")
    write_clicks(path / "clicks.csv")
    (path / "shop.yaml").write_text(CONFIG)
    with pytest.raises(SystemExit) as stopped:
        main(["optimize", str(path / "shop.yaml"), "--out", str(path / "bundle"), "--json"])
    assert stopped.value.code in (0, 3)  # so few rows may not prove anything
    return path


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Prepared:
    return load_data(read_config(folder / "shop.yaml").data, folder)


@pytest.fixture(scope="module")
def ranker(folder: Path) -> Ranker:
    return load(folder / "bundle")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with BackgroundServer([load_served(folder / "bundle")]) as server:
        yield server.url


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestOwnData:
    def test_the_bundle_carries_its_verdict_and_its_report(self, folder: Path) -> None:
        manifest = read_bundle(folder / "bundle").manifest
        assert manifest.guard is not None
        assert manifest.guard.rows == 1800
        assert "<svg" in (folder / "bundle" / "report.html").read_text()

    @pytest.mark.net
    def test_raw_features_over_http_score_as_the_bundle_does_offline(
        self, prepared: Prepared, ranker: Ranker, url: str
    ) -> None:
        for index in range(0, prepared.test.queries, 7):
            context, candidates = prepared.raw_query("test", index)
            body = json.dumps({"query": context, "candidates": candidates}).encode()
            with urllib.request.urlopen(f"{url}/v1/rank/shop", body) as reply:
                found = json.load(reply)
            served = np.empty(len(candidates), np.float32)
            served[found["ids"]] = found["scores"]
            offline = ranker.score_query(prepared.test.query(index))
            np.testing.assert_allclose(served, offline, rtol=0, atol=1e-6)

    @pytest.mark.net
    def test_tritons_own_client_infers_unchanged(
        self, prepared: Prepared, ranker: Ranker, url: str
    ) -> None:
        query = prepared.test.query(3)
        inputs = []
        for feature in prepared.schema.features:
            column = {**query.context, **query.candidates}[feature.name]
            array = column.padded(8, -1) if isinstance(column, Ragged) else column
            kind = "FP32" if array.dtype == np.float32 else "INT64"
            tensor = triton.InferInput(feature.name, list(array.shape), kind)
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(tensor)
        with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            assert client.is_model_ready("shop")
            scores = client.infer("shop", inputs).as_numpy("scores")
        np.testing.assert_allclose(scores, ranker.score_query(query), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("old", "new"), [("log: true", "log: false"), ("test: 0.3", "test: 0.5")]
    )
    def test_a_checkpoint_of_other_data_or_another_split_is_refused(
        self, folder: Path, old: str, new: str
    ) -> None:
        other = folder / "other.yaml"
        other.write_text(CONFIG.replace(old, new))
        with pytest.raises(SystemExit) as stopped:
            main(
                [
                    "optimize", str(other), "--checkpoint", str(folder / "bundle-checkpoint"),
                    "--out", str(folder / "b2"),
                ]
            )  # fmt: skip
        assert stopped.value.code == 1
        assert not (folder / "b2").exists()
