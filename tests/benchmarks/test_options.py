"""Options of benchmark scripts are refused before anything is run in vain."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import options

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (options.count(), "0", "at least 1 is needed, not '0'"),
        (options.count(0), "-1", "at least 0"),
        (options.count(), "2.5", "not '2.5'"),
        (options.amount(1), "-1", "1 to 1e"),
        (options.amount(0, 1), "nan", "not 'nan'"),
        (options.amount(0, 1), "much", "not 'much'"),
        (options.result_file, str(HERE), "is a folder"),
        (options.existing_folder, "/nowhere", "no folder /nowhere"),
        (options.profiles, "/nowhere", "cannot read /nowhere"),
        (options.profiles, __file__, "cannot read"),
    ],
)
def test_a_wrong_value_is_refused(read: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        read(text)


def test_right_values_are_taken(tmp_path: Path) -> None:
    assert options.count()("7") == 7
    assert options.amount(0, 1)("0.5") == 0.5
    assert options.result_file(str(tmp_path / "new.json")) == tmp_path / "new.json"
    assert options.existing_folder(str(tmp_path)) == tmp_path
    told = HERE.parents[1] / "benchmarks" / "torch_eager.json"
    assert options.profiles(str(told)) == told
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ArgumentTypeError, match=r"eager_profiles\.py"):
        options.profiles(str(tmp_path / "other.json"))
