"""What the zoo's models cost per candidate, beside what was derived from the published files.

Prints the table of docs/zoo.md. Costs are counted, not timed: nothing depends on the machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from headway.core import Schema, Scope, Sequence
from headway.models import STYLES, ZOO, Cost, ZooModel, zoo, zoo_cost

# MFLOP, embedding bytes and MB of dense weights per candidate, derived from DeepRecSys' files,
# and from MLPerf's DLRM-v2.
TARGETS: dict[tuple[str, str], tuple[str, str, str]] = {
    ("ncf", "repo"): ("0.30", "1,024", "0.59"),
    ("wnd", "repo"): ("4.13", "3,456", "8.3"),
    ("mt-wnd", "repo"): ("5.24", "5,504", "10.5"),
    ("rmc1", "repo"): ("0.20", "81,920", "0.40"),
    ("rmc2", "repo"): ("0.64", "983,040", "1.28"),
    ("rmc3", "repo"): ("6.41", "25,600", "12.8"),
    ("din", "repo"): ("0.148", "97,536", "0.17"),
    ("dien", "repo"): ("1.57", "5,504", "0.19"),
    ("dcn-v2", "paper"): ("32", "", ""),
}
HEAD = (
    "model",
    "preset",
    "features of the query, of the candidate",
    "MFLOP/candidate",
    "bytes/candidate",
    "of them per query",
    "dense parameters",
    "tables",
)


def scopes(schema: Schema) -> str:
    """Return what belongs to the query and to the candidate by default."""
    parts = []
    for scope in (Scope.QUERY, Scope.CANDIDATE):
        dense = sum(f.width for f in schema.dense_features(scope))
        ids = schema.id_features(scope)
        history = [f"history of {f.max_length}" for f in ids if isinstance(f, Sequence)]
        count = len(ids) - len(history)
        tables = f"{count} table{'s' * (count > 1)}"
        parts.append(" + ".join([*([f"{dense} dense"] if dense else []), *history, tables]))
    return "; ".join(parts)


def beside(value: str, target: str) -> str:
    """Return a figure with its target in brackets."""
    return f"{value} ({target})" if target else value


def line(entry: ZooModel, cost: Cost) -> tuple[str, ...]:
    """Return a row of the table."""
    flops, embedding, weights = TARGETS.get((entry.name, entry.style), ("", "", ""))
    shared = cost.embedding_bytes - cost.candidate_embedding_bytes
    megabytes = beside(f"{cost.dense_parameters * 4e-6:.3g} MB", weights)
    return (
        entry.name,
        entry.style,
        scopes(entry.schema),
        beside(f"{cost.flops / 1e6:.3g}", flops),
        beside(f"{cost.embedding_bytes:,}", embedding),
        f"{100 * shared / cost.embedding_bytes:.0f} %",
        f"{cost.dense_parameters:,}, {megabytes}",
        f"{cost.table_parameters * 4e-9:.3g} GB",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    parser.add_argument("--json", type=Path, help="write the costs here")
    options = parser.parse_args()
    entries = [zoo(name, style) for name in ZOO for style in STYLES]
    costs = [zoo_cost(entry) for entry in entries]
    rows = [HEAD, ("---",) * len(HEAD), *map(line, entries, costs)]
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if options.json is not None:
        found = [
            {"model": e.name, "preset": e.style, **{k: getattr(c, k) for k in c.__struct_fields__}}
            for e, c in zip(entries, costs, strict=True)
        ]
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
