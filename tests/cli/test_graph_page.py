"""The drawing of a graph: every operation in its place, nothing from outside, nothing unescaped."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as Xml

from hypothesis import given
from hypothesis import strategies as st

from headway.cli.pages.graph import build_graph, draw
from headway.cli.pages.layers import place
from headway.graph import Explanation, NodeCost


def cost(name: str, *inputs: str, op: str = "aten.linear", scope: str = "query") -> NodeCost:
    return NodeCost(
        name=name,
        op=op,
        scope=scope,
        shape=("rows", 8),
        inputs=inputs,
        origin="",
        place="",
        before=1000,
        after=10,
        rewrite="hoist",
        stopped="",
    )


def explanation(*nodes: NodeCost) -> Explanation:
    return Explanation(
        rows=256,
        per_query=False,
        rewrites=("hoist",),
        nodes=nodes,
        query=(),
        candidate=nodes[:1],
        before=sum(n.before for n in nodes),
        after=sum(n.after for n in nodes),
        notes=("hoisted: 8 of 12 columns",),
    )


@given(st.data())
def test_nodes_stand_below_what_they_read_and_never_on_each_other(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    inputs = {
        str(i): [str(j) for j in data.draw(st.sets(st.integers(0, max(i - 1, 0)), max_size=3))]
        if i
        else []
        for i in range(count)
    }
    places = place(inputs)
    assert places.keys() == inputs.keys()
    for name, reads in inputs.items():
        assert all(places[source].row < places[name].row for source in reads)
    for row in {p.row for p in places.values()}:
        columns = sorted(p.column for p in places.values() if p.row == row)
        assert columns[0] >= 0
        assert all(b - a >= 0.999 for a, b in pairwise(columns))


def test_no_nodes_need_no_place() -> None:
    assert place({}) == {}


def test_the_drawing_has_a_box_with_figures_for_every_operation() -> None:
    nodes = [cost("x", op="input"), cost("w", op="constant"), cost("y", "x", "w")]
    svg = Xml.fromstring(draw(nodes, 256)).find(".//{*}svg")
    assert svg is not None
    titles = [t.text or "" for t in svg.iterfind(".//{*}title")]
    assert [t.split(":")[0] for t in titles] == ["x", "y"], "parameters are left out"
    assert "multiply-adds a query at N = 256: 1,000 before, 10 after" in titles[1]
    assert "moved by: hoist" in titles[1]
    assert len(list(svg.iterfind("{*}path"))) == 1


def test_the_page_opens_offline_and_escapes_what_it_is_given() -> None:
    html = build_graph("<b>&", explanation(cost("<script>alert(1)</script>")))
    assert "<script" not in html
    assert "<b>&" not in html
    # The one address is the name of the SVG format, which nothing fetches.
    assert html.replace("http://www.w3.org/2000/svg", "").count("://") == 0
    assert "100x" in html.replace("100.00x", "100x")


def test_a_graph_of_three_hundred_operations_is_drawn() -> None:
    chain = [cost("n0", op="input")]
    chain += [cost(f"n{i}", f"n{i - 1}", f"n{max(0, i - 7)}") for i in range(1, 300)]
    svg = draw(chain, 256)
    assert svg.count("<title>") == 300


def test_what_only_hands_on_is_left_out_and_edges_pass_through() -> None:
    offsets = replace(cost("o", op="input"), place=" offsets of tags")
    bag = cost("bag", "x", "o", op="aten.embedding_bag")
    nodes = [cost("x", op="input"), offsets, bag, cost("item", "bag", op="getitem")]
    svg = draw([*nodes, cost("y", "item")], 256)
    assert svg.count("<title>") == 3
    assert svg.count("<path") == 2
