"""The page of a search shows every point, what was published, and nothing unescaped."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

import msgspec

from headway.cli.pages.frontier import HEAD, frontier_page, frontier_plot, point_rows
from headway.compress import Point, PointReport, SearchReport
from headway.compress.search_results import Quality, Speed

QUALITY = Quality(
    delta_auc=-0.0004,
    delta_auc_low=-0.0009,
    delta_auc_high=0.0001,
    delta_log_loss=0.0002,
    over=0.9,
    verdict="pass",
    seconds=1.0,
)


def measured(name: str, ratio: float, quality: Quality | None = QUALITY) -> PointReport:
    speed = Speed(ratio=ratio, us={"256": 80.0}, reference_us={"256": 100.0}, seconds=1.0)
    return PointReport(
        name=name, point=Point(), rung=1, quality=quality, speed=speed, fits=quality is QUALITY
    )


DIVERGED = msgspec.structs.replace(
    QUALITY, delta_auc=None, delta_auc_low=None, delta_auc_high=None, over=1e9, verdict="fail"
)
REPORT = SearchReport(
    objective="latency",
    points=(
        measured("slow", 0.8),
        measured("fast & <small>", 0.4),
        measured("diverged", 0.3, DIVERGED),
        PointReport(name="never", point=Point(flops=0.5), dropped="time was up"),
    ),
    best="fast & <small>",
    taken="slow",
    verdict="pass",
    seconds=12.0,
    stopped="time was up",
)


def test_every_point_has_a_row_the_cheapest_first() -> None:
    rows = point_rows(REPORT)
    assert [row[0] for row in rows] == ["diverged", "fast & <small>", "slow", "never"]
    assert {len(row) for row in rows} == {len(HEAD)}
    assert rows[-1][1:] == ("never", "", "", "", "", "time was up")
    assert rows[1][2:5] == ("0.400", "-0.00040", "[-0.00090, +0.00010]")
    assert rows[0][3] == "none"


def test_the_page_says_what_was_published_instead_of_the_best() -> None:
    text = frontier_page(REPORT, "m")
    assert "3 of 4 points tried in 12 s; time was up." in text
    assert "Published is &#x27;slow&#x27;: pass." in text
    assert "fast &amp; &lt;small&gt;" in text
    assert "<small>" not in text
    begun = msgspec.structs.replace(REPORT, taken="", verdict="")
    assert "Not judged yet" in frontier_page(begun, "m")


def test_the_plot_is_drawn_whatever_is_known() -> None:
    for report in (
        REPORT,
        msgspec.structs.replace(REPORT, objective="lbt", points=REPORT.points[2:]),
        msgspec.structs.replace(REPORT, points=()),
    ):
        assert Xml.fromstring(frontier_plot(report)).tag.endswith("svg")
