"""An ONNX file and a schema on the command line become a bundle that can be inspected."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper
from tests.cli.test_commands import run
from tests.graph import onnx_models as files

import headway
from headway.core import Dense, Schema, Scope, Sparse, Table
from headway.models import DlrmSettings, build_model, save_checkpoint

SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=4),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="items", rows=30, dim=16),),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx")
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "item"], ["row"]),
        node("Concat", ["age", "row"], ["all"], axis=1),
        node("Gemm", ["all", "first", "bias"], ["hidden"]),
        node("Relu", ["hidden"], ["active"]),
        node("MatMul", ["active", "last"], ["logit"]),
        node("Sigmoid", ["logit"], ["output"]),
    ]
    constants = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {
            "table": (30, 16),
            "first": (20, 16),
            "bias": (16,),
            "last": (16, 1),
        }.items()
    }
    inputs = {"age": (TensorProto.FLOAT, ["n", 4]), "item": (TensorProto.INT64, ["n"])}
    files.make(path / "model.onnx", nodes, inputs, constants)
    (path / "schema.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(SCHEMA)))
    return path


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    from headway.cli import main

    out = folder / "made"
    arguments = [
        *("optimize", "--onnx", str(folder / "model.onnx")),
        *("--schema", str(folder / "schema.yaml"), "--out", str(out), "--json"),
    ]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in {0, None}
    return out


def test_the_bundle_scores_as_the_file_does(folder: Path, bundle: Path) -> None:
    rng = np.random.default_rng(1)
    age, item = rng.standard_normal((1, 4)).astype(np.float32), rng.integers(0, 30, 9)
    feed = {"age": np.repeat(age, 9, axis=0), "item": item}
    (wanted,) = files.run(folder / "model.onnx", feed)
    found = headway.load(bundle).score({"age": age[0], "item": item})
    np.testing.assert_allclose(found, wanted[:, 0], atol=1e-5)


def test_reduced_precision_says_its_error_and_that_nothing_judged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        *(capsys, "compile", str(folder / "model.onnx"), "--schema", str(folder / "schema.yaml")),
        *("--out", str(tmp_path / "small"), "--precision", "reduced", "--json"),
    )
    found = json.loads(out)
    assert code == 0
    assert found["guard"] == "none"
    assert 0 < found["report"]["mean_error"] < found["report"]["max_error"]
    assert any("taken off" in note for note in found["imported"])


def test_the_graph_of_a_bundle_is_printed_and_drawn(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "graph.html"
    code, out, _ = run(capsys, "inspect", "--graph", str(bundle), "--page", str(page), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["after"] < found["before"]
    assert page.read_text().count("<svg") >= 2
    code, out, _ = run(capsys, "inspect", "--graph", str(bundle))
    assert code == 0
    assert "once per query" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("optimize",), 2, "needs a CONFIG, or --onnx and --schema"),
        (("optimize", "--onnx", "m.onnx"), 2, "--onnx goes with --schema"),
        (("optimize", "c.yaml", "--onnx", "m", "--schema", "s"), 2, "--onnx goes with --schema"),
        (("compile", "m.onnx"), 2, "--schema"),
        (("compile", "m.onnx", "--schema", "/nowhere.yaml"), 2, "/nowhere.yaml"),
        (("inspect", "/nowhere", "--page", "p.html"), 2, "--page goes with --graph"),
        (("inspect", "--graph", "/nowhere"), 2, "neither a bundle"),
    ],
)
def test_a_wrong_call_is_refused_with_its_remedy(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = run(capsys, *arguments)
    assert message in err
    assert found == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features: [{type: dense, title: age, scope: query}]\ntables: []", "unknown key 'title'"),
        ("features: [{type: dense, name: age, scope: usr}]\ntables: []", "usr"),
        (
            "features: [{type: sparse, name: a, scope: query, table: t}]\ntables: []",
            "uses the table 't'",
        ),
    ],
)
def test_a_wrong_schema_names_the_file_and_the_key(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    code, _, err = run(capsys, "compile", str(folder / "model.onnx"), "--schema", str(path))
    assert code == 2
    assert str(path) in err
    assert message in err


def test_the_graph_of_a_checkpoint_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DlrmSettings(bottom_mlp=(8, 4), predict_mlp=(8,))
    model = build_model(settings, SCHEMA, seed=0)
    save_checkpoint(tmp_path / "checkpoint", model, settings, SCHEMA, None, {})
    code, out, _ = run(capsys, "inspect", "--graph", str(tmp_path / "checkpoint"), "--json")
    assert code == 0
    assert {node["scope"] for node in json.loads(out)["nodes"]} >= {"query", "candidate"}
