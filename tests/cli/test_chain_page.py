"""What each pass brings, as tables and plots: each figure in its place, nothing from outside."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import msgspec
import numpy as np
import pytest

from headway.bundle import GuardEntry
from headway.cli.optimizing import show
from headway.cli.pages.chain import (
    SIZE_HEAD,
    chain_sections,
    doubts,
    size_rows,
    speed_head,
    speed_rows,
)
from headway.cli.pages.html import page
from headway.cli.pages.optimize import build_optimize, facts_of
from headway.cli.terminal import Terminal
from headway.compress import (
    Chain,
    Evidence,
    GuardSettings,
    Link,
    PassSummary,
    Step,
    Summary,
    Times,
    judge,
)

NAMES = ("original", "lightweight", "prune", "distil", "quantize")
SIZES = ("256", "64")


def guard(noise: float) -> GuardEntry:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=2000)
    labels = (rng.random(2000) < 1 / (1 + np.exp(-raw))).astype(float)
    noisy = raw + noise * rng.normal(size=2000)
    settings = GuardSettings(rounds=200, margin_auc=0.02)
    return judge(Evidence(labels, raw, noisy), settings, np.random.default_rng(0), looks=5)


@pytest.fixture(scope="module")
def chain() -> Chain:
    def times(us: float) -> dict[str, Times]:
        return {n: Times(p50_us=us * int(n), p95_us=2 * us * int(n), samples=50) for n in SIZES}

    links = [
        Link(
            name=name,
            composition=f"{name}, tables f32, dense f32",
            dense_parameters=20_000 // (i + 1),
            table_parameters=1_000_000 // (i + 1),
            flops=40_000 // (i + 1),
            candidate_bytes=1280 // (i + 1),
            size_bytes=4_000_000 // (i + 1),
            eager=None if name == "quantize" else times(8.0 / (i + 1)),
            compiled=times(2.0 / (i + 1)),
            eager_lbt_qps=None if name == "quantize" else 100.0 * (i + 1),
            lbt_qps=1000.0 * (i + 1),
            guard=guard(0.02 * i),
            seconds=1.0,
            facts={},
        )
        for i, name in enumerate(NAMES)
    ]
    return Chain(name="m", sla="p95 <= 25 ms", links=tuple(links), looks=5)


@pytest.fixture(scope="module")
def summary(chain: Chain) -> Summary:
    verdict = guard(0.02)
    facts = {"widths": {"deep.0": (64, 32)}, "criteria": ["taylor"], "operations left": 0.4321}
    return Summary(
        bundle="out/m",
        name="m",
        composition="prune, tables f32, dense f32",
        guard=verdict,
        steps=(Step("prune, tables f32, dense f32", verdict, claim=True),),
        choices=(),
        latency_us={
            "original": {"256": 2000.0, "64": 900.0},
            "prune, tables f32, dense f32": {"256": 300.0, "64": 200.0},
        },
        original_bytes=4_000_000,
        size_bytes=1_000_000,
        equality=1e-7,
        notes=(),
        warnings=(),
        passes=(PassSummary(name="prune", seconds=2.04, facts=facts),),
        chain=chain,
    )


class Cells(HTMLParser):
    """Collects tables and headings, and refuses what a page must not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert tag != "script"
        assert not any(name in ("src", "href") and "#" not in str(v) for name, v in attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("td", "th") and data.strip():
            self.rows[-1][-1] += data


def test_each_prefix_has_its_size_its_work_and_its_verdict(chain: Chain) -> None:
    rows = size_rows(chain)
    assert [row[0] for row in rows] == list(NAMES)
    assert all(len(row) == len(SIZE_HEAD) for row in rows)
    assert rows[0][1:5] == ("1.02M", "40k", "1.3 kB", "4.0 MB")
    assert rows[1][-1] == chain.links[1].guard.verdict
    assert rows[1][-2].startswith(f"{chain.links[1].guard.delta_auc:+.5f} [")


def test_each_prefix_that_did_not_pass_says_why(chain: Chain) -> None:
    html = "".join(chain_sections(chain, 0.02))
    short = [link for link in chain.links if link.guard.verdict != "pass"]
    assert short
    for link, said in zip(short, doubts(chain), strict=True):
        assert said == f"{link.name}, {link.guard.verdict}: {link.guard.reason}"
        assert said in html


def test_torch_stands_beside_compiled_at_each_query_size(chain: Chain) -> None:
    head, rows = speed_head(chain), speed_rows(chain)
    assert head[1:5] == tuple(f"{w}, ms, N = {n}" for n in SIZES for w in ("torch", "compiled"))
    assert rows[0] == (
        "original", "2.05 / 4.1", "0.512 / 1.02", "0.512 / 1.02", "0.128 / 0.256", "100", "1,000",
    )  # fmt: skip
    assert rows[-1][1] == rows[-1][3] == rows[-1][5] == "none"


def test_the_page_shows_every_prefix_in_every_table_and_plot(chain: Chain) -> None:
    html = page("t", "", chain_sections(chain, 0.02), "f")
    found = Cells()
    found.feed(html)
    for name in NAMES:
        assert sum(row[0] == name for row in found.rows if row) == 2
    # Latency at each of two sizes, the AUC's intervals, and what is left of the original.
    assert html.count("<svg") == 4
    assert "simulated" in html
    assert "The 5 verdicts share" in html


def test_the_report_opens_offline_and_tells_what_passes_did(summary: Summary) -> None:
    html = build_optimize(summary)
    Cells().feed(html)
    assert "What each pass brings" in html
    assert "prune (2.0 s): widths: deep.0 64 -&gt; 32" in html
    assert "prune (2.0 s): operations left: 0.4321" in html


def test_a_report_without_chain_and_passes_has_no_empty_sections(summary: Summary) -> None:
    plain = build_optimize(msgspec.structs.replace(summary, chain=None, passes=()))
    assert "What each pass brings" not in plain
    assert "What the passes did" not in plain


def test_a_pass_that_changed_nothing_says_so() -> None:
    idle = PassSummary(name="lightweight", seconds=0.1, facts={"ranks": {}, "notes": []})
    assert facts_of(idle) == ["nothing"]


def test_outputs_that_are_not_finite_leave_gaps_and_no_nan(chain: Chain) -> None:
    broken = msgspec.structs.replace(chain.links[2], guard=guard(float("nan")))
    links = (*chain.links[:2], broken)
    html = "".join(chain_sections(msgspec.structs.replace(chain, links=links), 0.02))
    assert "nan" not in html
    assert "none [none, none]" in html


def test_json_and_terminal_tell_the_chain(
    capsys: pytest.CaptureFixture[str], summary: Summary
) -> None:
    show(summary, Terminal(json=True))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [link["name"] for link in found["chain"]["links"]] == list(NAMES)
    assert found["chain"]["links"][0]["compiled"]["256"] == {
        "p50_us": 512.0, "p95_us": 1024.0, "samples": 50,
    }  # fmt: skip
    assert found["passes"][0]["facts"]["widths"] == {"deep.0": [64, 32]}
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary).chain == summary.chain
    show(msgspec.structs.replace(summary, bundle=None), Terminal())
    said = capsys.readouterr().out
    assert "m -> not written" in said
    assert "simulated from it, one worker" in said
    assert said.count("\n  lightweight ") == 2
