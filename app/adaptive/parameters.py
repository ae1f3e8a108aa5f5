"""The values the engine works on.

Sizes used in every docstring: B learners in a batch, S skills, I items, K the most skills one item has, P the most
prerequisites one skill has, M the most thresholds one item has. Skills and items are named by their numbers, dense
from 0; -1 pads. Ability, skill effects and intercepts are in logits.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.hashing import Keys, hash_keys
from app.adaptive.numerics import ragged


def to_difficulty(intercept: Floats, discrimination: Floats) -> Floats:
    """Turn intercepts d into difficulties b = −d / a (Lord 1980), in logits; `discrimination` a > 0 broadcasts."""
    return -intercept / discrimination


def to_intercept(difficulty: Floats, discrimination: Floats) -> Floats:
    """Turn difficulties b into intercepts d = −a b, in logits; `discrimination` a broadcasts."""
    return -discrimination * difficulty


@dataclass(frozen=True)
class Population:
    """What all learners of a course share; the defaults were fitted on public data (docs/models.md).

    Variances are in squared logits. `daily_effect_retention` is the AR(1) coefficient ρ of the form of the day;
    `unknown_shift` and `known_shift` are δ_l and δ_h, what not knowing and knowing a skill adds to the logit. With time
    a mastery fades by the exponent `fading`, and the variance of an ability grows by `daily_drift` a day. `guessing` is
    the asymptote c of items of which nobody has said how often they are guessed.
    """

    ability_variance: float = 0.76
    ability_drift: float = 0.0
    skill_variance: float = 0.0
    skill_drift: float = 0.007
    daily_effect_variance: float = 0.15
    daily_effect_retention: float = 0.98
    unknown_shift: float = -0.32
    known_shift: float = 1.37
    fading: float = 0.15
    daily_drift: float = 0.0005
    guessing: float = 0.0

    @cached_property
    def shifts(self) -> Floats:
        """(2, 1): δ_h and δ_l, for those who know and those who do not."""
        return np.array([[self.known_shift], [self.unknown_shift]])


@dataclass(frozen=True)
class Skills:
    """Per skill: P(L0), P(T), P(F), each (S,), and the direct prerequisites (S, P), acyclic."""

    prior: Floats
    p_learn: Floats
    p_forget: Floats
    prerequisites: Integers

    @property
    def count(self) -> int:
        """S."""
        return len(self.prior)

    @cached_property
    def has_prerequisites(self) -> Floats:
        """(S,): 1 where a skill has prerequisites, else 0."""
        return np.asarray((self.prerequisites >= 0).any(axis=1), dtype=np.float64)

    @cached_property
    def depth(self) -> Integers:
        """(S,): how many skills have to come before each, one after the other; 0 without prerequisites."""
        depth = np.zeros(self.count, dtype=np.int64)
        for _ in range(self.count):
            before = np.where(self.prerequisites >= 0, depth[self.prerequisites] + 1, 0).max(axis=1, initial=0)
            if (before == depth).all():
                break
            depth = before
        return depth

    @cached_property
    def descendants(self) -> tuple[Integers, Integers]:
        """The skills each skill opens up, directly or not: `(starts (S + 1,), skills)`."""
        descendants_of: list[set[int]] = [set() for _ in range(self.count)]
        parents = [[int(p) for p in row if p >= 0] for row in self.prerequisites]
        for skill in range(self.count):
            seen: set[int] = set()
            ahead = list(parents[skill])
            while ahead:
                parent = ahead.pop()
                if parent not in seen:
                    seen.add(parent)
                    descendants_of[parent].add(skill)
                    ahead.extend(parents[parent])
        return ragged([sorted(found) for found in descendants_of])


@dataclass(frozen=True)
class Items:
    """Per item, in the slope-intercept form: the logit is intercept + discrimination × (ability …), each (I,).

    `guessing` and `upper` are the asymptotes c and d. `thresholds` (I, M), padded with infinity, makes an item
    graded (Samejima 1969): category k or above is reached past the k-th. `skills` is (I, K). `measured` (I,): whether
    the parameters come from data or the author, and are not assumed; None: all. Answers to `ignored` items (I,) say
    nothing; None: there are none. Of `undeclared` items (I,) nobody has said how often they are guessed; None: of none.
    """

    intercept: Floats
    discrimination: Floats
    guessing: Floats
    upper: Floats
    thresholds: Floats
    skills: Integers
    measured: Booleans | None = None
    ignored: Booleans | None = None
    undeclared: Booleans | None = None

    @property
    def count(self) -> int:
        """I."""
        return len(self.intercept)

    @cached_property
    def unmeasured(self) -> Booleans:
        """(I,): whether the parameters of an item are only assumed."""
        return np.zeros(self.count, dtype=np.bool_) if self.measured is None else ~self.measured

    @property
    def difficulty(self) -> Floats:
        """(I,): b."""
        return to_difficulty(self.intercept, self.discrimination)

    @cached_property
    def weights(self) -> Floats:
        """(I, K): each of an item's skills weighs the same, padding nothing."""
        is_skill = self.skills >= 0
        return np.asarray(is_skill / np.maximum(is_skill.sum(axis=1, keepdims=True), 1))

    @cached_property
    def share(self) -> Floats:
        """(I,): the weight of each of an item's skills; 1 for an item that asks for none."""
        return np.asarray(1 / np.maximum((self.skills >= 0).sum(axis=1), 1))

    @cached_property
    def has_skills(self) -> Floats:
        """(I,): 1 where the item asks for any skill, else 0: then it is a plain IRT item."""
        return np.asarray((self.skills >= 0).any(axis=1), dtype=np.float64)

    @cached_property
    def max_category(self) -> Integers:
        """(I,): the number of thresholds; 0 for an item scored as a fraction."""
        return np.asarray(np.isfinite(self.thresholds).sum(axis=1), dtype=np.int64)

    @cached_property
    def plain(self) -> bool:
        """Whether no item has guessing, an upper asymptote or thresholds: the common and quicker case."""
        return not (self.guessing.any() or (self.upper != 1).any() or self.max_category.any())

    @cached_property
    def skill_sets(self) -> Integers:
        """(I,): a number for all the skills of an item, the same wherever the same skills are asked for."""
        total = np.zeros(self.count, dtype=np.int64)
        for column in range(self.skills.shape[1]):
            named = self.skills[:, column]
            total = np.where(named >= 0, hash_keys(column, total, named).view(np.int64), total)
        return total

    @cached_property
    def by_skill(self) -> tuple[Integers, Integers]:
        """The items of each skill: `(starts (S' + 1,), items)` for all skills up to the last one in use."""
        lists: list[list[int]] = [[] for _ in range(int(self.skills.max(initial=-1)) + 1)]
        for item, row in enumerate(self.skills.tolist()):
            for skill in row:
                if skill >= 0:
                    lists[skill].append(item)
        return ragged(lists)


