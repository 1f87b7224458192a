"""Generated impressions with a known truth, for any schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import Column, Schema, Scope, UsageError, check_fields
from headway.data.dataset import Dataset
from headway.data.planted_terms import Block, Term, blocks, terms_of
from headway.data.planted_world import Singles, World
from headway.data.synthetic import PARTS, Part
from headway.data.transforms import Transforms
from headway.data.truth import Ids, as_they_are, rank_auc

Floats = NDArray[np.float64]
Size = Annotated[int, Meta(ge=1, le=2**24)]
DENSE_BYTES = 2**31
"""Dense values of all parts together take about this much memory at most."""

_PILOT_ROWS, _PILOT_CANDIDATES = 16_000, 4
_BLOCK = 20_000


class PlantedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is planted, and how much of it can be known.

    Attributes:
        train: impressions to learn from, and likewise ``valid``, ``choose`` and ``test``.
        candidates: impressions of one query; more if query-level dense values would else take
            more memory than ``DENSE_BYTES``.
        skew: exponent of the Zipf law that ids follow; 1.05 is that of production tables.
        base_rate: share of clicks, of every task.
        auc: of the true logits, about: what a perfect model would reach.
    """

    train: Size = 1_200_000
    valid: Size = 100_000
    choose: Size = 200_000
    test: Size = 500_000
    candidates: Size = 20
    skew: Annotated[float, Meta(gt=0)] = 1.05
    base_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    auc: Annotated[float, Meta(gt=0.5, lt=0.99)] = 0.815

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: for a setting out of its range, or a skew of exactly 1, which drawing ids
                divides by.
        """
        check_fields(self)
        if abs(self.skew - 1) < 1e-6:
            raise UsageError("a skew of exactly 1 cannot be drawn; take 1.01")

    @property
    def rows(self) -> int:
        """Impressions of all parts."""
        return self.train + self.valid + self.choose + self.test


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """Four data sets of one world, with the truth about each row.

    Attributes:
        schema: shared by the four.
        transforms: ids as they are, numbers as they are: raw queries can be served too.
        train: what models learn from.
        valid: stops training early.
        choose: chooses compositions.
        test: judges.
        oracle_logits: part to the true logits of its rows, float32 ``[rows, tasks]``.
    """

    schema: Schema
    transforms: Transforms
    train: Dataset
    valid: Dataset
    choose: Dataset
    test: Dataset
    oracle_logits: Mapping[Part, Singles]

    def best_auc(self, part: Part) -> float:
        """Return the AUC of the true logits, mean over tasks: no model can do better."""
        labels, logits = getattr(self, part).labels, self.oracle_logits[part]
        tasks = range(labels.shape[1])
        return float(np.mean([rank_auc(labels[:, t], logits[:, t]) for t in tasks]))


def plant(schema: Schema, settings: PlantedSettings, rng: np.random.Generator) -> Planted:
    """Draw a world for a schema, and impressions in it.

    Ids are skewed and of a few kinds; ids of one row lean towards the same kinds. The true logit
    of a task is a sum of what the ids are worth, how well ids of the query and of the candidate
    go together in a space of few dimensions, how like the candidate is to a history of its
    table's ids (like and recent places count more), and a function of the dense values with many
    bends. Rare ids are worth little, so most of it can be learnt. Tasks have about half of it in
    common. The terms are scaled on a pilot to the base rate and AUC of the settings.

    Args:
        schema: any features, of either scope.
        settings: sizes.
        rng: the only source of chance; equal states give equal worlds.

    Raises:
        UsageError: if candidate-level dense values alone take more than ``DENSE_BYTES``.
    """
    candidates = _candidates(schema, settings)
    world = World(schema, settings.skew, rng)
    truth = _Truth(world, settings, rng)
    datasets: dict[Part, Dataset] = {}
    logits: dict[Part, Singles] = {}
    for part in PARTS:
        rows: int = getattr(settings, part)
        drawn = _draw(world, rows, candidates, rng)
        logits[part] = truth.logits(*drawn)
        labels = rng.random(logits[part].shape, np.float32) < _chances(logits[part])
        context, own, row_to_query = drawn
        datasets[part] = Dataset(
            schema=schema,
            context=context,
            candidates=own,
            row_to_query=row_to_query,
            labels=labels.astype(np.float32),
        )
    return Planted(schema=schema, transforms=as_they_are(schema), oracle_logits=logits, **datasets)


def _candidates(schema: Schema, settings: PlantedSettings) -> int:
    """Return the candidates of a query: so many that the dense values fit into memory."""
    shared, own = (sum(f.width for f in schema.dense_features(s)) for s in Scope)
    left = DENSE_BYTES - 4 * own * settings.rows
    if left < 0:
        raise UsageError(
            f"{settings.rows:,} rows of {own:,} candidate-level dense values take more than "
            f"{DENSE_BYTES:,} bytes; plant fewer rows, or give the values to the query"
        )
    needed = 4 * shared * settings.rows / max(left, DENSE_BYTES // 4)
    return max(settings.candidates, int(np.ceil(needed)))


def _draw(
    world: World, rows: int, candidates: int, rng: np.random.Generator
) -> tuple[dict[str, Column], dict[str, Column], Ids]:
    """Draw the query-level and candidate-level columns of a part, and the query of each row."""
    row_to_query = np.arange(rows, dtype=np.int64) // candidates
    context = world.draw(Scope.QUERY, int(row_to_query[-1]) + 1, rng)
    return context, world.draw(Scope.CANDIDATE, rows, rng), row_to_query


class _Truth:
    """The terms of the logit, scaled on a pilot: rows that are drawn for nothing else."""

    def __init__(self, world: World, settings: PlantedSettings, rng: np.random.Generator) -> None:
        terms = terms_of(world, rng)
        total = sum(share for share, _ in terms)
        pilot = blocks(*_draw(world, _PILOT_ROWS, _PILOT_CANDIDATES, rng), _BLOCK)
        self._tasks = len(world.schema.tasks)
        self._terms: list[tuple[Singles, Term]] = []
        for share, term in terms:
            raw = np.concatenate([term(block) for _, block in pilot])
            # A term that never varies (a table of one row) stays out.
            deviation = np.maximum(raw.std(axis=0), 1e-6)
            self._terms.append((np.float32((share / total) ** 0.5) / deviation, term))
        sums = np.concatenate([self._sum(block) for _, block in pilot])
        lines = [_line(sums[:, t], settings) for t in range(self._tasks)]
        self._scale, self._bias = np.array(lines, np.float32).T

    def logits(
        self, context: dict[str, Column], candidates: dict[str, Column], row_to_query: Ids
    ) -> Singles:
        """Return the true logits, float32 ``[rows, tasks]``."""
        out = np.empty((len(row_to_query), self._tasks), np.float32)
        for place, block in blocks(context, candidates, row_to_query, _BLOCK):
            out[place] = self._scale * self._sum(block) + self._bias
        return out

    def _sum(self, block: Block) -> Singles:
        out = np.zeros((len(block.row_to_query), self._tasks), np.float32)
        for weight, term in self._terms:
            out += weight * term(block)
        return out


def _line(sums: Singles, settings: PlantedSettings) -> tuple[float, float]:
    """Return the scale and bias that give sums, seen as logits, the settings' AUC and base rate."""
    mean, deviation = float(sums.mean()), max(float(sums.std()), 1e-6)
    rising = (np.sort(sums).astype(np.float64) - mean) / deviation

    def expected_auc(scale: float) -> float:
        # Half a pair for a row with itself.
        click = _chances(scale * rising + _bias(scale * rising, settings.base_rate))
        no = 1 - click
        return float((click * (np.cumsum(no) - no / 2)).sum() / (click.sum() * no.sum()))

    scale = _solve(expected_auc, settings.auc, 0.0, 20.0)
    return scale / deviation, _bias(scale * rising, settings.base_rate) - scale * mean / deviation


def _bias(logits: Floats, base_rate: float) -> float:
    return _solve(lambda bias: float(_chances(logits + bias).mean()), base_rate, -60.0, 60.0)


def _solve(rising: Callable[[float], float], goal: float, low: float, high: float) -> float:
    """Return where a rising function has a value, by halving."""
    for _ in range(26):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < goal else (low, middle)
    return (low + high) / 2


def _chances(logits: NDArray[Any]) -> NDArray[Any]:
    chances: NDArray[Any] = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    return chances
