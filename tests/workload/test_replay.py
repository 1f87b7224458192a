"""Replayed traces keep what was recorded, at any rate and speed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.core import DataError, UsageError
from headway.workload import Counts, Trace, fixed_sizes, histogram_sizes, stream_schedule
from headway.workload.files import read_counts, read_moments, read_sizes


def write(path: Path, text: str) -> str:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture
def hour(tmp_path: Path) -> str:
    """An hour at 2 per second, three times as many in its middle third, gamma gaps."""
    gaps = np.random.default_rng(0).gamma(0.5, 1.0, size=7200)
    gaps[1200:6000] /= 3
    return write(tmp_path / "hour.csv", "\n".join(map(repr, np.cumsum(gaps).tolist())))


def cv(arrivals: NDArray[np.int64]) -> float:
    gaps = np.diff(arrivals)
    return float(gaps.std() / gaps.mean())


def test_dates_and_seconds_are_read_alike_and_put_in_order(tmp_path: Path) -> None:
    dates = (
        "TIMESTAMP,Tokens\n2023-11-16 18:15:50.9951690,3\n2023-11-16 18:15:46.6805900,4\n\n"
        "2023-11-16 18:15:51,5\n"
    )
    for name in ("a.csv", "a.csv.gz"):
        np.testing.assert_allclose(
            read_moments(Path(write(tmp_path / name, dates))), [0, 4.314579, 4.31941], atol=1e-9
        )
    zoned = dates.replace("\n2023", "\n 2023").replace(",", "+00:00,").replace("MP+00:00", "MP")
    assert len(read_moments(Path(write(tmp_path / "z.csv", zoned)))) == 3
    for text in ("7.5\n5\n6.25\n", "x,seconds\n0,7.5\n0,5\n0,6.25\n"):
        moments = read_moments(Path(write(tmp_path / "s.csv", text)))
        np.testing.assert_allclose(moments, [0, 1.25, 2.5])


def test_a_mark_of_byte_order_is_no_part_of_the_first_cell(tmp_path: Path) -> None:
    mark = "\ufeff"
    sizes, shares = read_sizes(Path(write(tmp_path / "s.csv", f"{mark}size,count\n4,1\n")))
    assert (sizes.tolist(), shares.tolist()) == ([4], [1.0])
    assert read_moments(Path(write(tmp_path / "t.csv", f"{mark}TIMESTAMP\n5\n7\n")))[-1] == 2


def test_counts_are_read_from_columns_of_minutes_and_from_lines(tmp_path: Path) -> None:
    wide = "HashApp,minute_2,minute_1,minute_10\nf,1,2,3\ng,10,20,30\n"
    assert read_counts(Path(write(tmp_path / "w.csv", wide))).tolist() == [22, 11, 33]
    bare = wide.replace("minute_", "")
    assert read_counts(Path(write(tmp_path / "b.csv.gz", bare))).tolist() == [22, 11, 33]
    for text in ("5\n0\n7.5\n", "count\n5\n0\n7.5\n", "day,count\n1,5\n1,0\n1,7.5\n"):
        assert read_counts(Path(write(tmp_path / "l.csv", text))).tolist() == [5, 0, 7.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("TIMESTAMP\n", "has 0 moments"),
        ("5\n", "has 1 moments"),
        ("5\n5\n", "two that differ"),
        ("a,b\n1,2\n", r"line 1: no column is named seconds or timestamp.*'a', 'b'"),
        ("TIMESTAMP\n2023-01-01 00:00:00\nlater\n", "line 3: 'later' is neither"),
        ("TIMESTAMP\n2023-01-01 00:00:00\nNaT\n", "line 3: 'NaT' is neither"),
        ("1\n2\n\nx\n", "line 4: 'x' is neither"),
        ("1\nnan\n", "line 2: 'nan' is neither"),
        ("x,seconds\n1,2\n3\n", "line 3 has 1 cells, column 2 is missing"),
        ("TIMESTAMP\n2024-01-01\n9999-12-31\n", "line 3: '9999-12-31' is no date from 1678"),
        ("TIMESTAMP\n1600-01-01\n2024-01-01\n", "line 2: '1600-01-01' is no date from 1678"),
        ("TIMESTAMP\n1678-01-01\n2261-12-31\n", "line 3: '2261-12-31' is more than 1e.09 s"),
        ("TIMESTAMP\n2000-01-01\n1975-01-01\n2025-01-01\n", "more than 1e.09 s"),
        ("1e308\n-1e308\n", "spans inf s"),
        ("1\n1.0000000001\n", "a trace spans 1e-06 to"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_moments(Path(write(tmp_path / "t.csv", text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n0\n", "counts no query in any of its 2 minutes"),
        ("3\n-1\n", "line 2: '-1' is not a count"),
        ("f,minute_1\na,inf\n", "line 2: 'inf' is not a count"),
        ("f,minute_1\na,?\n", "line 2: '\\?' is not a count"),
        ("f,minute_1,minute_2\na,1\n", "line 2 has 2 cells, column 3"),
        ("f,g\na,1\n", "no column is named count or counts"),
        ("1e-308\n", "counts 1e-308 queries"),
        ("1e308\n1e308\n", "line 1: '1e308' is not a count"),
    ],
)
def test_counts_that_are_none_are_refused_with_their_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_counts(Path(write(tmp_path / "c.csv", text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,count\n", "counts no query of any size"),
        ("size,count\n5,0\n", "counts no query of any size"),
        ("1,2,3\n", "line 1 has 3 cells; write size,count"),
        ("0,2\n", "line 1: a size is a whole number from 1 to 1,000,000, not '0'"),
        ("2,1\n2.5,2\n", "line 2: a size is a whole number"),
        ("5,many\n", "line 1: 'many' is not a count"),
        ("5,1e308\n6,1e308\n", "line 1: '1e308' is not a count"),
    ],
)
def test_sizes_that_are_none_are_refused_with_their_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_sizes(Path(write(tmp_path / "s.csv", text)))


@settings(max_examples=120, deadline=None)
@given(content=st.one_of(st.text(), st.binary(max_size=60)), gz=st.booleans())
def test_no_file_does_worse_than_being_refused(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes, gz: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("any.csv.gz" if gz else "any.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "ignore"))
    for read in (read_moments, read_counts, read_sizes):
        message = str(path)
        try:
            read(path)
        except DataError as error:
            message = str(error)
        assert str(path) in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone\.csv"):
        Trace(str(tmp_path / "gone.csv")).draw(1, 1, np.random.default_rng(0))


def test_a_histogram_of_sizes_is_drawn_as_often_as_counted(tmp_path: Path) -> None:
    draw = histogram_sizes(Path(write(tmp_path / "s.csv", "size,count\n900,1\n10,2\n10,1\n")))
    sizes = draw(40_000, np.random.default_rng(0))
    assert set(sizes.tolist()) == {10, 900}
    assert (sizes == 900).mean() == pytest.approx(0.25, abs=0.01)


def test_without_a_speed_a_trace_keeps_every_gap_in_proportion(hour: str) -> None:
    moments = read_moments(Path(hour))
    span = moments[-1] * len(moments) / (len(moments) - 1)
    rate = 1000.0
    arrivals = Trace(hour).draw(rate, 7200 / rate * 2.5, np.random.default_rng(0))
    assert len(arrivals) == pytest.approx(18_000, abs=1500)
    np.testing.assert_allclose(arrivals[:7200], moments * (7.2 / span) * 1e9, rtol=1e-9, atol=2)
    # The next turn comes one mean gap after the last arrival of this one.
    np.testing.assert_allclose(arrivals[7200:14400] - arrivals[:7200], 7.2e9, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.25, 1.0, 2.5, 7.0])
def test_with_a_speed_the_rate_is_scaled_by_thinning_or_shifted_copies(
    hour: str, factor: float
) -> None:
    moments = read_moments(Path(hour))
    own = (len(moments) - 1) / moments[-1]
    whole = moments[-1] / 60 * len(moments) / (len(moments) - 1)
    arrivals = Trace(hour, speed=60).draw(own * 60 * factor, whole, np.random.default_rng(2))
    assert len(arrivals) == pytest.approx(7200 * factor, abs=6 * (7200 * factor) ** 0.5)
    if factor == 1:
        np.testing.assert_allclose(arrivals[:7200], moments / 60 * 1e9, rtol=1e-9, atol=2)
    if factor == 0.25:  # the wave is where it was
        share = ((arrivals > whole * 0.4e9) & (arrivals < whole * 0.6e9)).mean()
        kept = ((moments > 0.4 * moments[-1]) & (moments < 0.6 * moments[-1])).mean()
        assert share == pytest.approx(kept, abs=0.03)
    if factor > 2:  # no two copies lie on one another
        assert (np.diff(arrivals) == 0).mean() < 0.01


def test_too_many_copies_are_refused_with_the_remedy(hour: str) -> None:
    with pytest.raises(UsageError, match="raise the speed"):
        Trace(hour, speed=1).draw(1e6, 1, np.random.default_rng(0))
    for build in (Trace, Counts):
        with pytest.raises(UsageError, match="positive factor: 0"):
            build(hour, speed=0)


def test_counts_fill_the_run_once_and_with_a_speed_again_and_again(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "1\n4\n0\n5\n")
    once = Counts(path).draw(1000, 20, np.random.default_rng(0))
    counts = np.histogram(once / 1e9, bins=4, range=(0, 20))[0]
    np.testing.assert_allclose(counts, [2000, 8000, 0, 10_000], atol=400)
    again = Counts(path, speed=60).draw(1000, 20, np.random.default_rng(0))
    counts = np.histogram(again / 1e9, bins=20, range=(0, 20))[0].reshape(5, 4)
    np.testing.assert_allclose(counts.mean(axis=0), [400, 1600, 0, 2000], atol=60)


def test_replays_in_blocks_are_those_in_one_piece(tmp_path: Path, hour: str) -> None:
    minutes = write(tmp_path / "c.csv", "1\n4\n2\n5\n")
    for process in (Trace(hour), Trace(hour, 20), Counts(minutes), Counts(minutes, 900)):
        rng = np.random.default_rng(5)
        blocks = list(stream_schedule(900, 200, fixed_sizes(1), rng, process, 4096))
        together = np.concatenate([b.intended_ns for b in blocks])
        whole = process.draw(900, 200, np.random.default_rng(6))
        assert (np.diff(together) >= 0).all()
        assert len(together) == pytest.approx(len(whole), rel=0.02)
        assert cv(together) == pytest.approx(cv(whole), rel=0.05)


def test_a_file_is_read_once_while_it_stays_and_anew_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("0\n1\n4\n")
    first = read_moments(path)
    assert read_moments(path) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 7.0
    path.write_text("0\n1\n4\n9\n")
    assert read_moments(path).tolist() == [0, 1, 4, 9]
    path.unlink()
    with pytest.raises(DataError, match=r"trace\.csv"):
        read_moments(path)
