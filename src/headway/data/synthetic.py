"""Generated impressions whose true click probabilities are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import Bag, Dense, Ragged, Schema, Scope, Sparse, Table, UsageError, check_fields
from headway.data.dataset import Dataset
from headway.data.transforms import Transforms
from headway.data.truth import as_they_are, rank_auc, zipf

Part = Literal["train", "valid", "choose", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "choose", "test")
Size = Annotated[int, Meta(ge=1, le=2**24)]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

# Each term's standard deviation in the logit; more of it in ids that are seen often.
_CONTEXT_EFFECTS = {
    "user": 0.1,
    "segment": 0.3,
    "region": 0.2,
    "device": 0.2,
    "hour": 0.3,
    "publisher": 0.3,
}
_CANDIDATE_EFFECTS = {
    "item": 0.25,
    "category": 0.65,
    "brand": 0.3,
    "advertiser": 0.3,
    "creative": 0.05,
    "seller": 0.05,
    "price": 0.4,
    "position": 0.4,
}
_AFFINITY, _NUMBERS, _BIAS = 0.8, 0.6, -1.7
_RANK = 6


class SyntheticSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is generated; the defaults have the shape of a production ranking model.

    Attributes:
        train: impressions to learn from, and likewise ``valid``, ``choose`` and ``test``.
        candidates: impressions of one query.
        users: rows of the user table.
        items: rows of the item table, which the history bag shares.
        creatives: rows of the creative table.
        sellers: rows of the table of sellers.
        publishers: rows of the publisher table.
        dim: width of all tables.
        dense_width: query-level numbers.
        history: longest history bag.
        skew: exponent of the Zipf law that ids follow; 1.05 is that of production tables.
    """

    train: Size = 300_000
    valid: Size = 40_000
    choose: Size = 60_000
    test: Size = 120_000
    candidates: Size = 20
    users: Size = 200_000
    items: Size = 350_000
    creatives: Size = 200_000
    sellers: Size = 100_000
    publishers: Size = 60_000
    dim: Size = 32
    dense_width: Annotated[int, Meta(ge=4)] = 13
    history: Size = 80
    skew: Annotated[float, Meta(gt=0)] = 1.05

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: for a size out of its range, or a skew of exactly 1, which the inversion
                below divides by.
        """
        check_fields(self)
        if abs(self.skew - 1) < 1e-6:
            raise UsageError("a skew of exactly 1 cannot be drawn; take 1.01")


@dataclass(frozen=True, slots=True, eq=False)
class Synthetic:
    """Four data sets of one world, with the truth about each row.

    Attributes:
        schema: shared by the four.
        transforms: ids as they are, numbers as they are: raw queries can be served too.
        train: what models learn from.
        valid: stops training early.
        choose: chooses compositions.
        test: judges.
        oracle_logits: part to the true logit of each of its rows, float64 ``[rows]``.
    """

    schema: Schema
    transforms: Transforms
    train: Dataset
    valid: Dataset
    choose: Dataset
    test: Dataset
    oracle_logits: Mapping[Part, Floats]

    def best_auc(self, part: Part) -> float:
        """Return the AUC of the true logits: no model can be expected to do better."""
        dataset: Dataset = getattr(self, part)
        return rank_auc(dataset.labels[:, 0], self.oracle_logits[part])


def generate(settings: SyntheticSettings, rng: np.random.Generator) -> Synthetic:
    """Draw a world of users and items, and impressions in it.

    Tastes and items lie in a space of few dimensions, mostly given by a user's segment and an
    item's category, so that what a model must learn is in ids that are seen often. Histories
    are drawn by taste. The click probability is the logistic function of a sum of: taste times
    item, effects of single ids, and a non-linear function of the dense numbers.

    Args:
        settings: sizes.
        rng: the only source of chance; equal states give equal worlds.
    """
    schema = synthetic_schema(settings)
    world = _World(settings, rng)
    datasets: dict[Part, Dataset] = {}
    logits: dict[Part, Floats] = {}
    for part in PARTS:
        rows: int = getattr(settings, part)
        datasets[part], logits[part] = _draw_part(world, schema, rows, rng)
    return Synthetic(
        schema=schema,
        transforms=as_they_are(schema),
        oracle_logits=logits,
        **datasets,
    )


def synthetic_schema(settings: SyntheticSettings) -> Schema:
    """Return the schema of generated data: 14 tables, one dense feature, one history bag."""
    query, candidate = Scope.QUERY, Scope.CANDIDATE
    rows = _table_rows(settings)
    context = ("user", "segment", "region", "device", "hour", "publisher")
    own = [name for name in rows if name not in context]
    return Schema(
        features=(
            Dense(name="numbers", scope=query, width=settings.dense_width),
            *(Sparse(name=name, table=name, scope=query) for name in context),
            Bag(name="history", table="item", scope=query, max_length=settings.history),
            *(Sparse(name=name, table=name, scope=candidate) for name in own),
        ),
        tables=tuple(Table(name=n, rows=r, dim=settings.dim) for n, r in rows.items()),
    )


def _table_rows(settings: SyntheticSettings) -> dict[str, int]:
    return {
        "user": settings.users,
        "segment": 48,
        "region": 5_000,
        "device": 2_000,
        "hour": 24,
        "publisher": settings.publishers,
        "item": settings.items,
        "category": 300,
        "brand": 40_000,
        "advertiser": 20_000,
        "creative": settings.creatives,
        "seller": settings.sellers,
        "price": 50,
        "position": 10,
    }


class _World:
    """What exists before anybody looks at anything: who is like whom, and what ids are worth."""

    def __init__(self, settings: SyntheticSettings, rng: np.random.Generator) -> None:
        self.settings = settings
        self.rows = _table_rows(settings)
        items, users, categories = self.rows["item"], self.rows["user"], self.rows["category"]
        self.effects = {name: rng.normal(size=rows) for name, rows in self.rows.items()}
        self.mixing = rng.normal(size=(settings.dense_width, 3)) / np.sqrt(settings.dense_width)
        # Tastes: mostly the segment's, partly one's own, which only the history can tell.
        self.category_taste = rng.normal(size=(categories, _RANK)) / _RANK**0.25
        segments = rng.normal(size=(self.rows["segment"], _RANK)) / _RANK**0.25
        own = rng.normal(size=(users, _RANK)) / _RANK**0.25
        self.user_segment = zipf(self.rows["segment"], users, 0.6, rng)
        self.user_taste = 0.85 * segments[self.user_segment] + 0.53 * own
        self.item = {
            name: zipf(self.rows[name], items, 0.8, rng)
            for name in ("category", "brand", "advertiser", "creative", "seller", "price")
        }
        # Items by category, popular ones (low numbers) first, for drawing histories.
        self.by_category = np.argsort(self.item["category"], kind="stable")
        self.in_category = np.bincount(self.item["category"], minlength=categories)
        self.first_of = np.cumsum(self.in_category) - self.in_category


def _draw_part(
    world: _World, schema: Schema, rows: int, rng: np.random.Generator
) -> tuple[Dataset, Floats]:
    row_to_query = np.arange(rows, dtype=np.int64) // world.settings.candidates
    queries = int(row_to_query[-1]) + 1
    users = zipf(world.rows["user"], queries, 0.8, rng)
    context = _draw_context(world, users, rng)
    candidates = _draw_candidates(world, rows, rng)
    per_query = _worth(world, context, _CONTEXT_EFFECTS) + _worth_of_numbers(
        context["numbers"] @ world.mixing
    )
    tastes = world.user_taste[users][row_to_query]
    liking = (tastes * world.category_taste[candidates["category"]]).sum(axis=1)
    logits = per_query[row_to_query] + _worth(world, candidates, _CANDIDATE_EFFECTS)
    logits += _AFFINITY * liking + _BIAS
    clicks = rng.random(rows) < 1 / (1 + np.exp(-logits))
    dataset = Dataset(
        schema=schema,
        context={**context, "history": _draw_histories(world, users, rng)},
        candidates=candidates,
        row_to_query=row_to_query,
        labels=clicks.astype(np.float32)[:, None],
    )
    return dataset, logits


def _draw_context(world: _World, users: Ids, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    queries, skew = len(users), world.settings.skew
    width = world.settings.dense_width
    context: dict[str, NDArray[Any]] = {
        "numbers": rng.normal(size=(queries, width)).astype(np.float32),
        "user": users,
        "segment": world.user_segment[users],
        "hour": rng.integers(0, world.rows["hour"], queries),
    }
    for name in ("region", "device", "publisher"):
        context[name] = zipf(world.rows[name], queries, skew, rng)
    return context


def _draw_candidates(world: _World, rows: int, rng: np.random.Generator) -> dict[str, Ids]:
    items = zipf(world.rows["item"], rows, world.settings.skew, rng)
    attributes = {name: ids[items] for name, ids in world.item.items()}
    position = rng.integers(0, world.rows["position"], rows)
    return {"item": items, **attributes, "position": position}


def _draw_histories(world: _World, users: Ids, rng: np.random.Generator) -> Ragged:
    """Draw up to ``history`` items for each user, of categories to the user's taste."""
    lengths = rng.integers(0, world.settings.history + 1, len(users))
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    liking = world.user_taste[users] @ world.category_taste.T
    chance = np.exp(1.5 * liking) * world.in_category
    # One rising row of shares per user, shifted by the user's place: one search finds all.
    shares = np.cumsum(chance, axis=1)
    shares = shares / shares[:, -1:] + np.arange(len(users))[:, None]
    owner = np.repeat(np.arange(len(users)), lengths)
    found = np.searchsorted(shares.ravel(), owner + rng.random(len(owner)), side="right")
    category = np.minimum(found - owner * shares.shape[1], shares.shape[1] - 1)
    place = zipf(world.in_category[category], len(category), world.settings.skew, rng)
    return Ragged(world.by_category[world.first_of[category] + place], offsets)


def _worth(
    world: _World, columns: Mapping[str, NDArray[Any]], weights: Mapping[str, float]
) -> Floats:
    terms = [weight * world.effects[name][columns[name]] for name, weight in weights.items()]
    total: Floats = np.sum(terms, axis=0, dtype=np.float64)
    return total


def _worth_of_numbers(mixed: Floats) -> Floats:
    """Return a non-linear function of three normal numbers, with deviation _NUMBERS."""
    a, b, c = mixed.T
    raw: Floats = a * c + np.abs(b) - np.sqrt(2 / np.pi) + np.tanh(c)
    scaled: Floats = _NUMBERS * raw / 1.3
    return scaled
