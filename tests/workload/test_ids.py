"""Ids are as skewed as production's and come again as often as told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.core import DataError, Schema, Scope, Sparse, Table, UsageError
from headway.workload import (
    AccessHistogram,
    Reuse,
    draw_queries,
    read_access_histograms,
    uniform_ids,
    zipf_ids,
)

STATS = """\
one.pt
Locality stats after processing 1 batches of size 4
Avg # of indices: 10000
Avg # of unique cols: 1000
Avg col size: 10.0
Histogram of col sizes:
(0, 1]: 0.500
(1, 2]: 0.300
(2, 4]: 0.195
(4+: 0.005
[0, 1, 2, 4]
['0.000', '0.500', '0.800', '1.000']
Ratio of index distribution at different column sizes:
(0, 1]: 0.050
(1, 2]: 0.060
(2, 4]: 0.090
(4+: 0.800
[0, 1, 2, 4]

"""


def fresh(count: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ids that never come twice."""
    return np.arange(count)


def read(folder: Path, text: str) -> tuple[AccessHistogram, ...]:
    path = folder / "stats.txt"
    path.write_text(text)
    return read_access_histograms(path)


def test_tables_are_read_with_their_names(tmp_path: Path) -> None:
    first, second = read(tmp_path, STATS + STATS.replace("one.pt", "two.pt"))
    assert (first.name, second.name) == ("one.pt", "two.pt")
    assert (first.rows, first.accesses) == (1000, 10_000)
    assert first.low.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(first.access_share, [0.05, 0.06, 0.09, 0.8])
    # The last bucket's rows follow from its accesses: 8000 of 8 each are all 1000.
    np.testing.assert_allclose(first.row_share, np.array([0.5, 0.3, 0.195, 1.0]) / 1.995)


def test_ids_are_as_skewed_as_the_histogram(tmp_path: Path) -> None:
    (table,) = read(tmp_path, STATS.replace("(4+", "(4, 1000]", 1).replace("(4+", "(4, 1000]"))
    rows, count = 3000, 600_000
    ids = table.draw(count, rows, np.random.default_rng(0))
    seen = np.sort(np.bincount(ids, minlength=rows))[::-1]
    borders = np.round(np.cumsum(table.row_share[::-1]) * rows).astype(int)
    found = [part.sum() / count for part in np.split(seen, borders[:-1])]
    np.testing.assert_allclose(found, table.access_share[::-1], rtol=0.05)


@given(st.integers(1, 10**12), st.integers(0, 50))
def test_ids_of_a_histogram_stay_in_their_table(rows: int, seed: int) -> None:
    table = AccessHistogram(
        "t", 9, 9, np.array([0, 1, 2]), np.array([0.9, 0.1, 0.0]), np.array([0.3, 0.3, 0.4])
    )
    ids = table.draw(100, rows, np.random.default_rng(seed))
    assert ids.min() >= 0
    assert ids.max() < rows


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(1, 2]: 0.300", "(1, 2]; 0.300", "line 8: .* is not a bucket"),
        ("(1, 2]: 0.300", "(1, 2]: many", "line 8: .* is not a bucket"),
        ("(1, 2]: 0.300", "(1, 2]: 3.0", "line 8: .* does not continue the buckets up to 1"),
        ("(1, 2]: 0.300\n", "", "line 8: .* does not continue the buckets up to 1"),
        ("(4+: 0.005\n", "(4+: 0.005\n(8+: 0.1\n", "line 11: .* does not continue"),
        ("(0, 1]: 0.500", "(0, 0]: 0.500", "line 7: .* does not continue"),
        ("(4+: 0.800\n", "", "4 buckets of rows and 3 of accesses"),
        ("(4+: 0.800\n", "(4+: 0.2\n", r"line 2: table 'one.pt' has shares that sum to \[1.0, 0.4"),
        ("Avg # of indices: 10000\n", "", "does not say how many"),
        ("Avg # of indices: 10000", "Avg # of indices: 1e4", "line 3: .* is not a bucket"),
        ("Histogram of col sizes:\n", "", "line 6: .* is not a bucket"),
        ("Locality stats", "Stats", "no line starts a table"),
    ],
)
def test_statistics_that_are_none_are_refused_with_their_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in STATS
    with pytest.raises(DataError, match=message):
        read(tmp_path, STATS.replace(old, new))


@settings(deadline=None)
@given(st.integers(0, len(STATS)), st.text(max_size=4), st.integers(0, 9))
def test_no_statistics_do_worse_than_being_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, inserted: str, dropped: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "stats.txt"
    text = STATS[:at] + inserted + STATS[at + dropped :]
    path.write_bytes(text.encode("utf-8", "ignore"))
    try:
        tables = read_access_histograms(path)
    except DataError:
        return
    for table in tables:
        assert table.draw(5, 10, np.random.default_rng(0)).max() < 10


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(1, 400), st.integers(0, 99))
def test_an_id_repeats_as_often_as_told_and_from_within_the_window(
    share: float, window: int, seed: int
) -> None:
    ids = Reuse(share=share, window=window).over(fresh)(3000, 1, np.random.default_rng(seed))
    repeated = ids != np.arange(3000)
    assert repeated.mean() == pytest.approx(share, abs=0.06)
    for place in np.flatnonzero(repeated)[:50].tolist():
        assert ids[place] in ids[max(0, place - window) : place]


def test_reuse_leaves_popularity_as_it_was() -> None:
    rng = np.random.default_rng(0)
    counts = [
        np.bincount(draw(400_000, 20, rng), minlength=20) / 400_000
        for draw in (zipf_ids(1.2), Reuse(share=0.5, window=3000).over(zipf_ids(1.2)))
    ]
    np.testing.assert_allclose(counts[0], counts[1], atol=0.02)


def test_reuse_refuses_what_is_no_share_or_window() -> None:
    for share, window in ((1.5, 5), (-0.1, 5), (0.5, 0), (float("nan"), 5)):
        with pytest.raises(UsageError, match="share of 0 to 1 and a window"):
            Reuse(share=share, window=window)


def test_queries_take_ids_from_any_source() -> None:
    schema = Schema(
        features=(Sparse(name="item", table="items", scope=Scope.CANDIDATE),),
        tables=(Table(name="items", rows=10**9, dim=4),),
    )
    sizes = np.full(30, 100)
    distinct = {}
    for name, source in (
        ("uniform", uniform_ids),
        ("reused", Reuse(share=0.8, window=500).over(uniform_ids)),
    ):
        queries = draw_queries(schema, sizes, np.random.default_rng(0), ids=source)
        columns = [q.candidates["item"] for q in queries]
        distinct[name] = len({int(i) for column in columns for i in np.asarray(column)})
    assert distinct["uniform"] == 3000
    assert distinct["reused"] == pytest.approx(600, abs=100)
