"""The short form of a workload is read whole, and what is none is told part by part."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import DataError, UsageError
from headway.workload import (
    Bursts,
    Counts,
    DeepRecSysCompat,
    Diurnal,
    Gamma,
    Steps,
    Trace,
    Workload,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("production", Workload()),
        ("256", Workload(sizes="fixed", size=256)),
        ("fixed:64", Workload(sizes="fixed", size=64)),
        ("lognormal", Workload(sizes="lognormal")),
        (
            "lognormal:4.5,0.3,uniform",
            Workload(sizes="lognormal", mu=4.5, sigma=0.3, ids="uniform"),
        ),
        ("production,uniform", Workload(ids="uniform")),
        ("mlperf", Workload(sizes="mlperf")),
        ("production@poisson", Workload()),
        ("production@gamma:2", Workload(arrivals=Gamma(2))),
        ("production@bursts:10,0.05", Workload(arrivals=Bursts(10, 0.05))),
        ("production@bursts:10,0.05,3", Workload(arrivals=Bursts(10, 0.05, 3))),
        (
            "lognormal:5.1,0.2@diurnal:4",
            Workload(sizes="lognormal", arrivals=Diurnal(4)),
        ),
        (
            "64,uniform@diurnal:4,60,0.5",
            Workload(sizes="fixed", size=64, ids="uniform", arrivals=Diurnal(4, 60, 0.5)),
        ),
        ("production@steps:60x1,10x10", Workload(arrivals=Steps(((60, 1), (10, 10))))),
        (
            "normal:165,16@compat",
            Workload(sizes="normal", mean=165, std=16, arrivals=DeepRecSysCompat()),
        ),
        ("normal@deeprecsys-compat", Workload(sizes="normal", arrivals=DeepRecSysCompat())),
    ],
)
def test_a_workload_is_read_from_its_short_form(text: str, expected: Workload) -> None:
    assert Workload.parse(text) == expected
    assert Workload.parse(f" {text}\n") == expected
    assert msgspec.json.decode(msgspec.json.encode(expected), type=Workload) == expected


def test_files_are_named_and_looked_into_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a,b.csv"
    path.write_text("1\n2\n4\n")
    assert Workload.parse(f"production@trace:{path}") == Workload(arrivals=Trace(str(path)))
    assert Workload.parse(f"mlperf@trace:{path},60").arrivals == Trace(str(path), 60)
    assert Workload.parse(f"mlperf@counts:{path},1.5").arrivals == Counts(str(path), 1.5)
    path.write_text("size,count\n7,1\n")
    workload = Workload.parse(f"histogram:{path},uniform@gamma:0.5")
    assert workload == Workload(
        sizes="histogram", path=str(path), ids="uniform", arrivals=Gamma(0.5)
    )
    for text in (f"production@trace:{path}", f"1@counts:{path}.gz", "histogram:no/such/file.csv"):
        with pytest.raises(DataError, match=r"a,b\.csv|no/such/file\.csv"):
            Workload.parse(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "its sizes ''"),
        ("prod", "its sizes 'prod'"),
        ("fixed:0", "'fixed:0' are none .*>= 1"),
        ("fixed:-3", "'fixed:-3'"),
        ("9" * 20, "its sizes"),
        ("lognormal:1", "0 or 2 numbers belong here, not 1"),
        ("lognormal:1,-1", "sigma"),
        ("normal:a,1", "'a' is not a number"),
        ("mlperf:3", "its sizes 'mlperf:3'"),
        ("histogram:", "its sizes 'histogram:'"),
        ("production,skewed", "its sizes 'production,skewed'"),
        ("production,uniform,uniform", "its sizes 'production,uniform'"),
        ("²", "its sizes"),
    ],
)
def test_sizes_that_are_none_are_refused_with_the_forms_there_are(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=f"cannot read the workload .*{part}.*write production, "):
        Workload.parse(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "its arrivals ''"),
        ("often", "its arrivals 'often' are none .no such form"),
        ("poisson:2", "0 numbers belong here, not 1"),
        ("gamma", "1 numbers belong here, not 0"),
        ("gamma:0", "CV of 0.01 to 20, not 0"),
        ("gamma:nan", "'nan' is not a number"),
        ("bursts:10", "2 or 3 numbers belong here, not 1"),
        ("bursts:10,5", "share between 1e-06 and 1, not 5"),
        ("bursts:10,1e-300", "share between 1e-06 and 1, not 1e-300"),
        ("bursts:10,0.1,1e300", r"bursts last some seconds \(1e-06 to 1e\+09\), not 1e"),
        ("diurnal:4,0", r"period lasts some seconds \(1e-06 to 1e\+09\), not 0"),
        ("steps:", "'' is not a number"),
        ("steps:60", "'' is not a number"),
        ("steps:0x1", "not .0, 1"),
        ("trace:", "it names no file"),
        ("trace:a.csv,-1", "positive factor: -1"),
    ],
)
def test_arrivals_that_are_none_are_refused_with_the_forms_there_are(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=f"cannot read .*{part}.*write poisson, gamma:CV, "):
        Workload.parse(f"production@{text}")


@settings(deadline=None)
@given(
    st.one_of(
        st.text(),
        st.from_regex(r"\A[a-z]{0,11}:?[0-9.,x-]{0,12}(@[a-z-]{0,11}:?[0-9.,x-]{0,12})?\Z"),
        st.builds(
            "{}@{}:{}".format,
            st.sampled_from(["production", "mlperf", "normal:1,2", "5"]),
            st.sampled_from(["poisson", "gamma", "bursts", "diurnal", "steps", "trace"]),
            st.text("0123456789.,xe-", max_size=9),
        ),
    )
)
def test_any_other_text_is_refused_and_nothing_worse(text: str) -> None:
    try:
        workload = Workload.parse(text)
    except (UsageError, DataError):
        return
    assert isinstance(workload, Workload)
