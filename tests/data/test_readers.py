"""Files become one raw table, and whatever is wrong with them is named."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headway.core import DataError, MissingDependencyError, UsageError
from headway.data import (
    CriteoReader,
    FrappeReader,
    MovieLensReader,
    RawTable,
    TableReader,
    Vocabulary,
    read_raw,
)
from headway.data.movielens import GENRES
from headway.data.readers import CRITEO_COLUMNS


def criteo_line(label: str = "1", first: str = "2", last: str = "ff") -> str:
    return "\t".join([label, first, *["3"] * 12, *["aa"] * 25, last]) + "\n"


@pytest.fixture
def criteo(tmp_path: Path) -> Path:
    path = tmp_path / "log.tsv"
    path.write_text(criteo_line() + criteo_line("0", "", "") + criteo_line("0", "-1", '"x'))
    return path


def original_movielens(folder: Path) -> None:
    (folder / "u.data").write_text("7\t1\t5\t100\n8\t2\t3\t90\n")
    (folder / "u.user").write_text("7|24|M|writer|85711\n8|53|F|other|94043\n")
    lines = [
        ("1", "Fargo (1996)", "14-Feb-1997", {"Crime", "Drama"}),
        ("2", "Café Misère (1995)", "", set[str]()),
    ]
    text = "".join(
        "|".join([i, title, date, "", "url", *("1" if g in on else "0" for g in GENRES)]) + "\n"
        for i, title, date, on in lines
    )
    (folder / "u.item").write_bytes(text.encode("latin-1"))


def atomic_movielens(folder: Path) -> None:
    (folder / "x.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t5\t100\n8\t2\t3\t90\n"
    )
    (folder / "x.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "7\t24\tM\twriter\t85711\n8\t53\tF\tother\t94043\n"
    )
    (folder / "x.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tFargo\t1997\tCrime Drama\n2\tCafé Misère\t\t\n",
        encoding="utf-8",
    )


def same(first: RawTable, second: RawTable) -> bool:
    return all(first.values(name) == second.values(name) for name in first.columns)


def test_criteo_keeps_rows_in_order_and_gaps_as_missing(criteo: Path) -> None:
    table = read_raw(CriteoReader(path="log.tsv"), criteo.parent)
    assert list(table.columns) == list(CRITEO_COLUMNS)
    assert table.values("label") == [1, 0, 0]
    assert table.values("I1") == [2, None, -1]
    assert table.values("C26") == ["ff", None, '"x']


def test_a_compressed_file_reads_like_the_plain_one(criteo: Path) -> None:
    packed = criteo.with_suffix(".tsv.gz")
    packed.write_bytes(gzip.compress(criteo.read_bytes()))
    plain, unpacked = (read_raw(CriteoReader(path=str(p))) for p in (criteo, packed))
    assert same(plain, unpacked)


def test_both_forms_of_movielens_give_one_table(tmp_path: Path) -> None:
    for name, write in (("original", original_movielens), ("atomic", atomic_movielens)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    original = read_raw(MovieLensReader(path="original"), tmp_path)
    atomic = read_raw(MovieLensReader(path="atomic"), tmp_path)
    assert same(atomic, original)
    assert set(atomic.columns) == set(original.columns)
    assert original.values("title") == [("Fargo",), ("Café", "Misère")]
    assert original.values("genres") == [("Crime", "Drama"), ()]
    assert original.values("age") == [24, 53]
    assert original.values("year") == ["1997", None]


def test_a_rating_of_an_unknown_user_has_missing_attributes(tmp_path: Path) -> None:
    atomic_movielens(tmp_path)
    (tmp_path / "x.user").write_text("user_id:token\tage:token\tgender:token\n8\t53\tF\n")
    table = read_raw(MovieLensReader(path=str(tmp_path)))
    assert table.values("age") == [None, 53]
    assert table.values("gender") == [None, "F"]


def test_a_user_listed_twice_is_refused(tmp_path: Path) -> None:
    atomic_movielens(tmp_path)
    (tmp_path / "x.user").write_text("user_id:token\tage:token\n8\t53\n8\t54\n")
    with pytest.raises(DataError, match="'user_id' holds a value twice"):
        read_raw(MovieLensReader(path=str(tmp_path)))


def test_a_heading_without_type_is_refused(tmp_path: Path) -> None:
    atomic_movielens(tmp_path)
    (tmp_path / "x.inter").write_text("user_id\titem_id:token\n1\t2\n")
    with pytest.raises(DataError, match="'user_id' is not of the form name:type"):
        read_raw(MovieLensReader(path=str(tmp_path)))


def test_frappe_reads_its_split_column(tmp_path: Path) -> None:
    names = "label,split,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city"
    (tmp_path / "f.csv").write_text(f"{names}\n0,train,1,2,noon,monday,no,home,free,dry,US,0\n")
    table = read_raw(FrappeReader(path="f.csv"), tmp_path)
    assert table.values("split") == ["train"]
    assert table.values("label") == [0]


def test_a_described_csv_keeps_only_the_described_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b,c,unused\n1.5,"x,y",p|q,0\n,,,0\n')
    settings = TableReader(
        path="t.csv", columns={"c": "list", "a": "number", "b": "text"}, list_separator="|"
    )
    table = read_raw(settings, tmp_path)
    assert list(table.columns) == ["c", "a", "b"]
    assert table.values("a") == [1.5, None]
    assert table.values("b") == ["x,y", None]
    assert table.values("c") == [("p", "q"), ()]


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, None], "b": ["x", None], "c": [["p", "q"], None]})
    frame.write_parquet(tmp_path / "t.parquet")
    columns = {"a": "number", "b": "text", "c": "list"}
    table = read_raw(TableReader(path="t.parquet", columns=columns), tmp_path)  # type: ignore[arg-type]
    assert table.values("a") == [1, None]
    assert table.values("b") == ["x", None]
    assert table.values("c") == [("p", "q"), ()]


def test_numbers_in_parquet_become_the_tokens_that_serving_makes_of_them(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "floats": [24.0, None, float("nan")],
            "wholes": [24, -1, None],
            "lists": [[24.0, None], [], None],
            "words": [["a", None, "b"], [None], ["24"]],
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    reader = TableReader(
        path="t.parquet",
        columns={"floats": "text", "wholes": "text", "lists": "list", "words": "list"},
    )
    table = read_raw(reader, tmp_path)
    assert table.values("floats") == ["24", None, None]
    assert table.values("wholes") == ["24", "-1", None]
    assert table.values("lists") == [("24", None), (), ()]
    assert table.values("words") == [("a", None, "b"), (None,), ("24",)]
    ids = Vocabulary(tokens=("24", "None"))
    for served in (24, 24.0, "24"):
        assert ids.encode([served]).tolist() == ids.encode(table.values("floats")[:1]).tolist()
    assert ids.encode(table.values("words")[0]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("column", [[1.5], [[1.0, 2.5]], [True], [float("inf")]])
def test_what_is_no_token_at_serving_is_none_in_training(
    tmp_path: Path, column: list[object]
) -> None:
    pl.DataFrame({"id": column}).write_parquet(tmp_path / "t.parquet")
    kind = "list" if isinstance(column[0], list) else "text"
    reader = TableReader(path="t.parquet", columns={"id": kind})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="column 'id'"):
        read_raw(reader, tmp_path)


def test_a_bad_number_is_named_by_line_and_column(criteo: Path) -> None:
    criteo.write_text(criteo_line() + criteo_line(first="1e999") + criteo_line(first="two"))
    with pytest.raises(DataError, match=r"line 2, column 'I1': '1e999' is not a finite number"):
        read_raw(CriteoReader(path=str(criteo)))
    criteo.with_name("t.csv").write_text("a\n1\nnan\n")
    with pytest.raises(DataError, match=r"line 3, column 'a': 'nan'"):
        read_raw(TableReader(path="t.csv", columns={"a": "number"}), criteo.parent)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cannot read"),
        (b"a,b\n", "has no rows"),
        (b"a,c\n1,2\n", "has no column 'b'; it has"),
        (b"a,b\n1,2\n1,2,3\n", "cannot read"),
        (b"a,b\n1,\xff\n", "cannot read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_raw(TableReader(path="t.csv", columns={"a": "text", "b": "text"}), tmp_path)


def test_too_few_columns_without_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text("1\t2\n")
    with pytest.raises(DataError, match="has 2 columns where 40 are needed"):
        read_raw(CriteoReader(path="log.tsv"), tmp_path)


@pytest.mark.parametrize("header", [True, False])
def test_a_line_with_too_few_fields_is_refused_by_its_number(
    tmp_path: Path, *, header: bool
) -> None:
    (tmp_path / "t.csv").write_text(("a,b,c\n" if header else "1,2,3\n") + "1,,\n1,2\n")
    columns = dict.fromkeys("abc", "text")
    reader = TableReader(path="t.csv", columns=columns, header=header)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="line 3 has fewer than 3 fields"):
        read_raw(reader, tmp_path)


@pytest.mark.parametrize("separator", ["→", "\n", '"'])
def test_a_separator_that_cannot_separate_is_refused(separator: str) -> None:
    with pytest.raises(UsageError, match="one character of ASCII"):
        TableReader(path="t.csv", columns={}, separator=separator)


def test_a_file_cut_off_in_the_middle_is_named(criteo: Path) -> None:
    packed = criteo.with_suffix(".tsv.gz")
    packed.write_bytes(gzip.compress(criteo.read_bytes())[:-20])
    with pytest.raises(DataError, match=r"cannot read .*log\.tsv\.gz"):
        read_raw(CriteoReader(path=str(packed)))


def test_a_heading_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    atomic_movielens(tmp_path)
    (tmp_path / "x.user").write_bytes(b"user_id:token\tpr\xe9nom:token\n8\tx\n")
    with pytest.raises(DataError, match=r"x\.user.*UTF-8"):
        read_raw(MovieLensReader(path=str(tmp_path)))


def test_a_name_that_polars_gives_to_another_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1,2,3\n")
    columns = {"column_3": "text", "b": "text"}
    reader = TableReader(path="t.csv", columns=columns, header=False)  # type: ignore[arg-type]
    assert read_raw(reader, tmp_path).values("column_3") == ["1"]


def test_a_parquet_column_of_another_type_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"a": [[1.0], [2.0]], "b": [{"x": 1}, {"x": 2}]}).write_parquet(
        tmp_path / "t.parquet"
    )
    for column, kind in (("a", "number"), ("a", "text"), ("b", "number"), ("b", "list")):
        reader = TableReader(path="t.parquet", columns={column: kind})  # type: ignore[dict-item]
        with pytest.raises(DataError, match=rf"t\.parquet, column '{column}'"):
            read_raw(reader, tmp_path)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.tsv"):
        read_raw(CriteoReader(path="nowhere.tsv"), tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        read_raw(MovieLensReader(path="nowhere"), tmp_path)
    with pytest.raises(DataError, match=r"holds 0 \.inter files"):
        read_raw(MovieLensReader(path="."), tmp_path)
    (tmp_path / "t.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="cannot read"):
        read_raw(TableReader(path="t.parquet", columns={"a": "text"}), tmp_path)


def test_without_polars_the_extra_is_named(criteo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingDependencyError, match=r"headway\[optimize\]"):
        read_raw(CriteoReader(path=str(criteo)))


def test_a_raw_table_refuses_what_is_not_there() -> None:
    table = RawTable({"a": np.array(["x"], object)})
    with pytest.raises(DataError, match="no column 'b'"):
        table.column("b")
    with pytest.raises(DataError, match="'a' holds text"):
        table.numbers("a")
    with pytest.raises(DataError, match="no rows"):
        RawTable({"a": np.empty(0)})
    with pytest.raises(DataError, match="different lengths"):
        RawTable({"a": np.zeros(1), "b": np.zeros(2)})
