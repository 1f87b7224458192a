"""The recipe reaches what a logistic regression reaches on a small real click log."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from headway.data import DataSettings, load_data
from headway.measure import auc
from headway.models import ModelSettings, TrainSettings, build_model, predict, train

ROOT = Path(__file__).parents[2]
LOG = ROOT.parent / "shared" / "data" / "criteo-10k" / "criteo.first10k.labelled.tsv.gz"


@pytest.mark.realdata
@pytest.mark.skipif(not LOG.exists(), reason="the Criteo sample is not beside the checkout")
def test_the_criteo_example_reaches_its_auc() -> None:
    config = yaml.safe_load((ROOT / "examples" / "criteo.yaml").read_text())
    data = load_data(msgspec.convert(config["data"], DataSettings), ROOT / "examples")
    settings = msgspec.convert(config["train"], TrainSettings)
    model = build_model(msgspec.convert(config["model"], type=ModelSettings), data.schema)
    train(model, data.train, data.valid, settings)
    assert auc(data.test.labels[:, 0], predict(model, data.test)[:, 0]) >= 0.735
