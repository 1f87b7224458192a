"""A checkpoint gives back the same model, and a damaged one is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headway.core import DataError, Schema, UsageError
from headway.data import Dataset
from headway.models import (
    DlrmSettings,
    ModelSettings,
    build_model,
    load_checkpoint,
    predict,
    save_checkpoint,
)

MakeLog = Callable[[int, int], Dataset]
SMALL = DlrmSettings(predict_mlp=(8,))


def save(path: Path, schema: Schema, transforms: bytes | None = b"{}", seed: int = 0) -> None:
    model = build_model(SMALL, schema, seed=seed)
    save_checkpoint(path, model, SMALL, schema, transforms, {"seed": str(seed)})


def test_a_checkpoint_scores_like_the_model_it_was_made_from(
    settings: ModelSettings, schema: Schema, click_log: MakeLog, tmp_path: Path
) -> None:
    model, log = build_model(settings, schema, seed=3), click_log(10, 0)
    save_checkpoint(tmp_path / "a" / "model", model, settings, schema, b'{"x":1}', {"auc": "0.8"})
    read = load_checkpoint(tmp_path / "a" / "model")
    np.testing.assert_array_equal(predict(read.model, log), predict(model, log))
    assert (read.settings, read.schema) == (settings, schema)
    assert (read.transforms_json, read.facts) == (b'{"x":1}', {"auc": "0.8"})
    assert not read.model.training


def test_a_checkpoint_is_replaced_whole_and_leaves_no_scratch(
    schema: Schema, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    save(path, schema, seed=1)
    save(path, schema, None, seed=2)
    assert load_checkpoint(path).facts == {"seed": "2"}
    assert load_checkpoint(path).transforms_json is None
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_something_else_is_never_overwritten(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a checkpoint"):
        save(tmp_path, schema)
    with pytest.raises(UsageError, match="not a checkpoint"):
        save(tmp_path / "thesis.txt", schema)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_missing_checkpoint_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model.json"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["weights.safetensors", "transforms.json"])
def test_lost_and_changed_files_are_refused_by_name(
    name: str, schema: Schema, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    save(path, schema)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content + b" ")
    with pytest.raises(DataError, match=name):
        load_checkpoint(path)
    (path / name).unlink()
    with pytest.raises(DataError, match=f"lost its {name}"):
        load_checkpoint(path)


def test_a_damaged_head_is_refused(schema: Schema, tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, schema)
    head = path / "model.json"
    text = head.read_text()
    head.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"model.json is damaged"):
        load_checkpoint(path)
    head.write_text(text.replace('"predict_mlp"', '"predict"'))
    with pytest.raises(DataError, match="predict"):
        load_checkpoint(path)
    head.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(UsageError, match="format 1"):
        load_checkpoint(path)
    head.write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(path)


def test_weights_of_another_shape_are_refused(schema: Schema, tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, schema)
    head = path / "model.json"
    head.write_text(head.read_text().replace('"rows": 40', '"rows": 41'))
    with pytest.raises(DataError, match=r"weights.safetensors does not fit"):
        load_checkpoint(path)


def test_tables_that_the_weights_cannot_hold_are_never_built(
    schema: Schema, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    save(path, schema)
    head = path / "model.json"
    head.write_text(head.read_text().replace('"rows": 40', '"rows": 1099511627776'))
    with pytest.raises(DataError, match=r"cannot hold the schema's tables"):
        load_checkpoint(path)


def test_a_checkpoint_under_a_file_is_refused(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="lies under a file"):
        save(tmp_path / "file" / "model", schema)
    with pytest.raises(UsageError, match="lies under a file"):
        save(tmp_path / "file" / "deeper" / "model", schema)
