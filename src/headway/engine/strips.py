"""Which steps of a program run over some places of a history at a time."""

from __future__ import annotations

from collections import Counter

from headway.bundle import Concat, Product, Program, QueryProduct, Step


def in_strips(program: Program) -> list[list[Step]]:
    """Return the steps one by one, or those together that may run over some places at a time.

    These are a product with a query's matrix and the products of its pieces that follow, when
    nothing else reads what is between: all of it would not stay in the cache.
    """
    uses = Counter(program.steps.outputs.values())
    for step in program.steps.steps:
        uses.update(step.sources if isinstance(step, Concat) else (step.source,))
        uses.update(getattr(step, name, "") for name in ("other", "matrix", "scaled_by"))
    runs: list[list[Step]] = []
    for step in program.steps.steps:
        last = runs[-1][-1] if runs else None
        before = last.groups if isinstance(last, Product) else 0
        if (
            isinstance(step, Product)
            and step.groups > 1
            and isinstance(runs[-1][0] if runs else None, QueryProduct)
            and isinstance(last, QueryProduct | Product)
            and before in {0, step.groups}
            and step.source == last.result
            and uses[step.source] == 1
        ):
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs
