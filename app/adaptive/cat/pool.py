"""The items a test may choose from, with what is worth computing once.

Sizes: I items, M the most steps of one item, K = M + 1 categories, Q nodes of ability, C scales.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.cat.information_index import MAX_ABILITY, InformationIndex, build_information_index
from app.adaptive.irt.curves import has_category, log_probabilities
from app.adaptive.irt.information import binary_columns, binary_information, binary_log_p, fisher_information
from app.adaptive.irt.item_models import ASYMPTOTIC, BINARY, MODELS, Model
from app.adaptive.irt.items import ItemBank

# All items scored right or wrong are 4PL items, all with steps are items of generalised partial credit.
KINDS: tuple[Model, ...] = ("4pl", "graded", "gpcm")
CURVES: dict[Model, Model] = {"graded": "graded", "gpcm": "gpcm", "pcm": "gpcm"}
# Abilities lie between these, in steps of a tenth: exact to 1e-4 for standard errors down to .08.
NODES = np.linspace(-MAX_ABILITY, MAX_ABILITY, 121)
NODES.setflags(write=False)
MAX_DISCRIMINATION, MAX_DIFFICULTY = 20.0, 20.0
# A pool of so many items has its curves computed at once: 10 MB if they are right or wrong.
MAX_TABLED_ITEMS = 5000
# Values that the curves of one block of items may hold.
LARGEST_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Pool:
    """I items of any models. Make it with `make_pool`, which checks; all arrays are (I,) unless said.

    `models` is each item's index in `MODELS`; `max_category` its highest category, 1 for right or wrong. `difficulty`
    (I, M) holds b, the thresholds or the steps; `guessing` and `upper` are the asymptotes. `scale` is the ability an
    item measures, `content` its group for shares of content, -1 for none. `exposure` is the Sympson–Hetter parameter:
    the chance to be given when it is the best. Of each set in `enemies` one item at most is given. `groups` are sets of
    items that the bounds of a plan may count.
    """

    models: Integers
    max_category: Integers
    discrimination: Floats
    difficulty: Floats
    guessing: Floats
    upper: Floats
    scale: Integers
    content: Integers
    exposure: Floats
    enemies: tuple[Integers, ...]
    groups: tuple[Integers, ...]

    @property
    def count(self) -> int:
        """I."""
        return len(self.models)

    @cached_property
    def scales(self) -> int:
        """C, at least 1."""
        return int(self.scale.max(initial=0)) + 1

    @cached_property
    def is_binary(self) -> bool:
        """Whether every item is scored right or wrong."""
        return bool((self.max_category == 1).all())

    @cached_property
    def binary_columns(self) -> Floats:
        """(6, I): see `information.binary_columns`; of use if the pool is `is_binary`."""
        return binary_columns(_bank_of(self, "4pl", np.arange(self.count)))

    @cached_property
    def kinds(self) -> Integers:
        """Each item's place in `KINDS`: whose curve it has."""
        kind_of = np.array([KINDS.index(CURVES.get(model, "4pl")) for model in MODELS])
        return np.asarray(kind_of[self.models], dtype=np.int64)

    @cached_property
    def members(self) -> tuple[Integers, ...]:
        """The items of each scale, ascending."""
        return tuple(np.flatnonzero(self.scale == scale) for scale in range(self.scales))

    @cached_property
    def information_indexes(self) -> tuple[InformationIndex, ...]:
        """Which items of each scale may be the most informative where."""
        return tuple(build_information_index(curve_blocks(self, members)) for members in self.members)

    @cached_property
    def enemies_of(self) -> dict[int, Integers]:
        """The enemies of each item that has any."""
        result: dict[int, set[int]] = {}
        for group in self.enemies:
            for item in group.tolist():
                result.setdefault(item, set()).update(group.tolist())
        return {item: np.array(sorted(others - {item}), dtype=np.int64) for item, others in result.items()}

    @cached_property
    def log_row_cache(self) -> dict[int, Floats]:
        """The rows of `log_row` that were asked for so far."""
        return {}

    @cached_property
    def log_probability(self) -> Floats:
        """(I, K, Q): log P(category | θ) at `NODES`, 0 for categories that an item does not have."""
        table = np.zeros((self.count, self.difficulty.shape[1] + 1, len(NODES)))
        for items, item_bank in curve_blocks(self, np.arange(self.count)):
            table[items, : item_bank.steps + 1] = log_curves(item_bank, NODES)
        return table

    @cached_property
    def probability(self) -> Floats:
        """(I, K, Q): P(category | θ) at `NODES`, 0 for categories that an item does not have."""
        held = has_category(self.max_category, self.difficulty.shape[1])
        return np.where(held[:, :, None], expm1(self.log_probability) + 1, 0.0)


