"""A config that does not fit is refused with the path of the key and the nearest valid one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from headway.cli.yaml_file import read_yaml
from headway.core import ConfigError, Schema

SCHEMA = """
features:
  - {type: dense, name: age, scope: query}
  - {type: sparse, name: item, table: item, scope: candidate}
tables:
  - {name: item, rows: 10, dim: 4}
"""


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    batch_size: int = 1


class Outer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    train: Inner = Inner()
    named: dict[str, Inner] = {}


class Rated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate: float


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_a_schema_is_read(tmp_path: Path) -> None:
    schema = read_yaml(write(tmp_path, SCHEMA), Schema)
    assert [f.name for f in schema.features] == ["age", "item"]


@pytest.mark.parametrize("text", ["1e6", "1E6", "+1e+6", "1.0e+6", "1.e6", "1000000", "1e6 # six"])
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, text: str) -> None:
    assert read_yaml(write(tmp_path, f"rate: {text}"), Rated).rate == 1e6


def test_a_quoted_number_or_a_name_like_one_is_text(tmp_path: Path) -> None:
    for text in ('"1e6"', "1e6x", "e6"):
        with pytest.raises(ConfigError, match="got `str`"):
            read_yaml(write(tmp_path, f"rate: {text}"), Rated)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {}", "unknown key 'trian' at the top level; did you mean 'train'?"),
        ("train: {batchsize: 3}", "unknown key 'batchsize' at train; did you mean 'batch_size'?"),
        ("train: {zzz: 3}", "valid keys: batch_size"),
        ("named: {a: {batch_size: 1}, b: {batch_sizes: 3}}", "did you mean 'batch_size'?"),
        ("train: {batch_size: many}", "Expected `int`, got `str` - at `train.batch_size`: 'many'"),
        ("train: {batch_size: 1, batch_size: 2}", "the key 'batch_size' stands twice"),
        ("train: &a {}\nnamed: {b: *a}", r"aliases \(\*name\) are not read"),
        ("train: [", "is not YAML that can be read"),
        ("!!python/object/apply:os.getcwd []", "is not YAML that can be read"),
        ("3", "Expected `object`, got `int`"),
        ("[" * 5000, "is not YAML that can be read"),
    ],
)
def test_a_wrong_config_is_refused_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read_yaml(write(tmp_path, text), Outer)


def test_the_right_member_of_a_union_gives_the_valid_keys(tmp_path: Path) -> None:
    wrong = SCHEMA.replace("table: item, scope", "tabel: item, scope")
    with pytest.raises(ConfigError, match=r"unknown key .tabel. at features.*mean .table."):
        read_yaml(write(tmp_path, wrong), Schema)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        read_yaml(tmp_path / "nowhere.yaml", Outer)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the limit is"):
        read_yaml(write(tmp_path, "#" * (1 << 21)), Outer)
