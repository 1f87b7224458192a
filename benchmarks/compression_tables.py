"""What `compression.py` measured, as tables with the targets beside the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

import msgspec
from worlds import EIGHT

from headway.compress import Chain

Row = dict[str, Any]
SIZES = (64, 256, 1000)
AT = 256
MEAN_TARGET, SINGLE_TARGET = 0.15, 0.30
INT8_TARGET, INT4_TARGET, PRUNE_TARGET = 0.0005, 0.15, 0.5
PRUNED = ("rmc3", "wnd", "mt-wnd")


def show(rows: Sequence[Row]) -> None:
    for row in rows:
        _show_chain(row)
        _show_ablation(row)
    show_targets(rows)


def _show_chain(row: Row) -> None:
    chain = msgspec.convert(row["chain"], Chain)
    print(f"\n{row['world']}: {row['scale']}; {row['seconds']:.0f} s")
    head = f"  {'prefix':12}{'dense par.':>11}{'MFLOP':>8}{'bytes':>8}{'size':>9}"
    head += "".join(f"{f'N={n} torch | compiled ms':>26}" for n in SIZES)
    print(head + f"{f'1/s, {chain.sla}':>24}{'delta AUC [bounds]':>32}  verdict")
    for link in chain.links:
        cells = f"  {link.name:12}{link.dense_parameters:>11,}{link.flops / 1e6:>8.2f}"
        cells += f"{link.candidate_bytes:>8,}{link.size_bytes / 1e6:>7.1f}MB"
        for size in map(str, SIZES):
            eager = f"{link.eager[size].p50_us / 1000:.2f}" if link.eager else "-"
            own = link.compiled[size]
            cells += f"{f'{eager} | {own.p50_us / 1000:.2f} (p95 {own.p95_us / 1000:.2f})':>26}"
        eager_rate = "-" if link.eager_lbt_qps is None else f"{link.eager_lbt_qps:.0f}"
        cells += f"{f'{eager_rate} | {link.lbt_qps:.0f}':>24}"
        print(f"{cells}{_delta(msgspec.to_builtins(link.guard)):>32}  {link.guard.verdict}")


def _show_ablation(row: Row) -> None:
    for way in row.get("ablation", ()):
        print(
            f"  {way['way']:20}{way['composition']:28}"
            f"p50 at N = {AT} {way['ratio'][str(AT)]:.3f}x torch eager, "
            f"{way['flops']:.2f} of the FLOPs, {way['size_bytes'] / 1e6:.1f} MB, "
            f"delta AUC {_delta(way['guard'])}, {way['guard']['verdict']}"
        )
    if "full" in row:
        full = row["full"]
        cells = ", ".join(f"N = {n} {ratio:.3f}x" for n, ratio in full["ratio"].items())
        print(f"  all, with tables of {full['rows']:,} rows and full bags: {cells}")


def _delta(guard: Mapping[str, Any]) -> str:
    if guard["delta_auc"] is None:
        return "not a number"
    low, high = guard["delta_auc_low"], guard["delta_auc_high"]
    return f"{guard['delta_auc']:+.5f} [{low:+.5f}, {high:+.5f}]"


def show_targets(rows: Sequence[Row]) -> None:
    made = [row for row in rows if row["world"].startswith("generated:")]
    print()
    for kind, ratios in (("at this scale", _chain_ratios(made)), ("full size", _full_ratios(made))):
        if ratios:
            mean = exp(sum(map(log, ratios.values())) / len(ratios))
            worst = max(ratios, key=lambda name: ratios[name])
            print(
                f"generated, {kind}: p50 at N = {AT} {mean:.3f}x torch eager as geometric mean of "
                f"{len(ratios)} of {len(EIGHT)} (target {MEAN_TARGET}x), worst {worst} "
                f"{ratios[worst]:.3f}x (target {SINGLE_TARGET}x)"
            )
    for row in made:
        last = row["chain"]["links"][-1]["guard"]
        print(f"{row['world']}: all, guard {last['verdict']} (target pass): {last['reason']}")
        ways = {way["way"]: way for way in row.get("ablation", ())}
        if "only int8" in ways:
            delta = abs(ways["only int8"]["guard"]["delta_auc"])
            print(f"  int8 alone: |delta AUC| {delta:.5f} (target {INT8_TARGET})")
        if "only int4 tables" in ways:
            way = ways["only int4 tables"]
            share = way["table_bytes"] / ways["only compiled"]["table_bytes"]
            verdict = way["guard"]["verdict"]
            print(f"  int4 tables: {share:.3f} of float32 (target {INT4_TARGET}), {verdict}")
        if row["world"].split(":")[1] in PRUNED and "only pruned" in ways:
            way, plain = ways["only pruned"], ways["only compiled"]
            wall = way["ratio"][str(AT)] / plain["ratio"][str(AT)]
            print(
                f"  pruning alone: {way['flops']:.2f} of the FLOPs (target {PRUNE_TARGET}), "
                f"{wall:.2f} of the compiled time, {way['guard']['verdict']}"
            )


def _chain_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return the compressed model's median latency over that of the original in torch."""
    ends = {row["world"]: (row["chain"]["links"][0], row["chain"]["links"][-1]) for row in rows}
    return {
        name: last["compiled"][str(AT)]["p50_us"] / first["eager"][str(AT)]["p50_us"]
        for name, (first, last) in ends.items()
    }


def _full_ratios(rows: Sequence[Row]) -> dict[str, float]:
    return {row["world"]: row["full"]["ratio"][str(AT)] for row in rows if "full" in row}