def make_pool(
    models: Sequence[str],
    discrimination: Floats,
    difficulty: Floats,
    *,
    max_category: Integers | None = None,
    guessing: Floats | None = None,
    upper: Floats | None = None,
    scale: Integers | None = None,
    content: Integers | None = None,
    exposure: Floats | None = None,
    enemies: Sequence[Sequence[int]] = (),
    groups: Sequence[Sequence[int]] = (),
) -> Pool:
    """A pool of items named by their places; `difficulty` is (I,) or (I, M).

    Left out, `max_category` is 1 (right or wrong), `guessing` 0, `upper` 1, `scale` 0, `content` -1 and `exposure` 1.
    Raises ValueError for parameters that are no item's.
    """
    count = len(models)
    steps = np.array(difficulty, dtype=np.float64)
    steps = steps[:, None] if steps.ndim == 1 else steps
    if steps.ndim != 2 or len(steps) != count:  # noqa: PLR2004
        raise ValueError("every item has one difficulty, or one row of thresholds or steps")
    pool = Pool(
        models=np.array([_model_index(model) for model in models], dtype=np.int64),
        max_category=_integers_per_item(max_category, count, 1),
        discrimination=_floats_per_item(discrimination, count, 1.0),
        difficulty=steps,
        guessing=_floats_per_item(guessing, count, 0.0),
        upper=_floats_per_item(upper, count, 1.0),
        scale=_integers_per_item(scale, count, 0),
        content=_integers_per_item(content, count, -1),
        exposure=_floats_per_item(exposure, count, 1.0),
        enemies=tuple(_item_set(group, count) for group in enemies),
        groups=tuple(_item_set(group, count) for group in groups),
    )
    _check_pool(pool)
    return pool


def _model_index(model: str) -> int:
    """The number of a model."""
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}")
    return MODELS.index(model)


def _floats_per_item(values: Floats | None, count: int, default: float) -> Floats:
    """One finite number for each item."""
    result = np.full(count, default) if values is None else np.array(values, dtype=np.float64)
    if result.shape != (count,) or not np.isfinite(result).all():
        raise ValueError("every parameter is one finite number an item")
    return result


def _integers_per_item(values: Integers | None, count: int, default: int) -> Integers:
    """One whole number for each item."""
    result = np.full(count, default) if values is None else np.array(values, dtype=np.int64)
    if result.shape != (count,):
        raise ValueError("every parameter is one number an item")
    return result


def _item_set(group: Sequence[int], count: int) -> Integers:
    """A set of items."""
    result = np.unique(np.array(group, dtype=np.int64))
    if result.size and (result[0] < 0 or result[-1] >= count):
        raise ValueError("a set names an item that the pool does not have")
    return result


def _check_pool(pool: Pool) -> None:
    """Raise ValueError for parameters that are no item's."""
    max_category, steps = pool.max_category, pool.difficulty.shape[1]
    held = np.arange(steps) < max_category[:, None]
    binary_only = np.isin(pool.models, [MODELS.index(model) for model in BINARY])
    if (max_category < 1).any() or (max_category > steps).any() or (max_category[binary_only] > 1).any():
        raise ValueError("an item has a step for every grade, and one grade unless its model is polytomous")
    if (pool.discrimination <= 0).any() or (pool.discrimination > MAX_DISCRIMINATION).any():
        raise ValueError(f"a discrimination is above 0 and at most {MAX_DISCRIMINATION:g}")
    if not np.isfinite(pool.difficulty).all() or (np.abs(pool.difficulty[held]) > MAX_DIFFICULTY).any():
        raise ValueError(f"a difficulty, threshold or step is within {MAX_DIFFICULTY:g} of 0")
    ascending = np.diff(pool.difficulty, axis=1) > 0
    if not (ascending | ~held[:, 1:])[pool.models == MODELS.index("graded")].all():
        raise ValueError("the thresholds of a graded item ascend")
    if (pool.guessing < 0).any() or (pool.upper > 1).any() or (pool.guessing >= pool.upper).any():
        raise ValueError("0 <= guessing < upper <= 1")
    guessable = np.isin(pool.models, [MODELS.index(model) for model in ASYMPTOTIC])
    if ((pool.guessing != 0) & ~guessable).any() or ((pool.upper != 1) & (pool.models != MODELS.index("4pl"))).any():
        raise ValueError("only 3pl and 4pl items have a guessing, and only 4pl items an upper asymptote below 1")
    if (pool.scale < 0).any() or (pool.content < -1).any():
        raise ValueError("scales are numbered from 0, groups of content from 0 with -1 for none")
    if (pool.exposure <= 0).any() or (pool.exposure > 1).any():
        raise ValueError("an exposure parameter is above 0 and at most 1")


