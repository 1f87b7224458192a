from __future__ import annotations

from collections.abc import Callable

import pytest

from headway.core import CaptureError
from headway.graph import Lowered, Partition, capture

pytest.importorskip("deepctr_torch", reason="the libraries are in the dev extra")
pytest.importorskip("torch_rechub", reason="the libraries are in the dev extra")
from tests.graph.library_models import LIBRARY, deepctr_dien

Check = Callable[..., Partition]
IN_ONNX = ("deepctr DIN", "deepctr DCN")
ON_ALL_ROWS = ("deepctr PNN", "rechub MMOE", "rechub DCNv2")
ALL_SIZES = (0, 1, 2, 3, 7, 16, 17, 64, 256, 1000)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_models_towers_equal_it_in_float64(name: str, compare_double: Check) -> None:
    model, schema = LIBRARY[name]()
    parts = compare_double(model, schema, (1, 2, 17))
    assert any(n.startswith("hoisted") for n in parts.notes)
    assert parts.query is not None


@pytest.mark.parametrize("name", IN_ONNX)
def test_a_library_models_onnx_towers_equal_it(name: str, compare: Callable[..., Lowered]) -> None:
    model, schema = LIBRARY[name]()
    compare(model, schema, double=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_ALL_ROWS)
def test_a_library_models_onnx_towers_equal_it_up_to_a_thousand_rows(
    name: str, compare: Callable[..., Lowered]
) -> None:
    model, schema = LIBRARY[name]()
    compare(model, schema, double=False, sizes=ALL_SIZES)


def test_a_branch_on_data_in_a_library_is_named_by_module_and_line() -> None:
    model, schema = deepctr_dien()
    with pytest.raises(CaptureError) as caught:
        capture(model, schema)
    message = str(caught.value)
    assert "dien.py:" in message
    assert "in module 'inner.interest_extractor'" in message
    assert "torch.where" in message