@dataclass(frozen=True)
class BehaviourModel:
    """The calibrated part of `p_correct`.

    Factors: `item_contexts` (V,), sorted keys of (item, kind of context), with `loadings` (V, 1 + R), intercept first;
    `skill_sets` and `skill_set_loadings` the means of items with the same skills, for items never seen;
    `context_loadings` (8, 1 + R) and `context_slope` (8,). Head: `weights` (D,), `context_weights` (14, 3), and
    `crosses` (K,), sorted, with `cross_weights`.
    """

    item_contexts: Keys
    loadings: Floats
    skill_sets: Keys
    skill_set_loadings: Floats
    context_loadings: Floats
    context_slope: Floats
    weights: Floats
    context_weights: Floats
    crosses: Keys
    cross_weights: Floats

    @cached_property
    def factors(self) -> int:
        """R."""
        return int(self.loadings.shape[1]) - 1


@dataclass(frozen=True)
class Parameters:
    """Everything an answer is judged by: one calibration over one revision of a catalogue.

    Without a `behaviour` the prediction is the filter's own.
    """

    population: Population
    skills: Skills
    items: Items
    behaviour: BehaviourModel | None = None

    @cached_property
    def item_counts(self) -> Integers:
        """(S,): the number of items of each skill."""
        counts = np.zeros(self.skills.count, dtype=np.int64)
        sizes = np.diff(self.items.by_skill[0])
        counts[: len(sizes)] = sizes
        return counts

    @cached_property
    def informed_prerequisites(self) -> Integers:
        """(I, K, P): the direct prerequisites of each of an item's skills that it does not ask for itself, else -1."""
        asked, prerequisites = self.items.skills, self.skills.prerequisites
        result = np.where((asked >= 0)[:, :, None], prerequisites[asked], -1)
        for column in range(asked.shape[1]):
            result[result == asked[:, column, None, None]] = -1
        return result

    @cached_property
    def overlap(self) -> Floats:
        """(S,): how far the items of each skill lean on other skills; 0 where they ask for it alone, or there are none.

        The mean of 1 - weight over the skill's items.
        """
        asked = self.items.skills >= 0
        skills, count = self.items.skills[asked], self.skills.count
        leaning = np.bincount(skills, 1 - self.items.weights[asked], count)
        return np.asarray(leaning / np.maximum(np.bincount(skills, minlength=count), 1))