def pool_from_bank(item_bank: ItemBank) -> Pool:
    """The pool of a calibrated bank."""
    guessing = item_bank.guessing if item_bank.model in ("3pl", "4pl") else None
    upper = item_bank.upper if item_bank.model == "4pl" else None
    models = [item_bank.model] * item_bank.count
    return make_pool(
        models,
        item_bank.discrimination,
        item_bank.difficulty,
        max_category=item_bank.max_category,
        guessing=guessing,
        upper=upper,
    )


def curve_blocks(pool: Pool, items: Integers) -> Iterator[tuple[Integers, ItemBank]]:
    """The items in blocks that share a curve and fit in memory, each with its parameters."""
    size = max(1, LARGEST_BLOCK // (len(NODES) * (pool.difficulty.shape[1] + 1)))
    for kind, model in enumerate(KINDS):
        chosen = items[pool.kinds[items] == kind]
        for first in range(0, len(chosen), size):
            here = chosen[first : first + size]
            yield here, _bank_of(pool, model, here)


def _bank_of(pool: Pool, model: Model, items: Integers) -> ItemBank:
    """Items that share a curve, with as many steps as they need."""
    steps = int(pool.max_category[items].max(initial=1))
    held = np.arange(steps) < pool.max_category[items, None]
    difficulty = np.where(held, pool.difficulty[items, :steps], 0.0)
    return ItemBank(
        model, pool.max_category[items], pool.discrimination[items], difficulty, pool.guessing[items], pool.upper[items]
    )


def log_row(pool: Pool, item: int) -> Floats:
    """(K, Q): log P(category | θ) of one item at `NODES`.

    From the table of all items, or in a large pool one by one, and kept: the same few items are asked for again.
    """
    if pool.count <= MAX_TABLED_ITEMS:
        return np.asarray(pool.log_probability[item])
    row = pool.log_row_cache.get(item)
    if row is None:
        row = pool.log_row_cache[item] = log_curve(pool, item, NODES)
    return row


def log_curve(pool: Pool, item: int, abilities: Floats) -> Floats:
    """(K, Q): log P(category | θ) of one item at any abilities."""
    if pool.kinds[item] == 0:
        return binary_log_p(pool.binary_columns[:, item], abilities)
    return np.asarray(log_curves(_bank_of(pool, KINDS[pool.kinds[item]], np.array([item])), abilities)[0])


def log_curves(item_bank: ItemBank, abilities: Floats) -> Floats:
    """(I, K, Q): the same of items that share a curve."""
    if item_bank.model == "4pl":
        return np.moveaxis(binary_log_p(binary_columns(item_bank)[:, :, None], abilities), 0, 1)
    return log_probabilities(item_bank, abilities)


def information_at(pool: Pool, items: Integers, ability: float) -> Floats:
    """Return the Fisher information of items at an ability, (n,); the bits of one do not depend on the others."""
    if pool.is_binary:
        return binary_information(pool.binary_columns.take(items, axis=1), np.array([ability]))
    result = np.empty(len(items))
    nodes = np.array([ability])
    for kind, model in enumerate(KINDS):
        here = np.flatnonzero(pool.kinds[items] == kind)
        if here.size:
            result[here] = fisher_information(_bank_of(pool, model, items[here]), nodes)[:, 0]
    return result


def expected_score(pool: Pool, item: int, ability: float) -> float:
    """The mean score of an item at an ability, as a share of its highest."""
    p = expm1(log_curve(pool, item, np.array([ability]))[:, 0]) + 1
    return float((p * np.arange(len(p))).sum() / pool.max_category[item])


def open_items(pool: Pool, administered: Sequence[int]) -> Booleans:
    """(I,): which items may still be given: neither given themselves nor enemies of one that was."""
    free = np.ones(pool.count, dtype=np.bool_)
    free[list(administered)] = False
    if pool.enemies:
        for item in administered:
            free[pool.enemies_of.get(item, [])] = False
    return free
