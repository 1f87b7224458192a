from __future__ import annotations

import importlib
import importlib.util

import pytest

import headway.graph
from headway.core import MissingDependencyError


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_a_missing_package_is_named_with_how_to_install_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*headway\[optimize\]"):
        importlib.reload(headway.graph)


def test_all_public_names_exist() -> None:
    assert len(set(headway.graph.__all__)) == len(headway.graph.__all__)
    assert all(hasattr(headway.graph, name) for name in headway.graph.__all__)
