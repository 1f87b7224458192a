"""Tables of one composition may differ in their format."""

from __future__ import annotations

import msgspec
import pytest
from tests.compress import rounded_model

from headway.bundle import Choice, TableChoice
from headway.compress import OptimizeSettings
from headway.compress.composition import Composition, build_compositions
from headway.core import UsageError


def compose(tables: tuple[TableChoice, ...], error_limit: float = 0.1) -> list[Composition]:
    settings = OptimizeSettings(tables=tables, dense=("f32",), error_limit=error_limit)
    return build_compositions(
        rounded_model.lowered(), rounded_model.SCHEMA, settings, rounded_model.rows()
    )


def formats(composition: Composition) -> dict[str, str]:
    return {name: part.format for name, part in composition.table_parts.items()}


def test_tables_that_bear_it_are_int4_and_the_others_int8() -> None:
    exact, mixed = compose(("int4-mixed",))
    assert (exact.name, mixed.name) == ("tables f32, dense f32", "tables int4/int8, dense f32")
    assert formats(mixed) == {"far": "int8", "faint": "int4", "narrow": "f32"}
    assert {n: t.format for n, t in mixed.model.tables.items()} == formats(mixed)
    assert not mixed.exact


def test_a_mix_is_smaller_than_int8_and_larger_than_int4() -> None:
    sizes = {c.tables: c.size_bytes for c in compose(("int8", "int4", "int4-mixed"))}
    assert sizes["int4"] < sizes["int4-mixed"] < sizes["int8"] < sizes["f32"]


@pytest.mark.parametrize(("limit", "like"), [(100.0, "int4"), (1e-9, "int8")])
def test_a_mix_that_is_none_is_left_out(limit: float, like: TableChoice) -> None:
    (_, alone) = compose(("int4-mixed",), limit)
    assert formats(alone)["faint"] == like
    assert [c.tables for c in compose((like, "int4-mixed"), limit)] == ["f32", like]


def test_settings_name_the_mix() -> None:
    given = msgspec.convert({"tables": ["f32", "int4-mixed"]}, OptimizeSettings)
    assert given.tables == ("f32", "int4-mixed")
    with pytest.raises((msgspec.ValidationError, UsageError)):
        msgspec.convert({"tables": ["int8-mixed"]}, OptimizeSettings)


def test_a_bundle_says_that_its_tables_are_mixed() -> None:
    choice = Choice(
        name="tables int4/int8, dense f32",
        tables="int4-mixed",
        dense="f32",
        latency_us=1.0,
        size_bytes=1,
        max_error=0.0,
        chosen=True,
        reason="",
    )
    assert msgspec.json.decode(msgspec.json.encode(choice), type=Choice) == choice
